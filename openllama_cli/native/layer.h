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
        floats squares = zeros();
        for (int64_t i = 0; i < w->size; i += LANES) {
            const floats x = load(w->x, row * w->stride + i, w->is_float32, w->size - i);
            squares = fmadd(x, x, squares);
        }
        const floats scale = set1(1 / sqrtf(sum(squares) / (float)w->size + w->eps));
        for (int64_t i = 0; i < w->size; i += LANES) {
            const floats x = load(w->x, row * w->stride + i, w->is_float32, w->size - i) * scale;
            store(w->y, row * w->size + i, w->is_float32, w->size - i, x * load(w->other, i, w->is_float32, w->size - i));
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
        for (int64_t i = 0; i < half; i += LANES) {
            const int64_t angle = row * w->size + i, left = half - i;
            const floats cosine = load(w->cosine, angle, w->is_float32, left);
            const floats sine = load(w->sine, angle, w->is_float32, left);
            const floats cosine2 = load(w->cosine, angle + half, w->is_float32, left);
            const floats sine2 = load(w->sine, angle + half, w->is_float32, left);
            for (int64_t head = 0; head < w->heads; head++) {
                const int64_t from = row * w->stride + head * w->size + i, to = (row * w->heads + head) * w->size + i;
                const floats first = load(w->x, from, w->is_float32, left);
                const floats second = load(w->x, from + half, w->is_float32, left);
                store(w->y, to, 0, left, fnmadd(second, sine, first * cosine));
                store(w->y, to + half, 0, left, fmadd(second, cosine2, first * sine2));
            }
        }
}

/* silu(gate) * up. A piece is one row. */
static void silu_mul_rows(void *argument) {
    struct layer_work *w = argument;
    int64_t row;
    for (int64_t share = first_share(&w->shares); (row = next_piece(&w->shares, &share)) >= 0;)
        for (int64_t i = 0; i < w->size; i += LANES) {
            const floats gate = load(w->x, row * w->stride + i, w->is_float32, w->size - i);
            const floats up = load(w->other, row * w->other_stride + i, w->is_float32, w->size - i);
            const floats below = set1(1) + exponential(zeros() - gate);
            store(w->y, row * w->size + i, w->is_float32, w->size - i, gate / below * up);
        }
}
