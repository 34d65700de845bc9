/* Random numbers that depend on (seed, stream, index) alone: any thread can make any part of them, in any order.
 *
 * Philox4x32-10: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The key is the seed; the
 * counter's low 64 bits count, its high 64 bits are the stream. A block of 64 numbers comes from 16 counters:
 *
 *   number index = word (index / 16) % 4 of counter 16 (index / 64) + index % 16
 *
 * so that a vector of counters gives vectors of numbers in their order in memory. The fills write dst[begin] ...
 * dst[end - 1], number i to dst[i]. They use only operations that IEEE 754 rounds exactly, no FMA and no libm: the
 * results are the same, bit for bit, on every ISA (with -ffp-contract=off). The double forms give the float numbers,
 * widened, so that a net in double sees what the same net in float sees.
 */
#ifndef LOSSC_RANDOM_H
#define LOSSC_RANDOM_H

#include "simd.h"

#define LOSSC_PHILOX_COUNTERS 16
#define LOSSC_PHILOX_NUMBERS (4 * LOSSC_PHILOX_COUNTERS)
#define LOSSC_PHILOX_VECTORS (LOSSC_PHILOX_COUNTERS / VF64_LANES)

/* ---- Philox ---- */

/* Ten rounds on LOSSC_PHILOX_COUNTERS counters; a 32-bit word has a 64-bit lane, whose high half is ignored. */
static inline void lossc_philox4x32(uint64_t key, vi64 x0[], vi64 x1[], vi64 x2[], vi64 x3[])
{
    const vi64 multiplier0 = vi64_set1(0xD2511F53), multiplier1 = vi64_set1(0xCD9E8D57);
    uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const vi64 k0 = vi64_set1(key0), k1 = vi64_set1(key1);
        for (int v = 0; v < LOSSC_PHILOX_VECTORS; v++) {
            const vi64 product0 = vi64_mul_u32(multiplier0, x0[v]), product1 = vi64_mul_u32(multiplier1, x2[v]);
            x0[v] = vi64_xor(vi64_xor(vi64_shr(product1, 32), x1[v]), k0);
            x2[v] = vi64_xor(vi64_xor(vi64_shr(product0, 32), x3[v]), k1);
            x1[v] = product1;
            x3[v] = product0;
        }
        key0 += 0x9E3779B9;    /* golden ratio */
        key1 += 0xBB67AE85;    /* sqrt 3 - 1 */
    }
}

/* The 64 numbers of one block. */
static inline void lossc_philox_block(uint64_t seed, uint64_t stream, uint64_t block, uint32_t *restrict numbers)
{
    vi64 x[4][LOSSC_PHILOX_VECTORS];
    int64_t words[LOSSC_PHILOX_NUMBERS];
    const vi64 first = vi64_add(vi64_set1((int64_t)(block * LOSSC_PHILOX_COUNTERS)), vi64_iota());
    for (int v = 0; v < LOSSC_PHILOX_VECTORS; v++) {
        x[0][v] = vi64_add(first, vi64_set1(v * VF64_LANES));
        x[1][v] = vi64_shr(x[0][v], 32);
        x[2][v] = vi64_set1((int64_t)stream);
        x[3][v] = vi64_set1((int64_t)(stream >> 32));
    }
    lossc_philox4x32(seed, x[0], x[1], x[2], x[3]);
    for (int word = 0; word < 4; word++)
        for (int v = 0; v < LOSSC_PHILOX_VECTORS; v++)
            vi64_store(words + word * LOSSC_PHILOX_COUNTERS + v * VF64_LANES, x[word][v]);
    for (int i = 0; i < LOSSC_PHILOX_NUMBERS; i++)
        numbers[i] = (uint32_t)words[i];
}

static inline uint32_t lossc_random_u32(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t numbers[LOSSC_PHILOX_NUMBERS];
    lossc_philox_block(seed, stream, index / LOSSC_PHILOX_NUMBERS, numbers);
    return numbers[index % LOSSC_PHILOX_NUMBERS];
}

/* ---- distributions, a block at a time ---- */

/* low + (high - low) u, u = a multiple of 2^-24 in [0, 1). */
static inline void lossc_uniform_block(const uint32_t *restrict numbers, float *restrict values, float low, float high)
{
    const float width = high - low;
    for (int i = 0; i < LOSSC_PHILOX_NUMBERS; i++) {
        const float scaled = (float)(int32_t)(numbers[i] >> 8) * 0x1p-24f * width;
        values[i] = low + scaled;
    }
}

/* value where a number of 24 bits is below probability 2^24 (0 never, 1 always), else 0. */
static inline void lossc_bernoulli_block(const uint32_t *restrict numbers, float *restrict values, float probability,
                                         float value)
{
    const int32_t threshold = (int32_t)ceilf(probability * 0x1p24f);
    for (int i = 0; i < LOSSC_PHILOX_NUMBERS; i++)
        values[i] = (int32_t)(numbers[i] >> 8) < threshold ? value : 0.0f;
}

/* c[0] + x (c[1] + x (c[2] ...)), without FMA. */
static inline vf64 lossc_polynomial_f64(vf64 x, const double *c, int terms)
{
    vf64 sum = vf64_set1(c[terms - 1]);
    for (int k = terms - 2; k >= 0; k--)
        sum = vf64_add(vf64_mul(sum, x), vf64_set1(c[k]));
    return sum;
}

/* log(x) for a normal x > 0: x = 2^e m, s = (m - 1) / (m + 1), log m = 2 s + s^3 P(s^2); error 2^-52. */
static inline vf64 lossc_log_plain_f64(vf64 x)
{
    static const double p[] = {0.6666666666658712,  0.40000000052325824, 0.2857141712056879,
                               0.2222337238497732,  0.18123618604131647, 0.16820123603008738};
    const vf64 one = vf64_set1(1.0);
    const vi64 sqrt_half = vi64_set1(0x3FE6A09E667F3BCD), unit = vi64_set1(0x3FF0000000000000);
    const vi64 shifted = vi64_add(vf64_bits(x), vi64_sub(unit, sqrt_half));
    const vf64 m = vf64_from_bits(vi64_add(vi64_and(shifted, vi64_set1(0x000FFFFFFFFFFFFF)), sqrt_half));
    const vf64 e = vi64_to_float(vi64_sub(vi64_shr(shifted, 52), vi64_set1(1023)));
    const vf64 s = vf64_div(vf64_sub(m, one), vf64_add(m, one)), z = vf64_mul(s, s);
    const vf64 log_m = vf64_add(vf64_add(s, s), vf64_mul(vf64_mul(s, z), lossc_polynomial_f64(z, p, 6)));
    return vf64_add(vf64_mul(e, vf64_set1(0.69314718055994531)), log_m);
}

/* mean + std z, two z from two numbers (Box and Muller 1958): radius sqrt(-2 log u), u in (0, 1], angle 2 pi v. */
static inline void lossc_gaussian_block(const uint32_t *restrict numbers, float *restrict values, float mean, float std)
{
    /* sin(pi r / 2) = r S(r^2), cos(pi r / 2) = 1 + r^2 C(r^2) for |r| <= 1/2; errors 2^-47, 2^-53 */
    static const double sine[] = {1.57079632679489,      -0.645964097504308,     0.07969262615568566,
                                  -0.004681752590514944, 0.00016042925958350255, -3.5563757371059493e-06};
    static const double cosine[] = {-1.233700550136157,    0.2536695079000548,     -0.02086348073759464,
                                    0.0009192599678400097, -2.520019245515318e-05, 4.656001285381115e-07};
    enum { PAIRS = LOSSC_PHILOX_NUMBERS / 2 };
    double u[PAIRS], v[PAIRS], z[LOSSC_PHILOX_NUMBERS];
    for (int i = 0; i < PAIRS; i++) {
        u[i] = ((double)numbers[i] + 1.0) * 0x1p-32;
        v[i] = (double)numbers[PAIRS + i] * 0x1p-30;    /* in quarters of the circle */
    }
    for (int i = 0; i < PAIRS; i += VF64_LANES) {
        const vf64 radius = vf64_sqrt(vf64_mul(vf64_set1(-2.0), lossc_log_plain_f64(vf64_load(u + i))));
        const vf64 quarters = vf64_load(v + i), quadrant = vf64_round(quarters);
        const vf64 r = vf64_sub(quarters, quadrant), square = vf64_mul(r, r);
        const vf64 s = vf64_mul(r, lossc_polynomial_f64(square, sine, 6));
        const vf64 c = vf64_add(vf64_set1(1.0), vf64_mul(square, lossc_polynomial_f64(square, cosine, 6)));
        /* turned by the quadrant 0 ... 4: (c, s), (-s, c), (-c, -s), (s, -c), (c, s) */
        const mf64 first = vf64_eq(quadrant, vf64_set1(1.0)), second = vf64_eq(quadrant, vf64_set1(2.0));
        const mf64 third = vf64_eq(quadrant, vf64_set1(3.0)), odd = mf64_or(first, third);
        const vf64 x = vf64_select(odd, s, c), y = vf64_select(odd, c, s);
        const vf64 turned_x = vf64_select(mf64_or(first, second), vf64_neg(x), x);
        const vf64 turned_y = vf64_select(mf64_or(second, third), vf64_neg(y), y);
        vf64_store(z + i, vf64_mul(radius, turned_x));
        vf64_store(z + PAIRS + i, vf64_mul(radius, turned_y));
    }
    for (int i = 0; i < LOSSC_PHILOX_NUMBERS; i++) {
        const double scaled = (double)std * z[i];
        values[i] = (float)((double)mean + scaled);
    }
}

/* ---- fills ---- */

/* Stores a block's values from number i on, up to its last or end - 1; returns the next number to store. */
#define LOSSC_RANDOM_STORE(X, real)                                                                                   \
    static inline ptrdiff_t lossc_random_store_##X(real *dst, ptrdiff_t i, ptrdiff_t end, const float *values)       \
    {                                                                                                                 \
        const ptrdiff_t block = i - i % LOSSC_PHILOX_NUMBERS;                                                         \
        if (i == block && end - i >= LOSSC_PHILOX_NUMBERS) {                                                          \
            for (int k = 0; k < LOSSC_PHILOX_NUMBERS; k++)                                                            \
                dst[i + k] = values[k];                                                                               \
            return i + LOSSC_PHILOX_NUMBERS;                                                                          \
        }                                                                                                             \
        for (; i < end && i - block < LOSSC_PHILOX_NUMBERS; i++)                                                      \
            dst[i] = values[i - block];                                                                               \
        return i;                                                                                                     \
    }
LOSSC_RANDOM_STORE(f32, float)
LOSSC_RANDOM_STORE(f64, double)
#undef LOSSC_RANDOM_STORE

#define LOSSC_RANDOM_FILL(name, X, real, A, B)                                                                        \
    static inline void lossc_##name##_##X(real *dst, ptrdiff_t begin, ptrdiff_t end, uint64_t seed, uint64_t stream, \
                                          real A, real B)                                                             \
    {                                                                                                                 \
        for (ptrdiff_t i = begin; i < end;) {                                                                         \
            uint32_t numbers[LOSSC_PHILOX_NUMBERS];                                                                   \
            float values[LOSSC_PHILOX_NUMBERS];                                                                       \
            lossc_philox_block(seed, stream, (uint64_t)i / LOSSC_PHILOX_NUMBERS, numbers);                            \
            lossc_##name##_block(numbers, values, (float)(A), (float)(B));                                            \
            i = lossc_random_store_##X(dst, i, end, values);                                                          \
        }                                                                                                             \
    }
LOSSC_RANDOM_FILL(uniform, f32, float, low, high)
LOSSC_RANDOM_FILL(uniform, f64, double, low, high)
LOSSC_RANDOM_FILL(gaussian, f32, float, mean, std)
LOSSC_RANDOM_FILL(gaussian, f64, double, mean, std)
LOSSC_RANDOM_FILL(bernoulli, f32, float, probability, value)
LOSSC_RANDOM_FILL(bernoulli, f64, double, probability, value)
#undef LOSSC_RANDOM_FILL

#endif
