/* exp, log, tanh ... of vectors; included by simd.h. */
#ifndef LOSSC_VMATH_H
#define LOSSC_VMATH_H

/* Lane by lane through a scalar function. */
#define LOSSC_LANEWISE(X, LANES, real, name, function)                        \
    static inline v##X v##X##_##name(v##X v)                                  \
    {                                                                         \
        real lanes[LANES];                                                    \
        v##X##_store(lanes, v);                                               \
        for (int i = 0; i < LANES; i++)                                       \
            lanes[i] = function(lanes[i]);                                    \
        return v##X##_load(lanes);                                            \
    }

static inline float lossc_sigmoidf(float x) { return 1.0f / (1.0f + expf(-x)); }
static inline float lossc_softplusf(float x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }
static inline double lossc_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static inline double lossc_softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

LOSSC_LANEWISE(f32, VF32_LANES, float, exp, expf)
LOSSC_LANEWISE(f32, VF32_LANES, float, log, logf)
LOSSC_LANEWISE(f32, VF32_LANES, float, log1p, log1pf)
LOSSC_LANEWISE(f32, VF32_LANES, float, expm1, expm1f)
LOSSC_LANEWISE(f32, VF32_LANES, float, tanh, tanhf)
LOSSC_LANEWISE(f32, VF32_LANES, float, sigmoid, lossc_sigmoidf)
LOSSC_LANEWISE(f32, VF32_LANES, float, softplus, lossc_softplusf)
LOSSC_LANEWISE(f32, VF32_LANES, float, erf, erff)
LOSSC_LANEWISE(f64, VF64_LANES, double, exp, exp)
LOSSC_LANEWISE(f64, VF64_LANES, double, log, log)
LOSSC_LANEWISE(f64, VF64_LANES, double, log1p, log1p)
LOSSC_LANEWISE(f64, VF64_LANES, double, expm1, expm1)
LOSSC_LANEWISE(f64, VF64_LANES, double, tanh, tanh)
LOSSC_LANEWISE(f64, VF64_LANES, double, sigmoid, lossc_sigmoid)
LOSSC_LANEWISE(f64, VF64_LANES, double, softplus, lossc_softplus)
LOSSC_LANEWISE(f64, VF64_LANES, double, erf, erf)

static inline vf32 vf32_pow(vf32 a, vf32 b)
{
    float x[VF32_LANES], y[VF32_LANES];
    vf32_store(x, a);
    vf32_store(y, b);
    for (int i = 0; i < VF32_LANES; i++)
        x[i] = powf(x[i], y[i]);
    return vf32_load(x);
}
static inline vf64 vf64_pow(vf64 a, vf64 b)
{
    double x[VF64_LANES], y[VF64_LANES];
    vf64_store(x, a);
    vf64_store(y, b);
    for (int i = 0; i < VF64_LANES; i++)
        x[i] = pow(x[i], y[i]);
    return vf64_load(x);
}

#endif
