/* One lane of plain C, for every CPU that has no header of its own. */
#ifndef LOSSC_SIMD_SCALAR_H
#define LOSSC_SIMD_SCALAR_H

#define VF32_LANES 1
#define VF64_LANES 1

typedef float vf32;
typedef int32_t vi32;
typedef int mf32;
typedef double vf64;
typedef int64_t vi64;
typedef int mf64;

static inline void lossc_stream_fence(void) {}

/* ---- float ---- */

static inline mf32 mf32_and(mf32 a, mf32 b) { return a & b; }
static inline mf32 mf32_or(mf32 a, mf32 b) { return a | b; }
static inline mf32 mf32_not(mf32 a) { return !a; }
static inline int mf32_any(mf32 a) { return a; }
static inline mf32 vf32_tail(int n) { return n > 0; }

static inline vf32 vf32_zero(void) { return 0.0f; }
static inline vf32 vf32_set1(float x) { return x; }
static inline vf32 vf32_iota(void) { return 0.0f; }
static inline vf32 vf32_load(const float *p) { return *p; }
static inline void vf32_store(float *p, vf32 v) { *p = v; }
static inline vf32 vf32_load_n(const float *p, int n) { return n > 0 ? *p : 0.0f; }
static inline void vf32_store_n(float *p, vf32 v, int n)
{
    if (n > 0)
        *p = v;
}
static inline void vf32_stream(float *p, vf32 v) { *p = v; }
static inline vf32 vf32_gather(const float *p, vi32 idx) { return p[idx]; }
static inline vf32 vf32_gather_n(const float *p, vi32 idx, int n) { return n > 0 ? p[idx] : 0.0f; }
static inline vf32 vf32_load_strided(const float *p, ptrdiff_t stride) { return (void)stride, *p; }
static inline void vf32_load_columns(const float *p, ptrdiff_t stride, vf32 column[4])
{
    (void)stride;
    for (int k = 0; k < 4; k++)
        column[k] = p[k];
}
static inline void vf32_store_strided(float *p, vf32 v, ptrdiff_t stride) { (void)stride, *p = v; }
static inline vf32 vf32_load_strided_n(const float *p, ptrdiff_t stride, int n)
{
    return (void)stride, vf32_load_n(p, n);
}
static inline void vf32_store_strided_n(float *p, vf32 v, ptrdiff_t stride, int n)
{
    (void)stride, vf32_store_n(p, v, n);
}
static inline void vf32_turn4(const float *from, ptrdiff_t line, float *to, ptrdiff_t width)
{
    for (int p = 0; p < 4; p++) {
        for (int l = 0; l < 4; l++)
            to[p * width + l] = from[l * line + p];
    }
}

static inline vf32 vf32_add(vf32 a, vf32 b) { return a + b; }
static inline vf32 vf32_sub(vf32 a, vf32 b) { return a - b; }
static inline vf32 vf32_mul(vf32 a, vf32 b) { return a * b; }
static inline vf32 vf32_div(vf32 a, vf32 b) { return a / b; }
#if defined(FP_FAST_FMAF)
static inline vf32 vf32_fma(vf32 a, vf32 b, vf32 c) { return fmaf(a, b, c); }
#else
/* Without an instruction fmaf is a slow library call. In double the product is exact, and the sum is rounded twice:
 * that differs from fmaf only where the first rounding meets a tie, at most by one ulp. */
static inline vf32 vf32_fma(vf32 a, vf32 b, vf32 c) { return (float)((double)a * (double)b + (double)c); }
#endif
static inline vf32 vf32_fnma(vf32 a, vf32 b, vf32 c) { return vf32_fma(-a, b, c); }
static inline vf32 vf32_neg(vf32 a) { return -a; }
static inline vf32 vf32_abs(vf32 a) { return fabsf(a); }
static inline vf32 vf32_sqrt(vf32 a) { return sqrtf(a); }
static inline vf32 vf32_min(vf32 a, vf32 b) { return a < b ? a : b; }
static inline vf32 vf32_max(vf32 a, vf32 b) { return a > b ? a : b; }
static inline vf32 vf32_floor(vf32 a) { return floorf(a); }
static inline vf32 vf32_trunc(vf32 a) { return truncf(a); }
static inline vf32 vf32_round(vf32 a) { return rintf(a); }

static inline mf32 vf32_lt(vf32 a, vf32 b) { return a < b; }
static inline mf32 vf32_le(vf32 a, vf32 b) { return a <= b; }
static inline mf32 vf32_gt(vf32 a, vf32 b) { return a > b; }
static inline mf32 vf32_ge(vf32 a, vf32 b) { return a >= b; }
static inline mf32 vf32_eq(vf32 a, vf32 b) { return a == b; }
static inline mf32 vf32_ne(vf32 a, vf32 b) { return a != b; }
static inline vf32 vf32_select(mf32 m, vf32 a, vf32 b) { return m ? a : b; }

static inline vi32 vf32_bits(vf32 v)
{
    vi32 bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline vf32 vf32_from_bits(vi32 v)
{
    vf32 x;
    memcpy(&x, &v, sizeof x);
    return x;
}
static inline vi32 vf32_to_int(vf32 v) { return v >= -0x1p31f && v < 0x1p31f ? (vi32)v : INT32_MIN; }
static inline vf32 vi32_to_float(vi32 v) { return (vf32)v; }

static inline float vf32_sum(vf32 v) { return v; }
static inline float vf32_reduce_max(vf32 v) { return v; }
static inline float vf32_reduce_min(vf32 v) { return v; }

static inline vi32 vi32_set1(int32_t x) { return x; }
static inline vi32 vi32_iota(void) { return 0; }
static inline vi32 vi32_load(const int32_t *p) { return *p; }
static inline void vi32_store(int32_t *p, vi32 v) { *p = v; }
static inline vi32 vi32_load_u16(const uint16_t *p) { return *p; }
static inline void vi32_store_u16(uint16_t *p, vi32 v) { *p = (uint16_t)(v & 0xffff); }
static inline vi32 vi32_load_n(const int32_t *p, int n) { return n > 0 ? *p : 0; }
static inline void vi32_store_n(int32_t *p, vi32 v, int n)
{
    if (n > 0)
        *p = v;
}
static inline vi32 vi32_add(vi32 a, vi32 b) { return (vi32)((uint32_t)a + (uint32_t)b); }
static inline vi32 vi32_sub(vi32 a, vi32 b) { return (vi32)((uint32_t)a - (uint32_t)b); }
static inline vi32 vi32_mul(vi32 a, vi32 b) { return (vi32)((uint32_t)a * (uint32_t)b); }
static inline vi32 vi32_and(vi32 a, vi32 b) { return a & b; }
static inline vi32 vi32_or(vi32 a, vi32 b) { return a | b; }
static inline vi32 vi32_xor(vi32 a, vi32 b) { return a ^ b; }
static inline vi32 vi32_shl(vi32 v, int n) { return (vi32)((uint32_t)v << n); }
static inline vi32 vi32_shr(vi32 v, int n) { return (vi32)((uint32_t)v >> n); }
static inline mf32 vi32_lt(vi32 a, vi32 b) { return a < b; }
static inline mf32 vi32_eq(vi32 a, vi32 b) { return a == b; }
static inline vi32 vi32_select(mf32 m, vi32 a, vi32 b) { return m ? a : b; }

/* ---- double ---- */

static inline mf64 mf64_and(mf64 a, mf64 b) { return a & b; }
static inline mf64 mf64_or(mf64 a, mf64 b) { return a | b; }
static inline mf64 mf64_not(mf64 a) { return !a; }
static inline int mf64_any(mf64 a) { return a; }
static inline mf64 vf64_tail(int n) { return n > 0; }

static inline vf64 vf64_zero(void) { return 0.0; }
static inline vf64 vf64_set1(double x) { return x; }
static inline vf64 vf64_iota(void) { return 0.0; }
static inline vf64 vf64_load(const double *p) { return *p; }
static inline void vf64_store(double *p, vf64 v) { *p = v; }
static inline vf64 vf64_load_n(const double *p, int n) { return n > 0 ? *p : 0.0; }
static inline void vf64_store_n(double *p, vf64 v, int n)
{
    if (n > 0)
        *p = v;
}
static inline void vf64_stream(double *p, vf64 v) { *p = v; }
static inline vf64 vf64_gather(const double *p, vi64 idx) { return p[idx]; }
static inline vf64 vf64_gather_n(const double *p, vi64 idx, int n) { return n > 0 ? p[idx] : 0.0; }
static inline vf64 vf64_load_strided(const double *p, ptrdiff_t stride) { return (void)stride, *p; }
static inline void vf64_load_columns(const double *p, ptrdiff_t stride, vf64 column[4])
{
    (void)stride;
    for (int k = 0; k < 4; k++)
        column[k] = p[k];
}
static inline void vf64_store_strided(double *p, vf64 v, ptrdiff_t stride) { (void)stride, *p = v; }
static inline vf64 vf64_load_strided_n(const double *p, ptrdiff_t stride, int n)
{
    return (void)stride, vf64_load_n(p, n);
}
static inline void vf64_store_strided_n(double *p, vf64 v, ptrdiff_t stride, int n)
{
    (void)stride, vf64_store_n(p, v, n);
}
static inline void vf64_turn4(const double *from, ptrdiff_t line, double *to, ptrdiff_t width)
{
    for (int p = 0; p < 4; p++) {
        for (int l = 0; l < 4; l++)
            to[p * width + l] = from[l * line + p];
    }
}

static inline vf64 vf64_add(vf64 a, vf64 b) { return a + b; }
static inline vf64 vf64_sub(vf64 a, vf64 b) { return a - b; }
static inline vf64 vf64_mul(vf64 a, vf64 b) { return a * b; }
static inline vf64 vf64_div(vf64 a, vf64 b) { return a / b; }
#if defined(FP_FAST_FMA)
static inline vf64 vf64_fma(vf64 a, vf64 b, vf64 c) { return fma(a, b, c); }
#else
/* Without an instruction the product is rounded, too. */
static inline vf64 vf64_fma(vf64 a, vf64 b, vf64 c) { return a * b + c; }
#endif
static inline vf64 vf64_fnma(vf64 a, vf64 b, vf64 c) { return vf64_fma(-a, b, c); }
static inline vf64 vf64_neg(vf64 a) { return -a; }
static inline vf64 vf64_abs(vf64 a) { return fabs(a); }
static inline vf64 vf64_sqrt(vf64 a) { return sqrt(a); }
static inline vf64 vf64_min(vf64 a, vf64 b) { return a < b ? a : b; }
static inline vf64 vf64_max(vf64 a, vf64 b) { return a > b ? a : b; }
static inline vf64 vf64_floor(vf64 a) { return floor(a); }
static inline vf64 vf64_trunc(vf64 a) { return trunc(a); }
static inline vf64 vf64_round(vf64 a) { return rint(a); }

static inline mf64 vf64_lt(vf64 a, vf64 b) { return a < b; }
static inline mf64 vf64_le(vf64 a, vf64 b) { return a <= b; }
static inline mf64 vf64_gt(vf64 a, vf64 b) { return a > b; }
static inline mf64 vf64_ge(vf64 a, vf64 b) { return a >= b; }
static inline mf64 vf64_eq(vf64 a, vf64 b) { return a == b; }
static inline mf64 vf64_ne(vf64 a, vf64 b) { return a != b; }
static inline vf64 vf64_select(mf64 m, vf64 a, vf64 b) { return m ? a : b; }

static inline vi64 vf64_bits(vf64 v)
{
    vi64 bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline vf64 vf64_from_bits(vi64 v)
{
    vf64 x;
    memcpy(&x, &v, sizeof x);
    return x;
}
static inline vi64 vf64_to_int(vf64 v) { return v >= -0x1p63 && v < 0x1p63 ? (vi64)v : INT64_MIN; }
static inline vf64 vi64_to_float(vi64 v) { return (vf64)v; }

static inline double vf64_sum(vf64 v) { return v; }
static inline double vf64_reduce_max(vf64 v) { return v; }
static inline double vf64_reduce_min(vf64 v) { return v; }

static inline vi64 vi64_set1(int64_t x) { return x; }
static inline vi64 vi64_iota(void) { return 0; }
static inline vi64 vi64_load(const int64_t *p) { return *p; }
static inline void vi64_store(int64_t *p, vi64 v) { *p = v; }
static inline vi64 vi64_load_n(const int64_t *p, int n) { return n > 0 ? *p : 0; }
static inline void vi64_store_n(int64_t *p, vi64 v, int n)
{
    if (n > 0)
        *p = v;
}
static inline vi64 vi64_add(vi64 a, vi64 b) { return (vi64)((uint64_t)a + (uint64_t)b); }
static inline vi64 vi64_sub(vi64 a, vi64 b) { return (vi64)((uint64_t)a - (uint64_t)b); }
static inline vi64 vi64_mul(vi64 a, vi64 b) { return (vi64)((uint64_t)a * (uint64_t)b); }
static inline vi64 vi64_mul_u32(vi64 a, vi64 b) { return (vi64)((uint64_t)(uint32_t)a * (uint32_t)b); }
static inline vi64 vi64_and(vi64 a, vi64 b) { return a & b; }
static inline vi64 vi64_or(vi64 a, vi64 b) { return a | b; }
static inline vi64 vi64_xor(vi64 a, vi64 b) { return a ^ b; }
static inline vi64 vi64_shl(vi64 v, int n) { return (vi64)((uint64_t)v << n); }
static inline vi64 vi64_shr(vi64 v, int n) { return (vi64)((uint64_t)v >> n); }
static inline mf64 vi64_lt(vi64 a, vi64 b) { return a < b; }
static inline mf64 vi64_eq(vi64 a, vi64 b) { return a == b; }
static inline vi64 vi64_select(mf64 m, vi64 a, vi64 b) { return m ? a : b; }

/* ---- every second lane, and bytes ---- */

typedef unsigned char vb32;
typedef unsigned char vb64;

static inline vf32 vf32_even(vf32 a, vf32 b) { return (void)b, a; }
static inline vf32 vf32_odd(vf32 a, vf32 b) { return (void)a, b; }
static inline vf32 vf32_zip_low(vf32 a, vf32 b) { return (void)b, a; }
static inline vf32 vf32_zip_high(vf32 a, vf32 b) { return (void)a, b; }

static inline vb32 vb32_set1(int x) { return (vb32)x; }
static inline vb32 vb32_load(const unsigned char *p) { return *p; }
static inline void vb32_store(unsigned char *p, vb32 v) { *p = v; }
static inline void vb32_store_n(unsigned char *p, vb32 v, int n)
{
    if (n > 0)
        *p = v;
}
static inline vb32 vb32_add(vb32 a, vb32 b) { return (vb32)(a + b); }
static inline mf32 vb32_eq(vb32 a, vb32 b) { return a == b; }
static inline vb32 vb32_select(mf32 m, vb32 a, vb32 b) { return (vb32)(m ? a : b); }

static inline vf64 vf64_even(vf64 a, vf64 b) { return (void)b, a; }
static inline vf64 vf64_odd(vf64 a, vf64 b) { return (void)a, b; }
static inline vf64 vf64_zip_low(vf64 a, vf64 b) { return (void)b, a; }
static inline vf64 vf64_zip_high(vf64 a, vf64 b) { return (void)a, b; }

static inline vb64 vb64_set1(int x) { return (vb64)x; }
static inline vb64 vb64_load(const unsigned char *p) { return *p; }
static inline void vb64_store(unsigned char *p, vb64 v) { *p = v; }
static inline void vb64_store_n(unsigned char *p, vb64 v, int n)
{
    if (n > 0)
        *p = v;
}
static inline vb64 vb64_add(vb64 a, vb64 b) { return (vb64)(a + b); }
static inline mf64 vb64_eq(vb64 a, vb64 b) { return a == b; }
static inline vb64 vb64_select(mf64 m, vb64 a, vb64 b) { return (vb64)(m ? a : b); }

#endif
