/* int4 weights times more rows of activations than a tile has: a block of weights is unpacked once, into levels of 16 bits and
 * scales of 32, then multiplied by all rows. */

#pragma once

#include "activations.h"

enum {
    INT4_OUT = LANES == 16 ? 6 : 3, /* rows of weights in a tile: with INT4_X, half as many as there are registers for */
    INT4_X = 2,                     /* rows of activations */
    INT4_ROWS = 24,                 /* of weights, in a panel: a multiple of INT4_OUT */
    INT4_INPUTS = 1024,             /* in a panel, so that a tile's numbers stay in the first cache: a multiple of BLOCK */
};

/* Unpacked weights, in the order in which tiles read them: [tiles][units][rows of a tile][UNIT inputs]. Rows a power of two apart
 * would compete for the same lines of the first cache. */
struct panel {
    int16_t levels[INT4_ROWS * INT4_INPUTS];
    float scales[INT4_ROWS][INT4_INPUTS / GROUP];
};

/* Unpacks inputs k to k + count of `outs` rows of weights from `first` on. Beyond the last row it reads that one again, to the end
 * of its tile. */
static void unpack_panel(const struct work *w, int64_t first, int64_t outs, int64_t k, int64_t count, struct panel *panel) {
    const int64_t groups = w->width / GROUP;
    for (int64_t o = 0; o < (outs + INT4_OUT - 1) / INT4_OUT * INT4_OUT; o++) {
        const int64_t out = minimum(first + o, w->p.out - 1);
        const uint8_t *from = w->p.weights + (out * w->width + k) / 2;
        const uint32_t *parameters = (const uint32_t *)w->p.scales + out * groups + k / GROUP;
        int16_t *to = panel->levels + o / INT4_OUT * INT4_OUT * INT4_INPUTS + o % INT4_OUT * UNIT;
        for (int64_t block = 0; block < count; block += BLOCK, from += GROUP, to += INT4_OUT * BLOCK)
            for (int i = 0; i < GROUP; i += UNIT) {
                const words bytes = from_uint8(from + i);
                store_words(to + INT4_OUT * i, lower_nibbles(bytes));
                store_words(to + INT4_OUT * (i + GROUP), upper_nibbles(bytes));
            }
        for (int64_t group = 0; group < count / GROUP; group++) panel->scales[o][group] = scale_of(parameters[group]);
    }
}

/* Adds a panel's rows from `out` on times `rows` rows of activations to totals, [row][out]. ahead: the same rows of the next
 * panel's weights, prefetched; NULL prefetches nothing. */
INLINE void multiply_panel(const struct work *w, const struct panel *panel, int64_t out, const int16_t *x, int64_t count, int rows,
                           const uint8_t *ahead, double (*totals)[INT4_ROWS]) {
    const int16_t *levels = panel->levels + out * INT4_INPUTS;
    floats sums[INT4_OUT][INT4_X];
    UNROLL for (int o = 0; o < INT4_OUT; o++)
        UNROLL for (int r = 0; r < rows; r++) sums[o][r] = zeros();
    for (int64_t group = 0; group < count / GROUP; group++, x += GROUP, levels += INT4_OUT * GROUP) {
        words integers[INT4_OUT][INT4_X];
        UNROLL for (int o = 0; o < INT4_OUT; o++) {
            if (ahead && group % 2 == 0) _mm_prefetch((const char *)ahead + o * w->width / 2 + group * (GROUP / 2), _MM_HINT_T1);
            UNROLL for (int r = 0; r < rows; r++) integers[o][r] = zero_words();
        }
        UNROLL for (int unit = 0; unit < GROUP / UNIT; unit++) {
            words weights[INT4_OUT];
            UNROLL for (int o = 0; o < INT4_OUT; o++) {
                weights[o] = load_words(levels + (unit * INT4_OUT + o) * UNIT);
                KEEP_ORDER(weights[o]);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                words a = load_words(x + r * w->width + unit * UNIT);
                KEEP_ORDER(a);
                UNROLL for (int o = 0; o < INT4_OUT; o++) {
                    integers[o][r] = multiply_int16(integers[o][r], weights[o], a);
                    KEEP_ORDER(integers[o][r]);
                }
            }
        }
        UNROLL for (int o = 0; o < INT4_OUT; o++) {
            const floats scale = set1(panel->scales[out + o][group]);
            UNROLL for (int r = 0; r < rows; r++) sums[o][r] = fmadd(to_floats(integers[o][r]), scale, sums[o][r]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < INT4_OUT; o++) totals[r][o] += (double)sum(sums[o][r]);
}

/* Adds a piece of the matrix product to totals, [row][out]. */
static void multiply_int4(const struct work *w, int64_t first, int64_t outs, double (*totals)[INT4_ROWS]) {
    struct panel panel;
    for (int64_t k = 0; k < w->width; k += INT4_INPUTS) {
        const int64_t count = minimum(w->width - k, INT4_INPUTS);
        const int64_t next = k + count < w->width ? k + count : INT4_ROWS * w->width; /* where the next panel begins */
        unpack_panel(w, first, outs, k, count, &panel);
        for (int64_t row = 0; row < w->p.rows; row += INT4_X)
            for (int64_t o = 0; o < outs; o += INT4_OUT) {
                /* Each tile's rows once, spread over the rows of activations, so that memory has time. */
                const int turn = o / INT4_OUT % ((w->p.rows + INT4_X - 1) / INT4_X) == row / INT4_X;
                const uint8_t *ahead = turn ? w->p.weights + ((first + o) * w->width + next) / 2 : NULL;
                const int16_t *x = (const int16_t *)w->rows + row * w->width + k;
                double(*to)[INT4_ROWS] = (double(*)[INT4_ROWS]) & totals[row][o];
                if (row + 1 < w->p.rows)
                    multiply_panel(w, &panel, o, x, count, 2, ahead, to);
                else
                    multiply_panel(w, &panel, o, x, count, 1, ahead, to);
            }
    }
}
