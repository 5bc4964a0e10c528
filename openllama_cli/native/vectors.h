/* Helpers for AVX-512 vectors of 16 floats. */

#pragma once

#include <immintrin.h>

#include "threads.h"

/* A mask of the first `left` of 16 lanes. */
INLINE __mmask16 first_lanes(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1 << left) - 1); }

/* Bits of a float in all lanes. A bfloat16 number is the upper half of a float. */
INLINE __m512 set1_bits(uint32_t bits) { return _mm512_castsi512_ps(_mm512_set1_epi32((int)bits)); }

/* 32 floats to bfloat16. */
INLINE __m512i bfloat16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* 16 bfloat16 numbers to floats. */
INLINE __m512 floats(__m256i narrow) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16)); }

/* Elements starting at index `at`, float32 or bfloat16; zeros where the mask is off. */
INLINE __m512 load(const void *from, int64_t at, int is_float32, __mmask16 mask) {
    if (is_float32) return _mm512_maskz_loadu_ps(mask, (const float *)from + at);
    return floats(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)from + at));
}

INLINE void store(void *to, int64_t at, int is_float32, __mmask16 mask, __m512 values) {
    if (is_float32)
        _mm512_mask_storeu_ps((float *)to + at, mask, values);
    else
        _mm256_mask_storeu_epi16((uint16_t *)to + at, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

/* Transpose 16 x 16 words: pairs of words, pairs of these, then quarters of vectors, twice. */
INLINE void transpose(__m512i rows[16]) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    /* b[4 * q + c] has words c, c + 4, c + 8 and c + 12 of rows 4 * q to 4 * q + 3. */
    for (int c = 0; c < 4; c++) {
        const __m512i even = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
        const __m512i even_later = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
        const __m512i odd_later = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
        rows[c] = _mm512_shuffle_i32x4(even, even_later, 0x88);
        rows[c + 4] = _mm512_shuffle_i32x4(odd, odd_later, 0x88);
        rows[c + 8] = _mm512_shuffle_i32x4(even, even_later, 0xdd);
        rows[c + 12] = _mm512_shuffle_i32x4(odd, odd_later, 0xdd);
    }
}

/* Compilers do not know what tile instructions read: this keeps earlier stores from being dropped or reordered. */
INLINE void compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* exp(x) within 2 units in the last place, with the polynomial of Cephes' expf (Moshier 1992). NaN stays NaN. */
INLINE __m512 exp16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104), _mm512_min_ps(_mm512_set1_ps(89), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1)));
    return _mm512_scalef_ps(p, n);
}
