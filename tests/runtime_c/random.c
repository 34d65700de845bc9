/* random.h at work: `NAME BEGIN END SEED STREAM A B PARTS` writes elements BEGIN ... END - 1 made in that many parts. */
#include <stdio.h>
#include <stdlib.h>

#include "random.h"

int main(int argc, char **argv)
{
    if (argc != 9)
        return 2;
    const char *name = argv[1];
    const ptrdiff_t begin = (ptrdiff_t)strtoll(argv[2], NULL, 10), end = (ptrdiff_t)strtoll(argv[3], NULL, 10);
    const uint64_t seed = strtoull(argv[4], NULL, 10), stream = strtoull(argv[5], NULL, 10);
    const double a = strtod(argv[6], NULL), b = strtod(argv[7], NULL);
    const ptrdiff_t parts = (ptrdiff_t)strtoll(argv[8], NULL, 10), size = end - begin;

    if (strcmp(name, "u32") == 0) {
        for (ptrdiff_t i = begin; i < end; i++) {
            const uint32_t number = lossc_random_u32(seed, stream, (uint64_t)i);
            fwrite(&number, sizeof number, 1, stdout);
        }
        return 0;
    }

    /* the elements before begin and the one at end must stay as they are */
    float *f32 = malloc(((size_t)end + 1) * sizeof *f32);
    double *f64 = malloc(((size_t)end + 1) * sizeof *f64);
    if (f32 == NULL || f64 == NULL)
        return 1;
    for (ptrdiff_t i = 0; i <= end; i++) {
        f32[i] = -77.0f;
        f64[i] = -77.0;
    }
    for (ptrdiff_t part = 0; part < parts; part++) {
        const ptrdiff_t first = begin + size * part / parts, last = begin + size * (part + 1) / parts;
        if (strcmp(name, "uniform_f32") == 0)
            lossc_uniform_f32(f32, first, last, seed, stream, (float)a, (float)b);
        else if (strcmp(name, "uniform_f64") == 0)
            lossc_uniform_f64(f64, first, last, seed, stream, a, b);
        else if (strcmp(name, "gaussian_f32") == 0)
            lossc_gaussian_f32(f32, first, last, seed, stream, (float)a, (float)b);
        else if (strcmp(name, "gaussian_f64") == 0)
            lossc_gaussian_f64(f64, first, last, seed, stream, a, b);
        else if (strcmp(name, "bernoulli_f32") == 0)
            lossc_bernoulli_f32(f32, first, last, seed, stream, (float)a, (float)b);
        else if (strcmp(name, "bernoulli_f64") == 0)
            lossc_bernoulli_f64(f64, first, last, seed, stream, a, b);
        else
            return 2;
    }
    for (ptrdiff_t i = 0; i <= end; i++)
        if ((i < begin || i == end) && (f32[i] != -77.0f || f64[i] != -77.0))
            return 3;
    if (strstr(name, "f64"))
        fwrite(f64 + begin, sizeof *f64, (size_t)size, stdout);
    else
        fwrite(f32 + begin, sizeof *f32, (size_t)size, stdout);
    free(f64);
    free(f32);
    return 0;
}
