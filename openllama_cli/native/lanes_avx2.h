/* Vectors of 8 floats, with AVX2, FMA and F16C. */

#pragma once

#include <immintrin.h>
#include <string.h>

#include "threads.h"

enum { LANES = 8 };
typedef __m256 floats;
typedef __m256i words;

INLINE floats set1(float value) { return _mm256_set1_ps(value); }
INLINE floats zeros(void) { return _mm256_setzero_ps(); }
INLINE words zero_words(void) { return _mm256_setzero_si256(); }
INLINE floats fmadd(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE floats fnmadd(floats a, floats b, floats c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE floats larger(floats a, floats b) { return _mm256_max_ps(a, b); }
INLINE floats smaller(floats a, floats b) { return _mm256_min_ps(a, b); }
INLINE floats magnitude(floats x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE floats nearest(floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

INLINE words to_words(floats x) { return _mm256_cvtps_epi32(x); }
INLINE floats to_floats(words x) { return _mm256_cvtepi32_ps(x); }
INLINE words add_words(words a, words b) { return _mm256_add_epi32(a, b); }

/* Sum of the lanes, and the largest of them. */
INLINE float sum(floats x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
INLINE float largest(floats x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
INLINE int32_t sum_words(words x) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

/* x * 2^n for whole n from -150 to 128, in two steps, since 2^n alone may be too small or too large. */
INLINE floats scale_by_power(floats x, floats n) {
    const __m256i all = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(all, 1), bias = _mm256_set1_epi32(127);
    const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256i rest = _mm256_sub_epi32(all, half);
    return _mm256_mul_ps(_mm256_mul_ps(x, first), _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

/* 8 bfloat16 or float16 numbers. A bfloat16 number is the upper half of a float. */
INLINE floats from_bfloat16(const void *at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(at)), 16));
}
INLINE floats from_float16(const void *at) { return _mm256_cvtph_ps(_mm_loadu_si128(at)); }

/* 16 bfloat16 numbers in memory: the even ones, and the odd ones. */
INLINE floats even_bfloat16(const void *at) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(at), 16)); }
INLINE floats odd_bfloat16(const void *at) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(at), _mm256_set1_epi32((int)0xffff0000)));
}

/* Rounded to the nearest bfloat16, ties to even, in the upper half of each lane. A NaN gets no carry, which would end it. */
INLINE __m256i round_to_bfloat16(floats x) {
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

/* Elements starting at index `at`, float32 or bfloat16. left: how many may be read, zeros beyond. */
INLINE floats load(const void *from, int64_t at, int is_float32, int64_t left) {
    if (left >= LANES) return is_float32 ? _mm256_loadu_ps((const float *)from + at) : from_bfloat16((const uint16_t *)from + at);
    float copy[LANES] = {0};
    if (left > 0) memcpy(copy, (const uint8_t *)from + at * (is_float32 ? 4 : 2), left * (is_float32 ? 4 : 2));
    return is_float32 ? _mm256_loadu_ps(copy) : from_bfloat16(copy);
}

INLINE void store(void *to, int64_t at, int is_float32, int64_t left, floats x) {
    uint8_t copy[LANES * 4], *place = (uint8_t *)to + at * (is_float32 ? 4 : 2), *target = left >= LANES ? place : copy;
    if (is_float32)
        _mm256_storeu_ps((float *)target, x);
    else {
        const __m256i upper = _mm256_srli_epi32(round_to_bfloat16(x), 16);
        _mm_storeu_si128((__m128i *)target,
                         _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1)));
    }
    if (left > 0 && left < LANES) memcpy(place, copy, left * (is_float32 ? 4 : 2));
}

/* Stores words, of which the lower halves count. */
INLINE void store_int16(int16_t *to, words x) {
    _mm_storeu_si128((__m128i *)to, _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}

/* 16 signed bytes, or unsigned ones, as 16 int16 numbers. */
INLINE words from_int8(const void *at) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(at)); }
INLINE words from_uint8(const void *at) { return _mm256_cvtepu8_epi16(_mm_loadu_si128(at)); }
INLINE words lower_nibbles(words x) { return _mm256_and_si256(x, _mm256_set1_epi16(15)); }
INLINE words upper_nibbles(words x) { return _mm256_srli_epi16(x, 4); }
INLINE words load_words(const void *at) { return _mm256_loadu_si256(at); }
INLINE void store_words(void *to, words x) { _mm256_storeu_si256(to, x); }

/* The lower half of each word, a bfloat16 number. */
INLINE floats lower_bfloat16(words x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }

/* A word of 4 bytes in all lanes. */
INLINE words broadcast(const uint32_t *at) { return _mm256_set1_epi32((int)*at); }

/* to + the products of int16 numbers, summed in pairs. */
INLINE words multiply_int16(words to, words a, words b) {
    words product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(to), "=&x"(product) : "x"(a), "x"(b));
    return to;
}

/* Of 8 words: the lower and the upper halves, each as a bfloat16 number. left: how many may be read. */
INLINE void split_pairs(const uint32_t *at, int64_t left, floats *lower, floats *upper) {
    uint32_t copy[LANES] = {0};
    if (left < LANES) at = memcpy(copy, at, left * sizeof *at);
    *lower = even_bfloat16(at);
    *upper = odd_bfloat16(at);
}

/* 8 doubles at `to`, plus floats or words; and as floats. */
INLINE void add_to_doubles(double *to, floats x) {
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), _mm256_cvtps_pd(_mm256_castps256_ps128(x))));
    _mm256_storeu_pd(to + 4, _mm256_add_pd(_mm256_loadu_pd(to + 4), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))));
}
INLINE void add_words_to_doubles(double *to, words x) {
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), _mm256_cvtepi32_pd(_mm256_castsi256_si128(x))));
    _mm256_storeu_pd(to + 4, _mm256_add_pd(_mm256_loadu_pd(to + 4), _mm256_cvtepi32_pd(_mm256_extracti128_si256(x, 1))));
}
INLINE floats from_doubles(const double *at) {
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(at + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(at)));
}

/* Transpose 8 x 8 words: pairs of words, pairs of these, then halves of vectors. */
INLINE void transpose(words rows[LANES]) {
    words a[LANES], b[LANES];
    for (int i = 0; i < LANES; i += 2) {
        a[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    /* b[4 * q + c] has words c and c + 4 of rows 4 * q to 4 * q + 3. */
    for (int c = 0; c < 4; c++) {
        rows[c] = _mm256_permute2x128_si256(b[c], b[4 + c], 0x20);
        rows[c + 4] = _mm256_permute2x128_si256(b[c], b[4 + c], 0x31);
    }
}
