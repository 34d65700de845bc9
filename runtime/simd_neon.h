/* NEON of AArch64: 4 floats or 2 doubles; a mask is a vector whose lanes are all ones or all zeros. */
#ifndef LOSSC_SIMD_NEON_H
#define LOSSC_SIMD_NEON_H

#if !defined(__aarch64__)
#error "LOSSC_ISA_NEON needs a 64-bit ARM"
#endif

#include <arm_neon.h>

#define VF32_LANES 4
#define VF64_LANES 2

typedef float32x4_t vf32;
typedef int32x4_t vi32;
typedef uint32x4_t mf32;
typedef float64x2_t vf64;
typedef int64x2_t vi64;
typedef uint64x2_t mf64;

/* vX_stream stores as usual: there is no intrinsic for the non-temporal pair. */
static inline void lossc_stream_fence(void) {}

static inline vi32 vi32_iota(void)
{
    const int32_t lanes[VF32_LANES] = {0, 1, 2, 3};
    return vld1q_s32(lanes);
}
static inline vi64 vi64_iota(void) { return vcombine_s64(vcreate_s64(0), vcreate_s64(1)); }
static inline vf32 vf32_iota(void) { return vcvtq_f32_s32(vi32_iota()); }
static inline vf64 vf64_iota(void) { return vcvtq_f64_s64(vi64_iota()); }

/* ---- float ---- */

static inline mf32 mf32_and(mf32 a, mf32 b) { return vandq_u32(a, b); }
static inline mf32 mf32_or(mf32 a, mf32 b) { return vorrq_u32(a, b); }
static inline mf32 mf32_not(mf32 a) { return vmvnq_u32(a); }
static inline int mf32_any(mf32 a) { return vmaxvq_u32(a) != 0; }
static inline mf32 vf32_tail(int n) { return vcltq_s32(vi32_iota(), vdupq_n_s32(n)); }

static inline vf32 vf32_zero(void) { return vdupq_n_f32(0); }
static inline vf32 vf32_set1(float x) { return vdupq_n_f32(x); }
static inline vf32 vf32_load(const float *p) { return vld1q_f32(p); }
static inline void vf32_store(float *p, vf32 v) { vst1q_f32(p, v); }
static inline void vf32_stream(float *p, vf32 v) { vst1q_f32(p, v); }
static inline vf32 vf32_load_strided_n(const float *p, ptrdiff_t stride, int n)
{
    float lanes[VF32_LANES] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i * stride];
    return vld1q_f32(lanes);
}
static inline void vf32_store_strided_n(float *p, vf32 v, ptrdiff_t stride, int n)
{
    float lanes[VF32_LANES];
    vst1q_f32(lanes, v);
    for (int i = 0; i < n; i++)
        p[i * stride] = lanes[i];
}
static inline vf32 vf32_load_strided(const float *p, ptrdiff_t stride)
{
    return vf32_load_strided_n(p, stride, VF32_LANES);
}
static inline void vf32_store_strided(float *p, vf32 v, ptrdiff_t stride)
{
    vf32_store_strided_n(p, v, stride, VF32_LANES);
}
static inline void vf32_turn4(const float *from, ptrdiff_t line, float *to, ptrdiff_t width)
{
    const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + line);
    const float32x4_t c = vld1q_f32(from + 2 * line), d = vld1q_f32(from + 3 * line);
    const float64x2_t ab_even = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    const float64x2_t cd_even = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), cd_odd = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)));
    vst1q_f32(to + width, vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)));
    vst1q_f32(to + 2 * width, vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)));
    vst1q_f32(to + 3 * width, vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)));
}
static inline void vf32_load_columns(const float *p, ptrdiff_t stride, vf32 column[4])
{
    const vf32 a = vld1q_f32(p), b = vld1q_f32(p + stride);
    const vf32 c = vld1q_f32(p + 2 * stride), d = vld1q_f32(p + 3 * stride);
    const vf32 ac = vzip1q_f32(a, c), bd = vzip1q_f32(b, d), ac2 = vzip2q_f32(a, c), bd2 = vzip2q_f32(b, d);
    column[0] = vzip1q_f32(ac, bd);
    column[1] = vzip2q_f32(ac, bd);
    column[2] = vzip1q_f32(ac2, bd2);
    column[3] = vzip2q_f32(ac2, bd2);
}
static inline vf32 vf32_load_n(const float *p, int n)
{
    return n == VF32_LANES ? vf32_load(p) : vf32_load_strided_n(p, 1, n);
}
static inline void vf32_store_n(float *p, vf32 v, int n)
{
    if (n == VF32_LANES)
        vf32_store(p, v);
    else
        vf32_store_strided_n(p, v, 1, n);
}
static inline vf32 vf32_gather_n(const float *p, vi32 idx, int n)
{
    int32_t offsets[VF32_LANES];
    float lanes[VF32_LANES] = {0};
    vst1q_s32(offsets, idx);
    for (int i = 0; i < n; i++)
        lanes[i] = p[offsets[i]];
    return vld1q_f32(lanes);
}
static inline vf32 vf32_gather(const float *p, vi32 idx) { return vf32_gather_n(p, idx, VF32_LANES); }

static inline vf32 vf32_add(vf32 a, vf32 b) { return vaddq_f32(a, b); }
static inline vf32 vf32_sub(vf32 a, vf32 b) { return vsubq_f32(a, b); }
static inline vf32 vf32_mul(vf32 a, vf32 b) { return vmulq_f32(a, b); }
static inline vf32 vf32_div(vf32 a, vf32 b) { return vdivq_f32(a, b); }
static inline vf32 vf32_fma(vf32 a, vf32 b, vf32 c) { return vfmaq_f32(c, a, b); }
static inline vf32 vf32_fnma(vf32 a, vf32 b, vf32 c) { return vfmsq_f32(c, a, b); }
static inline vf32 vf32_neg(vf32 a) { return vnegq_f32(a); }
static inline vf32 vf32_abs(vf32 a) { return vabsq_f32(a); }
static inline vf32 vf32_sqrt(vf32 a) { return vsqrtq_f32(a); }
static inline vf32 vf32_min(vf32 a, vf32 b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline vf32 vf32_max(vf32 a, vf32 b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline vf32 vf32_floor(vf32 a) { return vrndmq_f32(a); }
static inline vf32 vf32_trunc(vf32 a) { return vrndq_f32(a); }
static inline vf32 vf32_round(vf32 a) { return vrndnq_f32(a); }

static inline mf32 vf32_lt(vf32 a, vf32 b) { return vcltq_f32(a, b); }
static inline mf32 vf32_le(vf32 a, vf32 b) { return vcleq_f32(a, b); }
static inline mf32 vf32_gt(vf32 a, vf32 b) { return vcgtq_f32(a, b); }
static inline mf32 vf32_ge(vf32 a, vf32 b) { return vcgeq_f32(a, b); }
static inline mf32 vf32_eq(vf32 a, vf32 b) { return vceqq_f32(a, b); }
static inline mf32 vf32_ne(vf32 a, vf32 b) { return mf32_not(vceqq_f32(a, b)); }
static inline vf32 vf32_select(mf32 m, vf32 a, vf32 b) { return vbslq_f32(m, a, b); }

static inline vi32 vf32_bits(vf32 v) { return vreinterpretq_s32_f32(v); }
static inline vf32 vf32_from_bits(vi32 v) { return vreinterpretq_f32_s32(v); }
static inline vi32 vf32_to_int(vf32 v)
{
    /* the instruction saturates and turns NaN into 0 */
    const mf32 fits = vcltq_f32(v, vdupq_n_f32(0x1p31f));
    return vbslq_s32(fits, vcvtq_s32_f32(v), vdupq_n_s32(INT32_MIN));
}
static inline vf32 vi32_to_float(vi32 v) { return vcvtq_f32_s32(v); }

static inline float vf32_sum(vf32 v)
{
    const float32x2_t h2 = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(h2, 0) + vget_lane_f32(h2, 1);
}
static inline float vf32_reduce_max(vf32 v)
{
    const vf32 h2 = vf32_max(v, vextq_f32(v, v, 2));
    return vgetq_lane_f32(vf32_max(h2, vextq_f32(h2, h2, 1)), 0);
}
static inline float vf32_reduce_min(vf32 v)
{
    const vf32 h2 = vf32_min(v, vextq_f32(v, v, 2));
    return vgetq_lane_f32(vf32_min(h2, vextq_f32(h2, h2, 1)), 0);
}

static inline vi32 vi32_set1(int32_t x) { return vdupq_n_s32(x); }
static inline vi32 vi32_load(const int32_t *p) { return vld1q_s32(p); }
static inline void vi32_store(int32_t *p, vi32 v) { vst1q_s32(p, v); }
static inline vi32 vi32_load_n(const int32_t *p, int n)
{
    int32_t lanes[VF32_LANES] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i];
    return vld1q_s32(lanes);
}
static inline void vi32_store_n(int32_t *p, vi32 v, int n)
{
    int32_t lanes[VF32_LANES];
    vst1q_s32(lanes, v);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}
static inline vi32 vi32_load_u16(const uint16_t *p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))); }
static inline void vi32_store_u16(uint16_t *p, vi32 v) { vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(v))); }
static inline vi32 vi32_add(vi32 a, vi32 b) { return vaddq_s32(a, b); }
static inline vi32 vi32_sub(vi32 a, vi32 b) { return vsubq_s32(a, b); }
static inline vi32 vi32_mul(vi32 a, vi32 b) { return vmulq_s32(a, b); }
static inline vi32 vi32_and(vi32 a, vi32 b) { return vandq_s32(a, b); }
static inline vi32 vi32_or(vi32 a, vi32 b) { return vorrq_s32(a, b); }
static inline vi32 vi32_xor(vi32 a, vi32 b) { return veorq_s32(a, b); }
static inline vi32 vi32_shl(vi32 v, int n) { return vshlq_s32(v, vdupq_n_s32(n)); }
static inline vi32 vi32_shr(vi32 v, int n)
{
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vdupq_n_s32(-n)));
}
static inline mf32 vi32_lt(vi32 a, vi32 b) { return vcltq_s32(a, b); }
static inline mf32 vi32_eq(vi32 a, vi32 b) { return vceqq_s32(a, b); }
static inline vi32 vi32_select(mf32 m, vi32 a, vi32 b) { return vbslq_s32(m, a, b); }

/* ---- double ---- */

static inline mf64 mf64_and(mf64 a, mf64 b) { return vandq_u64(a, b); }
static inline mf64 mf64_or(mf64 a, mf64 b) { return vorrq_u64(a, b); }
static inline mf64 mf64_not(mf64 a) { return veorq_u64(a, vdupq_n_u64(UINT64_MAX)); }
static inline int mf64_any(mf64 a) { return (vgetq_lane_u64(a, 0) | vgetq_lane_u64(a, 1)) != 0; }
static inline mf64 vf64_tail(int n) { return vcltq_s64(vi64_iota(), vdupq_n_s64(n)); }

static inline vf64 vf64_zero(void) { return vdupq_n_f64(0); }
static inline vf64 vf64_set1(double x) { return vdupq_n_f64(x); }
static inline vf64 vf64_load(const double *p) { return vld1q_f64(p); }
static inline void vf64_store(double *p, vf64 v) { vst1q_f64(p, v); }
static inline void vf64_stream(double *p, vf64 v) { vst1q_f64(p, v); }
static inline vf64 vf64_load_strided_n(const double *p, ptrdiff_t stride, int n)
{
    double lanes[VF64_LANES] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i * stride];
    return vld1q_f64(lanes);
}
static inline void vf64_store_strided_n(double *p, vf64 v, ptrdiff_t stride, int n)
{
    double lanes[VF64_LANES];
    vst1q_f64(lanes, v);
    for (int i = 0; i < n; i++)
        p[i * stride] = lanes[i];
}
static inline vf64 vf64_load_strided(const double *p, ptrdiff_t stride)
{
    return vf64_load_strided_n(p, stride, VF64_LANES);
}
static inline void vf64_store_strided(double *p, vf64 v, ptrdiff_t stride)
{
    vf64_store_strided_n(p, v, stride, VF64_LANES);
}
static inline void vf64_turn4(const double *from, ptrdiff_t line, double *to, ptrdiff_t width)
{
    for (int l = 0; l < 4; l += 2) {
        for (int p = 0; p < 4; p += 2) {
            const float64x2_t a = vld1q_f64(from + l * line + p), b = vld1q_f64(from + (l + 1) * line + p);
            vst1q_f64(to + p * width + l, vtrn1q_f64(a, b));
            vst1q_f64(to + (p + 1) * width + l, vtrn2q_f64(a, b));
        }
    }
}
static inline void vf64_load_columns(const double *p, ptrdiff_t stride, vf64 column[4])
{
    for (int k = 0; k < 4; k += 2) {
        const vf64 a = vld1q_f64(p + k), b = vld1q_f64(p + k + stride);
        column[k] = vzip1q_f64(a, b);
        column[k + 1] = vzip2q_f64(a, b);
    }
}
static inline vf64 vf64_load_n(const double *p, int n)
{
    return n == VF64_LANES ? vf64_load(p) : vf64_load_strided_n(p, 1, n);
}
static inline void vf64_store_n(double *p, vf64 v, int n)
{
    if (n == VF64_LANES)
        vf64_store(p, v);
    else
        vf64_store_strided_n(p, v, 1, n);
}
static inline vf64 vf64_gather_n(const double *p, vi64 idx, int n)
{
    int64_t offsets[VF64_LANES];
    double lanes[VF64_LANES] = {0};
    vst1q_s64(offsets, idx);
    for (int i = 0; i < n; i++)
        lanes[i] = p[offsets[i]];
    return vld1q_f64(lanes);
}
static inline vf64 vf64_gather(const double *p, vi64 idx) { return vf64_gather_n(p, idx, VF64_LANES); }

static inline vf64 vf64_add(vf64 a, vf64 b) { return vaddq_f64(a, b); }
static inline vf64 vf64_sub(vf64 a, vf64 b) { return vsubq_f64(a, b); }
static inline vf64 vf64_mul(vf64 a, vf64 b) { return vmulq_f64(a, b); }
static inline vf64 vf64_div(vf64 a, vf64 b) { return vdivq_f64(a, b); }
static inline vf64 vf64_fma(vf64 a, vf64 b, vf64 c) { return vfmaq_f64(c, a, b); }
static inline vf64 vf64_fnma(vf64 a, vf64 b, vf64 c) { return vfmsq_f64(c, a, b); }
static inline vf64 vf64_neg(vf64 a) { return vnegq_f64(a); }
static inline vf64 vf64_abs(vf64 a) { return vabsq_f64(a); }
static inline vf64 vf64_sqrt(vf64 a) { return vsqrtq_f64(a); }
static inline vf64 vf64_min(vf64 a, vf64 b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
static inline vf64 vf64_max(vf64 a, vf64 b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
static inline vf64 vf64_floor(vf64 a) { return vrndmq_f64(a); }
static inline vf64 vf64_trunc(vf64 a) { return vrndq_f64(a); }
static inline vf64 vf64_round(vf64 a) { return vrndnq_f64(a); }

static inline mf64 vf64_lt(vf64 a, vf64 b) { return vcltq_f64(a, b); }
static inline mf64 vf64_le(vf64 a, vf64 b) { return vcleq_f64(a, b); }
static inline mf64 vf64_gt(vf64 a, vf64 b) { return vcgtq_f64(a, b); }
static inline mf64 vf64_ge(vf64 a, vf64 b) { return vcgeq_f64(a, b); }
static inline mf64 vf64_eq(vf64 a, vf64 b) { return vceqq_f64(a, b); }
static inline mf64 vf64_ne(vf64 a, vf64 b) { return mf64_not(vceqq_f64(a, b)); }
static inline vf64 vf64_select(mf64 m, vf64 a, vf64 b) { return vbslq_f64(m, a, b); }

static inline vi64 vf64_bits(vf64 v) { return vreinterpretq_s64_f64(v); }
static inline vf64 vf64_from_bits(vi64 v) { return vreinterpretq_f64_s64(v); }
static inline vi64 vf64_to_int(vf64 v)
{
    /* the instruction saturates and turns NaN into 0 */
    const mf64 fits = vcltq_f64(v, vdupq_n_f64(0x1p63));
    return vbslq_s64(fits, vcvtq_s64_f64(v), vdupq_n_s64(INT64_MIN));
}
static inline vf64 vi64_to_float(vi64 v) { return vcvtq_f64_s64(v); }

static inline double vf64_sum(vf64 v) { return vgetq_lane_f64(v, 0) + vgetq_lane_f64(v, 1); }
static inline double vf64_reduce_max(vf64 v) { return vgetq_lane_f64(vf64_max(v, vextq_f64(v, v, 1)), 0); }
static inline double vf64_reduce_min(vf64 v) { return vgetq_lane_f64(vf64_min(v, vextq_f64(v, v, 1)), 0); }

static inline vi64 vi64_set1(int64_t x) { return vdupq_n_s64(x); }
static inline vi64 vi64_load(const int64_t *p) { return vld1q_s64(p); }
static inline void vi64_store(int64_t *p, vi64 v) { vst1q_s64(p, v); }
static inline vi64 vi64_load_n(const int64_t *p, int n)
{
    int64_t lanes[VF64_LANES] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i];
    return vld1q_s64(lanes);
}
static inline void vi64_store_n(int64_t *p, vi64 v, int n)
{
    int64_t lanes[VF64_LANES];
    vst1q_s64(lanes, v);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}
static inline vi64 vi64_add(vi64 a, vi64 b) { return vaddq_s64(a, b); }
static inline vi64 vi64_sub(vi64 a, vi64 b) { return vsubq_s64(a, b); }
static inline vi64 vi64_mul(vi64 a, vi64 b)
{
    uint64_t x[VF64_LANES], y[VF64_LANES];
    vst1q_u64(x, vreinterpretq_u64_s64(a));
    vst1q_u64(y, vreinterpretq_u64_s64(b));
    for (int i = 0; i < VF64_LANES; i++)
        x[i] *= y[i];
    return vreinterpretq_s64_u64(vld1q_u64(x));
}
static inline vi64 vi64_mul_u32(vi64 a, vi64 b)
{
    const uint32x2_t low_a = vmovn_u64(vreinterpretq_u64_s64(a)), low_b = vmovn_u64(vreinterpretq_u64_s64(b));
    return vreinterpretq_s64_u64(vmull_u32(low_a, low_b));
}
static inline vi64 vi64_and(vi64 a, vi64 b) { return vandq_s64(a, b); }
static inline vi64 vi64_or(vi64 a, vi64 b) { return vorrq_s64(a, b); }
static inline vi64 vi64_xor(vi64 a, vi64 b) { return veorq_s64(a, b); }
static inline vi64 vi64_shl(vi64 v, int n) { return vshlq_s64(v, vdupq_n_s64(n)); }
static inline vi64 vi64_shr(vi64 v, int n)
{
    return vreinterpretq_s64_u64(vshlq_u64(vreinterpretq_u64_s64(v), vdupq_n_s64(-n)));
}
static inline mf64 vi64_lt(vi64 a, vi64 b) { return vcltq_s64(a, b); }
static inline mf64 vi64_eq(vi64 a, vi64 b) { return vceqq_s64(a, b); }
static inline vi64 vi64_select(mf64 m, vi64 a, vi64 b) { return vbslq_s64(m, a, b); }

/* ---- every second lane, and bytes, which are widened to lanes ---- */

static inline vf32 vf32_even(vf32 a, vf32 b) { return vuzp1q_f32(a, b); }
static inline vf32 vf32_odd(vf32 a, vf32 b) { return vuzp2q_f32(a, b); }
static inline vf32 vf32_zip_low(vf32 a, vf32 b) { return vzip1q_f32(a, b); }
static inline vf32 vf32_zip_high(vf32 a, vf32 b) { return vzip2q_f32(a, b); }
static inline vf64 vf64_even(vf64 a, vf64 b) { return vuzp1q_f64(a, b); }
static inline vf64 vf64_odd(vf64 a, vf64 b) { return vuzp2q_f64(a, b); }
static inline vf64 vf64_zip_low(vf64 a, vf64 b) { return vzip1q_f64(a, b); }
static inline vf64 vf64_zip_high(vf64 a, vf64 b) { return vzip2q_f64(a, b); }

typedef uint32x4_t vb32;
typedef uint64x2_t vb64;

static inline vb32 vb32_set1(int x) { return vdupq_n_u32((uint32_t)x); }
static inline vb32 vb32_load(const unsigned char *p)
{
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
}
static inline void vb32_store(unsigned char *p, vb32 v)
{
    const uint16x4_t words = vmovn_u32(v);
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);
    memcpy(p, &bytes, sizeof bytes);
}
LOSSC_STORE_BYTES_N(vb32, VF32_LANES)
static inline vb32 vb32_add(vb32 a, vb32 b) { return vaddq_u32(a, b); }
static inline mf32 vb32_eq(vb32 a, vb32 b) { return vceqq_u32(a, b); }
static inline vb32 vb32_select(mf32 m, vb32 a, vb32 b) { return vbslq_u32(m, a, b); }

static inline vb64 vb64_set1(int x) { return vdupq_n_u64((uint64_t)x); }
static inline vb64 vb64_load(const unsigned char *p) { return vcombine_u64(vcreate_u64(p[0]), vcreate_u64(p[1])); }
static inline void vb64_store_n(unsigned char *p, vb64 v, int n)
{
    const unsigned char lanes[VF64_LANES] = {(unsigned char)vgetq_lane_u64(v, 0), (unsigned char)vgetq_lane_u64(v, 1)};
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}
static inline void vb64_store(unsigned char *p, vb64 v) { vb64_store_n(p, v, VF64_LANES); }
static inline vb64 vb64_add(vb64 a, vb64 b) { return vaddq_u64(a, b); }
static inline mf64 vb64_eq(vb64 a, vb64 b) { return vceqq_u64(a, b); }
static inline vb64 vb64_select(mf64 m, vb64 a, vb64 b) { return vbslq_u64(m, a, b); }

#endif
