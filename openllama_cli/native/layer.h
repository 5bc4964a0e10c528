/* The elementwise parts of a layer: RMS norm, rotary embedding, SiLU. Computed in float32 and rounded once. */

#pragma once

#include <math.h>

#include "vectors.h"

struct layer_work {
    struct shares shares;
    const void *x, *other; /* rms_norm: x and weight; apply_rotary: x; silu_mul: gate and up */
    const void *cosine, *sine;
    void *y;
    int64_t rows, heads, size; /* size: elements of a row of x, or of a head if there are heads */
    int64_t stride, other_stride;
    float eps;
    int is_float32;
};

/* RMS norm (Zhang and Sennrich 2019) of rows, times a weight. A piece is one row. */
static void rms_norm_rows(void *argument) {
    struct layer_work *w = argument;
    int64_t row;
    for (int64_t share = first_share(&w->shares); (row = next_piece(&w->shares, &share)) >= 0;) {
        const int64_t at = row * w->size;
        __m512 squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < w->size; i += 16) {
            const __m512 x = load(w->x, row * w->stride + i, w->is_float32, first_lanes(w->size - i));
            squares = _mm512_fmadd_ps(x, x, squares);
        }
        const __m512 scale = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / (float)w->size + w->eps));
        for (int64_t i = 0; i < w->size; i += 16) {
            const __mmask16 mask = first_lanes(w->size - i);
            const __m512 x = _mm512_mul_ps(load(w->x, row * w->stride + i, w->is_float32, mask), scale);
            store(w->y, at + i, w->is_float32, mask, _mm512_mul_ps(x, load(w->other, i, w->is_float32, mask)));
        }
    }
}

/* Rotary position embedding (Su et al. 2021) of [rows, heads, size] to bfloat16; the two halves of a head are paired. A piece
 * is one row. */
static void apply_rotary_rows(void *argument) {
    struct layer_work *w = argument;
    const int64_t half = w->size / 2;
    int64_t row;
    for (int64_t share = first_share(&w->shares); (row = next_piece(&w->shares, &share)) >= 0;)
        for (int64_t i = 0; i < half; i += 16) {
            const __mmask16 mask = first_lanes(half - i);
            const int64_t angle = row * w->size + i;
            const __m512 cosine = load(w->cosine, angle, w->is_float32, mask);
            const __m512 sine = load(w->sine, angle, w->is_float32, mask);
            const __m512 cosine2 = load(w->cosine, angle + half, w->is_float32, mask);
            const __m512 sine2 = load(w->sine, angle + half, w->is_float32, mask);
            for (int64_t head = 0; head < w->heads; head++) {
                const int64_t from = row * w->stride + head * w->size + i, to = (row * w->heads + head) * w->size + i;
                const __m512 first = load(w->x, from, w->is_float32, mask);
                const __m512 second = load(w->x, from + half, w->is_float32, mask);
                store(w->y, to, 0, mask, _mm512_fmsub_ps(first, cosine, _mm512_mul_ps(second, sine)));
                store(w->y, to + half, 0, mask, _mm512_fmadd_ps(second, cosine2, _mm512_mul_ps(first, sine2)));
            }
        }
}

/* silu(gate) * up. A piece is one row. */
static void silu_mul_rows(void *argument) {
    struct layer_work *w = argument;
    int64_t row;
    for (int64_t share = first_share(&w->shares); (row = next_piece(&w->shares, &share)) >= 0;)
        for (int64_t i = 0; i < w->size; i += 16) {
            const __mmask16 mask = first_lanes(w->size - i);
            const __m512 gate = load(w->x, row * w->stride + i, w->is_float32, mask), one = _mm512_set1_ps(1);
            const __m512 up = load(w->other, row * w->other_stride + i, w->is_float32, mask);
            const __m512 below = _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
            store(w->y, row * w->size + i, w->is_float32, mask, _mm512_mul_ps(_mm512_div_ps(gate, below), up));
        }
}
