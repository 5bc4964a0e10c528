/* The pieces of a Llama's layer for a few rows of activations, at the speed of memory: for x86 processors with AVX512 and AMX.
 * `library.py` and `layer.py` call this, and say more. `threads`: to use at most, by `parallel`.
 */

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "activations.h"
#include "attention.h"
#include "layer.h"
#include "one_row.h"
#include "several_rows.h"

/* This thread's memory, kept for the next call, and more than asked for, since the next may need a little more. NULL where
 * there is none. */
static uint8_t *reserve(int64_t size) {
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

/* y = x times the weights' transpose; see struct product. Returns 0, or 1 where memory ran out. */
int olc_product(const void *weights, const void *scales, const void *x, void *y, int64_t rows, int64_t out, int64_t in,
                int kind, int wide, int threads, parallel_function *parallel) {
    struct work w;
    w.p = (struct product){weights, scales, x, y, rows, out, in, kind, wide};
    w.blocks = (in + BLOCK - 1) / BLOCK;
    const int64_t together = least((rows + 15) / 16 * 16, MOST_ROWS), row = w.blocks * BLOCK * 2;
    /* One row may be floats; several are there twice, as rows and as tiles. */
    w.rows = reserve(2 * together * row + (together + w.blocks * 2) * (int64_t)sizeof(float));
    if (!w.rows) return 1;
    w.tiles = w.rows + together * row;
    w.steps = (float *)(w.tiles + together * row);
    w.sums = w.steps + together;
    /* Evenly, so that no row is left over for the kernels of one row, which round otherwise. */
    int64_t times = (rows + MOST_ROWS - 1) / MOST_ROWS;
    for (int64_t first = 0; first < rows; first += w.p.rows, times--) {
        w.p.rows = (rows - first + times - 1) / times;
        w.p.x = (const uint8_t *)x + first * in * (wide ? 4 : 2);
        w.p.y = (uint8_t *)y + first * out * (wide ? 4 : 2);
        run(&w.shares, arrange, &w, (w.p.rows + 15) / 16, threads, parallel);
        run(&w.shares, w.p.rows == 1 ? multiply_one_row : multiply_several_rows, &w, (out + 15) / 16, threads, parallel);
    }
    return 0;
}

/* y [rows, size] = x, its rows `stride` numbers apart, normalized and times weight [size]. */
void olc_normalize(const void *x, const void *weight, void *y, int64_t rows, int64_t size, int64_t stride, float eps, int wide,
                   int threads, parallel_function *parallel) {
    struct layer_work w;
    w.x = x, w.other = weight, w.y = y, w.rows = rows, w.size = size, w.stride = stride, w.eps = eps, w.wide = wide;
    run(&w.shares, normalize_rows, &w, rows, threads, parallel);
}

/* y [rows, heads, size], bfloat16 = x, its rows `stride` numbers apart, turned by the angles of cosine and sine [rows,
 * size]. */
void olc_turn(const void *x, const void *cosine, const void *sine, void *y, int64_t rows, int64_t heads, int64_t size,
              int64_t stride, int wide, int threads, parallel_function *parallel) {
    struct layer_work w;
    w.x = x, w.cosine = cosine, w.sine = sine, w.y = y, w.rows = rows, w.heads = heads, w.size = size, w.stride = stride;
    w.wide = wide;
    run(&w.shares, turn_rows, &w, rows, threads, parallel);
}

/* y [rows, size] = silu(gate) * up, whose rows are so many numbers apart. */
void olc_activate(const void *gate, const void *up, void *y, int64_t rows, int64_t size, int64_t gate_stride, int64_t up_stride,
                  int wide, int threads, parallel_function *parallel) {
    struct layer_work w;
    w.x = gate, w.other = up, w.y = y, w.rows = rows, w.size = size, w.stride = gate_stride, w.other_stride = up_stride;
    w.wide = wide;
    run(&w.shares, activate_rows, &w, rows, threads, parallel);
}

/* Puts each row's key and value into its cache and attends to all that are in it; see struct attention. Returns 0, or 1 where
 * memory ran out. */
int olc_attend(const void *query, const void *key, const void *value, void *const *keys, void *const *values,
               const int64_t *lengths, const int64_t *capacities, void *y, int64_t rows, int64_t heads, int64_t kv_heads,
               int64_t size, float scale, int wide, int threads, parallel_function *parallel) {
    struct attention w;
    w.query = query, w.key = key, w.value = value;
    w.keys = (uint16_t *const *)keys, w.values = (uint16_t *const *)values, w.lengths = lengths, w.capacities = capacities;
    w.y = y, w.rows = rows, w.heads = heads, w.kv_heads = kv_heads, w.size = size, w.scale = scale, w.wide = wide;
    w.longest = 0;
    for (int64_t row = 0; row < rows; row++) w.longest = lengths[row] + 1 > w.longest ? lengths[row] + 1 : w.longest;
    w.scores = (float *)reserve(rows * heads * w.longest * (int64_t)sizeof(float));
    if (!w.scores) return 1;
    run(&w.shares, attend_rows, &w, rows * kv_heads, threads, parallel);
    return 0;
}

/* Ask the system for AMX's registers, for this process. Returns whether it grants them. */
int olc_allow_tiles(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0; }

/* What the sources were when this was compiled. */
const char *olc_sources(void) { return OLC_SOURCES; }
