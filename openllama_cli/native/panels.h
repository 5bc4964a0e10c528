/* Weights times more rows of activations than a tile has: a block of weights is unpacked once, into a panel of what the
 * activations were packed into, floats or 16-bit integers, then multiplied by all rows. */

#pragma once

#include "activations.h"

enum {
    VECTOR = LANES * 4,              /* bytes */
    PANEL_OUT = LANES == 16 ? 6 : 3, /* rows of weights in a tile */
    PANEL_X = 4,                     /* rows of activations: with PANEL_OUT, as many sums as there are registers for */
    INT4_X = 2,                      /* half as many: each sum of integers has one of floats beside it */
    PANEL_ROWS = 24,                 /* of weights: a multiple of PANEL_OUT */
    PANEL_BYTES = 2048,              /* of a row: a tile's numbers stay in the first cache, and no sum of int8 products overflows */
};

/* Unpacked weights, in the order in which tiles read them: [tiles][vectors][rows of a tile][VECTOR]. Rows a power of two apart
 * would compete for the same lines of the first cache. scales: int4, of each group. */
struct panel {
    _Alignas(64) uint8_t weights[PANEL_ROWS * PANEL_BYTES];
    float scales[PANEL_ROWS][PANEL_BYTES / 2 / GROUP];
};

/* Whether panels are faster. bfloat16 pairs are multiplied as they are. */
INLINE int worth_panels(int kind, int64_t rows) {
    const int layout = layout_of(kind, rows);
    return layout == INTEGERS ? rows > PANEL_X : layout != PAIRS && rows > 4 * PANEL_X;
}

/* Unpacks a block of a row, of which `left` inputs are there, zeros beyond. Between its vectors are those of the tile's other rows. */
INLINE void unpack_block(const uint8_t *from, int kind, int64_t left, uint8_t *to) {
    enum { STEP = PANEL_OUT * VECTOR };
    uint8_t copy[BLOCK * 2];
    const uint8_t *at = padded(from, bytes_of(kind, left), bytes_of(kind, BLOCK), copy);
    if (kind == INT4)
        for (int i = 0; i < GROUP / UNIT; i++) {
            const words bytes = from_uint8(at + i * UNIT);
            store_words(to + i * STEP, lower_nibbles(bytes));
            store_words(to + (GROUP / UNIT + i) * STEP, upper_nibbles(bytes));
        }
    else if (kind == INT8)
        for (int i = 0; i < BLOCK / UNIT; i++) store_words(to + i * STEP, from_int8(at + i * UNIT));
    else
        for (int i = 0; i < BLOCK / LANES; i++)
            store(to + i * STEP, 0, 1, LANES, unpack_half(at + i / 2 * UNIT * 2, kind, i % 2));
}

/* Unpacks inputs k to k + count of `outs` rows of weights from `first` on. Beyond the last row it reads that one again, to the end
 * of its tile. */
INLINE void unpack_panel(const struct work *w, int kind, int64_t first, int64_t outs, int64_t k, int64_t count, struct panel *panel) {
    const int64_t groups = w->width / GROUP, inputs = kind == INT4 ? w->width : w->p.in;
    for (int64_t o = 0; o < (outs + PANEL_OUT - 1) / PANEL_OUT * PANEL_OUT; o++) {
        const int64_t out = minimum(first + o, w->p.out - 1), bytes = packed_bytes(layout_of(kind, 2), PANEL_OUT * BLOCK);
        const uint8_t *from = w->p.weights + out * row_bytes(w, kind) + bytes_of(kind, k);
        uint8_t *to = panel->weights + o / PANEL_OUT * PANEL_OUT * PANEL_BYTES + o % PANEL_OUT * VECTOR;
        for (int64_t block = 0; block < count; block += BLOCK, from += bytes_of(kind, BLOCK), to += bytes)
            unpack_block(from, kind, minimum(inputs - k - block, BLOCK), to);
        if (kind == INT4) {
            const uint32_t *parameters = (const uint32_t *)w->p.scales + out * groups + k / GROUP;
            for (int64_t group = 0; group < count / GROUP; group++) panel->scales[o][group] = scale_of(parameters[group]);
        }
    }
}

/* Adds a panel's rows from `out` on times `rows` rows of activations to totals, [row][out]. groups: of inputs. ahead: the same rows
 * of the next panel's weights, prefetched; NULL prefetches nothing. */
INLINE void multiply_panel(const struct work *w, int kind, const struct panel *panel, int64_t out, const uint8_t *x, int64_t groups,
                           int rows, const uint8_t *ahead, double (*totals)[PANEL_ROWS]) {
    const int layout = layout_of(kind, 2);
    const uint8_t *weights = panel->weights + out * PANEL_BYTES;
    const int64_t stride = row_bytes(w, kind), group_bytes = bytes_of(kind, GROUP), x_stride = packed_bytes(layout, w->width);
    floats sums[PANEL_OUT][PANEL_X];
    words integers[PANEL_OUT][PANEL_X];
    UNROLL for (int o = 0; o < PANEL_OUT; o++)
        UNROLL for (int r = 0; r < rows; r++) sums[o][r] = zeros(), integers[o][r] = zero_words();
    for (int64_t group = 0; group < groups; group++) {
        for (int64_t byte = group * group_bytes; ahead && byte < (group + 1) * group_bytes; byte += 64)
            UNROLL for (int o = 0; o < PANEL_OUT; o++) _mm_prefetch((const char *)ahead + o * stride + byte, _MM_HINT_T1);
        UNROLL for (int vector = 0; vector < packed_bytes(layout, GROUP) / VECTOR; vector++, weights += PANEL_OUT * VECTOR, x += VECTOR) {
            if (layout == INTEGERS) {
                UNROLL for (int r = 0; r < rows; r++) {
                    words a = load_words(x + r * x_stride);
                    KEEP_ORDER(a);
                    UNROLL for (int o = 0; o < PANEL_OUT; o++) {
                        integers[o][r] = multiply_int16(integers[o][r], load_words(weights + o * VECTOR), a);
                        KEEP_ORDER(integers[o][r]);
                    }
                }
                continue;
            }
            floats unpacked[PANEL_OUT];
            UNROLL for (int o = 0; o < PANEL_OUT; o++) {
                unpacked[o] = load(weights + o * VECTOR, 0, 1, LANES);
                KEEP_ORDER(unpacked[o]);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const floats a = load(x + r * x_stride, 0, 1, LANES);
                UNROLL for (int o = 0; o < PANEL_OUT; o++) sums[o][r] = fmadd(unpacked[o], a, sums[o][r]);
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
    const int layout = layout_of(kind, 2), step = kind == INT4 ? INT4_X : PANEL_X;
    const int64_t turns = (w->p.rows + step - 1) / step, inputs = PANEL_BYTES / packed_bytes(layout, 1);
    struct panel panel;
    for (int64_t k = 0; k < w->width; k += inputs) {
        const int64_t count = minimum(w->width - k, inputs);
        /* Where the next panel begins. */
        const int64_t next = k + count < w->width ? bytes_of(kind, k + count) : PANEL_ROWS * row_bytes(w, kind);
        unpack_panel(w, kind, first, outs, k, count, &panel);
        for (int64_t row = 0; row < w->p.rows; row += step)
            for (int64_t o = 0; o < outs; o += PANEL_OUT) {
                /* Each tile's rows once, spread over the rows of activations, so that memory has time. */
                const int turn = o / PANEL_OUT % turns == row / step;
                const uint8_t *ahead = turn ? w->p.weights + (first + o) * row_bytes(w, kind) + next : NULL;
                const uint8_t *x = w->rows + packed_bytes(layout, row * w->width + k);
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
