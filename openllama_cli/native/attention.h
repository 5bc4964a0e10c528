/* Decode attention: the newest token of each row over the row's own KV cache, in bfloat16. */

#pragma once

#include <math.h>
#include <string.h>

#include "vectors.h"

enum { MAX_HEAD_SIZE = 256, CHUNK = 8 /* vectors of a head's accumulators that fit in registers */, KEYS = 4 };

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

/* Scores of `count` keys: independent sums hide each other's latency. query: padded with zeros. */
INLINE void score_keys(const float *query, const uint16_t *keys, int64_t size, int count, float scale, float *scores) {
    floats sums[KEYS];
    for (int i = 0; i < count; i++) sums[i] = zeros();
    int64_t at = 0;
    for (; at + LANES <= size; at += LANES) {
        const floats q = load(query, at, 1, LANES);
        for (int i = 0; i < count; i++) sums[i] = fmadd(q, from_bfloat16(keys + i * size + at), sums[i]);
    }
    if (at < size) {
        const floats q = load(query, at, 1, LANES);
        for (int i = 0; i < count; i++) sums[i] = fmadd(q, load(keys, i * size + at, 0, size - at), sums[i]);
    }
    for (int i = 0; i < count; i++) scores[i] = sum(sums[i]) * scale;
}

/* exp(score - largest score) of one query over `length` keys: softmax without its division. Returns their sum. */
INLINE float exp_scores(const uint16_t *query, const uint16_t *keys, int64_t length, int64_t size, float scale, float *scores) {
    float q[MAX_HEAD_SIZE];
    for (int64_t i = 0; i < size; i += LANES) store(q, i, 1, LANES, load(query, i, 0, size - i));
    int64_t at = 0;
    for (; at + KEYS <= length; at += KEYS) score_keys(q, keys + at * size, size, KEYS, scale, scores + at);
    for (; at < length; at++) score_keys(q, keys + at * size, size, 1, scale, scores + at);
    float most = -INFINITY, total = 0;
    for (at = 0; at < length; at++) most = scores[at] > most ? scores[at] : most;
    for (at = 0; at + LANES <= length; at += LANES) {
        const floats weight = exponential(load(scores, at, 1, LANES) - set1(most));
        store(scores, at, 1, LANES, weight);
        total += sum(weight);
    }
    if (at < length) {
        store(scores, at, 1, length - at, exponential(load(scores, at, 1, length - at) - set1(most)));
        total += sum(load(scores, at, 1, length - at));
    }
    return total;
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
        const floats share = set1(1 / total);
        for (int64_t start = 0; start < size; start += CHUNK * LANES) {
            floats sums[CHUNK];
            for (int i = 0; i < CHUNK; i++) sums[i] = zeros();
            for (int64_t at = 0; at < length; at++) {
                const floats weight = set1(scores[at]);
                if (size - start >= CHUNK * LANES)
                    for (int i = 0; i < CHUNK; i++)
                        sums[i] = fmadd(weight, from_bfloat16(values + at * size + start + i * LANES), sums[i]);
                else
                    for (int i = 0; i < CHUNK; i++) {
                        const int64_t left = size - start - i * LANES;
                        if (left > 0) sums[i] = fmadd(weight, load(values, at * size + start + i * LANES, 0, left), sums[i]);
                    }
            }
            for (int i = 0; i < CHUNK; i++)
                store(w->y, (row * w->heads + head) * size + start + i * LANES, w->is_float32, size - start - i * LANES,
                      sums[i] * share);
        }
    }
}

static void attend_rows(void *argument) {
    struct attention *w = argument;
    int64_t piece;
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;)
        attend_head(w, piece / w->kv_heads, piece % w->kv_heads);
}
