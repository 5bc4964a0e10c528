/* Matrix-vector product, for one row of activations: bound by memory, so each weight is read once. */

#pragma once

#include "weights.h"

INLINE float dot_bfloat16(const struct work *w, int64_t out) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    uint8_t copy[BLOCK * 2];
    const uint8_t *row = w->p.weights + out * w->p.in * 2, *x = w->rows;
    for (int64_t left = w->p.in * 2; left > 0; left -= BLOCK * 2, row += BLOCK * 2, x += BLOCK * 2) {
        prefetch_row(row, BLOCK * 2);
        const uint8_t *at = padded(row, left, BLOCK * 2, copy);
        for (int part = 0; part < 4; part++)
            sums[part] = _mm512_dpbf16_ps(sums[part], (__m512bh)_mm512_loadu_si512(at + part * 64),
                                          (__m512bh)_mm512_load_si512(x + part * 64));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* In float32, without rounding the stored weights. */
INLINE float dot_float16(const struct work *w, int64_t out) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    uint8_t copy[BLOCK * 2];
    const uint8_t *row = w->p.weights + out * w->p.in * 2;
    const float *x = (const float *)w->rows;
    for (int64_t left = w->p.in * 2; left > 0; left -= BLOCK * 2, row += BLOCK * 2, x += BLOCK) {
        prefetch_row(row, BLOCK * 2);
        const uint8_t *at = padded(row, left, BLOCK * 2, copy);
        for (int part = 0; part < 8; part++)
            sums[part % 4] = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at + part)),
                                             _mm512_load_ps(x + part * 16), sums[part % 4]);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* VNNI multiplies unsigned bytes by signed ones: weights + 128 are unsigned, and 128 times the sum of the activations' bytes is
 * subtracted at the end. */
INLINE float dot_int8(const struct work *w, int64_t out) {
    __m512i high[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, low[2] = {high[0], high[0]};
    uint8_t copy[BLOCK];
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const uint8_t *row = w->p.weights + out * w->p.in, *x = w->rows;
    for (int64_t left = w->p.in; left > 0; left -= BLOCK, row += BLOCK, x += BLOCK * 2) {
        prefetch_row(row, BLOCK);
        const uint8_t *at = padded(row, left, BLOCK, copy);
        for (int half = 0; half < 2; half++) {
            const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(at + half * GROUP), sign);
            high[half] = _mm512_dpbusd_epi32(high[half], bytes, _mm512_load_si512(x + half * 128));
            low[half] = _mm512_dpbusd_epi32(low[half], bytes, _mm512_load_si512(x + half * 128 + 64));
        }
    }
    const int32_t highs = _mm512_reduce_add_epi32(_mm512_add_epi32(high[0], high[1]));
    const int32_t lows = _mm512_reduce_add_epi32(_mm512_add_epi32(low[0], low[1]));
    const float high_sum = (float)(highs - 128 * w->digits[0]), low_sum = (float)(lows - 128 * w->digits[1]);
    return __builtin_fmaf(high_sum, DIGIT, low_sum) * (w->x_scales[0] * ((const float *)w->p.scales)[out]);
}

/* Integer sums of levels 0 to 15 times activations are exact and scaled per group. A group's zero point and the offset of 8
 * contribute the same for all its levels: (zero - 8 * scale) * the sum of its activations. */
INLINE float dot_int4(const struct work *w, int64_t out) {
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, rest = _mm512_setzero_ps();
    const __m512i low_nibble = _mm512_set1_epi8(15), none = _mm512_setzero_si512();
    const int64_t groups = w->blocks * 2;
    const uint8_t *row = w->p.weights + out * w->blocks * GROUP, *x = w->rows;
    const uint32_t *parameters = (const uint32_t *)w->p.scales + out * groups;
    for (int64_t block = 0; block < w->blocks; block++, row += GROUP, x += BLOCK * 2) {
        prefetch_row(row, GROUP);
        const __m512i bytes = _mm512_loadu_si512(row);
        for (int half = 0; half < 2; half++) {
            const __m512i levels = _mm512_and_si512(half ? _mm512_srli_epi16(bytes, 4) : bytes, low_nibble);
            const __m512i high = _mm512_dpbusd_epi32(none, levels, _mm512_load_si512(x + half * 128));
            const __m512i low = _mm512_load_si512(x + half * 128 + 64);
            const __m512i both = _mm512_dpbusd_epi32(_mm512_slli_epi32(high, 7), levels, low);
            sums[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(both), set1_bits(parameters[block * 2 + half] << 16), sums[half]);
        }
    }
    for (int64_t group = 0; group < groups; group += 16) {
        const __mmask16 mask = first_lanes(groups - group);
        const __m512i pair = _mm512_maskz_loadu_epi32(mask, parameters + group);
        const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
        const __m512 zero = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000)));
        const __m512 constant = _mm512_fnmadd_ps(scale, _mm512_set1_ps(8), zero);
        rest = _mm512_fmadd_ps(constant, _mm512_maskz_loadu_ps(mask, w->sums + group), rest);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), rest)) * w->x_scales[0];
}

INLINE void gemv_of_kind(struct work *w, int kind) {
    int64_t piece;
    for (int64_t share = first_share(&w->shares); (piece = next_piece(&w->shares, &share)) >= 0;)
        for (int64_t out = piece * TILE_ROWS; out < minimum(w->p.out, (piece + 1) * TILE_ROWS); out++) {
            const float y = kind == BFLOAT16  ? dot_bfloat16(w, out)
                            : kind == FLOAT16 ? dot_float16(w, out)
                            : kind == INT8    ? dot_int8(w, out)
                                              : dot_int4(w, out);
            store(w->p.y, out, w->p.is_float32, 1, _mm512_set1_ps(y));
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
