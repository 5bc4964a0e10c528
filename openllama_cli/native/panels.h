/* int8 and int4 weights times more rows of activations than a tile has: a block of weights is unpacked once, into a panel of 16-bit
 * integers, then multiplied by all rows. */

#pragma once

#include "activations.h"

enum {
    PANEL_OUT = LANES == 16 ? 6 : 3, /* rows of weights in a tile */
    INT8_X = 4,                      /* rows of activations: with PANEL_OUT, as many sums as there are registers for */
    INT4_X = 2,                      /* half as many: each sum of integers has one of floats beside it */
    PANEL_ROWS = 24,                 /* of weights: a multiple of PANEL_OUT */
    PANEL_INPUTS = 1024,             /* so that a tile's numbers stay in the first cache: a multiple of BLOCK, at most SAFE_INPUTS */
};

/* Unpacked weights, in the order in which tiles read them: [tiles][units][rows of a tile][UNIT inputs]. Rows a power of two apart
 * would compete for the same lines of the first cache. scales: int4, of each group. */
struct panel {
    int16_t levels[PANEL_ROWS * PANEL_INPUTS];
    float scales[PANEL_ROWS][PANEL_INPUTS / GROUP];
};

/* Unpacks a row of `count` inputs, padded with zeros to a multiple of BLOCK. */
INLINE void unpack_int8(const uint8_t *from, int64_t count, int16_t *to) {
    uint8_t copy[BLOCK];
    for (; count > 0; count -= BLOCK, from += BLOCK, to += PANEL_OUT * BLOCK) {
        const uint8_t *at = padded(from, count, BLOCK, copy);
        for (int i = 0; i < BLOCK; i += UNIT) store_words(to + PANEL_OUT * i, from_int8(at + i));
    }
}
INLINE void unpack_int4(const uint8_t *from, int64_t count, int16_t *to) {
    for (; count > 0; count -= BLOCK, from += GROUP, to += PANEL_OUT * BLOCK)
        for (int i = 0; i < GROUP; i += UNIT) {
            const words bytes = from_uint8(from + i);
            store_words(to + PANEL_OUT * i, lower_nibbles(bytes));
            store_words(to + PANEL_OUT * (i + GROUP), upper_nibbles(bytes));
        }
}

/* Unpacks inputs k to k + count of `outs` rows of weights from `first` on. Beyond the last row it reads that one again, to the end
 * of its tile. */
INLINE void unpack_panel(const struct work *w, int kind, int64_t first, int64_t outs, int64_t k, int64_t count, struct panel *panel) {
    const int64_t groups = w->width / GROUP;
    for (int64_t o = 0; o < (outs + PANEL_OUT - 1) / PANEL_OUT * PANEL_OUT; o++) {
        const int64_t out = minimum(first + o, w->p.out - 1);
        const uint8_t *from = w->p.weights + out * row_bytes(w, kind) + bytes_of(kind, k);
        int16_t *to = panel->levels + o / PANEL_OUT * PANEL_OUT * PANEL_INPUTS + o % PANEL_OUT * UNIT;
        if (kind == INT8) {
            unpack_int8(from, count, to);
            continue;
        }
        unpack_int4(from, count, to);
        const uint32_t *parameters = (const uint32_t *)w->p.scales + out * groups + k / GROUP;
        for (int64_t group = 0; group < (count + GROUP - 1) / GROUP; group++) panel->scales[o][group] = scale_of(parameters[group]);
    }
}

/* Adds a panel's rows from `out` on times `rows` rows of activations to totals, [row][out]. groups: of inputs. ahead: the same rows
 * of the next panel's weights, prefetched; NULL prefetches nothing. */
INLINE void multiply_panel(const struct work *w, int kind, const struct panel *panel, int64_t out, const int16_t *x, int64_t groups,
                           int rows, const uint8_t *ahead, double (*totals)[PANEL_ROWS]) {
    const int16_t *levels = panel->levels + out * PANEL_INPUTS;
    const int64_t stride = row_bytes(w, kind), group_bytes = bytes_of(kind, GROUP);
    floats sums[PANEL_OUT][INT8_X];
    words integers[PANEL_OUT][INT8_X];
    UNROLL for (int o = 0; o < PANEL_OUT; o++)
        UNROLL for (int r = 0; r < rows; r++) sums[o][r] = zeros(), integers[o][r] = zero_words();
    for (int64_t group = 0; group < groups; group++, x += GROUP, levels += PANEL_OUT * GROUP) {
        if (ahead && group * group_bytes % 64 == 0)
            UNROLL for (int o = 0; o < PANEL_OUT; o++) _mm_prefetch((const char *)ahead + o * stride + group * group_bytes, _MM_HINT_T1);
        UNROLL for (int unit = 0; unit < GROUP / UNIT; unit++) {
            const int16_t *weights = levels + unit * PANEL_OUT * UNIT;
            UNROLL for (int r = 0; r < rows; r++) {
                words a = load_words(x + r * w->width + unit * UNIT);
                KEEP_ORDER(a);
                UNROLL for (int o = 0; o < PANEL_OUT; o++) {
                    integers[o][r] = multiply_int16(integers[o][r], load_words(weights + o * UNIT), a);
                    KEEP_ORDER(integers[o][r]);
                }
            }
        }
        if (kind == INT4)
            UNROLL for (int o = 0; o < PANEL_OUT; o++) {
                const floats scale = set1(panel->scales[out + o][group]);
                UNROLL for (int r = 0; r < rows; r++) {
                    sums[o][r] = fmadd(to_floats(integers[o][r]), scale, sums[o][r]);
                    integers[o][r] = zero_words();
                }
            }
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < PANEL_OUT; o++) totals[r][o] += kind == INT8 ? (double)sum_words(integers[o][r]) : (double)sum(sums[o][r]);
}

/* Adds a piece of the matrix product to totals, [row][out]. */
INLINE void multiply_panels(const struct work *w, int kind, int64_t first, int64_t outs, double (*totals)[PANEL_ROWS]) {
    const int step = kind == INT8 ? INT8_X : INT4_X;
    struct panel panel;
    for (int64_t k = 0; k < w->width; k += PANEL_INPUTS) {
        const int64_t count = minimum(w->width - k, PANEL_INPUTS), tiles = (w->p.rows + step - 1) / step;
        /* Where the next panel begins. */
        const int64_t next = k + count < w->width ? bytes_of(kind, k + count) : PANEL_ROWS * row_bytes(w, kind);
        unpack_panel(w, kind, first, outs, k, minimum(count, (kind == INT8 ? w->p.in : w->width) - k), &panel);
        for (int64_t row = 0; row < w->p.rows; row += step)
            for (int64_t o = 0; o < outs; o += PANEL_OUT) {
                /* Each tile's rows once, spread over the rows of activations, so that memory has time. */
                const int turn = o / PANEL_OUT % tiles == row / step;
                const uint8_t *ahead = turn ? w->p.weights + (first + o) * row_bytes(w, kind) + next : NULL;
                const int16_t *x = (const int16_t *)w->rows + row * w->width + k;
                double(*to)[PANEL_ROWS] = (double(*)[PANEL_ROWS]) & totals[row][o];
                switch (minimum(w->p.rows - row, step)) {
                case 1: multiply_panel(w, kind, &panel, o, x, count / GROUP, 1, ahead, to); break;
                case 2: multiply_panel(w, kind, &panel, o, x, count / GROUP, 2, ahead, to); break;
                case 3: multiply_panel(w, kind, &panel, o, x, count / GROUP, 3, ahead, to); break;
                case 4: multiply_panel(w, kind, &panel, o, x, count / GROUP, 4, ahead, to); break;
                }
            }
    }
}
