/* Matrix product with several rows of activations, by AMX: 16 rows of weights at a time are the left operand.
 *
 * A left tile is 16 rows of 64 bytes of weights; a right tile is 16 words of 4 bytes of 16 rows of activations; their product
 * is added to a tile of 16 x 16 floats or integers. Of the eight tile registers, 0 to 3 are the accumulators. */

#pragma once

#include "activations.h"

enum {
    TILE_ROWS = 16, /* rows of weights in a tile, and in a piece of work */
    TILE = 1024,    /* bytes of a tile: 16 rows of 64 bytes */
    DIGIT = 128,    /* activations of int8 weights are DIGIT * high + low, both signed bytes */
    MAX_TILES = MAX_ROWS / 16, /* of activations */
};

typedef float tile_sums[MAX_TILES][16][16];

/* Compilers do not know what tile instructions read: this keeps earlier stores from being dropped or reordered. */
INLINE void compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* Bits of a float in all lanes. */
INLINE __m512 set1_bits(uint32_t bits) { return _mm512_castsi512_ps(_mm512_set1_epi32((int)bits)); }

/* Prefetch the same place in the next 16 rows of weights. row: bytes of one. */
INLINE void prefetch_next_tile(const uint8_t *at, int64_t row, int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + TILE_ROWS * row + i, _MM_HINT_T1);
}

/* A block of a row of bfloat16 or float16 weights, as bfloat16. left: how many of them belong to the row. */
INLINE void unpack_floats(const uint8_t *at, int kind, int64_t left, __m512i to[4]) {
    uint8_t copy[BLOCK * 2];
    at = padded(at, left * 2, BLOCK * 2, copy);
    for (int part = 0; part < 4; part++) {
        to[part] = unpack_pairs(at + part * 64, kind);
    }
}

/* A block of a row of int4 weights, as bfloat16. parameters: scale and zero point of its two groups.
 *
 * The low half of byte n is input n of the first group, the high half is input n of the second. So the four vectors hold the
 * even inputs of the first and of the second group, then the odd ones. Levels are looked up in a table of the group's 16
 * possible weights. */
INLINE void unpack_int4(const uint8_t *at, const uint32_t parameters[2], __m512i to[4]) {
    const __m512i bytes = _mm512_loadu_si512(at);
    const __m512 levels = _mm512_set_ps(7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8);
    const __m512i table =
        bfloat16_pairs(_mm512_fmadd_ps(set1_bits(parameters[0] << 16), levels, set1_bits(parameters[0] & 0xffff0000u)),
                       _mm512_fmadd_ps(set1_bits(parameters[1] << 16), levels, set1_bits(parameters[1] & 0xffff0000u)));
    for (int part = 0; part < 4; part++) {
        const __m512i level = _mm512_and_si512(_mm512_srli_epi16(bytes, 4 * part), _mm512_set1_epi16(15));
        const __m512i entry = part % 2 ? _mm512_or_si512(level, _mm512_set1_epi16(16)) : level;
        to[part] = _mm512_permutexvar_epi16(entry, table);
    }
}
/* bfloat16, in the order in which `unpack_int4` puts the inputs of a block. */
static void pack_int4_order(const struct work *w, int64_t row, uint8_t *to) {
    static const uint16_t every_other[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                             32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i even = _mm512_loadu_si512(every_other), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    pack_bfloat16(w, row, (uint16_t *)to);
    for (int64_t k = 0; k < w->width; k += BLOCK, to += BLOCK * 2) {
        const __m512i a = _mm512_load_si512(to), b = _mm512_load_si512(to + 64);
        const __m512i c = _mm512_load_si512(to + 128), d = _mm512_load_si512(to + 192);
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, even, b));
        _mm512_store_si512(to + 64, _mm512_permutex2var_epi16(c, even, d));
        _mm512_store_si512(to + 128, _mm512_permutex2var_epi16(a, odd, b));
        _mm512_store_si512(to + 192, _mm512_permutex2var_epi16(c, odd, d));
    }
}

/* 16 rows starting at `tile * 16`, [rows][pieces][16] words, as right operands: [pieces][tiles][16 words][16 rows]. */
static void transpose_rows(const struct work *w, int64_t tile, int64_t tiles) {
    const int64_t pieces = w->width / 32;
    const uint32_t *from = (const uint32_t *)w->rows + tile * 16 * pieces * 16;
    uint32_t *to = (uint32_t *)w->tiles + tile * 256;
    const int64_t real = minimum(w->p.rows - tile * 16, 16);
    for (int64_t piece = 0; piece < pieces; piece++, from += 16, to += tiles * 256) {
        __m512i words[16];
        for (int r = 0; r < 16; r++) words[r] = r < real ? _mm512_load_si512(from + r * pieces * 16) : _mm512_setzero_si512();
        transpose(words);
        for (int word = 0; word < 16; word++) _mm512_store_si512(to + word * 16, words[word]);
    }
}

/* Quantizes a row as `quantize_row` does, to digits: [groups][high, low][GROUP] bytes. Returns its scale. */
static float quantize_digits(const struct work *w, int64_t row, uint8_t *to) {
    const float scale = scale_of_row(w, row);
    const __m512 inverse = _mm512_set1_ps(1 / scale);
    for (int64_t k = 0; k < w->width; k += GROUP, to += 2 * GROUP)
        for (int i = 0; i < GROUP; i += 16) {
            const __m512i number = to_words(load_x(&w->p, row, k + i) * inverse);
            const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(number, _mm512_set1_epi32(DIGIT / 2)), 7);
            _mm_store_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(high));
            _mm_store_si128((__m128i *)(to + GROUP + i),
                            _mm512_cvtepi32_epi8(_mm512_sub_epi32(number, _mm512_slli_epi32(high, 7))));
        }
    return scale;
}

/* Packs activations as tiles. Each piece is 16 rows. */
static void pack_tiles(void *argument) {
    struct work *w = argument;
    const int64_t tiles = (w->p.rows + 15) / 16;
    int64_t tile;
    for (int64_t share = first_share(&w->shares); (tile = next_piece(&w->shares, &share)) >= 0;) {
        for (int64_t row = tile * 16; row < minimum(w->p.rows, tile * 16 + 16); row++) {
            uint8_t *to = w->rows + row * w->width * 2;
            if (w->p.kind == INT8)
                w->x_scales[row] = quantize_digits(w, row, to);
            else if (w->p.kind == INT4)
                pack_int4_order(w, row, to);
            else
                pack_bfloat16(w, row, (uint16_t *)to);
        }
        transpose_rows(w, tile, tiles);
    }
}

/* DIGIT * high + low, rounded once. */
INLINE __m512 join_digits(const int32_t *high, const int32_t *low) {
    __m256 halves[2];
    for (int i = 0; i < 2; i++) {
        const __m512d highs = _mm512_cvtepi32_pd(_mm256_load_si256((const __m256i *)high + i));
        const __m512d lows = _mm512_cvtepi32_pd(_mm256_load_si256((const __m256i *)low + i));
        halves[i] = _mm512_cvtpd_ps(_mm512_fmadd_pd(highs, _mm512_set1_pd(DIGIT), lows));
    }
    return _mm512_insertf32x8(_mm512_castps256_ps512(halves[0]), halves[1], 1);
}

/* The first `count` accumulators. Tile numbers must be compile-time constants. */
INLINE void clear_tiles(int count) {
    _tile_zero(0);
    if (count > 1) _tile_zero(1);
    if (count > 2) _tile_zero(2);
    if (count > 3) _tile_zero(3);
}

INLINE void store_tiles(int count, void *to) {
    _tile_stored(0, to, 64);
    if (count > 1) _tile_stored(1, (uint8_t *)to + TILE, 64);
    if (count > 2) _tile_stored(2, (uint8_t *)to + 2 * TILE, 64);
    if (count > 3) _tile_stored(3, (uint8_t *)to + 3 * TILE, 64);
}

/* bfloat16 product with `count` tiles of activations. memory: room for eight tiles. */
INLINE void tiles_bfloat16(const struct work *w, int kind, int64_t out, uint8_t *memory, int count, tile_sums sums) {
    const int64_t real = minimum(w->p.out - out, 16), groups = w->width / GROUP;
    const int64_t row = row_bytes(w, kind), step = kind == INT4 ? GROUP : BLOCK * 2;
    const uint8_t *right = w->tiles;
    clear_tiles(count);
    for (int64_t block = 0; block < w->width / BLOCK; block++) {
        /* Double buffering: while tiles of one buffer are multiplied, the next weights are written to the other. */
        uint8_t *left = memory + (block & 1) * 4 * TILE;
        for (int64_t r = 0; r < real; r++) {
            const uint8_t *at = w->p.weights + (out + r) * row + block * step;
            __m512i weights[4];
            prefetch_next_tile(at, row, (int)step);
            if (kind == INT4)
                unpack_int4(at, (const uint32_t *)w->p.scales + (out + r) * groups + block * 2, weights);
            else
                unpack_floats(at, kind, w->p.in - block * BLOCK, weights);
            for (int part = 0; part < 4; part++) _mm512_store_si512(left + part * TILE + r * 64, weights[part]);
        }
        compiler_barrier();
        for (int part = 0; part < 4; part++, right += count * TILE) {
            _tile_loadd(4, left + part * TILE, 64);
            _tile_loadd(5, right, 64);
            _tile_dpbf16ps(0, 4, 5);
            if (count > 1) {
                _tile_loadd(6, right + TILE, 64);
                _tile_dpbf16ps(1, 4, 6);
            }
            if (count > 2) {
                _tile_loadd(7, right + 2 * TILE, 64);
                _tile_dpbf16ps(2, 4, 7);
            }
            if (count > 3) {
                _tile_loadd(5, right + 3 * TILE, 64);
                _tile_dpbf16ps(3, 4, 5);
            }
        }
    }
    store_tiles(count, sums);
}

/* int8 product with the high and low bytes of `count` (1 or 2) tiles of activations, starting at `first` of `all`. Weights are
 * read in place, except at the edges, where `memory` pads them. */
INLINE void tiles_int8(const struct work *w, int64_t out, uint8_t *memory, int first, int all, int count, tile_sums sums) {
    const int64_t real = minimum(w->p.out - out, 16);
    const uint8_t *right = w->tiles + first * TILE;
    clear_tiles(2 * count);
    for (int64_t k = 0; k < w->p.in; k += GROUP, right += 2 * all * TILE) {
        const int64_t inputs = minimum(w->p.in - k, GROUP);
        const uint8_t *left = w->p.weights + out * w->p.in + k;
        int64_t stride = w->p.in;
        if (first == 0)
            for (int64_t r = 0; r < real; r++) prefetch_next_tile(left + r * stride, stride, GROUP);
        if (real < 16 || inputs < GROUP) {
            for (int64_t r = 0; r < real; r++) {
                memset(memory + r * 64, 0, 64);
                memcpy(memory + r * 64, left + r * stride, inputs);
            }
            compiler_barrier();
            left = memory;
            stride = 64;
        }
        _tile_loadd(4, left, stride);
        _tile_loadd(5, right, 64); /* high bytes */
        _tile_dpbssd(0, 4, 5);
        _tile_loadd(6, right + all * TILE, 64); /* low bytes */
        _tile_dpbssd(1, 4, 6);
        if (count > 1) {
            _tile_loadd(7, right + TILE, 64);
            _tile_dpbssd(2, 4, 7);
            _tile_loadd(5, right + (all + 1) * TILE, 64);
            _tile_dpbssd(3, 4, 5);
        }
    }
    int32_t digits[4][16][16] __attribute__((aligned(64)));
    store_tiles(2 * count, digits);
    for (int tile = 0; tile < count; tile++) {
        const __m512 x_scales = _mm512_loadu_ps(w->x_scales + (first + tile) * 16);
        for (int64_t r = 0; r < real; r++) {
            const __m512 scale = _mm512_mul_ps(x_scales, _mm512_set1_ps(((const float *)w->p.scales)[out + r]));
            const __m512 sum = join_digits(digits[2 * tile][r], digits[2 * tile + 1][r]);
            _mm512_store_ps(sums[first + tile][r], _mm512_mul_ps(sum, scale));
        }
    }
}

/* Store accumulators, [tile][row of weights][row of activations], to y. */
INLINE void store_transposed(const struct work *w, int64_t out, tile_sums sums) {
    for (int64_t first = 0; first < w->p.rows; first += 16) {
        __m512i words[16];
        for (int r = 0; r < 16; r++) words[r] = _mm512_load_si512(sums[first / 16][r]);
        transpose(words);
        for (int64_t row = 0; row < minimum(w->p.rows - first, 16); row++)
            store(w->p.y, (first + row) * w->p.out + out, w->p.is_float32, w->p.out - out,
                  _mm512_castsi512_ps(words[row]));
    }
}

INLINE void multiply_counted_tiles(struct work *w, int kind, int count) {
    struct __attribute__((packed)) {
        uint8_t palette, start, reserved[14];
        uint16_t columns[16]; /* in bytes */
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) config.columns[tile] = 64, config.rows[tile] = 16;
    uint8_t memory[8 * TILE] __attribute__((aligned(64)));
    memset(memory, 0, sizeof memory);
    tile_sums sums __attribute__((aligned(64)));
    int64_t piece;
    compiler_barrier();
    _tile_loadconfig(&config);
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;) {
        const int64_t out = piece * TILE_ROWS;
        if (kind != INT8)
            tiles_bfloat16(w, kind, out, memory, count, sums);
        else {
            tiles_int8(w, out, memory, 0, count, count > 1 ? 2 : 1, sums);
            if (count > 2) tiles_int8(w, out, memory, 2, count, count - 2, sums);
        }
        store_transposed(w, out, sums);
    }
    _tile_release();
}

INLINE void multiply_tiles_of_kind(struct work *w, int kind) {
    switch ((w->p.rows + 15) / 16) {
    case 1: multiply_counted_tiles(w, kind, 1); break;
    case 2: multiply_counted_tiles(w, kind, 2); break;
    case 3: multiply_counted_tiles(w, kind, 3); break;
    case 4: multiply_counted_tiles(w, kind, 4); break;
    }
}

static void multiply_tiles(void *argument) {
    struct work *w = argument;
    switch (w->p.kind) {
    case BFLOAT16: multiply_tiles_of_kind(w, BFLOAT16); break;
    case FLOAT16: multiply_tiles_of_kind(w, FLOAT16); break;
    case INT8: multiply_tiles_of_kind(w, INT8); break;
    case INT4: multiply_tiles_of_kind(w, INT4); break;
    }
}

/* A batch of rows. */
static void multiply_rows(struct work *w, int threads, parallel_function *parallel) {
    run_parallel(&w->shares, pack_tiles, w, (w->p.rows + 15) / 16, threads, parallel);
    run_parallel(&w->shares, multiply_tiles, w, (w->p.out + 15) / 16, threads, parallel);
}
