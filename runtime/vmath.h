/* exp, log, tanh ... of vectors, written once in the operations of simd.h, which includes this file.
 *
 * Float: at most 2 ulp over the whole range, with C99's special values, denormal arguments and denormal results; the
 * same bits on every ISA whose FMA rounds once. The polynomials are minimax fits of their own, with the coefficients
 * rounded to float one after the other and the rest fitted again; "error" is that of the polynomial alone, relative to
 * the function. Double goes lane by lane through libm: it serves gradient checks.
 */
#ifndef LOSSC_VMATH_H
#define LOSSC_VMATH_H

#define LOSSC_LN2_HI 0x1.62e4p-1f       /* ln 2 to 15 bits: times an exponent it is exact */
#define LOSSC_LN2_LO 1.42860677e-6f     /* ln 2 - LOSSC_LN2_HI */
#define LOSSC_LOG2_E 1.44269504f
#define LOSSC_ROUNDER 0x1.8p23f         /* adding it rounds |x| < 2^22 to an integer and leaves that in the low bits */

/* ---- helpers ---- */

static inline vf32 lossc_copysign_f32(vf32 magnitude, vf32 sign)
{
    const vi32 bit = vi32_and(vf32_bits(sign), vi32_set1(INT32_MIN));
    return vf32_from_bits(vi32_or(vf32_bits(magnitude), bit));
}

/* v 2^n for |n| <= 250 and v in [1/2, 2]; rounded once, also to a denormal. */
static inline vf32 lossc_ldexp_f32(vf32 v, vf32 n)
{
#if defined(VF32_HAS_SCALEF)
    return vf32_scalef(v, n);
#else
    const vi32 bias = vi32_set1(127);
    const vi32 whole = vf32_to_int(n);
    const vi32 half = vi32_sub(vi32_shr(vi32_add(whole, vi32_set1(256)), 1), vi32_set1(128));
    const vf32 first = vf32_from_bits(vi32_shl(vi32_add(half, bias), 23));
    const vf32 second = vf32_from_bits(vi32_shl(vi32_add(vi32_sub(whole, half), bias), 23));
    return vf32_mul(vf32_mul(v, first), second);
#endif
}

/* x = n ln 2 + r, |r| <= ln 2 / 2, for |x| < 2^21; high = x - n LOSSC_LN2_HI is exact.
 * Returns n + LOSSC_ROUNDER, whose low bits are n as an integer. */
static inline vf32 lossc_exp_reduce_f32(vf32 x, vf32 *n, vf32 *high, vf32 *r)
{
    const vf32 rounded = vf32_fma(x, vf32_set1(LOSSC_LOG2_E), vf32_set1(LOSSC_ROUNDER));
    *n = vf32_sub(rounded, vf32_set1(LOSSC_ROUNDER));
    *high = vf32_fnma(*n, vf32_set1(LOSSC_LN2_HI), x);
    *r = vf32_fnma(*n, vf32_set1(LOSSC_LN2_LO), *high);
    return rounded;
}

/* P of exp(r) = 1 + r + r^2 P(r) for |r| <= ln 2 / 2; error 2^-26 of exp(r) - 1. */
static inline vf32 lossc_exp_tail_f32(vf32 r)
{
    vf32 p = vf32_set1(1.3940644e-3f);
    p = vf32_fma(p, r, vf32_set1(8.36639944e-3f));
    p = vf32_fma(p, r, vf32_set1(4.16664034e-2f));
    p = vf32_fma(p, r, vf32_set1(1.6666545e-1f));
    return vf32_fma(p, r, vf32_set1(0.5f));
}

/* e ln 2 + log(1 + f) for 1 + f in [sqrt 1/2, sqrt 2]; error 2^-27. */
static inline vf32 lossc_log_reduced_f32(vf32 e, vf32 f)
{
    const vf32 square = vf32_mul(f, f);
    vf32 p = vf32_set1(-7.6363951e-2f);
    p = vf32_fma(p, f, vf32_set1(1.27621979e-1f));
    p = vf32_fma(p, f, vf32_set1(-1.31596133e-1f));
    p = vf32_fma(p, f, vf32_set1(1.42015815e-1f));
    p = vf32_fma(p, f, vf32_set1(-1.66234091e-1f));
    p = vf32_fma(p, f, vf32_set1(2.00012416e-1f));
    p = vf32_fma(p, f, vf32_set1(-2.50008196e-1f));
    p = vf32_fma(p, f, vf32_set1(3.33333313e-1f));
    p = vf32_mul(vf32_mul(f, square), p);
    p = vf32_fma(e, vf32_set1(LOSSC_LN2_LO), p);
    p = vf32_add(vf32_fnma(vf32_set1(0.5f), square, p), f);
    return vf32_fma(e, vf32_set1(LOSSC_LN2_HI), p);
}

/* x = 2^e m with m in [sqrt 1/2, sqrt 2] for a normal x > 0; returns e + 127. */
static inline vi32 lossc_split_f32(vf32 x, vf32 *m)
{
    const vi32 sqrt_half = vi32_set1(0x3f3504f3), one = vi32_set1(0x3f800000);
    const vi32 shifted = vi32_add(vf32_bits(x), vi32_sub(one, sqrt_half));
    *m = vf32_from_bits(vi32_add(vi32_and(shifted, vi32_set1(0x007fffff)), sqrt_half));
    return vi32_shr(shifted, 23);
}

/* The same for any finite x > 0, with e as a float. */
static inline vf32 lossc_frexp_f32(vf32 x, vf32 *m)
{
    const mf32 denormal = vf32_lt(x, vf32_set1(0x1p-126f));
    const vf32 normal = vf32_select(denormal, vf32_mul(x, vf32_set1(0x1p24f)), x);
    const vf32 bias = vf32_select(denormal, vf32_set1(127.0f + 24.0f), vf32_set1(127.0f));
    return vf32_sub(vi32_to_float(lossc_split_f32(normal, m)), bias);
}

/* y = log(x) where 0 < x < inf, and log's special values elsewhere. */
static inline vf32 lossc_log_special_f32(vf32 x, vf32 y)
{
    const vf32 pole = vf32_select(vf32_eq(x, vf32_zero()), vf32_set1(-INFINITY), vf32_set1(NAN));
    y = vf32_select(vf32_lt(x, vf32_set1(INFINITY)), y, x);
    return vf32_select(vf32_gt(x, vf32_zero()), y, pole);
}

/* ---- float ---- */

static inline vf32 vf32_exp(vf32 x)
{
    vf32 n, high, r;
    /* outside [-104, 89] the result is 0 or infinite; NaN passes through the clamp */
    x = vf32_max(vf32_set1(-104.0f), vf32_min(vf32_set1(89.0f), x));
    lossc_exp_reduce_f32(x, &n, &high, &r);
    const vf32 minus_one = vf32_fma(vf32_mul(r, r), lossc_exp_tail_f32(r), r);
    return lossc_ldexp_f32(vf32_add(minus_one, vf32_set1(1.0f)), n);
}

/* exp(-|x|) to half a unit in the last place: what is computed from it doubles its error. */
static inline vf32 lossc_exp_of_minus_abs_f32(vf32 x)
{
    const vf32 one = vf32_set1(1.0f);
    vf32 n, high, r;
    x = vf32_max(vf32_set1(-104.0f), vf32_neg(vf32_abs(x)));
    lossc_exp_reduce_f32(x, &n, &high, &r);
    /* 1 + high, and in low what its rounding and r's lost */
    const vf32 sum = vf32_add(one, high);
    const vf32 low = vf32_fnma(n, vf32_set1(LOSSC_LN2_LO), vf32_sub(high, vf32_sub(sum, one)));
    return lossc_ldexp_f32(vf32_add(sum, vf32_fma(vf32_mul(r, r), lossc_exp_tail_f32(r), low)), n);
}

static inline vf32 vf32_expm1(vf32 x)
{
    vf32 n, high, r;
    /* below -18 the result is -1; 88.8 overflows with n = 128 still */
    const vf32 clamped = vf32_max(vf32_set1(-18.0f), vf32_min(vf32_set1(88.8f), x));
    const vf32 rounded = lossc_exp_reduce_f32(clamped, &n, &high, &r);
    const vf32 minus_one = vf32_fma(vf32_mul(r, r), lossc_exp_tail_f32(r), r);
    /* 2 (h (exp(r) - 1) + (h - 1/2)) with h = 2^(n - 1), as 2^128 is no float */
    const vf32 h = vf32_from_bits(vi32_add(vi32_shl(vf32_bits(rounded), 23), vi32_set1(126 << 23)));
    const vf32 y = vf32_fma(h, minus_one, vf32_sub(h, vf32_set1(0.5f)));
    /* a tiny x keeps its sign and all its bits */
    return vf32_select(vf32_lt(vf32_abs(x), vf32_set1(0x1p-25f)), x, vf32_add(y, y));
}

static inline vf32 vf32_log(vf32 x)
{
    vf32 m;
    const vf32 e = lossc_frexp_f32(x, &m);
    return lossc_log_special_f32(x, lossc_log_reduced_f32(e, vf32_sub(m, vf32_set1(1.0f))));
}

static inline vf32 vf32_log1p(vf32 x)
{
    const vf32 one = vf32_set1(1.0f);
    const vf32 u = vf32_add(x, one);
    vf32 m;
    const vi32 e = lossc_split_f32(u, &m);
    /* (1 + x) / 2^e - 1 from x itself, as u is rounded; where 1 + x = x the power may be no float */
    const vf32 scale = vf32_from_bits(vi32_shl(vi32_sub(vi32_set1(254), e), 23));
    const vf32 exact = vf32_fma(x, scale, vf32_sub(scale, one));
    const vf32 f = vf32_select(vf32_lt(x, vf32_set1(0x1p26f)), exact, vf32_sub(m, one));
    const vf32 y = lossc_log_reduced_f32(vi32_to_float(vi32_sub(e, vi32_set1(127))), f);
    return vf32_select(vf32_eq(x, vf32_zero()), x, lossc_log_special_f32(u, y));
}

/* log1p(x) for x in [0, 1], as exp(-|y|) is: no bits need taking apart, and no value is special; NaN passes through. */
static inline vf32 vf32_log1p_unit(vf32 x)
{
    const vf32 one = vf32_set1(1.0f), half = vf32_set1(0.5f);
    const mf32 upper = vf32_gt(x, vf32_set1(0.41421356f));    /* sqrt 2 - 1: there 1 + x = 2 (1 + (x - 1) / 2) */
    const vf32 f = vf32_select(upper, vf32_fma(half, x, vf32_neg(half)), x);
    return lossc_log_reduced_f32(vf32_select(upper, one, vf32_zero()), f);
}

static inline vf32 vf32_tanh(vf32 x)
{
    const vf32 one = vf32_set1(1.0f), two = vf32_set1(2.0f);
    const vf32 a = vf32_abs(x);

    /* |x| <= 0.55: x + x^3 P(x^2), error 2^-29 */
    const vf32 z = vf32_mul(a, a);
    vf32 p = vf32_set1(-6.29571686e-3f);
    p = vf32_fma(p, z, vf32_set1(2.10883394e-2f));
    p = vf32_fma(p, z, vf32_set1(-5.38568534e-2f));
    p = vf32_fma(p, z, vf32_set1(1.33326367e-1f));
    p = vf32_fma(p, z, vf32_set1(-3.33333194e-1f));
    const vf32 near = vf32_fma(vf32_mul(a, z), p, a);

    /* 1 - 2 / (exp(2 |x|) + 1), which is 1 from 9.02 on */
    vf32 n, high, r;
    const vf32 doubled = vf32_min(vf32_set1(20.0f), vf32_add(a, a));
    const vf32 rounded = lossc_exp_reduce_f32(doubled, &n, &high, &r);
    const vf32 mantissa = vf32_add(vf32_fma(vf32_mul(r, r), lossc_exp_tail_f32(r), r), one);
    const vf32 e = vf32_from_bits(vi32_add(vf32_bits(mantissa), vi32_shl(vf32_bits(rounded), 23)));
    const vf32 far = vf32_sub(one, vf32_div(two, vf32_add(e, one)));

    return lossc_copysign_f32(vf32_select(vf32_ge(a, vf32_set1(0.55f)), far, near), x);
}

static inline vf32 vf32_sigmoid(vf32 x)
{
    /* t / (1 + t) or 1 / (1 + t) with t = exp(-|x|) <= 1: nothing overflows and small results keep their bits */
    const vf32 one = vf32_set1(1.0f);
    const vf32 t = lossc_exp_of_minus_abs_f32(x);
    const vf32 numerator = vf32_select(vf32_lt(x, vf32_zero()), t, one);
    const vf32 sum = vf32_add(one, t), low = vf32_sub(t, vf32_sub(sum, one));
    const vf32 inverse = vf32_div(one, sum);
    const vf32 y = vf32_mul(numerator, inverse);
    /* one Newton step takes back the roundings of 1 + t, of its inverse and of the product */
    const vf32 remainder = vf32_fnma(y, low, vf32_fnma(y, sum, numerator));
    return vf32_fma(remainder, inverse, y);
}

static inline vf32 vf32_softplus(vf32 x)
{
    /* log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)) */
    const vf32 t = lossc_exp_of_minus_abs_f32(x);
    return vf32_add(vf32_max(vf32_zero(), x), vf32_log1p_unit(t));
}

static inline vf32 vf32_erf(vf32 x)
{
    const vf32 a = vf32_min(vf32_set1(4.0f), vf32_abs(x));    /* from 4 on erf rounds to 1 */

    /* |x| <= 1: x + x P(x^2), error 2^-29 */
    const vf32 z = vf32_mul(a, a);
    vf32 p = vf32_set1(7.80690389e-5f);
    p = vf32_fma(p, z, vf32_set1(-7.9978531e-4f));
    p = vf32_fma(p, z, vf32_set1(5.1871622e-3f));
    p = vf32_fma(p, z, vf32_set1(-2.68533472e-2f));
    p = vf32_fma(p, z, vf32_set1(1.12835787e-1f));
    p = vf32_fma(p, z, vf32_set1(-3.7612626e-1f));
    p = vf32_fma(p, z, vf32_set1(1.28379166e-1f));
    const vf32 near = vf32_fma(a, p, a);

    /* 1 <= |x| <= 4: 1 - exp(Q(|x|)), Q = log erfc; error 2^-29 */
    vf32 q = vf32_set1(1.86503297e-4f);
    q = vf32_fma(q, a, vf32_set1(-2.94892164e-3f));
    q = vf32_fma(q, a, vf32_set1(2.1843303e-2f));
    q = vf32_fma(q, a, vf32_set1(-1.03118092e-1f));
    q = vf32_fma(q, a, vf32_set1(-6.3813132e-1f));
    q = vf32_fma(q, a, vf32_set1(-1.12709761f));
    q = vf32_fma(q, a, vf32_set1(-3.39380698e-4f));
    const vf32 far = vf32_sub(vf32_set1(1.0f), vf32_exp(q));

    return lossc_copysign_f32(vf32_select(vf32_lt(a, vf32_set1(1.0f)), near, far), x);
}

/* log2(x) = *high + *low to about 2^-34 for a finite x > 0.
 * s = (m - 1) / (m + 1), log2 m = s (C1 + C3 s^2 + s^4 P(s^2)), C1 = 2 / ln 2, C3 = C1 / 3; error 2^-36. */
static inline void lossc_log2_f32(vf32 x, vf32 *high, vf32 *low)
{
    const vf32 one = vf32_set1(1.0f), c1 = vf32_set1(2.88539004f), c3 = vf32_set1(9.61796701e-1f);
    vf32 m;
    const vf32 e = lossc_frexp_f32(x, &m);
    const vf32 f = vf32_sub(m, one);

    const vf32 d = vf32_add(one, m), d_low = vf32_sub(m, vf32_sub(d, one));
    const vf32 inverse = vf32_div(one, d);
    const vf32 s = vf32_mul(f, inverse);
    const vf32 s_low = vf32_mul(vf32_fnma(s, d_low, vf32_fnma(s, d, f)), inverse);

    const vf32 z = vf32_mul(s, s), z_low = vf32_fma(vf32_add(s, s), s_low, vf32_fma(s, s, vf32_neg(z)));
    vf32 p = vf32_set1(3.37820828e-1f);
    p = vf32_fma(p, z, vf32_set1(4.11849916e-1f));
    p = vf32_fma(p, z, vf32_set1(5.7708019e-1f));

    const vf32 t = vf32_mul(c3, z);
    vf32 t_low = vf32_fma(c3, z, vf32_neg(t));
    t_low = vf32_fma(c3, z_low, t_low);
    t_low = vf32_fma(vf32_set1(-7.02846181e-09f), z, t_low);
    t_low = vf32_fma(vf32_mul(z, z), p, t_low);

    const vf32 w = vf32_add(c1, t);
    const vf32 w_low = vf32_add(vf32_sub(t, vf32_sub(w, c1)), vf32_add(vf32_set1(3.85192607e-08f), t_low));

    const vf32 y = vf32_mul(s, w);
    const vf32 y_low = vf32_fma(s, w_low, vf32_fma(s_low, w, vf32_fma(s, w, vf32_neg(y))));

    *high = vf32_add(e, y);
    *low = vf32_add(vf32_sub(y, vf32_sub(*high, e)), y_low);
}

/* 2^(high + low) for |low| small; error 2^-28. */
static inline vf32 lossc_exp2_f32(vf32 high, vf32 low)
{
    /* outside [-200, 200] the result is 0 or infinite; NaN passes through the clamp */
    const vf32 clamped = vf32_max(vf32_set1(-200.0f), vf32_min(vf32_set1(200.0f), high));
    const vf32 n = vf32_round(clamped);
    const vf32 r = vf32_add(vf32_sub(clamped, n), vf32_select(vf32_eq(clamped, high), low, vf32_zero()));
    vf32 p = vf32_set1(1.54608759e-4f);
    p = vf32_fma(p, r, vf32_set1(1.33911741e-3f));
    p = vf32_fma(p, r, vf32_set1(9.61806718e-3f));
    p = vf32_fma(p, r, vf32_set1(5.55035919e-2f));
    p = vf32_fma(p, r, vf32_set1(2.40226507e-1f));
    p = vf32_fma(p, r, vf32_set1(6.93147182e-1f));
    return lossc_ldexp_f32(vf32_fma(p, r, vf32_set1(1.0f)), n);
}

/* a^b with C99's special values; exact wherever the result is a float. */
static inline vf32 vf32_pow(vf32 a, vf32 b)
{
    const vf32 one = vf32_set1(1.0f), infinity = vf32_set1(INFINITY), x = vf32_abs(a);
    vf32 high, low;
    lossc_log2_f32(x, &high, &low);

    /* b log2(x): log2 of 0, infinity and NaN; 1^b = 1 whatever b is */
    high = vf32_select(vf32_lt(x, infinity), high, x);
    high = vf32_select(vf32_eq(x, vf32_zero()), vf32_set1(-INFINITY), high);
    vf32 y = vf32_mul(b, high);
    const vf32 y_low = vf32_fma(b, low, vf32_fma(b, high, vf32_neg(y)));
    y = vf32_select(vf32_eq(x, one), vf32_zero(), y);
    vf32 result = lossc_exp2_f32(y, vf32_select(vf32_eq(x, one), vf32_zero(), y_low));

    /* a < 0: the sign follows an odd b, and only integers b have a value unless a is infinite */
    const vf32 half = vf32_mul(b, vf32_set1(0.5f));
    const mf32 integer = vf32_eq(vf32_floor(b), b);
    const mf32 odd = mf32_and(integer, vf32_ne(vf32_floor(half), half));
    const mf32 no_value = mf32_and(mf32_not(integer), mf32_and(vf32_lt(a, vf32_zero()), vf32_lt(x, infinity)));
    result = vf32_select(odd, lossc_copysign_f32(result, a), result);
    result = vf32_select(no_value, vf32_set1(NAN), result);
    return vf32_select(mf32_or(vf32_eq(b, vf32_zero()), vf32_eq(a, one)), one, result);
}

/* ---- double ---- */

static inline double lossc_sigmoid(double x)
{
    const double t = exp(-fabs(x));
    return (x < 0.0 ? t : 1.0) / (1.0 + t);
}
static inline double lossc_softplus(double x) { return (x < 0.0 ? 0.0 : x) + log1p(exp(-fabs(x))); }

#define LOSSC_LANEWISE_F64(name, function)            \
    static inline vf64 vf64_##name(vf64 x)            \
    {                                                 \
        double lanes[VF64_LANES];                     \
        vf64_store(lanes, x);                         \
        for (int i = 0; i < VF64_LANES; i++)          \
            lanes[i] = function(lanes[i]);            \
        return vf64_load(lanes);                      \
    }
LOSSC_LANEWISE_F64(exp, exp)
LOSSC_LANEWISE_F64(expm1, expm1)
LOSSC_LANEWISE_F64(log, log)
LOSSC_LANEWISE_F64(log1p, log1p)
LOSSC_LANEWISE_F64(log1p_unit, log1p)
LOSSC_LANEWISE_F64(tanh, tanh)
LOSSC_LANEWISE_F64(sigmoid, lossc_sigmoid)
LOSSC_LANEWISE_F64(softplus, lossc_softplus)
LOSSC_LANEWISE_F64(erf, erf)
#undef LOSSC_LANEWISE_F64

static inline vf64 vf64_pow(vf64 a, vf64 b)
{
    double base[VF64_LANES], exponent[VF64_LANES];
    vf64_store(base, a);
    vf64_store(exponent, b);
    for (int i = 0; i < VF64_LANES; i++)
        base[i] = pow(base[i], exponent[i]);
    return vf64_load(base);
}

#endif
