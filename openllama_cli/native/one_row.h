/* One row of activations: each row of weights is read once, at the speed of memory. */

#pragma once

#include "weights.h"

INLINE float row_bfloat16(const struct work *w, int64_t out) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    uint8_t copy[BLOCK * 2];
    const uint8_t *row = w->p.weights + out * w->p.in * 2, *x = w->rows;
    for (int64_t left = w->p.in * 2; left > 0; left -= BLOCK * 2, row += BLOCK * 2, x += BLOCK * 2) {
        ask_ahead(row, BLOCK * 2);
        const uint8_t *at = whole(row, left, BLOCK * 2, copy);
        for (int part = 0; part < 4; part++)
            sums[part] = _mm512_dpbf16_ps(sums[part], (__m512bh)_mm512_loadu_si512(at + part * 64),
                                          (__m512bh)_mm512_load_si512(x + part * 64));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* In float32, to the last bit of the stored weights. */
INLINE float row_float16(const struct work *w, int64_t out) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    uint8_t copy[BLOCK * 2];
    const uint8_t *row = w->p.weights + out * w->p.in * 2;
    const float *x = (const float *)w->rows;
    for (int64_t left = w->p.in * 2; left > 0; left -= BLOCK * 2, row += BLOCK * 2, x += BLOCK) {
        ask_ahead(row, BLOCK * 2);
        const uint8_t *at = whole(row, left, BLOCK * 2, copy);
        for (int part = 0; part < 8; part++)
            sums[part % 4] = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at + part)),
                                             _mm512_load_ps(x + part * 16), sums[part % 4]);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* The instruction multiplies unsigned bytes with signed ones: weights + 128 are unsigned, and 128 times the sum of the
 * activations' digits is taken off at the end. */
INLINE float row_int8(const struct work *w, int64_t out) {
    __m512i high[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, low[2] = {high[0], high[0]};
    uint8_t copy[BLOCK];
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const uint8_t *row = w->p.weights + out * w->p.in, *x = w->rows;
    for (int64_t left = w->p.in; left > 0; left -= BLOCK, row += BLOCK, x += BLOCK * 2) {
        ask_ahead(row, BLOCK);
        const uint8_t *at = whole(row, left, BLOCK, copy);
        for (int half = 0; half < 2; half++) {
            const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(at + half * GROUP), sign);
            high[half] = _mm512_dpbusd_epi32(high[half], bytes, _mm512_load_si512(x + half * 128));
            low[half] = _mm512_dpbusd_epi32(low[half], bytes, _mm512_load_si512(x + half * 128 + 64));
        }
    }
    const int32_t highs = _mm512_reduce_add_epi32(_mm512_add_epi32(high[0], high[1]));
    const int32_t lows = _mm512_reduce_add_epi32(_mm512_add_epi32(low[0], low[1]));
    const float high_sum = (float)(highs - 128 * w->digits[0]), low_sum = (float)(lows - 128 * w->digits[1]);
    return __builtin_fmaf(high_sum, DIGIT, low_sum) * (w->steps[0] * ((const float *)w->p.scales)[out]);
}

/* Sums of levels 0 to 15 and activations are exact, scaled group by group; what a group's zero and the levels' middle at 8
 * add is the same for all its levels: (zero - 8 * scale) * the sum of its activations. */
INLINE float row_int4(const struct work *w, int64_t out) {
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, rest = _mm512_setzero_ps();
    const __m512i mask = _mm512_set1_epi8(15), none = _mm512_setzero_si512();
    const int64_t groups = w->blocks * 2;
    const uint8_t *row = w->p.weights + out * w->blocks * GROUP, *x = w->rows;
    const uint32_t *lines = (const uint32_t *)w->p.scales + out * groups;
    for (int64_t block = 0; block < w->blocks; block++, row += GROUP, x += BLOCK * 2) {
        ask_ahead(row, GROUP);
        const __m512i bytes = _mm512_loadu_si512(row);
        for (int half = 0; half < 2; half++) {
            const __m512i levels = _mm512_and_si512(half ? _mm512_srli_epi16(bytes, 4) : bytes, mask);
            const __m512i high = _mm512_dpbusd_epi32(none, levels, _mm512_load_si512(x + half * 128));
            const __m512i low = _mm512_load_si512(x + half * 128 + 64);
            const __m512i both = _mm512_dpbusd_epi32(_mm512_slli_epi32(high, 7), levels, low);
            sums[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(both), everywhere(lines[block * 2 + half] << 16), sums[half]);
        }
    }
    for (int64_t group = 0; group < groups; group += 16) {
        const __mmask16 there = first_of_16(groups - group);
        const __m512i line = _mm512_maskz_loadu_epi32(there, lines + group);
        const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(line, 16));
        const __m512 zero = _mm512_castsi512_ps(_mm512_and_si512(line, _mm512_set1_epi32((int)0xffff0000)));
        const __m512 constant = _mm512_fnmadd_ps(scale, _mm512_set1_ps(8), zero);
        rest = _mm512_fmadd_ps(constant, _mm512_maskz_loadu_ps(there, w->sums + group), rest);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), rest)) * w->steps[0];
}

INLINE void one_row(struct work *w, int kind) {
    int64_t piece;
    for (int64_t share = join(&w->shares); (piece = take(&w->shares, &share)) >= 0;)
        for (int64_t out = piece * SIXTEEN; out < least(w->p.out, (piece + 1) * SIXTEEN); out++) {
            const float y = kind == BFLOAT16  ? row_bfloat16(w, out)
                            : kind == FLOAT16 ? row_float16(w, out)
                            : kind == INT8    ? row_int8(w, out)
                                              : row_int4(w, out);
            store(w->p.y, out, w->p.wide, 1, _mm512_set1_ps(y));
        }
}

static void multiply_one_row(void *argument) {
    struct work *w = argument;
    switch (w->p.kind) {
    case BFLOAT16: one_row(w, BFLOAT16); break;
    case FLOAT16: one_row(w, FLOAT16); break;
    case INT8: one_row(w, INT8); break;
    case INT4: one_row(w, INT4); break;
    }
}
