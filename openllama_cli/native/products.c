/* Products of a few rows of activations with a layer's weights, at the speed of memory: for x86 processors with AVX512 and AMX.
 * `library.py` calls this, and says more.
 */

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "activations.h"
#include "tiles.h"
#include "vectors.h"

/* Do `pieces` of work in parallel, each thread beginning with a share of them that lies together. */
static void run(struct work *w, void (*work)(void *), int64_t pieces, int64_t threads, parallel_function *parallel) {
    w->shares = parallel ? least(least(threads, pieces), MOST_THREADS) : 1;
    atomic_store(&w->joined, 0);
    for (int64_t share = 0; share < w->shares; share++) {
        atomic_store(&w->share[share].next, pieces * share / w->shares);
        w->share[share].end = pieces * (share + 1) / w->shares;
    }
    if (w->shares > 1)
        parallel(work, w, (unsigned)w->shares, 0);
    else
        work(w);
}

/* This thread's memory for its products. NULL where there is none. */
static uint8_t *reserve(int64_t size) {
    static _Thread_local uint8_t *memory;
    static _Thread_local int64_t reserved;
    if (size > reserved) {
        free(memory);
        memory = aligned_alloc(64, (size + 63) / 64 * 64);
        reserved = memory ? size : 0;
    }
    return memory;
}

/* y = x times the weights' transpose; see struct product. threads: to use at most, by `parallel`. Returns 0, or 1 where memory ran
 * out. */
int olc_product(const void *weights, const void *scales, const void *x, void *y, int64_t rows, int64_t out, int64_t in, int kind,
                int wide_x, int wide_y, int threads, parallel_function *parallel) {
    struct work w = {.p = {weights, scales, x, y, rows, out, in, kind, wide_x, wide_y}, .blocks = (in + BLOCK - 1) / BLOCK};
    const int64_t together = least((rows + 15) / 16 * 16, MOST_ROWS), row = w.blocks * BLOCK * 2;
    /* One row may be floats; several are there twice, as rows and as tiles. */
    w.rows = reserve(2 * together * row + (together + w.blocks * 2) * (int64_t)sizeof(float));
    if (!w.rows) return 1;
    w.tiles = w.rows + together * row;
    w.steps = (float *)(w.tiles + together * row);
    w.sums = w.steps + together;
    for (int64_t first = 0; first < rows; first += MOST_ROWS) {
        w.p.rows = least(rows - first, MOST_ROWS);
        w.p.x = (const uint8_t *)x + first * in * (wide_x ? 4 : 2);
        w.p.y = (uint8_t *)y + first * out * (wide_y ? 4 : 2);
        run(&w, arrange, (w.p.rows + 15) / 16, threads, parallel);
        run(&w, w.p.rows == 1 ? multiply_one_row : multiply_several_rows, (out + 15) / 16, threads, parallel);
    }
    return 0;
}

/* Ask the system for AMX's registers, for this process. Returns whether it grants them. */
int olc_allow_tiles(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0; }

/* What the sources were when this was compiled. */
const char *olc_sources(void) { return OLC_SOURCES; }
