/* Matrix product with several rows of activations, by AMX: 16 rows of weights at a time are the left operand.
 *
 * A left tile is 16 rows of 64 bytes of weights; a right tile is 16 words of 4 bytes of 16 rows of activations; their product
 * is added to a tile of 16 x 16 floats or integers. Of the eight tile registers, 0 to 3 are the accumulators. */

#pragma once

#include "weights.h"

enum { MAX_TILES = 4, MAX_ROWS = MAX_TILES * 16 }; /* of activations per pass over the weights */

typedef float tile_sums[MAX_TILES][16][16];

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
    const int64_t real = minimum(w->p.out - out, 16), groups = w->blocks * 2;
    const int64_t row = kind == INT4 ? w->blocks * GROUP : w->p.in * 2, step = kind == INT4 ? GROUP : BLOCK * 2;
    const uint8_t *right = w->tiles;
    clear_tiles(count);
    for (int64_t block = 0; block < w->blocks; block++) {
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
            const __m512 high = _mm512_cvtepi32_ps(_mm512_load_si512(digits[2 * tile][r]));
            const __m512 low = _mm512_cvtepi32_ps(_mm512_load_si512(digits[2 * tile + 1][r]));
            const __m512 scale = _mm512_mul_ps(x_scales, _mm512_set1_ps(((const float *)w->p.scales)[out + r]));
            _mm512_store_ps(sums[first + tile][r], _mm512_mul_ps(_mm512_fmadd_ps(high, _mm512_set1_ps(DIGIT), low), scale));
        }
    }
}

/* Store accumulators, [tile][row of weights][row of activations], to y. */
INLINE void store_transposed(const struct work *w, int64_t out, tile_sums sums) {
    const __mmask16 mask = first_lanes(w->p.out - out);
    for (int64_t first = 0; first < w->p.rows; first += 16) {
        __m512i words[16];
        for (int r = 0; r < 16; r++) words[r] = _mm512_load_si512(sums[first / 16][r]);
        transpose(words);
        for (int64_t row = 0; row < minimum(w->p.rows - first, 16); row++)
            store(w->p.y, (first + row) * w->p.out + out, w->p.is_float32, mask, _mm512_castsi512_ps(words[row]));
    }
}

INLINE void gemm_tiles(struct work *w, int kind, int count) {
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

INLINE void gemm_of_kind(struct work *w, int kind) {
    switch ((w->p.rows + 15) / 16) {
    case 1: gemm_tiles(w, kind, 1); break;
    case 2: gemm_tiles(w, kind, 2); break;
    case 3: gemm_tiles(w, kind, 3); break;
    case 4: gemm_tiles(w, kind, 4); break;
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
