/* Threads: OpenMP, or one thread where the compiler has none.
 *
 * Every thread of one team runs every kernel; loops are shared out with LOSSC_FOR inside it. What a thread computes
 * must not depend on the team's size, so that results are the same, bit for bit, for any number of threads.
 */
#ifndef LOSSC_THREADS_H
#define LOSSC_THREADS_H

#include <stddef.h>

#ifdef _OPENMP
#include <omp.h>

#define LOSSC_PARALLEL(threads) LOSSC_PRAGMA(omp parallel num_threads(threads))
#define LOSSC_PRAGMA(text) _Pragma(#text)
#define LOSSC_FOR _Pragma("omp for schedule(static)")               /* barrier at its end */
#define LOSSC_FOR_NOWAIT _Pragma("omp for schedule(static) nowait")
#define LOSSC_SINGLE _Pragma("omp single")                          /* one thread, barrier at its end */
#define LOSSC_BARRIER _Pragma("omp barrier")

/* Runs a statement by a team. One thread outside of all teams goes without OpenMP, which would take it a microsecond:
 * it does itself what LOSSC_FOR and LOSSC_SINGLE share out. Inside a team of the caller's they would share with that. */
#define LOSSC_TEAM(threads, statement)                \
    do {                                              \
        if ((threads) == 1 && omp_get_level() == 0) { \
            statement;                                \
        } else {                                      \
            LOSSC_PARALLEL(threads)                   \
            {                                         \
                statement;                            \
            }                                         \
        }                                             \
    } while (0)

static inline int lossc_thread_id(void) { return omp_get_thread_num(); }
static inline int lossc_team_size(void) { return omp_get_num_threads(); }
static inline int lossc_max_threads(void) { return omp_get_max_threads(); }

#else

#define LOSSC_PARALLEL(threads)
#define LOSSC_TEAM(threads, statement) do { statement; } while (0)
#define LOSSC_FOR
#define LOSSC_FOR_NOWAIT
#define LOSSC_SINGLE
#define LOSSC_BARRIER

static inline int lossc_thread_id(void) { return 0; }
static inline int lossc_team_size(void) { return 1; }
static inline int lossc_max_threads(void) { return 1; }

#endif

/* This thread's part [*begin, *end) of count elements; inner borders are multiples of grain (>= 1). */
static inline void lossc_thread_range(ptrdiff_t count, ptrdiff_t grain, ptrdiff_t *begin, ptrdiff_t *end)
{
    const ptrdiff_t id = lossc_thread_id(), size = lossc_team_size();
    const ptrdiff_t grains = count / grain + (count % grain != 0);
    const ptrdiff_t share = grains / size, rest = grains % size;
    const ptrdiff_t first = id * share + (id < rest ? id : rest);
    const ptrdiff_t last = first + share + (id < rest);
    *begin = first * grain < count ? first * grain : count;
    *end = last * grain < count ? last * grain : count;
}

/* How many rows a team takes at once where two loops over them follow each other, with so many tasks in each row: two
 * tasks a thread, but no more rows than that, so that few threads find them in their caches in the second loop. */
static inline ptrdiff_t lossc_rows_at_once(ptrdiff_t tasks) { return (2 * lossc_team_size() + tasks - 1) / tasks; }

#endif
