/* AVX2 and FMA: 8 floats or 4 doubles; a mask is a vector whose lanes are all ones or all zeros. */
#ifndef LOSSC_SIMD_AVX2_H
#define LOSSC_SIMD_AVX2_H

#if !defined(__AVX2__) || !defined(__FMA__)
#error "LOSSC_ISA_AVX2 needs -mavx2 -mfma"
#endif

#include <immintrin.h>

#define VF32_LANES 8
#define VF64_LANES 4

typedef __m256 vf32;
typedef __m256i vi32;
typedef __m256 mf32;
typedef __m256d vf64;
typedef __m256i vi64;
typedef __m256d mf64;

static inline void lossc_stream_fence(void) { _mm_sfence(); }
static inline vi32 vi32_iota(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
static inline vi64 vi64_iota(void) { return _mm256_setr_epi64x(0, 1, 2, 3); }

/* ---- float ---- */

static inline mf32 mf32_and(mf32 a, mf32 b) { return _mm256_and_ps(a, b); }
static inline mf32 mf32_or(mf32 a, mf32 b) { return _mm256_or_ps(a, b); }
static inline mf32 mf32_not(mf32 a) { return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))); }
static inline int mf32_any(mf32 a) { return _mm256_movemask_ps(a) != 0; }
static inline __m256i vi32_tail(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), vi32_iota()); }
static inline mf32 vf32_tail(int n) { return _mm256_castsi256_ps(vi32_tail(n)); }

static inline vf32 vf32_zero(void) { return _mm256_setzero_ps(); }
static inline vf32 vf32_set1(float x) { return _mm256_set1_ps(x); }
static inline vf32 vf32_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf32_store(float *p, vf32 v) { _mm256_storeu_ps(p, v); }
/* Masked only where it must be: on AMD's processors masked loads are not prefetched for, and masked stores are microcode
 * (on Zen 4 sweeps over memory took twice the time, and a store 5 ns). */
static inline vf32 vf32_load_n(const float *p, int n)
{
    return n == VF32_LANES ? vf32_load(p) : _mm256_maskload_ps(p, vi32_tail(n));
}
static inline void vf32_store_n(float *p, vf32 v, int n)
{
    __m128 rest = _mm256_castps256_ps128(v);
    if (n == VF32_LANES) {
        _mm256_storeu_ps(p, v);
        return;
    }
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        rest = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(void *)p, rest);
        rest = _mm_movehl_ps(rest, rest);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss(p, rest);
}
static inline void vf32_stream(float *p, vf32 v) { _mm256_stream_ps(p, v); }
static inline vf32 vf32_iota(void) { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }

static inline vf32 vf32_gather(const float *p, vi32 idx) { return _mm256_i32gather_ps(p, idx, 4); }
static inline vf32 vf32_gather_n(const float *p, vi32 idx, int n)
{
    return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, idx, vf32_tail(n), 4);
}
static inline vf32 vf32_load_strided(const float *p, ptrdiff_t stride)
{
    return _mm256_setr_ps(p[0], p[stride], p[2 * stride], p[3 * stride],
                          p[4 * stride], p[5 * stride], p[6 * stride], p[7 * stride]);
}
/* Rows l and 4 + l in one vector, a half each: the transpose of 4 x 4 blocks does the rest. */
static inline vf32 vf32_two_rows(const float *p, ptrdiff_t stride)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
}
static inline void vf32_load_columns(const float *p, ptrdiff_t stride, vf32 column[4])
{
    const vf32 a = vf32_two_rows(p, stride), b = vf32_two_rows(p + stride, stride);
    const vf32 c = vf32_two_rows(p + 2 * stride, stride), d = vf32_two_rows(p + 3 * stride, stride);
    const vf32 ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d);
    const vf32 ab2 = _mm256_unpackhi_ps(a, b), cd2 = _mm256_unpackhi_ps(c, d);
    column[0] = _mm256_shuffle_ps(ab, cd, 0x44);
    column[1] = _mm256_shuffle_ps(ab, cd, 0xEE);
    column[2] = _mm256_shuffle_ps(ab2, cd2, 0x44);
    column[3] = _mm256_shuffle_ps(ab2, cd2, 0xEE);
}
static inline void vf32_store_strided_n(float *p, vf32 v, ptrdiff_t stride, int n)
{
    float lanes[VF32_LANES];
    _mm256_storeu_ps(lanes, v);
    for (int i = 0; i < n; i++)
        p[i * stride] = lanes[i];
}
static inline vf32 vf32_load_strided_n(const float *p, ptrdiff_t stride, int n)
{
    float lanes[VF32_LANES] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i * stride];
    return _mm256_loadu_ps(lanes);
}
static inline void vf32_store_strided(float *p, vf32 v, ptrdiff_t stride)
{
    vf32_store_strided_n(p, v, stride, VF32_LANES);
}
static inline void vf32_turn4(const float *from, ptrdiff_t line, float *to, ptrdiff_t width)
{
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + line);
    __m128 c = _mm_loadu_ps(from + 2 * line), d = _mm_loadu_ps(from + 3 * line);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + width, b);
    _mm_storeu_ps(to + 2 * width, c);
    _mm_storeu_ps(to + 3 * width, d);
}

static inline vf32 vf32_add(vf32 a, vf32 b) { return _mm256_add_ps(a, b); }
static inline vf32 vf32_sub(vf32 a, vf32 b) { return _mm256_sub_ps(a, b); }
static inline vf32 vf32_mul(vf32 a, vf32 b) { return _mm256_mul_ps(a, b); }
static inline vf32 vf32_div(vf32 a, vf32 b) { return _mm256_div_ps(a, b); }
static inline vf32 vf32_fma(vf32 a, vf32 b, vf32 c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf32 vf32_fnma(vf32 a, vf32 b, vf32 c) { return _mm256_fnmadd_ps(a, b, c); }
static inline vf32 vf32_neg(vf32 a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
static inline vf32 vf32_abs(vf32 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline vf32 vf32_sqrt(vf32 a) { return _mm256_sqrt_ps(a); }
static inline vf32 vf32_min(vf32 a, vf32 b) { return _mm256_min_ps(a, b); }
static inline vf32 vf32_max(vf32 a, vf32 b) { return _mm256_max_ps(a, b); }
static inline vf32 vf32_floor(vf32 a) { return _mm256_floor_ps(a); }
static inline vf32 vf32_trunc(vf32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
static inline vf32 vf32_round(vf32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

static inline mf32 vf32_lt(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline mf32 vf32_le(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
static inline mf32 vf32_gt(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline mf32 vf32_ge(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
static inline mf32 vf32_eq(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline mf32 vf32_ne(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
static inline vf32 vf32_select(mf32 m, vf32 a, vf32 b) { return _mm256_blendv_ps(b, a, m); }

static inline vi32 vf32_bits(vf32 v) { return _mm256_castps_si256(v); }
static inline vf32 vf32_from_bits(vi32 v) { return _mm256_castsi256_ps(v); }
static inline vi32 vf32_to_int(vf32 v) { return _mm256_cvttps_epi32(v); }
static inline vf32 vi32_to_float(vi32 v) { return _mm256_cvtepi32_ps(v); }

/* The three reductions share their tree; OP is the instruction's name. */
#define LOSSC_REDUCE_PS(OP, v)                                                                 \
    const __m128 h4 = _mm_##OP##_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); \
    const __m128 h2 = _mm_##OP##_ps(h4, _mm_movehl_ps(h4, h4));                              \
    return _mm_cvtss_f32(_mm_##OP##_ss(h2, _mm_movehdup_ps(h2)))
static inline float vf32_sum(vf32 v) { LOSSC_REDUCE_PS(add, v); }
static inline float vf32_reduce_max(vf32 v) { LOSSC_REDUCE_PS(max, v); }
static inline float vf32_reduce_min(vf32 v) { LOSSC_REDUCE_PS(min, v); }
#undef LOSSC_REDUCE_PS

static inline vi32 vi32_set1(int32_t x) { return _mm256_set1_epi32(x); }
static inline vi32 vi32_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline void vi32_store(int32_t *p, vi32 v) { _mm256_storeu_si256((__m256i *)(void *)p, v); }
static inline vi32 vi32_load_n(const int32_t *p, int n) { return _mm256_maskload_epi32(p, vi32_tail(n)); }
static inline void vi32_store_n(int32_t *p, vi32 v, int n) { _mm256_maskstore_epi32(p, vi32_tail(n), v); }
static inline vi32 vi32_load_u16(const uint16_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline void vi32_store_u16(uint16_t *p, vi32 v)
{
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(halves));
}
static inline vi32 vi32_add(vi32 a, vi32 b) { return _mm256_add_epi32(a, b); }
static inline vi32 vi32_sub(vi32 a, vi32 b) { return _mm256_sub_epi32(a, b); }
static inline vi32 vi32_mul(vi32 a, vi32 b) { return _mm256_mullo_epi32(a, b); }
static inline vi32 vi32_and(vi32 a, vi32 b) { return _mm256_and_si256(a, b); }
static inline vi32 vi32_or(vi32 a, vi32 b) { return _mm256_or_si256(a, b); }
static inline vi32 vi32_xor(vi32 a, vi32 b) { return _mm256_xor_si256(a, b); }
static inline vi32 vi32_shl(vi32 v, int n) { return _mm256_sll_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi32 vi32_shr(vi32 v, int n) { return _mm256_srl_epi32(v, _mm_cvtsi32_si128(n)); }
static inline mf32 vi32_lt(vi32 a, vi32 b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)); }
static inline mf32 vi32_eq(vi32 a, vi32 b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
static inline vi32 vi32_select(mf32 m, vi32 a, vi32 b) { return _mm256_blendv_epi8(b, a, _mm256_castps_si256(m)); }

/* ---- double ---- */

static inline mf64 mf64_and(mf64 a, mf64 b) { return _mm256_and_pd(a, b); }
static inline mf64 mf64_or(mf64 a, mf64 b) { return _mm256_or_pd(a, b); }
static inline mf64 mf64_not(mf64 a) { return _mm256_xor_pd(a, _mm256_castsi256_pd(_mm256_set1_epi64x(-1))); }
static inline int mf64_any(mf64 a) { return _mm256_movemask_pd(a) != 0; }
static inline __m256i vi64_tail(int n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), vi64_iota()); }
static inline mf64 vf64_tail(int n) { return _mm256_castsi256_pd(vi64_tail(n)); }

static inline vf64 vf64_zero(void) { return _mm256_setzero_pd(); }
static inline vf64 vf64_set1(double x) { return _mm256_set1_pd(x); }
static inline vf64 vf64_load(const double *p) { return _mm256_loadu_pd(p); }
static inline void vf64_store(double *p, vf64 v) { _mm256_storeu_pd(p, v); }
static inline vf64 vf64_load_n(const double *p, int n)
{
    return n == VF64_LANES ? vf64_load(p) : _mm256_maskload_pd(p, vi64_tail(n));
}
static inline void vf64_store_n(double *p, vf64 v, int n)
{
    __m128d rest = _mm256_castpd256_pd128(v);
    if (n == VF64_LANES) {
        _mm256_storeu_pd(p, v);
        return;
    }
    if (n & 2) {
        _mm_storeu_pd(p, rest);
        rest = _mm256_extractf128_pd(v, 1);
        p += 2;
    }
    if (n & 1)
        _mm_store_sd(p, rest);
}
static inline void vf64_stream(double *p, vf64 v) { _mm256_stream_pd(p, v); }
static inline vf64 vf64_iota(void) { return _mm256_setr_pd(0, 1, 2, 3); }

static inline vf64 vf64_gather(const double *p, vi64 idx) { return _mm256_i64gather_pd(p, idx, 8); }
static inline vf64 vf64_gather_n(const double *p, vi64 idx, int n)
{
    return _mm256_mask_i64gather_pd(_mm256_setzero_pd(), p, idx, vf64_tail(n), 8);
}
static inline vf64 vf64_load_strided(const double *p, ptrdiff_t stride)
{
    return _mm256_setr_pd(p[0], p[stride], p[2 * stride], p[3 * stride]);
}
static inline vf64 vf64_two_rows(const double *p, ptrdiff_t stride)
{
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(p + 2 * stride), 1);
}
static inline void vf64_load_columns(const double *p, ptrdiff_t stride, vf64 column[4])
{
    for (int k = 0; k < 4; k += 2) {
        const vf64 a = vf64_two_rows(p + k, stride), b = vf64_two_rows(p + k + stride, stride);
        column[k] = _mm256_unpacklo_pd(a, b);
        column[k + 1] = _mm256_unpackhi_pd(a, b);
    }
}
static inline void vf64_store_strided_n(double *p, vf64 v, ptrdiff_t stride, int n)
{
    double lanes[VF64_LANES];
    _mm256_storeu_pd(lanes, v);
    for (int i = 0; i < n; i++)
        p[i * stride] = lanes[i];
}
static inline vf64 vf64_load_strided_n(const double *p, ptrdiff_t stride, int n)
{
    double lanes[VF64_LANES] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i * stride];
    return _mm256_loadu_pd(lanes);
}
static inline void vf64_store_strided(double *p, vf64 v, ptrdiff_t stride)
{
    vf64_store_strided_n(p, v, stride, VF64_LANES);
}
static inline void vf64_turn4(const double *from, ptrdiff_t line, double *to, ptrdiff_t width)
{
    const __m256d a = _mm256_loadu_pd(from), b = _mm256_loadu_pd(from + line);
    const __m256d c = _mm256_loadu_pd(from + 2 * line), d = _mm256_loadu_pd(from + 3 * line);
    const __m256d ab_even = _mm256_unpacklo_pd(a, b), ab_odd = _mm256_unpackhi_pd(a, b);
    const __m256d cd_even = _mm256_unpacklo_pd(c, d), cd_odd = _mm256_unpackhi_pd(c, d);
    _mm256_storeu_pd(to, _mm256_permute2f128_pd(ab_even, cd_even, 0x20));
    _mm256_storeu_pd(to + width, _mm256_permute2f128_pd(ab_odd, cd_odd, 0x20));
    _mm256_storeu_pd(to + 2 * width, _mm256_permute2f128_pd(ab_even, cd_even, 0x31));
    _mm256_storeu_pd(to + 3 * width, _mm256_permute2f128_pd(ab_odd, cd_odd, 0x31));
}

static inline vf64 vf64_add(vf64 a, vf64 b) { return _mm256_add_pd(a, b); }
static inline vf64 vf64_sub(vf64 a, vf64 b) { return _mm256_sub_pd(a, b); }
static inline vf64 vf64_mul(vf64 a, vf64 b) { return _mm256_mul_pd(a, b); }
static inline vf64 vf64_div(vf64 a, vf64 b) { return _mm256_div_pd(a, b); }
static inline vf64 vf64_fma(vf64 a, vf64 b, vf64 c) { return _mm256_fmadd_pd(a, b, c); }
static inline vf64 vf64_fnma(vf64 a, vf64 b, vf64 c) { return _mm256_fnmadd_pd(a, b, c); }
static inline vf64 vf64_neg(vf64 a) { return _mm256_xor_pd(a, _mm256_set1_pd(-0.0)); }
static inline vf64 vf64_abs(vf64 a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
static inline vf64 vf64_sqrt(vf64 a) { return _mm256_sqrt_pd(a); }
static inline vf64 vf64_min(vf64 a, vf64 b) { return _mm256_min_pd(a, b); }
static inline vf64 vf64_max(vf64 a, vf64 b) { return _mm256_max_pd(a, b); }
static inline vf64 vf64_floor(vf64 a) { return _mm256_floor_pd(a); }
static inline vf64 vf64_trunc(vf64 a) { return _mm256_round_pd(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
static inline vf64 vf64_round(vf64 a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

static inline mf64 vf64_lt(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
static inline mf64 vf64_le(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
static inline mf64 vf64_gt(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, _CMP_GT_OQ); }
static inline mf64 vf64_ge(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, _CMP_GE_OQ); }
static inline mf64 vf64_eq(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
static inline mf64 vf64_ne(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, _CMP_NEQ_UQ); }
static inline vf64 vf64_select(mf64 m, vf64 a, vf64 b) { return _mm256_blendv_pd(b, a, m); }

static inline vi64 vf64_bits(vf64 v) { return _mm256_castpd_si256(v); }
static inline vf64 vf64_from_bits(vi64 v) { return _mm256_castsi256_pd(v); }
/* AVX2 has no conversion between double and 64-bit integers: lane by lane. */
static inline vi64 vf64_to_int(vf64 v)
{
    const __m128d low = _mm256_castpd256_pd128(v), high = _mm256_extractf128_pd(v, 1);
    return _mm256_setr_epi64x(_mm_cvttsd_si64(low), _mm_cvttsd_si64(_mm_unpackhi_pd(low, low)),
                              _mm_cvttsd_si64(high), _mm_cvttsd_si64(_mm_unpackhi_pd(high, high)));
}
static inline vf64 vi64_to_float(vi64 v)
{
    int64_t lanes[VF64_LANES];
    _mm256_storeu_si256((__m256i *)(void *)lanes, v);
    return _mm256_setr_pd((double)lanes[0], (double)lanes[1], (double)lanes[2], (double)lanes[3]);
}

#define LOSSC_REDUCE_PD(OP, v)                                                                  \
    const __m128d h2 = _mm_##OP##_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1)); \
    return _mm_cvtsd_f64(_mm_##OP##_sd(h2, _mm_unpackhi_pd(h2, h2)))
static inline double vf64_sum(vf64 v) { LOSSC_REDUCE_PD(add, v); }
static inline double vf64_reduce_max(vf64 v) { LOSSC_REDUCE_PD(max, v); }
static inline double vf64_reduce_min(vf64 v) { LOSSC_REDUCE_PD(min, v); }
#undef LOSSC_REDUCE_PD

static inline vi64 vi64_set1(int64_t x) { return _mm256_set1_epi64x(x); }
static inline vi64 vi64_load(const int64_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline void vi64_store(int64_t *p, vi64 v) { _mm256_storeu_si256((__m256i *)(void *)p, v); }
static inline vi64 vi64_load_n(const int64_t *p, int n)
{
    return _mm256_maskload_epi64((const long long *)p, vi64_tail(n));
}
static inline void vi64_store_n(int64_t *p, vi64 v, int n) { _mm256_maskstore_epi64((long long *)p, vi64_tail(n), v); }
static inline vi64 vi64_add(vi64 a, vi64 b) { return _mm256_add_epi64(a, b); }
static inline vi64 vi64_sub(vi64 a, vi64 b) { return _mm256_sub_epi64(a, b); }
static inline vi64 vi64_mul(vi64 a, vi64 b)
{
    /* a * b mod 2^64 from 32-bit halves: low * low + 2^32 (low * high + high * low) */
    const __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(a, _mm256_srli_epi64(b, 32)),
                                           _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b));
    return _mm256_add_epi64(_mm256_mul_epu32(a, b), _mm256_slli_epi64(cross, 32));
}
static inline vi64 vi64_mul_u32(vi64 a, vi64 b) { return _mm256_mul_epu32(a, b); }
static inline vi64 vi64_and(vi64 a, vi64 b) { return _mm256_and_si256(a, b); }
static inline vi64 vi64_or(vi64 a, vi64 b) { return _mm256_or_si256(a, b); }
static inline vi64 vi64_xor(vi64 a, vi64 b) { return _mm256_xor_si256(a, b); }
static inline vi64 vi64_shl(vi64 v, int n) { return _mm256_sll_epi64(v, _mm_cvtsi32_si128(n)); }
static inline vi64 vi64_shr(vi64 v, int n) { return _mm256_srl_epi64(v, _mm_cvtsi32_si128(n)); }
static inline mf64 vi64_lt(vi64 a, vi64 b) { return _mm256_castsi256_pd(_mm256_cmpgt_epi64(b, a)); }
static inline mf64 vi64_eq(vi64 a, vi64 b) { return _mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b)); }
static inline vi64 vi64_select(mf64 m, vi64 a, vi64 b) { return _mm256_blendv_epi8(b, a, _mm256_castpd_si256(m)); }

/* ---- every second lane, and bytes, which are widened to lanes ---- */

/* The middle quarters change places: two vectors' halves, shuffled within 128 bits, come together. */
static inline __m256d lossc_swap_middle(__m256d v) { return _mm256_permute4x64_pd(v, _MM_SHUFFLE(3, 1, 2, 0)); }
static inline vf32 vf32_even(vf32 a, vf32 b)
{
    return _mm256_castpd_ps(lossc_swap_middle(_mm256_castps_pd(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)))));
}
static inline vf32 vf32_odd(vf32 a, vf32 b)
{
    return _mm256_castpd_ps(lossc_swap_middle(_mm256_castps_pd(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)))));
}
static inline vf32 vf32_zip_low(vf32 a, vf32 b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
static inline vf32 vf32_zip_high(vf32 a, vf32 b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}
static inline vf64 vf64_even(vf64 a, vf64 b) { return lossc_swap_middle(_mm256_unpacklo_pd(a, b)); }
static inline vf64 vf64_odd(vf64 a, vf64 b) { return lossc_swap_middle(_mm256_unpackhi_pd(a, b)); }
static inline vf64 vf64_zip_low(vf64 a, vf64 b)
{
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x20);
}
static inline vf64 vf64_zip_high(vf64 a, vf64 b)
{
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x31);
}

typedef __m256i vb32;
typedef __m256i vb64;

static inline vb32 vb32_set1(int x) { return _mm256_set1_epi32(x); }
static inline vb32 vb32_load(const unsigned char *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
static inline void vb32_store(unsigned char *p, vb32 v)
{
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packus_epi16(words, words));
}
LOSSC_STORE_BYTES_N(vb32, VF32_LANES)
static inline vb32 vb32_add(vb32 a, vb32 b) { return _mm256_add_epi32(a, b); }
static inline mf32 vb32_eq(vb32 a, vb32 b) { return vi32_eq(a, b); }
static inline vb32 vb32_select(mf32 m, vb32 a, vb32 b) { return vi32_select(m, a, b); }

static inline vb64 vb64_set1(int x) { return _mm256_set1_epi64x(x); }
static inline vb64 vb64_load(const unsigned char *p)
{
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
}
static inline void vb64_store(unsigned char *p, vb64 v)
{
    const __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i words = _mm_packus_epi32(pairs, pairs);    /* each byte in 16 bits and 0 */
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(p, &bytes, sizeof bytes);
}
LOSSC_STORE_BYTES_N(vb64, VF64_LANES)
static inline vb64 vb64_add(vb64 a, vb64 b) { return _mm256_add_epi64(a, b); }
static inline mf64 vb64_eq(vb64 a, vb64 b) { return vi64_eq(a, b); }
static inline vb64 vb64_select(mf64 m, vb64 a, vb64 b) { return vi64_select(m, a, b); }

#endif
