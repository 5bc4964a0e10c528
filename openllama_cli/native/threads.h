/* Work in pieces that threads share. */

#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

enum { MOST_THREADS = 256 };

/* GOMP_parallel: runs work(argument) in each of `threads` threads. */
typedef void parallel_function(void (*work)(void *), void *argument, unsigned threads, unsigned flags);

/* Parts of the pieces, one for each thread to begin with. */
struct shares {
    int64_t count;
    atomic_long joined; /* threads that have begun */
    struct {
        _Alignas(64) atomic_long next; /* first piece of the share that no thread has taken */
        int64_t end;
    } share[MOST_THREADS];
};

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The share that a thread begins with. */
INLINE int64_t join(struct shares *s) { return atomic_fetch_add(&s->joined, 1) % s->count; }

/* The next piece for a thread: of its own share while there is one, so that it reads memory in one direction, then of
 * others', so that nobody waits for a thread that the system has put aside. -1 where none is left. */
INLINE int64_t take(struct shares *s, int64_t *share) {
    for (int64_t tried = 0; tried < s->count; tried++, *share = (*share + 1) % s->count) {
        const int64_t piece = atomic_fetch_add(&s->share[*share].next, 1);
        if (piece < s->share[*share].end) return piece;
    }
    return -1;
}

/* Let work(argument) take `pieces` of work. All threads are called even where pieces are fewer: those that a smaller team
 * leaves out are ended by GNU's OpenMP, and made anew for the next. */
static void run(struct shares *s, void (*work)(void *), void *argument, int64_t pieces, int64_t threads,
                parallel_function *parallel) {
    threads = least(threads, MOST_THREADS);
    s->count = parallel && threads > 1 && pieces > 1 ? least(threads, pieces) : 1;
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
