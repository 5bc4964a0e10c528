/* Decode attention: the newest token of each row over the row's own KV cache, in bfloat16. */

#pragma once

#include <math.h>
#include <string.h>

#include "vectors.h"

enum { MAX_HEAD_SIZE = 256, CHUNK = 8 /* vectors of a head's accumulators that fit in registers */ };

struct attention {
    struct shares shares;
    const uint16_t *query, *key, *value; /* of the new tokens: [rows, heads or kv_heads, size] */
    uint16_t *const *keys, *const *values; /* per row: [kv_heads, capacity, size] */
    const int64_t *lengths, *capacities;   /* per row: positions filled before the new token, and positions in all */
    void *y;                               /* [rows, heads, size] */
    float *scores;                         /* [rows, heads, longest] */
    int64_t rows, heads, kv_heads, size, longest;
    float scale;
    int is_float32;
};

/* exp(score - largest score) of one query over `length` keys: softmax without its division. Returns their sum. */
INLINE float exp_scores(const uint16_t *query, const uint16_t *keys, int64_t length, int64_t size, float scale, float *scores) {
    __m512i q[MAX_HEAD_SIZE / 32];
    const int64_t full = size / 32;
    const __mmask32 rest = (__mmask32)((1ull << (size % 32)) - 1);
    for (int64_t i = 0; i < full; i++) q[i] = _mm512_loadu_si512(query + i * 32);
    const __m512i q_rest = _mm512_maskz_loadu_epi16(rest, query + full * 32);
    float most = -INFINITY;
    for (int64_t at = 0; at < length; at++) {
        const uint16_t *key = keys + at * size;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < full; i++)
            sum = _mm512_dpbf16_ps(sum, (__m512bh)q[i], (__m512bh)_mm512_loadu_si512(key + i * 32));
        sum = _mm512_dpbf16_ps(sum, (__m512bh)q_rest, (__m512bh)_mm512_maskz_loadu_epi16(rest, key + full * 32));
        scores[at] = _mm512_reduce_add_ps(sum) * scale;
        most = scores[at] > most ? scores[at] : most;
    }
    __m512 total = _mm512_setzero_ps();
    for (int64_t at = 0; at < length; at += 16) {
        const __mmask16 mask = first_lanes(length - at);
        const __m512 score = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + at), _mm512_set1_ps(most));
        const __m512 weight = _mm512_maskz_mov_ps(mask, exp16(score));
        _mm512_mask_storeu_ps(scores + at, mask, weight);
        total = _mm512_add_ps(total, weight);
    }
    return _mm512_reduce_add_ps(total);
}

/* A piece is one key/value head of one row. */
static void attend_head(const struct attention *w, int64_t row, int64_t kv_head) {
    const int64_t size = w->size, length = w->lengths[row] + 1, group = w->heads / w->kv_heads;
    const int64_t place = kv_head * w->capacities[row] * size, new = (row * w->kv_heads + kv_head) * size;
    uint16_t *keys = w->keys[row] + place, *values = w->values[row] + place;
    memcpy(keys + (length - 1) * size, w->key + new, size * sizeof *keys);
    memcpy(values + (length - 1) * size, w->value + new, size * sizeof *values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        float *scores = w->scores + (row * w->heads + head) * w->longest;
        const float total = exp_scores(w->query + (row * w->heads + head) * size, keys, length, size, w->scale, scores);
        const __m512 share = _mm512_set1_ps(1 / total);
        for (int64_t start = 0; start < size; start += CHUNK * 16) {
            __m512 sums[CHUNK];
            __mmask16 mask[CHUNK];
            for (int i = 0; i < CHUNK; i++) {
                sums[i] = _mm512_setzero_ps();
                mask[i] = first_lanes(size - start - i * 16);
            }
            for (int64_t at = 0; at < length; at++) {
                const __m512 weight = _mm512_set1_ps(scores[at]);
                for (int i = 0; i < CHUNK; i++)
                    sums[i] = _mm512_fmadd_ps(weight, load(values, at * size + start + i * 16, 0, mask[i]), sums[i]);
            }
            for (int i = 0; i < CHUNK; i++)
                store(w->y, (row * w->heads + head) * size + start + i * 16, w->is_float32, mask[i],
                      _mm512_mul_ps(sums[i], share));
        }
    }
}

static void attend_rows(void *argument) {
    struct attention *w = argument;
    int64_t piece;
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;)
        attend_head(w, piece / w->kv_heads, piece % w->kv_heads);
}
