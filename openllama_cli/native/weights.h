/* What a product is asked for, and its weights as vectors of numbers. */

#pragma once

#include <string.h>

#include "threads.h"
#include "vectors.h"

enum kind { BFLOAT16, FLOAT16, INT8, INT4 };

enum {
    BLOCK = 128,  /* inputs that are worked on together; int4 rows are filled up to whole blocks */
    GROUP = 64,   /* inputs that share a scale and a zero in int4 */
    SIXTEEN = 16, /* rows of weights that a thread takes at a time, and that a tile has */
    TILE = 1024,  /* bytes of a tile: 16 rows of 64 */
    DIGIT = 128,  /* an activation beside integer weights is DIGIT * high + low, both signed bytes */
    AHEAD = 4096, /* bytes that are asked of memory before one row of activations needs them */
};

struct product {
    const uint8_t *weights;  /* [out, in], a row after another */
    const void *scales;      /* int8: float [out]; int4: bfloat16 [out, groups, 2], scale and zero */
    const uint8_t *x;        /* [rows, in] */
    uint8_t *y;              /* [rows, out] */
    int64_t rows, out, in;
    int kind, wide;          /* wide: x and y are float32, not bfloat16 */
};

/* A product under way: what its threads share. */
struct work {
    struct product p;
    int64_t blocks;       /* of a row of weights, the last one filled up */
    uint8_t *rows;        /* x, a row after another, in the order and type that the weights' kind asks for */
    uint8_t *tiles;       /* the same as tiles, where there are several rows */
    float *steps;         /* int8, int4: [rows], what a unit of x is worth */
    float *sums;          /* one row of int8 or int4: [groups], sums of x in units */
    int64_t digits[2];    /* one row of int8: sums of the high and of the low digits of x */
    struct shares shares;
};

/* Ask memory for what one row of activations needs next. */
INLINE void ask_ahead(const uint8_t *at, int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + AHEAD + i, _MM_HINT_T0);
}

/* The same for 16 rows of weights at a time: the same place in the next 16. row: bytes of one. */
INLINE void ask_next_sixteen(const uint8_t *at, int64_t row, int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + SIXTEEN * row + i, _MM_HINT_T1);
}

/* `size` bytes from `at` on; where only `left` of them are the row's, a copy filled up with zeros. */
INLINE const uint8_t *whole(const uint8_t *at, int64_t left, int64_t size, uint8_t *copy) {
    if (left >= size) return at;
    memset(copy, 0, size);
    memcpy(copy, at, left);
    return copy;
}

/* A block of a row of bfloat16 or float16 weights, in bfloat16. left: how many of them are the row's. */
INLINE void unpack_floats(const uint8_t *at, int kind, int64_t left, __m512i to[4]) {
    uint8_t copy[BLOCK * 2];
    at = whole(at, left * 2, BLOCK * 2, copy);
    for (int part = 0; part < 4; part++) {
        const __m256i *from = (const __m256i *)(at + part * 64);
        to[part] = kind == BFLOAT16 ? _mm512_loadu_si512(from)
                                    : bfloat16(_mm512_cvtph_ps(_mm256_loadu_si256(from)),
                                               _mm512_cvtph_ps(_mm256_loadu_si256(from + 1)));
    }
}

/* A block of a row of int4 weights in bfloat16. lines: scale and zero of its two groups.
 *
 * Byte n holds input n of the first group in its lower half and input n of the second in the upper one. So the four
 * vectors have every other input of a group each: even ones of the first, of the second, odd ones of the first, of the
 * second. A level is looked up in a table of its group's 16 weights. */
INLINE void unpack_int4(const uint8_t *at, const uint32_t lines[2], __m512i to[4]) {
    const __m512i bytes = _mm512_loadu_si512(at);
    const __m512 levels = _mm512_set_ps(7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8);
    const __m512i table = bfloat16(_mm512_fmadd_ps(everywhere(lines[0] << 16), levels, everywhere(lines[0] & 0xffff0000u)),
                                   _mm512_fmadd_ps(everywhere(lines[1] << 16), levels, everywhere(lines[1] & 0xffff0000u)));
    for (int part = 0; part < 4; part++) {
        const __m512i level = _mm512_and_si512(_mm512_srli_epi16(bytes, 4 * part), _mm512_set1_epi16(15));
        const __m512i entry = part % 2 ? _mm512_or_si512(level, _mm512_set1_epi16(16)) : level;
        to[part] = _mm512_permutexvar_epi16(entry, table);
    }
}
