/* Packing activations into the type and order that the kernels read. */

#pragma once

#include <math.h>

#include "weights.h"

#define UNROLL _Pragma("GCC unroll 24")

/* What a row of packed activations consists of. */
enum layout {
    FLOATS,   /* float */
    SPLIT,    /* float, the even inputs of each unit before the odd ones, as `unpack_half` puts those of bfloat16 weights */
    PAIRS,    /* bfloat16 */
    INTEGERS, /* int16, quantized */
};

INLINE int layout_of(int kind, int64_t rows) {
    if (kind == INT8 || kind == INT4) return INTEGERS;
#ifdef BF16
    if (kind == BFLOAT16 || rows > 1) return PAIRS; /* one row: in float32, without rounding float16 weights */
#else
    (void)rows;
#endif
    return kind == BFLOAT16 ? SPLIT : FLOATS;
}

INLINE int64_t packed_bytes(int layout, int64_t width) { return width * (layout == FLOATS || layout == SPLIT ? 4 : 2); }

/* LANES inputs of a row as floats, zero-padded beyond its end. */
INLINE floats load_x(const struct matmul *p, int64_t row, int64_t k) {
    return load(p->x, row * p->in + k, p->is_float32, p->in - k);
}

static void pack_floats(const struct work *w, int64_t row, int layout, float *to) {
    for (int64_t k = 0; k < w->width; k += UNIT) {
        float unit[UNIT], *natural = layout == SPLIT ? unit : to + k;
        store(natural, 0, 1, LANES, load_x(&w->p, row, k));
        store(natural, LANES, 1, LANES, load_x(&w->p, row, k + LANES));
        if (layout == SPLIT)
            for (int i = 0; i < LANES; i++) to[k + i] = unit[2 * i], to[k + LANES + i] = unit[2 * i + 1];
    }
}

static void pack_bfloat16(const struct work *w, int64_t row, uint16_t *to) {
    for (int64_t k = 0; k < w->width; k += LANES) store(to, k, 0, LANES, load_x(&w->p, row, k));
}

/* The scale of a row that is quantized to integers of at most LARGEST; NaN if the row has a NaN or an infinity. */
static float scale_of_row(const struct work *w, int64_t row) {
    floats most = zeros(), check = zeros();
    for (int64_t k = 0; k < w->width; k += LANES) {
        const floats x = load_x(&w->p, row, k);
        most = larger(most, magnitude(x));
        check = fmadd(x, zeros(), check); /* NaN or zero */
    }
    /* Clamped, since the inverse of anything smaller would be infinite. */
    return fmaxf(largest(most), 1e-30f) / LARGEST + sum(check);
}

/* Quantizes a row; see `scale_of_row`. sums: of each group's integers. */
static float quantize_row(const struct work *w, int64_t row, int16_t *to, float *sums) {
    const float scale = scale_of_row(w, row);
    const floats inverse = set1(1 / scale);
    for (int64_t k = 0; k < w->width; k += GROUP) {
        words total = zero_words();
        for (int i = 0; i < GROUP; i += LANES) {
            const words number = to_words(load_x(&w->p, row, k + i) * inverse);
            store_int16(to + k + i, number);
            total = add_words(total, number);
        }
        sums[k / GROUP] = (float)sum_words(total);
    }
    return scale;
}

static void pack_row(const struct work *w, int64_t row) {
    const int layout = layout_of(w->p.kind, w->p.rows);
    uint8_t *to = w->rows + row * packed_bytes(layout, w->width);
    if (layout == INTEGERS)
        w->x_scales[row] = quantize_row(w, row, (int16_t *)to, w->sums + row * (w->width / GROUP));
    else if (layout == PAIRS)
        pack_bfloat16(w, row, (uint16_t *)to);
    else
        pack_floats(w, row, layout, (float *)to);
}

/* Each piece is one row. */
static void pack_rows(void *argument) {
    struct work *w = argument;
    int64_t row;
    for (int64_t share = first_share(&w->shares); (row = next_piece(&w->shares, &share)) >= 0;) pack_row(w, row);
}
