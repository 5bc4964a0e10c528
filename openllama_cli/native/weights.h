/* The arguments of a matmul, and its weights as vectors. */

#pragma once

#include <string.h>

#include "threads.h"
#include "vectors.h"

enum kind { BFLOAT16, FLOAT16, INT8, INT4 };

enum {
    BLOCK = 128,           /* inputs per iteration; int4 rows are padded to a multiple of it */
    GROUP = 64,            /* int4: inputs that share a scale and a zero point */
    TILE_ROWS = 16,        /* rows of weights in a tile, and in a piece of work */
    TILE = 1024,           /* bytes of a tile: 16 rows of 64 bytes */
    DIGIT = 128,           /* activations of integer weights are DIGIT * high + low, both signed bytes */
    PREFETCH_BYTES = 4096, /* how far ahead gemv prefetches */
};

struct matmul {
    const uint8_t *weights; /* [out, in], row-major */
    const void *scales;     /* int8: float [out]; int4: bfloat16 [out, groups, 2], scale and zero point */
    const uint8_t *x;       /* [rows, in] */
    uint8_t *y;             /* [rows, out] */
    int64_t rows, out, in;
    int kind, is_float32;   /* is_float32: x and y are float32, not bfloat16 */
};

/* A matmul in progress: what its threads share. */
struct work {
    struct matmul p;
    int64_t blocks;    /* of a row of weights, the last one padded */
    uint8_t *rows;     /* packed x, row by row, in the type and order for this kind of weights */
    uint8_t *tiles;    /* the same as tiles, if there are several rows */
    float *x_scales;   /* int8, int4: [rows], the scale of quantized x */
    float *sums;       /* gemv of int8 or int4: [groups], sums of quantized x */
    int64_t digits[2]; /* gemv of int8: sums of the high and of the low bytes of x */
    struct shares shares;
};

/* Prefetch what gemv reads next. */
INLINE void prefetch_row(const uint8_t *at, int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + PREFETCH_BYTES + i, _MM_HINT_T0);
}

/* Prefetch the same place in the next 16 rows of weights. row: bytes of one. */
INLINE void prefetch_next_tile(const uint8_t *at, int64_t row, int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + TILE_ROWS * row + i, _MM_HINT_T1);
}

/* `size` bytes starting at `at`; if only `left` of them belong to the row, a zero-padded copy. */
INLINE const uint8_t *padded(const uint8_t *at, int64_t left, int64_t size, uint8_t *copy) {
    if (left >= size) return at;
    memset(copy, 0, size);
    memcpy(copy, at, left);
    return copy;
}

/* A block of a row of bfloat16 or float16 weights, as bfloat16. left: how many of them belong to the row. */
INLINE void unpack_floats(const uint8_t *at, int kind, int64_t left, __m512i to[4]) {
    uint8_t copy[BLOCK * 2];
    at = padded(at, left * 2, BLOCK * 2, copy);
    for (int part = 0; part < 4; part++) {
        const __m256i *from = (const __m256i *)(at + part * 64);
        to[part] = kind == BFLOAT16 ? _mm512_loadu_si512(from)
                                    : bfloat16(_mm512_cvtph_ps(_mm256_loadu_si256(from)),
                                               _mm512_cvtph_ps(_mm256_loadu_si256(from + 1)));
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
        bfloat16(_mm512_fmadd_ps(set1_bits(parameters[0] << 16), levels, set1_bits(parameters[0] & 0xffff0000u)),
                 _mm512_fmadd_ps(set1_bits(parameters[1] << 16), levels, set1_bits(parameters[1] & 0xffff0000u)));
    for (int part = 0; part < 4; part++) {
        const __m512i level = _mm512_and_si512(_mm512_srli_epi16(bytes, 4 * part), _mm512_set1_epi16(15));
        const __m512i entry = part % 2 ? _mm512_or_si512(level, _mm512_set1_epi16(16)) : level;
        to[part] = _mm512_permutexvar_epi16(entry, table);
    }
}
