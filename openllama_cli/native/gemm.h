/* Matrix product with a few rows of activations: tiles of a few rows of weights by all of these, whose sums stay in registers while
 * both are read along their inputs, so that each number that is loaded is used several times. More rows: see panels.h. */

#pragma once

#include "gemv.h"
#include "panels.h"

enum {
    TILE_OUT = LANES == 16 ? 6 : 3, /* with TILE_X, as many sums as there are registers for */
    TILE_X = 4,
    PIECE = 24,        /* rows of weights in a piece of work, a multiple of TILE_OUT */
    K_BLOCK = 1024,    /* inputs at a time, so that a tile's activations stay in the first cache: at most SAFE_INPUTS */
};

/* Adds `units` units of the rows of weights times `rows` rows of activations, of `width` inputs. ahead: how many bytes after
 * each weight lies what the next block reads; prefetched. */
INLINE void multiply_units(floats sums[TILE_OUT][TILE_X], words integers[TILE_OUT][TILE_X], int kind, const uint8_t *const weights[TILE_OUT], int64_t ahead, const uint8_t *x,
                           int64_t width, int64_t units, int rows) {
    const int layout = layout_of(kind, 2), bytes = kind == INT8 ? UNIT : UNIT * 2;
    for (int64_t unit = 0; unit < units; unit++) {
        if (unit % (64 / bytes) == 0)
            UNROLL for (int o = 0; o < TILE_OUT; o++)
                _mm_prefetch((const char *)weights[o] + ahead + unit * bytes, _MM_HINT_T1);
        if (layout == FLOATS || layout == SPLIT) {
            UNROLL for (int half = 0; half < 2; half++) {
                floats w[TILE_OUT];
                UNROLL for (int o = 0; o < TILE_OUT; o++) w[o] = unpack_half(weights[o] + unit * UNIT * 2, kind, half);
                UNROLL for (int r = 0; r < rows; r++) {
                    const floats a = load(x, r * width + unit * UNIT + half * LANES, 1, LANES);
                    UNROLL for (int o = 0; o < TILE_OUT; o++) sums[o][r] = fmadd(w[o], a, sums[o][r]);
                }
            }
            continue;
        }
        words w[TILE_OUT];
#ifdef BF16
        if (layout == PAIRS) {
            UNROLL for (int o = 0; o < TILE_OUT; o++) w[o] = unpack_pairs(weights[o] + unit * UNIT * 2, kind);
            UNROLL for (int r = 0; r < rows; r++) {
                const words a = load_words((const int16_t *)x + r * width + unit * UNIT);
                UNROLL for (int o = 0; o < TILE_OUT; o++) sums[o][r] = multiply_bfloat16(sums[o][r], w[o], a);
            }
            continue;
        }
#endif
        UNROLL for (int o = 0; o < TILE_OUT; o++) w[o] = from_int8(weights[o] + unit * UNIT);
        UNROLL for (int r = 0; r < rows; r++) {
            const words a = load_words((const int16_t *)x + r * width + unit * UNIT);
            UNROLL for (int o = 0; o < TILE_OUT; o++) {
                integers[o][r] = multiply_int16(integers[o][r], w[o], a);
                KEEP_ORDER(integers[o][r]);
            }
        }
    }
}

/* The same of int4 weights, whose units are blocks. parameters: of each row's groups. */
INLINE void multiply_blocks(floats sums[TILE_OUT][TILE_X], const uint8_t *const weights[TILE_OUT], int64_t ahead,
                            const uint32_t *const parameters[TILE_OUT], const int16_t *x, int64_t width, int64_t blocks,
                            int rows) {
    for (int64_t block = 0; block < blocks; block++, x += BLOCK)
        UNROLL for (int o = 0; o < TILE_OUT; o++) {
            words bytes[GROUP / UNIT];
            _mm_prefetch((const char *)weights[o] + ahead + block * GROUP, _MM_HINT_T1);
            UNROLL for (int unit = 0; unit < GROUP / UNIT; unit++) bytes[unit] = from_uint8(weights[o] + block * GROUP + unit * UNIT);
            UNROLL for (int half = 0; half < 2; half++) {
                const floats scale = set1(scale_of(parameters[o][block * 2 + half]));
                UNROLL for (int r = 0; r < rows; r++)
                    sums[o][r] = fmadd(to_floats(multiply_group(bytes, half, x + r * width)), scale, sums[o][r]);
            }
        }
}

/* Adds inputs k to k + count of the tile that begins at `out` to totals, [row][out] from there. Beyond the last row of weights it
 * reads that one again. Prefetches the next block of weights. */
INLINE void multiply_tile(const struct work *w, int kind, int64_t out, int64_t k, int64_t count, int rows, double (*totals)[PIECE]) {
    const int64_t layout = layout_of(kind, 2), size = packed_bytes(layout, 1), groups = w->width / GROUP;
    const int64_t stride = row_bytes(w, kind), place = bytes_of(kind, k);
    const int64_t ahead = k + count < w->p.in ? bytes_of(kind, K_BLOCK) : PIECE * stride - place;
    const uint8_t *x = w->rows + k * size, *weights[TILE_OUT];
    const uint32_t *parameters[TILE_OUT];
    floats sums[TILE_OUT][TILE_X];
    words integers[TILE_OUT][TILE_X];
    for (int o = 0; o < TILE_OUT; o++) {
        const int64_t at = minimum(out + o, w->p.out - 1);
        weights[o] = w->p.weights + at * stride + place;
        parameters[o] = kind == INT4 ? (const uint32_t *)w->p.scales + at * groups + k / GROUP : NULL;
        UNROLL for (int r = 0; r < rows; r++) sums[o][r] = zeros(), integers[o][r] = zero_words();
    }
    if (kind == INT4)
        multiply_blocks(sums, weights, ahead, parameters, (const int16_t *)x, w->width, (count + BLOCK - 1) / BLOCK, rows);
    else {
        const int64_t bytes = kind == INT8 ? 1 : 2, whole = count / UNIT, rest = count % UNIT;
        uint8_t copies[TILE_OUT][UNIT * 2];
        for (int part = 0; part < 2; part++) {
            if (part)
                for (int o = 0; o < TILE_OUT; o++)
                    weights[o] = padded(weights[o] + whole * UNIT * bytes, rest * bytes, UNIT * bytes, copies[o]);
            multiply_units(sums, integers, kind, weights, ahead, x + part * whole * UNIT * size, w->width, part ? rest > 0 : whole, rows);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < TILE_OUT; o++) totals[r][o] += kind == INT8 ? (double)sum_words(integers[o][r]) : (double)sum(sums[o][r]);
}

/* The same of 2 to TILE_X rows. */
INLINE void multiply_counted(const struct work *w, int kind, int64_t out, int64_t k, int64_t count, double (*totals)[PIECE]) {
    switch (w->p.rows) {
    case 2: multiply_tile(w, kind, out, k, count, 2, totals); break;
    case 3: multiply_tile(w, kind, out, k, count, 3, totals); break;
    case 4: multiply_tile(w, kind, out, k, count, 4, totals); break;
    }
}

/* Scales totals, adds what the zero points of int4 weights contribute, and stores them. */
INLINE void store_piece(const struct work *w, int kind, int64_t first, int64_t outs, double (*totals)[PIECE]) {
    const int64_t groups = w->width / GROUP;
    for (int64_t row = 0; row < w->p.rows; row++) {
        float y[PIECE + LANES];
        for (int64_t o = 0; o < outs; o++) {
            y[o] = (float)totals[row][o];
            if (kind == INT8) y[o] *= w->x_scales[row] * ((const float *)w->p.scales)[first + o];
            if (kind == INT4) {
                const uint32_t *parameters = (const uint32_t *)w->p.scales + (first + o) * groups;
                y[o] = (y[o] + sum(zero_points(parameters, w->sums + row * groups, groups))) * w->x_scales[row];
            }
        }
        for (int64_t o = 0; o < outs; o += LANES)
            store(w->p.y, row * w->p.out + first + o, w->p.is_float32, outs - o, load(y, o, 1, LANES));
    }
}

INLINE void gemm_of_kind(struct work *w, int kind) {
    int64_t piece;
    double totals[TILE_X][PIECE];
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;) {
        const int64_t first = piece * PIECE, outs = minimum(w->p.out - first, PIECE);
        memset(totals, 0, sizeof totals);
        for (int64_t k = 0; k < w->p.in; k += K_BLOCK)
            for (int64_t o = 0; o < outs; o += TILE_OUT)
                multiply_counted(w, kind, first + o, k, minimum(w->p.in - k, K_BLOCK), (double(*)[PIECE]) & totals[0][o]);
        store_piece(w, kind, first, outs, totals);
    }
}

static void gemm(void *argument) {
    struct work *w = argument;
    switch (w->p.kind) {
    case BFLOAT16: gemm_of_kind(w, BFLOAT16); break;
    case FLOAT16: gemm_of_kind(w, FLOAT16); break;
    case INT8: gemm_of_kind(w, INT8); break;
    case INT4: gemm_of_kind(w, INT4); break;
    }
}

/* A batch of rows. */
static void multiply_rows(struct work *w, int threads, parallel_function *parallel) {
    if (w->p.rows > TILE_X) {
        run_parallel(&w->shares, pack_lanes, w, (w->p.rows + LANES - 1) / LANES, threads, parallel);
        run_parallel(&w->shares, panels, w, (w->p.out + PIECE_OUT - 1) / PIECE_OUT, threads, parallel);
    } else {
        run_parallel(&w->shares, pack_rows, w, w->p.rows, threads, parallel);
        run_parallel(&w->shares, gemm, w, (w->p.out + PIECE - 1) / PIECE, threads, parallel);
    }
}
