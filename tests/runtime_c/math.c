/* vmath.h at work. `values NAME` maps floats from standard input to standard output, `pow` takes LANES bases and then
 * LANES exponents; values64 and pow64 do so with doubles. `error NAME FIRST STRIDE COUNT` compares with libm in double
 * and prints the largest error in units in the last place, and the bits of its argument. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "simd.h"

static double sigmoid(double x) { return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)); }
static double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

static const struct {
    const char *name;
    vf32 (*f32)(vf32);
    vf64 (*f64)(vf64);
    double (*reference)(double);
} functions[] = {
    {"exp", vf32_exp, vf64_exp, exp},
    {"expm1", vf32_expm1, vf64_expm1, expm1},
    {"log", vf32_log, vf64_log, log},
    {"log1p", vf32_log1p, vf64_log1p, log1p},
    {"log1p_unit", vf32_log1p_unit, vf64_log1p_unit, log1p},
    {"tanh", vf32_tanh, vf64_tanh, tanh},
    {"sigmoid", vf32_sigmoid, vf64_sigmoid, sigmoid},
    {"softplus", vf32_softplus, vf64_softplus, softplus},
    {"erf", vf32_erf, vf64_erf, erf},
};

static int find(const char *name)
{
    for (int i = 0; i < (int)(sizeof functions / sizeof *functions); i++)
        if (strcmp(functions[i].name, name) == 0)
            return i;
    exit(2);
}

/* |y - reference| in units of the float's last place at reference; infinite where they differ in kind. */
static double error_in_ulp(float y, double reference)
{
    const float rounded = (float)reference;
    int exponent;
    if (isnan(y) || isnan(rounded))
        return isnan(y) && isnan(rounded) ? 0.0 : INFINITY;
    if (isinf(y) || isinf(rounded)) {
        const float largest = 0x1.fffffep127f;
        const int neighbours = fabsf(y) >= largest && fabsf(rounded) >= largest && !isinf(reference);
        return y == rounded ? 0.0 : neighbours && !signbit(y) == !signbit(rounded) ? 1.0 : INFINITY;
    }
    if ((y == 0.0f || rounded == 0.0f) && !signbit(y) != !signbit(rounded))
        return INFINITY;
    (void)frexp(reference, &exponent);
    return fabs((double)y - reference) / ldexp(1.0, (exponent > -125 ? exponent : -125) - 24);
}

/* Over the floats whose bits are first, first + stride ... (count of them). */
static void print_error(int function, uint32_t first, uint32_t stride, uint64_t count)
{
    double largest = 0.0;
    uint32_t worst = first;
    for (uint64_t i = 0; i < count; i += VF32_LANES) {
        float x[VF32_LANES], y[VF32_LANES];
        for (uint32_t lane = 0; lane < VF32_LANES; lane++) {
            const uint32_t bits = first + ((uint32_t)i + lane) * stride;
            memcpy(&x[lane], &bits, sizeof bits);
        }
        vf32_store(y, functions[function].f32(vf32_load(x)));
        for (int lane = 0; lane < VF32_LANES; lane++) {
            const double error = error_in_ulp(y[lane], functions[function].reference((double)x[lane]));
            if (error > largest) {
                largest = error;
                memcpy(&worst, &x[lane], sizeof worst);
            }
        }
    }
    printf("%.17g %" PRIu32 "\n", largest, worst);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    float x[VF32_LANES], y[VF32_LANES];
    double x64[VF64_LANES], y64[VF64_LANES];
    if (strcmp(mode, "error") == 0 && argc == 6) {
        print_error(find(argv[2]), (uint32_t)strtoul(argv[3], NULL, 10), (uint32_t)strtoul(argv[4], NULL, 10),
                    strtoull(argv[5], NULL, 10));
    } else if (strcmp(mode, "values") == 0 && argc == 3) {
        while (fread(x, sizeof x, 1, stdin) == 1) {
            vf32_store(y, functions[find(argv[2])].f32(vf32_load(x)));
            fwrite(y, sizeof y, 1, stdout);
        }
    } else if (strcmp(mode, "values64") == 0 && argc == 3) {
        while (fread(x64, sizeof x64, 1, stdin) == 1) {
            vf64_store(y64, functions[find(argv[2])].f64(vf64_load(x64)));
            fwrite(y64, sizeof y64, 1, stdout);
        }
    } else if (strcmp(mode, "pow") == 0) {
        while (fread(x, sizeof x, 1, stdin) == 1 && fread(y, sizeof y, 1, stdin) == 1) {
            vf32_store(y, vf32_pow(vf32_load(x), vf32_load(y)));
            fwrite(y, sizeof y, 1, stdout);
        }
    } else if (strcmp(mode, "pow64") == 0) {
        while (fread(x64, sizeof x64, 1, stdin) == 1 && fread(y64, sizeof y64, 1, stdin) == 1) {
            vf64_store(y64, vf64_pow(vf64_load(x64), vf64_load(y64)));
            fwrite(y64, sizeof y64, 1, stdout);
        }
    } else {
        return 2;
    }
    return 0;
}
