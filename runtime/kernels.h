/* What every generated net includes: vectors, threads, memory, random numbers, and the scalar helpers of its kernels. */
#ifndef LOSSC_KERNELS_H
#define LOSSC_KERNELS_H

#include <float.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "simd.h"
#include "threads.h"
#include "arena.h"
#include "random.h"

static inline float lossc_sigmoid_f32(float x) { return x < 0.0f ? expf(x) / (1.0f + expf(x)) : 1.0f / (1.0f + expf(-x)); }
static inline double lossc_sigmoid_f64(double x) { return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)); }
static inline float lossc_softplus_f32(float x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }
static inline double lossc_softplus_f64(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

/* A label as an index; out of range it is moved to the nearest end, so that no address leaves the array. */
static inline ptrdiff_t lossc_pick_f32(float label, float last)
{
    return (ptrdiff_t)(label < last ? (label > 0.0f ? label : 0.0f) : last);
}
static inline ptrdiff_t lossc_pick_f64(double label, double last)
{
    return (ptrdiff_t)(label < last ? (label > 0.0 ? label : 0.0) : last);
}

#endif
