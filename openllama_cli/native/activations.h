/* Packing activations into the type and order that the kernels read. */

#pragma once

#include <math.h>

#include "weights.h"

/* 16 inputs of a row as floats, zero-padded beyond its end. */
INLINE __m512 load_x(const struct matmul *p, int64_t row, int64_t k) {
    return load(p->x, row * p->in + k, p->is_float32, first_lanes(p->in - k));
}

static void pack_floats(const struct work *w, int64_t row, float *to) {
    for (int64_t k = 0; k < w->blocks * BLOCK; k += 16) _mm512_store_ps(to + k, load_x(&w->p, row, k));
}

static void pack_bfloat16(const struct work *w, int64_t row, uint8_t *to) {
    for (int64_t k = 0; k < w->blocks * BLOCK; k += 32, to += 64)
        _mm512_store_si512(to, bfloat16(load_x(&w->p, row, k), load_x(&w->p, row, k + 16)));
}

/* bfloat16, in the order in which `unpack_int4` puts the inputs of a block. */
static void pack_int4_order(const struct work *w, int64_t row, uint8_t *to) {
    static const uint16_t every_other[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                             32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i even = _mm512_loadu_si512(every_other), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    pack_bfloat16(w, row, to);
    for (int64_t block = 0; block < w->blocks; block++, to += BLOCK * 2) {
        const __m512i a = _mm512_load_si512(to), b = _mm512_load_si512(to + 64);
        const __m512i c = _mm512_load_si512(to + 128), d = _mm512_load_si512(to + 192);
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, even, b));
        _mm512_store_si512(to + 64, _mm512_permutex2var_epi16(c, even, d));
        _mm512_store_si512(to + 128, _mm512_permutex2var_epi16(a, odd, b));
        _mm512_store_si512(to + 192, _mm512_permutex2var_epi16(c, odd, d));
    }
}

/* Quantizes a row to integers of two signed bytes, DIGIT * high + low, at most 127 * DIGIT: [groups][high, low][GROUP] bytes.
 * sums: of each group's integers; digits: of all high and of all low bytes. Returns the row's scale, NaN if the row has a NaN
 * or an infinity. */
static float quantize_row(const struct work *w, int64_t row, uint8_t *to, float *sums, int64_t digits[2]) {
    const int64_t width = w->blocks * BLOCK;
    __m512 most = _mm512_setzero_ps(), check = _mm512_setzero_ps();
    for (int64_t k = 0; k < width; k += 16) {
        const __m512 x = load_x(&w->p, row, k);
        most = _mm512_max_ps(most, _mm512_abs_ps(x));
        check = _mm512_fmadd_ps(x, _mm512_setzero_ps(), check);
    }
    /* Clamped, since the inverse of anything smaller would be infinite. */
    const float largest = fmaxf(_mm512_reduce_max_ps(most), 1e-30f), units = 127 * DIGIT;
    const float nan_or_zero = _mm512_reduce_add_ps(check);
    const __m512 inverse = _mm512_set1_ps(units / largest);
    __m512i highs = _mm512_setzero_si512(), lows = _mm512_setzero_si512();
    for (int64_t k = 0; k < width; k += GROUP, to += 2 * GROUP) {
        __m512i sum = _mm512_setzero_si512();
        for (int part = 0; part < 4; part++) {
            const __m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(load_x(&w->p, row, k + part * 16), inverse));
            const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(number, _mm512_set1_epi32(DIGIT / 2)), 7);
            const __m512i low = _mm512_sub_epi32(number, _mm512_slli_epi32(high, 7));
            _mm_store_si128((__m128i *)(to + part * 16), _mm512_cvtepi32_epi8(high));
            _mm_store_si128((__m128i *)(to + GROUP + part * 16), _mm512_cvtepi32_epi8(low));
            sum = _mm512_add_epi32(sum, number);
            highs = _mm512_add_epi32(highs, high);
            lows = _mm512_add_epi32(lows, low);
        }
        sums[k / GROUP] = (float)_mm512_reduce_add_epi32(sum);
    }
    digits[0] = _mm512_reduce_add_epi32(highs);
    digits[1] = _mm512_reduce_add_epi32(lows);
    return largest / units + nan_or_zero;
}

/* 16 rows starting at `tile * 16`, [rows][pieces][16] words, as right operands: [pieces][tiles][16 words][16 rows]. */
static void pack_tiles(const struct work *w, int64_t tile, int64_t tiles) {
    const int64_t pieces = w->blocks * 4;
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

/* Each piece is 16 rows. */
static void pack_activations(void *argument) {
    struct work *w = argument;
    const int one = w->p.rows == 1, kind = w->p.kind;
    const int64_t tiles = (w->p.rows + 15) / 16;
    int64_t tile;
    for (int64_t share = first_share(&w->shares); (tile = next_piece(&w->shares, &share)) >= 0;) {
        float sums[one ? 1 : w->blocks * 2]; /* only the gemv kernels read these two */
        int64_t digits[2];
        for (int64_t row = tile * 16; row < minimum(w->p.rows, tile * 16 + 16); row++) {
            uint8_t *to = w->rows + row * w->blocks * BLOCK * 2;
            if (kind == INT8 || (one && kind == INT4))
                w->x_scales[row] = quantize_row(w, row, to, one ? w->sums : sums, one ? w->digits : digits);
            else if (one && kind == FLOAT16)
                pack_floats(w, row, (float *)to);
            else if (kind == INT4)
                pack_int4_order(w, row, to);
            else
                pack_bfloat16(w, row, to);
        }
        if (!one) pack_tiles(w, tile, tiles);
    }
}
