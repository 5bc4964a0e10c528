/* Matrix product with more rows of activations than a tile of gemm.h has. The lanes of a vector are as many rows of activations,
 * so that sums end in their places: a word of weights (a float, or a pair of 16-bit numbers) is broadcast and multiplied by the
 * same word of all rows. A block of weights is unpacked once, into a panel of such words. */

#pragma once

#include "activations.h"

enum {
    TILE_SUMS = LANES == 16 ? 24 : 12, /* vectors of sums in a tile: as many as there are registers for beside what they are made of */
    TILE_VECTORS = 3,                  /* of activations, at most */
    PIECE_OUT = 2 * TILE_SUMS,         /* rows of weights in a piece of work: a multiple of LANES too */
    PANEL_WORDS = 2048 / LANES,        /* of a row: what a tile reads stays in the first cache, and no sum of int8 products overflows */
    PANEL_GROUPS = PANEL_WORDS * 2 / GROUP,
};

/* Unpacked weights; of int4 ones, also each group's scale and what its zero point adds for each unit of activations. Levels count
 * from 0, not -8: that and the zero point add the same for each level, zero - 8 * scale. */
struct panel {
    _Alignas(64) uint32_t weights[TILE_SUMS][PANEL_WORDS];
    float scales[TILE_SUMS][PANEL_GROUPS], zeros[TILE_SUMS][PANEL_GROUPS];
};

/* Words of a row of packed activations, and of a number of inputs. */
INLINE int64_t words_of(int kind, int64_t inputs) { return packed_bytes(layout_of(kind, 2), inputs) / 4; }

/* Packs LANES rows of activations, row by row, then as [words][LANES]; rows beyond the last are zeros. Each piece is LANES rows. */
static void pack_lanes(void *argument) {
    struct work *w = argument;
    const int64_t words_in_row = words_of(w->p.kind, w->width), groups = w->width / GROUP;
    int64_t piece;
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;) {
        const int64_t real = minimum(w->p.rows - piece * LANES, LANES);
        const uint32_t *from = (const uint32_t *)w->rows + piece * LANES * words_in_row;
        uint32_t *to = (uint32_t *)w->lanes + piece * LANES * words_in_row;
        for (int64_t row = piece * LANES; row < piece * LANES + real; row++) pack_row(w, row);
        for (int64_t word = 0; word < words_in_row; word += LANES) {
            words block[LANES];
            for (int r = 0; r < LANES; r++) block[r] = r < real ? load_words(from + r * words_in_row + word) : zero_words();
            transpose(block);
            for (int i = 0; i < LANES; i++) store_words(to + (word + i) * LANES, block[i]);
        }
        if (w->p.kind == INT4)
            for (int64_t group = 0; group < groups; group++)
                for (int r = 0; r < LANES; r++)
                    w->lane_sums[(piece * groups + group) * LANES + r] = r < real ? w->sums[(piece * LANES + r) * groups + group] : 0;
    }
}

/* Unpacks a block of a row, of which `left` inputs are there, zeros beyond. */
INLINE void unpack_block(const uint8_t *from, int kind, int64_t left, uint32_t *to) {
    uint8_t copy[BLOCK * 2];
    const uint8_t *at = padded(from, bytes_of(kind, left), bytes_of(kind, BLOCK), copy);
    if (kind == INT4) {
        for (int i = 0; i < GROUP / UNIT; i++) {
            const words bytes = from_uint8(at + i * UNIT);
            store_words(to + i * LANES, lower_nibbles(bytes));
            store_words(to + GROUP / 2 + i * LANES, upper_nibbles(bytes));
        }
        return;
    }
    for (int i = 0; i < BLOCK / UNIT; i++) {
        if (kind == INT8) {
            store_words(to + i * LANES, from_int8(at + i * UNIT));
            continue;
        }
#ifdef BF16
        store_words(to + i * LANES, unpack_pairs(at + i * UNIT * 2, kind));
#else
        for (int half = 0; half < 2; half++)
            store(to + i * UNIT + half * LANES, 0, 1, LANES, unpack_half(at + i * UNIT * 2, kind, half));
#endif
    }
}

/* Unpacks inputs k to k + count of rows of weights from `first` on. Beyond the last row it reads that one again. */
INLINE void unpack_panel(const struct work *w, int kind, int64_t first, int64_t k, int64_t count, struct panel *panel) {
    const int64_t groups = w->width / GROUP, inputs = kind == INT4 ? w->width : w->p.in;
    for (int64_t o = 0; o < TILE_SUMS; o++) {
        const int64_t out = minimum(first + o, w->p.out - 1);
        const uint8_t *from = w->p.weights + out * row_bytes(w, kind) + bytes_of(kind, k);
        for (int64_t block = 0; block < count; block += BLOCK)
            unpack_block(from + bytes_of(kind, block), kind, minimum(inputs - k - block, BLOCK), panel->weights[o] + words_of(kind, block));
        for (int64_t group = 0; kind == INT4 && group < count / GROUP; group++) {
            const uint32_t parameters = ((const uint32_t *)w->p.scales)[out * groups + k / GROUP + group];
            panel->scales[o][group] = scale_of(parameters);
            panel->zeros[o][group] = scale_of(parameters >> 16) - 8 * scale_of(parameters);
        }
    }
}

/* to + products of words of weights and of activations, of either type of floats. */
INLINE floats multiply_words(floats to, words a, words b, int layout) {
#ifdef BF16
    if (layout == PAIRS) return multiply_bfloat16(to, a, b);
#endif
    (void)layout;
    return fmadd((floats)a, (floats)b, to);
}

/* Adds inputs k to k + count of a panel's rows from `out` on times `vectors` vectors of rows of activations from `vector` on to
 * totals, [row of weights][row of activations]. Prefetches as many bytes of weights as it multiplies from `ahead` on, if that is not
 * NULL. */
INLINE void multiply_panel(const struct work *w, int kind, const struct panel *panel, int64_t out, int64_t vector, int vectors,
                           int64_t k, int64_t count, const uint8_t *ahead, double (*totals)[MAX_ROWS]) {
    const int layout = layout_of(kind, 2), outs = TILE_SUMS / vectors;
    const int64_t group_bytes = bytes_of(kind, GROUP), group_words = words_of(kind, GROUP);
    const int64_t x_stride = words_of(kind, w->width) * VECTOR, groups = w->width / GROUP;
    const uint8_t *x = w->lanes + vector * x_stride + words_of(kind, k) * VECTOR;
    const uint32_t *weights = panel->weights[out];
    floats sums[TILE_SUMS][TILE_VECTORS];
    words integers[TILE_SUMS][TILE_VECTORS];
    UNROLL for (int o = 0; o < outs; o++)
        UNROLL for (int v = 0; v < vectors; v++) sums[o][v] = zeros(), integers[o][v] = zero_words();
    for (int64_t group = 0, word = 0; group < count / GROUP; group++) {
        if (ahead) {
            UNROLL for (int byte = 0; byte < outs * group_bytes; byte += 64) _mm_prefetch((const char *)ahead + byte, _MM_HINT_T1);
            ahead += outs * group_bytes;
        }
        for (int64_t end = (group + 1) * group_words; word < end; word += 4)
            UNROLL for (int i = 0; i < 4; i++) {
                words a[TILE_VECTORS];
                UNROLL for (int v = 0; v < vectors; v++) a[v] = load_words(x + v * x_stride + (word + i) * VECTOR);
                UNROLL for (int o = 0; o < outs; o++) {
                    const words b = broadcast(&weights[o * PANEL_WORDS + word + i]);
                    UNROLL for (int v = 0; v < vectors; v++)
                        if (layout == INTEGERS)
                            integers[o][v] = multiply_int16(integers[o][v], b, a[v]);
                        else
                            sums[o][v] = multiply_words(sums[o][v], b, a[v], layout);
                }
            }
        if (kind == INT4)
            UNROLL for (int v = 0; v < vectors; v++) {
                const floats x_sums = load(w->lane_sums, ((vector + v) * groups + k / GROUP + group) * LANES, 1, LANES);
                UNROLL for (int o = 0; o < outs; o++) {
                    sums[o][v] = fmadd(set1(panel->zeros[out + o][group]), x_sums, sums[o][v]);
                    sums[o][v] = fmadd(set1(panel->scales[out + o][group]), to_floats(integers[o][v]), sums[o][v]);
                    integers[o][v] = zero_words();
                    KEEP_IN_MEMORY(sums[o][v]); /* the registers are for integers */
                }
            }
    }
    UNROLL for (int o = 0; o < outs; o++)
        UNROLL for (int v = 0; v < vectors; v++) {
            double *to = totals[o] + v * LANES;
            if (kind == INT8)
                add_words_to_doubles(to, integers[o][v]);
            else
                add_to_doubles(to, sums[o][v]);
        }
}

/* Adds a piece of the matrix product to totals, [row of weights][row of activations]. */
INLINE void multiply_panels(const struct work *w, int kind, int64_t piece, int64_t outs, double (*totals)[MAX_ROWS]) {
    const int64_t inputs = PANEL_WORDS * BLOCK / words_of(kind, BLOCK), all = (w->p.rows + LANES - 1) / LANES;
    /* The next piece of work, which is prefetched in the order of memory, at the pace at which this one is multiplied. */
    const uint8_t *next = w->p.weights + (piece + outs) * row_bytes(w, kind);
    struct panel panel;
    for (int64_t k = 0; k < w->width; k += inputs) {
        const int64_t count = minimum(w->width - k, inputs);
        for (int64_t first = 0; first < outs; first += TILE_SUMS) {
            unpack_panel(w, kind, piece + first, k, count, &panel);
            for (int64_t vector = 0, vectors; vector < all; vector += vectors) {
                const int64_t left = all - vector;
                /* Not one of many, since that reads more for each product; integers have no registers for three. */
                vectors = left == 3 && layout_of(kind, 2) != INTEGERS ? 3 : minimum(left, 2);
                for (int64_t out = 0; out < TILE_SUMS; out += TILE_SUMS / vectors) {
                    const uint8_t *ahead = vector ? NULL : next + bytes_of(kind, k * outs + (first + out) * count);
                    double(*to)[MAX_ROWS] = (double(*)[MAX_ROWS]) & totals[first + out][vector * LANES];
                    switch (vectors) {
                    case 1: multiply_panel(w, kind, &panel, out, vector, 1, k, count, ahead, to); break;
                    case 2: multiply_panel(w, kind, &panel, out, vector, 2, k, count, ahead, to); break;
                    case 3: multiply_panel(w, kind, &panel, out, vector, 3, k, count, ahead, to); break;
                    }
                }
            }
        }
    }
}

/* Scales totals and stores them. */
INLINE void store_panels(const struct work *w, int kind, int64_t first, int64_t outs, double (*totals)[MAX_ROWS]) {
    for (int64_t row = 0; row < w->p.rows; row += LANES) {
        const floats x_scales = load(w->x_scales, row, 1, LANES);
        for (int64_t out = 0; out < outs; out += LANES) {
            words block[LANES];
            for (int o = 0; o < LANES; o++) {
                floats y = from_doubles(totals[out + o] + row);
                if (kind == INT8) y *= x_scales * set1(((const float *)w->p.scales)[minimum(first + out + o, w->p.out - 1)]);
                if (kind == INT4) y *= x_scales;
                block[o] = (words)y;
            }
            transpose(block);
            for (int64_t r = 0; r < minimum(w->p.rows - row, LANES); r++)
                store(w->p.y, (row + r) * w->p.out + first + out, w->p.is_float32, outs - out, (floats)block[r]);
        }
    }
}

INLINE void panels_of_kind(struct work *w, int kind) {
    int64_t piece;
    double totals[PIECE_OUT][MAX_ROWS];
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;) {
        const int64_t first = piece * PIECE_OUT, outs = minimum(w->p.out - first, PIECE_OUT);
        memset(totals, 0, sizeof totals);
        multiply_panels(w, kind, first, outs, totals);
        store_panels(w, kind, first, outs, totals);
    }
}

/* Each piece is PIECE_OUT rows of weights. */
static void panels(void *argument) {
    struct work *w = argument;
    switch (w->p.kind) {
    case BFLOAT16: panels_of_kind(w, BFLOAT16); break;
    case FLOAT16: panels_of_kind(w, FLOAT16); break;
    case INT8: panels_of_kind(w, INT8); break;
    case INT4: panels_of_kind(w, INT4); break;
    }
}
