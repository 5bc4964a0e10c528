/* What a layer does between its products: norms, rotary embeddings, the activation. Each number is computed in float32 and
 * rounded once. */

#pragma once

#include <math.h>

#include "vectors.h"

struct layer_work {
    struct shares shares;
    const void *x, *other; /* normalize: x and weight; turn: x; activate: gate and up */
    const void *cosine, *sine;
    void *y;
    int64_t rows, heads, size; /* size: numbers in a row of x; of a head, where there are heads */
    int64_t stride, other_stride;
    float eps;
    int wide;
};

/* RMS norm (Zhang and Sennrich 2019) of rows, times a weight: a row a piece. */
static void normalize_rows(void *argument) {
    struct layer_work *w = argument;
    int64_t row;
    for (int64_t share = join(&w->shares); (row = take(&w->shares, &share)) >= 0;) {
        const int64_t at = row * w->size;
        __m512 squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < w->size; i += 16) {
            const __m512 x = load(w->x, row * w->stride + i, w->wide, first_of_16(w->size - i));
            squares = _mm512_fmadd_ps(x, x, squares);
        }
        const __m512 scale = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / (float)w->size + w->eps));
        for (int64_t i = 0; i < w->size; i += 16) {
            const __mmask16 there = first_of_16(w->size - i);
            const __m512 x = _mm512_mul_ps(load(w->x, row * w->stride + i, w->wide, there), scale);
            store(w->y, at + i, w->wide, there, _mm512_mul_ps(x, load(w->other, i, w->wide, there)));
        }
    }
}

/* Rotary position embedding (Su et al. 2021) of [rows, heads, size], halves of a head paired, to bfloat16: a row a piece. */
static void turn_rows(void *argument) {
    struct layer_work *w = argument;
    const int64_t half = w->size / 2;
    int64_t row;
    for (int64_t share = join(&w->shares); (row = take(&w->shares, &share)) >= 0;)
        for (int64_t i = 0; i < half; i += 16) {
            const __mmask16 there = first_of_16(half - i);
            const int64_t angle = row * w->size + i;
            const __m512 cosine = load(w->cosine, angle, w->wide, there);
            const __m512 sine = load(w->sine, angle, w->wide, there);
            const __m512 cosine2 = load(w->cosine, angle + half, w->wide, there);
            const __m512 sine2 = load(w->sine, angle + half, w->wide, there);
            for (int64_t head = 0; head < w->heads; head++) {
                const int64_t from = row * w->stride + head * w->size + i, to = (row * w->heads + head) * w->size + i;
                const __m512 first = load(w->x, from, w->wide, there), second = load(w->x, from + half, w->wide, there);
                store(w->y, to, 0, there, _mm512_fmsub_ps(first, cosine, _mm512_mul_ps(second, sine)));
                store(w->y, to + half, 0, there, _mm512_fmadd_ps(second, cosine2, _mm512_mul_ps(first, sine2)));
            }
        }
}

/* silu(gate) * up: a row a piece. */
static void activate_rows(void *argument) {
    struct layer_work *w = argument;
    int64_t row;
    for (int64_t share = join(&w->shares); (row = take(&w->shares, &share)) >= 0;)
        for (int64_t i = 0; i < w->size; i += 16) {
            const __mmask16 there = first_of_16(w->size - i);
            const __m512 gate = load(w->x, row * w->stride + i, w->wide, there), one = _mm512_set1_ps(1);
            const __m512 up = load(w->other, row * w->other_stride + i, w->wide, there);
            const __m512 below = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
            store(w->y, row * w->size + i, w->wide, there, _mm512_mul_ps(_mm512_div_ps(gate, below), up));
        }
}
