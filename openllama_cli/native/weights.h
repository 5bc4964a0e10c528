/* The arguments of a matmul, and its weights as vectors. */

#pragma once

#include "vectors.h"

enum kind { BFLOAT16, FLOAT16, INT8, INT4 };

enum {
    BLOCK = 128,           /* inputs that rows of activations, and of int4 weights, are padded to a multiple of */
    GROUP = 64,            /* int4: inputs that share a scale and a zero point */
    VECTOR = 4 * LANES,    /* bytes */
    UNIT = 2 * LANES,      /* inputs that are multiplied at a time */
    LARGEST = 127 * 128,   /* of the integers that activations of integer weights are quantized to */
    SAFE_INPUTS = 1024,    /* whose products with int8 weights fit into 32 bits in any case */
    MAX_ROWS = 64,         /* of activations per pass over the weights */
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
    int64_t width;   /* of a row of packed activations: in, padded */
    uint8_t *rows;   /* packed x, row by row, in the type and order for this kind of weights */
    uint8_t *tiles;  /* AMX: the same as tiles */
    uint8_t *lanes;  /* panels: the same, [vectors of LANES rows][words of 4 bytes][LANES] */
    int64_t piece_rows; /* gemv: rows of weights in a piece of work */
    float *x_scales; /* int8, int4: [rows], the scale of quantized x */
    float *sums;     /* int4: [rows, groups], sums of quantized x */
    float *lane_sums; /* panels: the same, [vectors of LANES rows][groups][LANES] */
    struct shares shares;
};

/* `size` bytes starting at `at`; if only `left` of them belong to the row, a zero-padded copy. */
INLINE const uint8_t *padded(const uint8_t *at, int64_t left, int64_t size, uint8_t *copy) {
    if (left >= size) return at;
    memset(copy, 0, size);
    memcpy(copy, at, left);
    return copy;
}

/* Bytes of a number of weights, and of a row of them. */
INLINE int64_t bytes_of(int kind, int64_t inputs) { return kind == INT4 ? inputs / 2 : kind == INT8 ? inputs : 2 * inputs; }
INLINE int64_t row_bytes(const struct work *w, int kind) { return bytes_of(kind, kind == INT4 ? w->width : w->p.in); }

/* One of the two halves of a unit of bfloat16 or float16 weights: of bfloat16 ones, the even and the odd inputs. */
INLINE floats unpack_half(const uint8_t *at, int kind, int half) {
    if (kind == FLOAT16) return from_float16(at + half * UNIT);
    return half ? odd_bfloat16(at) : even_bfloat16(at);
}

#ifdef BF16
/* A unit of bfloat16 or float16 weights, as bfloat16. */
INLINE words unpack_pairs(const uint8_t *at, int kind) {
    return kind == FLOAT16 ? bfloat16_pairs(from_float16(at), from_float16(at + UNIT)) : load_words(at);
}
#endif

/* The scale of a group, of its bfloat16 scale and zero point. */
INLINE float scale_of(uint32_t parameters) {
    float scale;
    parameters <<= 16;
    memcpy(&scale, &parameters, sizeof scale);
    return scale;
}

/* What the zero points of a row of int4 weights add, in units of the quantized activations, whose sums by group these are.
 * Levels count from 0, not -8: that and the zero point add the same for each level, (zero - 8 * scale) * the group's sum. */
INLINE floats zero_points(const uint32_t *parameters, const float *sums, int64_t groups) {
    floats total = zeros(), scale, zero;
    for (int64_t group = 0; group < groups; group += LANES) {
        split_pairs(parameters + group, groups - group, &scale, &zero);
        total = fmadd(fnmadd(scale, set1(8), zero), load(sums, group, 1, groups - group), total);
    }
    return total;
}
