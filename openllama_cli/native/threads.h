/* Work split into pieces that threads share, with work stealing. */

#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

/* Keeps compilers from multiplying all before they add: products and sums together need too many registers. */
#define KEEP_ORDER(sum) __asm__ volatile("" : "+v"(sum))

/* Keeps a number from occupying a register until it is used again. */
#define KEEP_IN_MEMORY(number) __asm__ volatile("" : "+m"(number))

enum { MAX_THREADS = 256 };

/* GOMP_parallel: runs work(argument) in each of `threads` threads. */
typedef void parallel_function(void (*work)(void *), void *argument, unsigned threads, unsigned flags);

/* Contiguous shares of the pieces; each thread starts with one. */
struct shares {
    int64_t count;
    atomic_long joined; /* threads that have started */
    struct {
        _Alignas(64) atomic_long next; /* first piece of the share that is still free */
        int64_t end;
    } share[MAX_THREADS];
};

INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }

/* The share that a thread starts with. */
INLINE int64_t first_share(struct shares *s) { return atomic_fetch_add(&s->joined, 1) % s->count; }

/* The next piece for a thread: from its own share first, so that it reads memory sequentially, then from the others, so that
 * no thread waits for one that is not scheduled. -1 if none is left. */
INLINE int64_t next_piece(struct shares *s, int64_t *share) {
    for (int64_t tried = 0; tried < s->count; tried++, *share = (*share + 1) % s->count) {
        const int64_t piece = atomic_fetch_add(&s->share[*share].next, 1);
        if (piece < s->share[*share].end) return piece;
    }
    return -1;
}

/* Run work(argument), which processes `pieces` pieces. All threads are started even if there are fewer pieces: GNU's OpenMP
 * ends the threads that a smaller team leaves out, and creates them again for the next. */
static void run_parallel(struct shares *s, void (*work)(void *), void *argument, int64_t pieces, int64_t threads,
                parallel_function *parallel) {
    threads = minimum(threads, MAX_THREADS);
    s->count = parallel && threads > 1 && pieces > 1 ? minimum(threads, pieces) : 1;
    atomic_store(&s->joined, 0);
    for (int64_t share = 0; share < s->count; share++) {
        atomic_store(&s->share[share].next, pieces * share / s->count);
        s->share[share].end = pieces * (share + 1) / s->count;
    }
    if (s->count > 1)
        parallel(work, argument, (unsigned)threads, 0);
    else
        work(argument);
}
