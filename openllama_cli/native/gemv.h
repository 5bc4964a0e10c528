/* Matrix-vector product, for one row of activations: bound by memory, so each weight is read once.
 *
 * A thread reads several streams of weights side by side, a line of each in turn: more of memory's banks are at work then, and the
 * processor fetches ahead in each, which it does not do across pages. A row's sum takes its products in the same order in any case. */

#pragma once

#include "activations.h"

enum {
    STREAMS = LANES == 16 ? 1 : 8, /* on AMD Zen 3 float16 weights come 1.3 to 1.5 times as fast in eight as in one */
    STREAM_BYTES = 32768,          /* of a stream in a piece of work; less is slower, even two pages */
    AHEAD = LANES == 16 ? 4096 : 256, /* prefetch distance, bytes */
    PIECES = 4,                    /* for each thread, at least: one that is not scheduled leaves the rest to others */
    LINE = LANES == 16 ? 2 * BLOCK : 64, /* bytes that are read of a stream before the next one's turn; of int4 weights 64, a block */
    LINE_INT8 = LANES == 16 ? BLOCK : LINE,
    SUMS = STREAMS == 1 ? 4 : 1,   /* of a row: four chains of additions hide their latency, as eight rows do */
};

/* Rows of weights in a piece of work: a multiple of STREAMS. */
INLINE int64_t gemv_rows(const struct work *w, int threads) {
    if (STREAMS == 1) return 16;
    const int64_t rows = minimum(STREAM_BYTES / row_bytes(w, w->p.kind), w->p.out / (STREAMS * PIECES * threads));
    return STREAMS * (rows > 1 ? rows : 1);
}

/* Fetches what follows in a stream. */
INLINE void prefetch_line(const uint8_t *at, int bytes) {
    UNROLL for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + AHEAD + i, STREAMS == 1 ? _MM_HINT_T0 : _MM_HINT_NTA);
}

/* The products of a row of weights so far; integers: of int8 ones. */
struct dot {
    floats sums[SUMS];
    words integers[SUMS];
};

/* Each of the next three adds the products of a line of weights. First of bfloat16 and float16 ones. */
INLINE void add_floats(struct dot *to, int kind, const uint8_t *weights, const uint8_t *x) {
    const int layout = layout_of(kind, 1);
    UNROLL for (int unit = 0; unit < LINE / 2 / UNIT; unit++) {
        const uint8_t *from = weights + unit * UNIT * 2;
#ifdef BF16
        if (layout == PAIRS) {
            to->sums[unit % SUMS] = multiply_bfloat16(to->sums[unit % SUMS], unpack_pairs(from, kind), load_words(x + unit * VECTOR));
            continue;
        }
#endif
        UNROLL for (int half = 0; half < 2; half++) {
            floats *sum = &to->sums[(unit * 2 + half) % SUMS];
            *sum = fmadd(unpack_half(from, kind, half), load(x, unit * UNIT + half * LANES, 1, LANES), *sum);
        }
    }
    (void)layout;
}

INLINE void add_int8(struct dot *to, const uint8_t *weights, const uint8_t *x) {
    UNROLL for (int unit = 0; unit < LINE_INT8 / UNIT; unit++) {
        words *sum = &to->integers[unit % SUMS];
        *sum = multiply_int16(*sum, from_int8(weights + unit * UNIT), load_words(x + unit * VECTOR));
    }
}

/* The products of one half of a block of int4 weights, a group, with as many activations; see `pack_int4` for their order. */
INLINE words multiply_group(const words bytes[GROUP / UNIT], int half, const int16_t *x) {
    words total = zero_words();
    UNROLL for (int unit = 0; unit < GROUP / UNIT; unit++) {
        const words levels = half ? upper_nibbles(bytes[unit]) : lower_nibbles(bytes[unit]);
        total = multiply_int16(total, levels, load_words(x + half * GROUP + unit * UNIT));
    }
    return total;
}

/* A line is a block of two groups, whose sums of levels 0 to 15 times activations are exact integers; they are scaled. */
INLINE void add_int4(struct dot *to, const uint8_t *weights, const uint32_t *parameters, const uint8_t *x) {
    words bytes[GROUP / UNIT];
    UNROLL for (int unit = 0; unit < GROUP / UNIT; unit++) bytes[unit] = from_uint8(weights + unit * UNIT);
    UNROLL for (int half = 0; half < 2; half++) {
        floats *sum = &to->sums[half % SUMS];
        *sum = fmadd(to_floats(multiply_group(bytes, half, (const int16_t *)x)), lower_bfloat16(broadcast(parameters + half)), *sum);
    }
}

/* y of `count` rows of weights from `first` on, `step` apart. */
INLINE void dots(const struct work *w, int kind, int64_t first, int64_t step, int count, float *y) {
    const int64_t row = row_bytes(w, kind), groups = w->width / GROUP;
    const int line = kind == INT4 ? GROUP : kind == INT8 ? LINE_INT8 : LINE;
    const int64_t x_line = packed_bytes(layout_of(kind, 1), kind == INT4 ? BLOCK : kind == INT8 ? LINE_INT8 : LINE / 2);
    const uint8_t *weights = w->p.weights + first * row, *x = w->rows;
    const uint32_t *parameters = (const uint32_t *)w->p.scales + first * groups;
    struct dot dots[STREAMS];
    double totals[STREAMS][LANES] = {{0}};
    int64_t at = 0;
    UNROLL for (int r = 0; r < count; r++) {
        UNROLL for (int i = 0; i < SUMS; i++) dots[r].sums[i] = zeros(), dots[r].integers[i] = zero_words();
    }
    while (at < row) {
        /* No lane's sum of int8 products can overflow meanwhile. */
        const int64_t end = kind == INT8 ? minimum(row, at + SAFE_INPUTS * LANES) : row;
        for (; at + line <= end; at += line, x += x_line)
            UNROLL for (int r = 0; r < count; r++) {
                const uint8_t *from = weights + r * step * row + at;
                prefetch_line(from, line);
                if (kind == INT4)
                    add_int4(&dots[r], from, parameters + r * step * groups + at / GROUP * 2, x);
                else if (kind == INT8)
                    add_int8(&dots[r], from, x);
                else
                    add_floats(&dots[r], kind, from, x);
            }
        if (at < end) { /* the last, partial line of each row */
            for (int r = 0; r < count; r++) {
                uint8_t copy[LINE];
                const uint8_t *from = padded(weights + r * step * row + at, end - at, line, copy);
                if (kind == INT8)
                    add_int8(&dots[r], from, x);
                else if (kind != INT4)
                    add_floats(&dots[r], kind, from, x);
            }
            at = end;
        }
        if (kind == INT8)
            UNROLL for (int r = 0; r < count; r++)
                UNROLL for (int i = 0; i < SUMS; i++) {
                    add_words_to_doubles(totals[r], dots[r].integers[i]);
                    dots[r].integers[i] = zero_words();
                }
    }
    UNROLL for (int r = 0; r < count; r++) {
        floats total = dots[r].sums[0];
        if (SUMS == 4) total = (total + dots[r].sums[1 % SUMS]) + (dots[r].sums[2 % SUMS] + dots[r].sums[3 % SUMS]);
        if (kind == INT4) total = (total + zero_points(parameters + r * step * groups, w->sums, groups)) * set1(w->x_scales[0]);
        y[r] = sum(total);
        if (kind == INT8) {
            double exact = 0;
            for (int lane = 0; lane < LANES; lane++) exact += totals[r][lane];
            y[r] = (float)exact * (w->x_scales[0] * ((const float *)w->p.scales)[first + r * step]);
        }
    }
}

INLINE void store_dots(const struct work *w, int kind, int64_t first, int64_t step, int count) {
    float y[STREAMS];
    dots(w, kind, first, step, count, y);
    for (int r = 0; r < count; r++) store(w->p.y, first + r * step, w->p.is_float32, 1, set1(y[r]));
}

/* Each piece is w->piece_rows rows of weights. */
INLINE void gemv_of_kind(struct work *w, int kind) {
    int64_t piece;
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;) {
        const int64_t out = piece * w->piece_rows, end = minimum(out + w->piece_rows, w->p.out), step = (end - out) / STREAMS;
        for (int64_t row = out; row < out + step; row++) store_dots(w, kind, row, step, STREAMS);
        for (int64_t row = out + step * STREAMS; row < end; row++) store_dots(w, kind, row, 0, 1);
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
