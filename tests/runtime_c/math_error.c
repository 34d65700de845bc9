/* Errors of vmath.h's float functions, in units in the last place, against libm in double. */
#include "simd.h"

typedef vf32 (*vector_function)(vf32);
typedef double (*reference_function)(double);

static double sigmoid(double x) { return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)); }
static double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

static const struct {
    vector_function vector;
    reference_function reference;
} functions[] = {
    {vf32_exp, exp},     {vf32_expm1, expm1},      {vf32_log, log},           {vf32_log1p, log1p},
    {vf32_tanh, tanh},   {vf32_sigmoid, sigmoid},  {vf32_softplus, softplus}, {vf32_erf, erf},
};

/* |y - reference| in units of the float's last place at reference; infinite where they differ in kind. */
static double error_in_ulp(float y, double reference)
{
    int exponent;
    if (isnan(y) || isnan(reference))
        return isnan(y) && isnan(reference) ? 0.0 : INFINITY;
    if (isinf((float)reference) || isinf(y))
        return y == (float)reference ? 0.0 : isinf(reference) || fabs((double)y) < 0x1p127 ? INFINITY : 1.0;
    if ((y == 0.0f || (float)reference == 0.0f) && !signbit(y) != !signbit(reference))
        return INFINITY;
    frexp(reference, &exponent);
    return fabs((double)y - reference) / ldexp(1.0, (exponent > -125 ? exponent : -125) - 24);
}

/* The largest error over the floats whose bits are first, first + stride ... (count of them); *worst gets its bits. */
double largest_error(int function, uint32_t first, uint32_t stride, uint64_t count, uint32_t *worst)
{
    double largest = 0.0;
    *worst = first;
    for (uint64_t i = 0; i < count; i += VF32_LANES) {
        float x[VF32_LANES], y[VF32_LANES];
        for (uint32_t lane = 0; lane < VF32_LANES; lane++) {
            const uint32_t bits = first + ((uint32_t)i + lane) * stride;
            memcpy(&x[lane], &bits, sizeof bits);
        }
        vf32_store(y, functions[function].vector(vf32_load(x)));
        for (int lane = 0; lane < VF32_LANES; lane++) {
            const double error = error_in_ulp(y[lane], functions[function].reference((double)x[lane]));
            if (error > largest) {
                largest = error;
                memcpy(worst, &x[lane], sizeof *worst);
            }
        }
    }
    return largest;
}

/* The same for a^b over n pairs. */
double largest_pow_error(const float *a, const float *b, ptrdiff_t n, ptrdiff_t *worst)
{
    double largest = 0.0;
    *worst = 0;
    for (ptrdiff_t i = 0; i < n; i += VF32_LANES) {
        const int part = n - i < VF32_LANES ? (int)(n - i) : VF32_LANES;
        float y[VF32_LANES];
        vf32_store(y, vf32_pow(vf32_load_n(a + i, part), vf32_load_n(b + i, part)));
        for (int lane = 0; lane < part; lane++) {
            const double error = error_in_ulp(y[lane], pow((double)a[i + lane], (double)b[i + lane]));
            if (error > largest) {
                largest = error;
                *worst = i + lane;
            }
        }
    }
    return largest;
}

void apply(int function, const float *x, float *y, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += VF32_LANES) {
        const int part = n - i < VF32_LANES ? (int)(n - i) : VF32_LANES;
        vf32_store_n(y + i, functions[function].vector(vf32_load_n(x + i, part)), part);
    }
}

void apply_pow(const float *a, const float *b, float *y, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += VF32_LANES) {
        const int part = n - i < VF32_LANES ? (int)(n - i) : VF32_LANES;
        vf32_store_n(y + i, vf32_pow(vf32_load_n(a + i, part), vf32_load_n(b + i, part)), part);
    }
}
