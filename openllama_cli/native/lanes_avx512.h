/* Vectors of 16 floats, with AVX-512 F, BW, VL and DQ; with BF16 and VNNI too where `BF16` is defined. */

#pragma once

#include <immintrin.h>
#include <string.h>

#include "threads.h"

enum { LANES = 16 };
typedef __m512 floats;
typedef __m512i words;

/* A mask of the first `left` lanes. */
INLINE __mmask16 first_lanes(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1 << left) - 1); }

INLINE floats set1(float value) { return _mm512_set1_ps(value); }
INLINE floats zeros(void) { return _mm512_setzero_ps(); }
INLINE words zero_words(void) { return _mm512_setzero_si512(); }
INLINE floats fmadd(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats fnmadd(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE floats larger(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats smaller(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats magnitude(floats x) { return _mm512_abs_ps(x); }
INLINE floats nearest(floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }

INLINE words to_words(floats x) { return _mm512_cvtps_epi32(x); }
INLINE floats to_floats(words x) { return _mm512_cvtepi32_ps(x); }
INLINE words add_words(words a, words b) { return _mm512_add_epi32(a, b); }

/* Sum of the lanes, and the largest of them. */
INLINE float sum(floats x) { return _mm512_reduce_add_ps(x); }
INLINE float largest(floats x) { return _mm512_reduce_max_ps(x); }
INLINE int32_t sum_words(words x) { return _mm512_reduce_add_epi32(x); }

/* x * 2^n for whole n. */
INLINE floats scale_by_power(floats x, floats n) { return _mm512_scalef_ps(x, n); }

/* 16 bfloat16 or float16 numbers. A bfloat16 number is the upper half of a float. */
INLINE floats widen(__m256i narrow) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16)); }
INLINE floats from_bfloat16(const void *at) { return widen(_mm256_loadu_si256(at)); }
INLINE floats from_float16(const void *at) { return _mm512_cvtph_ps(_mm256_loadu_si256(at)); }

/* 32 bfloat16 numbers in memory: the even ones, and the odd ones. */
INLINE floats even_bfloat16(const void *at) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(at), 16)); }
INLINE floats odd_bfloat16(const void *at) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(at), _mm512_set1_epi32((int)0xffff0000)));
}

/* Rounded to the nearest bfloat16, ties to even. */
INLINE __m256i to_bfloat16(floats x) {
#ifdef BF16
    return (__m256i)_mm512_cvtneps_pbh(x);
#else
    /* A NaN gets no carry, which would end it. */
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i kept = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
#endif
}

/* Elements starting at index `at`, float32 or bfloat16. left: how many may be read, zeros beyond. */
INLINE floats load(const void *from, int64_t at, int is_float32, int64_t left) {
    const __mmask16 mask = first_lanes(left);
    if (is_float32) return _mm512_maskz_loadu_ps(mask, (const float *)from + at);
    return widen(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)from + at));
}

INLINE void store(void *to, int64_t at, int is_float32, int64_t left, floats x) {
    const __mmask16 mask = first_lanes(left);
    if (is_float32)
        _mm512_mask_storeu_ps((float *)to + at, mask, x);
    else
        _mm256_mask_storeu_epi16((uint16_t *)to + at, mask, to_bfloat16(x));
}

/* Stores words, of which the lower halves count. */
INLINE void store_int16(int16_t *to, words x) { _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(x)); }

/* 32 signed bytes, or unsigned ones, as 32 int16 numbers. */
INLINE words from_int8(const void *at) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(at)); }
INLINE words from_uint8(const void *at) { return _mm512_cvtepu8_epi16(_mm256_loadu_si256(at)); }
INLINE words lower_nibbles(words x) { return _mm512_and_si512(x, _mm512_set1_epi16(15)); }
INLINE words upper_nibbles(words x) { return _mm512_srli_epi16(x, 4); }
INLINE words load_words(const void *at) { return _mm512_loadu_si512(at); }
INLINE void store_words(void *to, words x) { _mm512_storeu_si512(to, x); }

/* The lower half of each word, a bfloat16 number. */
INLINE floats lower_bfloat16(words x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }

/* A word of 4 bytes in all lanes. */
INLINE words broadcast(const uint32_t *at) { return _mm512_set1_epi32((int)*at); }

/* to + the products of int16 numbers, summed in pairs. */
INLINE words multiply_int16(words to, words a, words b) {
#ifdef BF16
    return _mm512_dpwssd_epi32(to, a, b);
#else
    return _mm512_add_epi32(to, _mm512_madd_epi16(a, b));
#endif
}

/* Of 16 words: the lower and the upper halves, each as a bfloat16 number. left: how many may be read. */
INLINE void split_pairs(const uint32_t *at, int64_t left, floats *lower, floats *upper) {
    const __m512i pairs = _mm512_maskz_loadu_epi32(first_lanes(left), at);
    *lower = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *upper = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

/* 16 doubles at `to`, plus floats or words; and as floats. */
INLINE void add_to_doubles(double *to, floats x) {
    _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), _mm512_cvtps_pd(_mm512_castps512_ps256(x))));
    _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))));
}
INLINE void add_words_to_doubles(double *to, words x) {
    _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), _mm512_cvtepi32_pd(_mm512_castsi512_si256(x))));
    _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), _mm512_cvtepi32_pd(_mm512_extracti32x8_epi32(x, 1))));
}
INLINE floats from_doubles(const double *at) {
    const __m256 first = _mm512_cvtpd_ps(_mm512_loadu_pd(at)), second = _mm512_cvtpd_ps(_mm512_loadu_pd(at + 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
}

/* Transpose 16 x 16 words: pairs of words, pairs of these, then quarters of vectors, twice. */
INLINE void transpose(words rows[LANES]) {
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

#ifdef BF16
/* 32 floats to bfloat16, and to + the products of bfloat16 numbers, summed in pairs. */
INLINE words bfloat16_pairs(floats low, floats high) { return (words)_mm512_cvtne2ps_pbh(high, low); }
INLINE floats multiply_bfloat16(floats to, words a, words b) { return _mm512_dpbf16_ps(to, (__m512bh)a, (__m512bh)b); }
#endif
