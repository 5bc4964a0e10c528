/* Activations in the type and order in which the kernels read them. */

#pragma once

#include <math.h>

#include "weights.h"

/* 16 inputs of a row as floats, zeros beyond its end. */
INLINE __m512 load_x(const struct product *p, int64_t row, int64_t k) {
    return load(p->x, row * p->in + k, p->wide, first_of_16(p->in - k));
}

static void to_floats(const struct work *w, int64_t row, float *to) {
    for (int64_t k = 0; k < w->blocks * BLOCK; k += 16) _mm512_store_ps(to + k, load_x(&w->p, row, k));
}

static void to_bfloat16(const struct work *w, int64_t row, uint8_t *to) {
    for (int64_t k = 0; k < w->blocks * BLOCK; k += 32, to += 64)
        _mm512_store_si512(to, bfloat16(load_x(&w->p, row, k), load_x(&w->p, row, k + 16)));
}

/* bfloat16 in the order in which `unpack_int4` has the inputs of a block. */
static void to_int4_order(const struct work *w, int64_t row, uint8_t *to) {
    static const uint16_t every_other[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                             32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i even = _mm512_loadu_si512(every_other), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    to_bfloat16(w, row, to);
    for (int64_t block = 0; block < w->blocks; block++, to += BLOCK * 2) {
        const __m512i a = _mm512_load_si512(to), b = _mm512_load_si512(to + 64);
        const __m512i c = _mm512_load_si512(to + 128), d = _mm512_load_si512(to + 192);
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, even, b));
        _mm512_store_si512(to + 64, _mm512_permutex2var_epi16(c, even, d));
        _mm512_store_si512(to + 128, _mm512_permutex2var_epi16(a, odd, b));
        _mm512_store_si512(to + 192, _mm512_permutex2var_epi16(c, odd, d));
    }
}

/* Integers of two signed digits, [groups][high, low][GROUP] bytes, the largest 127 * DIGIT. sums: of each group; digits: of
 * the high and of the low ones. Returns what a unit is worth: NaN for a row with a NaN or an infinity in it. */
static float to_digits(const struct work *w, int64_t row, uint8_t *to, float *sums, int64_t digits[2]) {
    const int64_t width = w->blocks * BLOCK;
    __m512 most = _mm512_setzero_ps(), check = _mm512_setzero_ps();
    for (int64_t k = 0; k < width; k += 16) {
        const __m512 x = load_x(&w->p, row, k);
        most = _mm512_max_ps(most, _mm512_abs_ps(x));
        check = _mm512_fmadd_ps(x, _mm512_setzero_ps(), check);
    }
    /* Not less than this, below which its inverse would be infinite. */
    const float largest = fmaxf(_mm512_reduce_max_ps(most), 1e-30f), units = 127 * DIGIT, odd = _mm512_reduce_add_ps(check);
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
    return largest / units + odd;
}

/* 16 rows from `tile * 16` on, [rows][pieces][16] words, to right operands: [pieces][tiles][16 words][16 rows]. */
static void to_tiles(const struct work *w, int64_t tile, int64_t tiles) {
    const int64_t pieces = w->blocks * 4;
    const uint32_t *from = (const uint32_t *)w->rows + tile * 16 * pieces * 16;
    uint32_t *to = (uint32_t *)w->tiles + tile * 256;
    const int64_t real = least(w->p.rows - tile * 16, 16);
    for (int64_t piece = 0; piece < pieces; piece++, from += 16, to += tiles * 256) {
        __m512i words[16];
        for (int r = 0; r < 16; r++) words[r] = r < real ? _mm512_load_si512(from + r * pieces * 16) : _mm512_setzero_si512();
        transpose(words);
        for (int word = 0; word < 16; word++) _mm512_store_si512(to + word * 16, words[word]);
    }
}

/* 16 rows at a time, each by one thread. */
static void arrange(void *argument) {
    struct work *w = argument;
    const int one = w->p.rows == 1, kind = w->p.kind;
    const int64_t tiles = (w->p.rows + 15) / 16;
    int64_t tile;
    for (int64_t share = join(&w->shares); (tile = take(&w->shares, &share)) >= 0;) {
        float sums[one ? 1 : w->blocks * 2]; /* nobody reads these two but one row's kernels */
        int64_t digits[2];
        for (int64_t row = tile * 16; row < least(w->p.rows, tile * 16 + 16); row++) {
            uint8_t *to = w->rows + row * w->blocks * BLOCK * 2;
            if (kind == INT8 || (one && kind == INT4))
                w->steps[row] = to_digits(w, row, to, one ? w->sums : sums, one ? w->digits : digits);
            else if (one && kind == FLOAT16)
                to_floats(w, row, (float *)to);
            else if (kind == INT4)
                to_int4_order(w, row, to);
            else
                to_bfloat16(w, row, to);
        }
        if (!one) to_tiles(w, tile, tiles);
    }
}
