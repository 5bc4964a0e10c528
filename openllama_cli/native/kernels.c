/* Kernels of a Llama layer for a few rows of activations, on x86 processors. Compiled once for each tier of `sources.py`, whose
 * macros say what the processor has: AVX512, BF16 (with VNNI), AMX. Called by `matmul.py` and `layer.py`, which document them.
 * threads: how many `parallel` may start.
 */

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "activations.h"
#include "attention.h"
#include "layer.h"
#ifdef AMX
#include "amx.h"
#else
#include "gemm.h"
#endif
#include "gemv.h"

/* This thread's scratch memory, kept for the next call and allocated with headroom, since that may need a little more. NULL if
 * memory ran out. */
static uint8_t *scratch(int64_t size) {
    static _Thread_local uint8_t *memory;
    static _Thread_local int64_t reserved;
    if (size > reserved) {
        size = (size + size / 4 + 63) / 64 * 64;
        free(memory);
        memory = aligned_alloc(64, size);
        reserved = memory ? size : 0;
    }
    return memory;
}

/* y = x @ weights.T; see struct matmul. Returns 0, or 1 if memory ran out. */
int olc_matmul(const void *weights, const void *scales, const void *x, void *y, int64_t rows, int64_t out, int64_t in,
                int kind, int is_float32, int threads, parallel_function *parallel) {
    if (!rows) return 0;
    struct work w;
    w.p = (struct matmul){weights, scales, x, y, rows, out, in, kind, is_float32};
    w.width = (in + BLOCK - 1) / BLOCK * BLOCK;
    const int64_t batch = minimum((rows + 15) / 16 * 16, MAX_ROWS), row = w.width * (int64_t)sizeof(float);
    const int64_t groups = w.width / GROUP;
    w.rows = scratch(2 * batch * row + batch * (1 + 2 * groups) * (int64_t)sizeof(float));
    if (!w.rows) return 1;
    w.tiles = w.lanes = w.rows + batch * row;
    w.lane_sums = (float *)(w.lanes + batch * row);
    w.x_scales = w.lane_sums + batch * groups;
    w.sums = w.x_scales + batch;
    /* Split evenly, so that no single row is left over for gemv, which rounds differently. */
    int64_t times = (rows + MAX_ROWS - 1) / MAX_ROWS;
    for (int64_t first = 0; first < rows; first += w.p.rows, times--) {
        w.p.rows = (rows - first + times - 1) / times;
        w.p.x = (const uint8_t *)x + first * in * (is_float32 ? 4 : 2);
        w.p.y = (uint8_t *)y + first * out * (is_float32 ? 4 : 2);
        if (w.p.rows > 1) {
            multiply_rows(&w, threads, parallel);
        } else {
            run_parallel(&w.shares, pack_rows, &w, 1, threads, parallel);
            w.piece_rows = gemv_rows(&w, threads);
            run_parallel(&w.shares, gemv, &w, (out + w.piece_rows - 1) / w.piece_rows, threads, parallel);
        }
    }
    return 0;
}

/* y [rows, size] = RMS norm of x, whose rows are `stride` elements apart, times weight [size]. */
void olc_rms_norm(const void *x, const void *weight, void *y, int64_t rows, int64_t size, int64_t stride, float eps,
                  int is_float32, int threads, parallel_function *parallel) {
    struct layer_work w;
    w.x = x, w.other = weight, w.y = y, w.rows = rows, w.size = size, w.stride = stride, w.eps = eps, w.is_float32 = is_float32;
    run_parallel(&w.shares, rms_norm_rows, &w, rows, threads, parallel);
}

/* y [rows, heads, size], bfloat16 = x, whose rows are `stride` elements apart, rotated by cosine and sine [rows, size]. */
void olc_apply_rotary(const void *x, const void *cosine, const void *sine, void *y, int64_t rows, int64_t heads, int64_t size,
              int64_t stride, int is_float32, int threads, parallel_function *parallel) {
    struct layer_work w;
    w.x = x, w.cosine = cosine, w.sine = sine, w.y = y, w.rows = rows, w.heads = heads, w.size = size, w.stride = stride;
    w.is_float32 = is_float32;
    run_parallel(&w.shares, apply_rotary_rows, &w, rows, threads, parallel);
}

/* y [rows, size] = silu(gate) * up, whose rows are gate_stride and up_stride elements apart. */
void olc_silu_mul(const void *gate, const void *up, void *y, int64_t rows, int64_t size, int64_t gate_stride, int64_t up_stride,
                  int is_float32, int threads, parallel_function *parallel) {
    struct layer_work w;
    w.x = gate, w.other = up, w.y = y, w.rows = rows, w.size = size, w.stride = gate_stride, w.other_stride = up_stride;
    w.is_float32 = is_float32;
    run_parallel(&w.shares, silu_mul_rows, &w, rows, threads, parallel);
}

/* Appends each row's key and value to its cache and attends to all of it; see struct attention. Returns 0, or 1 if memory ran
 * out. */
int olc_attend(const void *query, const void *key, const void *value, void *const *keys, void *const *values,
               const int64_t *lengths, const int64_t *capacities, void *y, int64_t rows, int64_t heads, int64_t kv_heads,
               int64_t size, float scale, int is_float32, int threads, parallel_function *parallel) {
    struct attention w;
    w.query = query, w.key = key, w.value = value;
    w.keys = (uint16_t *const *)keys, w.values = (uint16_t *const *)values, w.lengths = lengths, w.capacities = capacities;
    w.y = y, w.rows = rows, w.heads = heads, w.kv_heads = kv_heads, w.size = size, w.scale = scale, w.is_float32 = is_float32;
    w.longest = 0;
    for (int64_t row = 0; row < rows; row++) w.longest = lengths[row] + 1 > w.longest ? lengths[row] + 1 : w.longest;
    w.scores = (float *)scratch(rows * heads * w.longest * (int64_t)sizeof(float));
    if (!w.scores) return 1;
    run_parallel(&w.shares, attend_rows, &w, rows * kv_heads, threads, parallel);
    return 0;
}

#include "decoder.h"

/* Whether the system lets this process use the tier's registers: AMX's must be asked for. */
int olc_allowed(void) {
#ifdef AMX
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
#else
    return 1;
#endif
}

/* Fingerprint of the sources that this was compiled from. */
const char *olc_sources(void) { return OLC_SOURCES; }
