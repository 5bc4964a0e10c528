/* Matrix-vector product, for one row of activations: bound by memory, so each weight is read once. */

#pragma once

#include "activations.h"

/* bfloat16 and float16 weights. Several sums hide the latency of an addition. */
INLINE float dot_floats(const struct work *w, int64_t out, int kind) {
    floats sums[4] = {zeros(), zeros(), zeros(), zeros()};
    uint8_t copy[BLOCK * 2];
    const uint8_t *row = w->p.weights + out * w->p.in * 2, *x = w->rows;
    const int layout = layout_of(kind, 1);
    for (int64_t left = w->p.in * 2; left > 0; left -= BLOCK * 2, row += BLOCK * 2, x += packed_bytes(layout, BLOCK)) {
        prefetch_row(row, BLOCK * 2, AHEAD_FLOATS);
        const uint8_t *at = padded(row, left, BLOCK * 2, copy);
        for (int unit = 0; unit < BLOCK / UNIT; unit++, at += UNIT * 2) {
#ifdef BF16
            if (layout == PAIRS) {
                sums[unit % 4] = multiply_bfloat16(sums[unit % 4], unpack_pairs(at, kind), load_words((const int16_t *)x + unit * UNIT));
                continue;
            }
#endif
            for (int half = 0; half < 2; half++) {
                floats *to = &sums[unit % 2 * 2 + half];
                *to = fmadd(unpack_half(at, kind, half), load(x, unit * UNIT + half * LANES, 1, LANES), *to);
            }
        }
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/* The sum is exact: see SAFE_INPUTS. */
INLINE float dot_int8(const struct work *w, int64_t out) {
    int64_t total = 0;
    uint8_t copy[BLOCK];
    const uint8_t *row = w->p.weights + out * w->p.in;
    const int16_t *x = (const int16_t *)w->rows;
    for (int64_t left = w->p.in; left > 0;) {
        words sums[2] = {zero_words(), zero_words()};
        for (int64_t end = left - SAFE_INPUTS; left > 0 && left > end; left -= BLOCK, row += BLOCK, x += BLOCK) {
            prefetch_row(row, BLOCK, AHEAD_INT8);
            const uint8_t *at = padded(row, left, BLOCK, copy);
            for (int unit = 0; unit < BLOCK / UNIT; unit++)
                sums[unit % 2] = multiply_int16(sums[unit % 2], from_int8(at + unit * UNIT), load_words(x + unit * UNIT));
        }
        total += sum_words(add_words(sums[0], sums[1]));
    }
    return (float)total * (w->x_scales[0] * ((const float *)w->p.scales)[out]);
}

/* The products of one half of a block of int4 weights, a group, with as many activations; see `pack_int4` for their order. */
INLINE words multiply_group(const words bytes[GROUP / UNIT], int half, const int16_t *x) {
    words total = zero_words();
    for (int unit = 0; unit < GROUP / UNIT; unit++) {
        const words levels = half ? upper_nibbles(bytes[unit]) : lower_nibbles(bytes[unit]);
        total = multiply_int16(total, levels, load_words(x + half * GROUP + unit * UNIT));
    }
    return total;
}

/* Integer sums of levels 0 to 15 times activations are exact, and scaled per group. */
INLINE float dot_int4(const struct work *w, int64_t out) {
    floats sums[2] = {zeros(), zeros()};
    const int64_t groups = w->width / GROUP;
    const uint8_t *row = w->p.weights + out * w->width / 2;
    const int16_t *x = (const int16_t *)w->rows;
    const uint32_t *parameters = (const uint32_t *)w->p.scales + out * groups;
    for (int64_t group = 0; group < groups; group += 2, row += GROUP, x += BLOCK) {
        words bytes[GROUP / UNIT];
        prefetch_row(row, GROUP, AHEAD_INT4);
        for (int unit = 0; unit < GROUP / UNIT; unit++) bytes[unit] = from_uint8(row + unit * UNIT);
        for (int half = 0; half < 2; half++)
            sums[half] = fmadd(to_floats(multiply_group(bytes, half, x)), set1(scale_of(parameters[group + half])), sums[half]);
    }
    return (sum(sums[0] + sums[1]) + zero_points(parameters, w->sums, groups)) * w->x_scales[0];
}

enum { GEMV_ROWS = 16 /* of weights, in a piece of work */ };

INLINE void gemv_of_kind(struct work *w, int kind) {
    int64_t piece;
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;)
        for (int64_t out = piece * GEMV_ROWS; out < minimum(w->p.out, (piece + 1) * GEMV_ROWS); out++) {
            const float y = kind == INT8 ? dot_int8(w, out) : kind == INT4 ? dot_int4(w, out) : dot_floats(w, out, kind);
            store(w->p.y, out, w->p.is_float32, 1, set1(y));
        }
}

static void gemv(void *argument) {
    struct work *w = argument;
    switch (w->p.kind) {
    case BFLOAT16: gemv_of_kind(w, BFLOAT16); break;
    case FLOAT16: gemv_of_kind(w, FLOAT16); break;
    case INT8: gemv_of_kind(w, INT8); break;
    case INT4: gemv_of_kind(w, INT4); break;
    }
}
