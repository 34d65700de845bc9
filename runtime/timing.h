/* Timing of each kernel, for nets that are compiled to be timed. */
#ifndef LOSSC_TIMING_H
#define LOSSC_TIMING_H

#include <time.h>

#include "threads.h"

/* Seconds since some moment in the past; never goes back. */
static inline double lossc_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Called by every thread of the team: once all are here, *seconds = the time since *last, and *last = now. */
static inline void lossc_lap(double *last, double *seconds)
{
    LOSSC_BARRIER
    if (lossc_thread_id() == 0) {
        const double now = lossc_now();
        *seconds = now - *last;
        *last = now;
    }
}

#endif
