/* AVX-512 F, BW, DQ and VL, as every CPU since Skylake-X has them: 16 floats or 8 doubles, masks in k registers. With
 * -mavx512bf16 also the instructions for pairs of bfloat16. */
#ifndef LOSSC_SIMD_AVX512_H
#define LOSSC_SIMD_AVX512_H

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "LOSSC_ISA_AVX512 needs -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma"
#endif

#include <immintrin.h>

#define VF32_LANES 16
#define VF64_LANES 8

typedef __m512 vf32;
typedef __m512i vi32;
typedef __mmask16 mf32;
typedef __m512d vf64;
typedef __m512i vi64;
typedef __mmask8 mf64;

static inline void lossc_stream_fence(void) { _mm_sfence(); }

/* ---- float ---- */

static inline mf32 mf32_and(mf32 a, mf32 b) { return (mf32)(a & b); }
static inline mf32 mf32_or(mf32 a, mf32 b) { return (mf32)(a | b); }
static inline mf32 mf32_not(mf32 a) { return (mf32)~a; }
static inline int mf32_any(mf32 a) { return a != 0; }
static inline mf32 vf32_tail(int n) { return (mf32)((1u << n) - 1u); }

static inline vf32 vf32_zero(void) { return _mm512_setzero_ps(); }
static inline vf32 vf32_set1(float x) { return _mm512_set1_ps(x); }
static inline vf32 vf32_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf32_store(float *p, vf32 v) { _mm512_storeu_ps(p, v); }
static inline vf32 vf32_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(vf32_tail(n), p); }
static inline void vf32_store_n(float *p, vf32 v, int n) { _mm512_mask_storeu_ps(p, vf32_tail(n), v); }
static inline void vf32_stream(float *p, vf32 v) { _mm512_stream_ps(p, v); }
static inline vf32 vf32_iota(void)
{
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

static inline vf32 vf32_gather(const float *p, vi32 idx) { return _mm512_i32gather_ps(idx, p, 4); }
static inline vf32 vf32_gather_n(const float *p, vi32 idx, int n)
{
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), vf32_tail(n), idx, p, 4);
}

static inline vf32 vf32_add(vf32 a, vf32 b) { return _mm512_add_ps(a, b); }
static inline vf32 vf32_sub(vf32 a, vf32 b) { return _mm512_sub_ps(a, b); }
static inline vf32 vf32_mul(vf32 a, vf32 b) { return _mm512_mul_ps(a, b); }
static inline vf32 vf32_div(vf32 a, vf32 b) { return _mm512_div_ps(a, b); }
static inline vf32 vf32_fma(vf32 a, vf32 b, vf32 c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf32 vf32_fnma(vf32 a, vf32 b, vf32 c) { return _mm512_fnmadd_ps(a, b, c); }
static inline vf32 vf32_neg(vf32 a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
static inline vf32 vf32_abs(vf32 a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
static inline vf32 vf32_sqrt(vf32 a) { return _mm512_sqrt_ps(a); }
static inline vf32 vf32_min(vf32 a, vf32 b) { return _mm512_min_ps(a, b); }
static inline vf32 vf32_max(vf32 a, vf32 b) { return _mm512_max_ps(a, b); }
static inline vf32 vf32_floor(vf32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
static inline vf32 vf32_trunc(vf32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
static inline vf32 vf32_round(vf32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

static inline mf32 vf32_lt(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline mf32 vf32_le(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
static inline mf32 vf32_gt(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline mf32 vf32_ge(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline mf32 vf32_eq(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline mf32 vf32_ne(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
static inline vf32 vf32_select(mf32 m, vf32 a, vf32 b) { return _mm512_mask_blend_ps(m, b, a); }

static inline vi32 vf32_bits(vf32 v) { return _mm512_castps_si512(v); }
static inline vf32 vf32_from_bits(vi32 v) { return _mm512_castsi512_ps(v); }
static inline vi32 vf32_to_int(vf32 v) { return _mm512_cvttps_epi32(v); }
static inline vf32 vi32_to_float(vi32 v) { return _mm512_cvtepi32_ps(v); }

#define VF32_HAS_SCALEF
static inline vf32 vf32_scalef(vf32 v, vf32 n) { return _mm512_scalef_ps(v, n); }    /* v 2^n */

#if defined(__AVX512BF16__)
#define VF32_HAS_DOT2
static inline vf32 vf32_pack2(vf32 lo, vf32 hi)
{
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(hi, lo);    /* lo's 16, then hi's */
    const __m512i lanes = _mm512_setr_epi32(
        0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007,
        0x180008, 0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(lanes, halves));
}
static inline vf32 vf32_pack_next(vf32 a, vf32 b)
{
    return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(b, a));
}
static inline void vf32_store_bf16(uint16_t *p, vf32 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(v));
}
static inline vf32 vf32_dot2(vf32 a, vf32 b, vf32 c)
{
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}
#endif

/* The three reductions share their tree; OP is the instruction's name. */
#define LOSSC_REDUCE_PS(OP, v)                                                              \
    const __m256 h8 = _mm256_##OP##_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); \
    const __m128 h4 = _mm_##OP##_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));   \
    const __m128 h2 = _mm_##OP##_ps(h4, _mm_movehl_ps(h4, h4));                                  \
    return _mm_cvtss_f32(_mm_##OP##_ss(h2, _mm_movehdup_ps(h2)))
static inline float vf32_sum(vf32 v) { LOSSC_REDUCE_PS(add, v); }
static inline float vf32_reduce_max(vf32 v) { LOSSC_REDUCE_PS(max, v); }
static inline float vf32_reduce_min(vf32 v) { LOSSC_REDUCE_PS(min, v); }
#undef LOSSC_REDUCE_PS

static inline vi32 vi32_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi32 vi32_iota(void) { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
static inline vi32 vi32_load(const int32_t *p) { return _mm512_loadu_si512(p); }
static inline void vi32_store(int32_t *p, vi32 v) { _mm512_storeu_si512(p, v); }
static inline vi32 vi32_load_n(const int32_t *p, int n) { return _mm512_maskz_loadu_epi32(vf32_tail(n), p); }
static inline void vi32_store_n(int32_t *p, vi32 v, int n) { _mm512_mask_storeu_epi32(p, vf32_tail(n), v); }
static inline vi32 vi32_load_u16(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void vi32_store_u16(uint16_t *p, vi32 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(v));
}
static inline vi32 vi32_add(vi32 a, vi32 b) { return _mm512_add_epi32(a, b); }
static inline vi32 vi32_sub(vi32 a, vi32 b) { return _mm512_sub_epi32(a, b); }
static inline vi32 vi32_mul(vi32 a, vi32 b) { return _mm512_mullo_epi32(a, b); }
static inline vi32 vi32_and(vi32 a, vi32 b) { return _mm512_and_si512(a, b); }
static inline vi32 vi32_or(vi32 a, vi32 b) { return _mm512_or_si512(a, b); }
static inline vi32 vi32_xor(vi32 a, vi32 b) { return _mm512_xor_si512(a, b); }
static inline vi32 vi32_shl(vi32 v, int n) { return _mm512_sll_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi32 vi32_shr(vi32 v, int n) { return _mm512_srl_epi32(v, _mm_cvtsi32_si128(n)); }
static inline mf32 vi32_lt(vi32 a, vi32 b) { return _mm512_cmplt_epi32_mask(a, b); }
static inline mf32 vi32_eq(vi32 a, vi32 b) { return _mm512_cmpeq_epi32_mask(a, b); }
static inline vi32 vi32_select(mf32 m, vi32 a, vi32 b) { return _mm512_mask_blend_epi32(m, b, a); }

/* The lanes' offsets in elements are 64 bits wide: any stride is right. */
static inline __m512i vf32_offsets_low(ptrdiff_t stride)
{
    return _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(stride));
}
static inline vf32 vf32_load_strided(const float *p, ptrdiff_t stride)
{
    const __m512i offsets = vf32_offsets_low(stride);
    const __m256 low = _mm512_i64gather_ps(offsets, p, 4), high = _mm512_i64gather_ps(offsets, p + 8 * stride, 4);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
/* Rows l, 4 + l, 8 + l and 12 + l in one vector, a quarter each: the transpose of 4 x 4 blocks does the rest. */
static inline vf32 vf32_four_rows(const float *p, ptrdiff_t stride)
{
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
    const __m512 most = _mm512_insertf32x4(_mm512_castps256_ps512(low), _mm_loadu_ps(p + 8 * stride), 2);
    return _mm512_insertf32x4(most, _mm_loadu_ps(p + 12 * stride), 3);
}
static inline void vf32_load_columns(const float *p, ptrdiff_t stride, vf32 column[4])
{
    const vf32 a = vf32_four_rows(p, stride), b = vf32_four_rows(p + stride, stride);
    const vf32 c = vf32_four_rows(p + 2 * stride, stride), d = vf32_four_rows(p + 3 * stride, stride);
    const vf32 ab = _mm512_unpacklo_ps(a, b), cd = _mm512_unpacklo_ps(c, d);
    const vf32 ab2 = _mm512_unpackhi_ps(a, b), cd2 = _mm512_unpackhi_ps(c, d);
    column[0] = _mm512_shuffle_ps(ab, cd, 0x44);
    column[1] = _mm512_shuffle_ps(ab, cd, 0xEE);
    column[2] = _mm512_shuffle_ps(ab2, cd2, 0x44);
    column[3] = _mm512_shuffle_ps(ab2, cd2, 0xEE);
}
static inline void vf32_store_strided(float *p, vf32 v, ptrdiff_t stride)
{
    const __m512i offsets = vf32_offsets_low(stride);
    _mm512_i64scatter_ps(p, offsets, _mm512_castps512_ps256(v), 4);
    _mm512_i64scatter_ps(p + 8 * stride, offsets, _mm512_extractf32x8_ps(v, 1), 4);
}
static inline vf32 vf32_load_strided_n(const float *p, ptrdiff_t stride, int n)
{
    const __m512i offsets = vf32_offsets_low(stride);
    const __mmask16 m = vf32_tail(n);
    const __m256 none = _mm256_setzero_ps();
    const __m256 low = _mm512_mask_i64gather_ps(none, (__mmask8)m, offsets, p, 4);
    const __m256 high = _mm512_mask_i64gather_ps(none, (__mmask8)(m >> 8), offsets, n > 8 ? p + 8 * stride : p, 4);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
static inline void vf32_store_strided_n(float *p, vf32 v, ptrdiff_t stride, int n)
{
    const __m512i offsets = vf32_offsets_low(stride);
    const __mmask16 m = vf32_tail(n);
    _mm512_mask_i64scatter_ps(p, (__mmask8)m, offsets, _mm512_castps512_ps256(v), 4);
    _mm512_mask_i64scatter_ps(n > 8 ? p + 8 * stride : p, (__mmask8)(m >> 8), offsets, _mm512_extractf32x8_ps(v, 1), 4);
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

/* ---- double ---- */

static inline mf64 mf64_and(mf64 a, mf64 b) { return (mf64)(a & b); }
static inline mf64 mf64_or(mf64 a, mf64 b) { return (mf64)(a | b); }
static inline mf64 mf64_not(mf64 a) { return (mf64)~a; }
static inline int mf64_any(mf64 a) { return a != 0; }
static inline mf64 vf64_tail(int n) { return (mf64)((1u << n) - 1u); }

static inline vf64 vf64_zero(void) { return _mm512_setzero_pd(); }
static inline vf64 vf64_set1(double x) { return _mm512_set1_pd(x); }
static inline vf64 vf64_load(const double *p) { return _mm512_loadu_pd(p); }
static inline void vf64_store(double *p, vf64 v) { _mm512_storeu_pd(p, v); }
static inline vf64 vf64_load_n(const double *p, int n) { return _mm512_maskz_loadu_pd(vf64_tail(n), p); }
static inline void vf64_store_n(double *p, vf64 v, int n) { _mm512_mask_storeu_pd(p, vf64_tail(n), v); }
static inline void vf64_stream(double *p, vf64 v) { _mm512_stream_pd(p, v); }
static inline vf64 vf64_iota(void) { return _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7); }

static inline vf64 vf64_gather(const double *p, vi64 idx) { return _mm512_i64gather_pd(idx, p, 8); }
static inline vf64 vf64_gather_n(const double *p, vi64 idx, int n)
{
    return _mm512_mask_i64gather_pd(_mm512_setzero_pd(), vf64_tail(n), idx, p, 8);
}

static inline vf64 vf64_add(vf64 a, vf64 b) { return _mm512_add_pd(a, b); }
static inline vf64 vf64_sub(vf64 a, vf64 b) { return _mm512_sub_pd(a, b); }
static inline vf64 vf64_mul(vf64 a, vf64 b) { return _mm512_mul_pd(a, b); }
static inline vf64 vf64_div(vf64 a, vf64 b) { return _mm512_div_pd(a, b); }
static inline vf64 vf64_fma(vf64 a, vf64 b, vf64 c) { return _mm512_fmadd_pd(a, b, c); }
static inline vf64 vf64_fnma(vf64 a, vf64 b, vf64 c) { return _mm512_fnmadd_pd(a, b, c); }
static inline vf64 vf64_neg(vf64 a) { return _mm512_xor_pd(a, _mm512_set1_pd(-0.0)); }
static inline vf64 vf64_abs(vf64 a) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), a); }
static inline vf64 vf64_sqrt(vf64 a) { return _mm512_sqrt_pd(a); }
static inline vf64 vf64_min(vf64 a, vf64 b) { return _mm512_min_pd(a, b); }
static inline vf64 vf64_max(vf64 a, vf64 b) { return _mm512_max_pd(a, b); }
static inline vf64 vf64_floor(vf64 a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
static inline vf64 vf64_trunc(vf64 a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
static inline vf64 vf64_round(vf64 a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

static inline mf64 vf64_lt(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
static inline mf64 vf64_le(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
static inline mf64 vf64_gt(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
static inline mf64 vf64_ge(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ); }
static inline mf64 vf64_eq(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
static inline mf64 vf64_ne(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }
static inline vf64 vf64_select(mf64 m, vf64 a, vf64 b) { return _mm512_mask_blend_pd(m, b, a); }

static inline vi64 vf64_bits(vf64 v) { return _mm512_castpd_si512(v); }
static inline vf64 vf64_from_bits(vi64 v) { return _mm512_castsi512_pd(v); }
static inline vi64 vf64_to_int(vf64 v) { return _mm512_cvttpd_epi64(v); }
static inline vf64 vi64_to_float(vi64 v) { return _mm512_cvtepi64_pd(v); }

#define LOSSC_REDUCE_PD(OP, v)                                                                   \
    const __m256d h4 = _mm256_##OP##_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)); \
    const __m128d h2 = _mm_##OP##_pd(_mm256_castpd256_pd128(h4), _mm256_extractf128_pd(h4, 1));   \
    return _mm_cvtsd_f64(_mm_##OP##_sd(h2, _mm_unpackhi_pd(h2, h2)))
static inline double vf64_sum(vf64 v) { LOSSC_REDUCE_PD(add, v); }
static inline double vf64_reduce_max(vf64 v) { LOSSC_REDUCE_PD(max, v); }
static inline double vf64_reduce_min(vf64 v) { LOSSC_REDUCE_PD(min, v); }
#undef LOSSC_REDUCE_PD

static inline vi64 vi64_set1(int64_t x) { return _mm512_set1_epi64(x); }
static inline vi64 vi64_iota(void) { return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7); }
static inline vi64 vi64_load(const int64_t *p) { return _mm512_loadu_si512(p); }
static inline void vi64_store(int64_t *p, vi64 v) { _mm512_storeu_si512(p, v); }
static inline vi64 vi64_load_n(const int64_t *p, int n) { return _mm512_maskz_loadu_epi64(vf64_tail(n), p); }
static inline void vi64_store_n(int64_t *p, vi64 v, int n) { _mm512_mask_storeu_epi64(p, vf64_tail(n), v); }
static inline vi64 vi64_add(vi64 a, vi64 b) { return _mm512_add_epi64(a, b); }
static inline vi64 vi64_sub(vi64 a, vi64 b) { return _mm512_sub_epi64(a, b); }
static inline vi64 vi64_mul(vi64 a, vi64 b) { return _mm512_mullo_epi64(a, b); }
static inline vi64 vi64_mul_u32(vi64 a, vi64 b) { return _mm512_mul_epu32(a, b); }
static inline vi64 vi64_and(vi64 a, vi64 b) { return _mm512_and_si512(a, b); }
static inline vi64 vi64_or(vi64 a, vi64 b) { return _mm512_or_si512(a, b); }
static inline vi64 vi64_xor(vi64 a, vi64 b) { return _mm512_xor_si512(a, b); }
static inline vi64 vi64_shl(vi64 v, int n) { return _mm512_sll_epi64(v, _mm_cvtsi32_si128(n)); }
static inline vi64 vi64_shr(vi64 v, int n) { return _mm512_srl_epi64(v, _mm_cvtsi32_si128(n)); }
static inline mf64 vi64_lt(vi64 a, vi64 b) { return _mm512_cmplt_epi64_mask(a, b); }
static inline mf64 vi64_eq(vi64 a, vi64 b) { return _mm512_cmpeq_epi64_mask(a, b); }
static inline vi64 vi64_select(mf64 m, vi64 a, vi64 b) { return _mm512_mask_blend_epi64(m, b, a); }

static inline vi64 vf64_offsets(ptrdiff_t stride) { return vi64_mul(vi64_iota(), vi64_set1(stride)); }
static inline vf64 vf64_load_strided(const double *p, ptrdiff_t stride) { return vf64_gather(p, vf64_offsets(stride)); }
static inline vf64 vf64_four_rows(const double *p, ptrdiff_t stride)
{
    const __m256d low = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(p + 2 * stride), 1);
    const __m512d most = _mm512_insertf64x2(_mm512_castpd256_pd512(low), _mm_loadu_pd(p + 4 * stride), 2);
    return _mm512_insertf64x2(most, _mm_loadu_pd(p + 6 * stride), 3);
}
static inline void vf64_load_columns(const double *p, ptrdiff_t stride, vf64 column[4])
{
    for (int k = 0; k < 4; k += 2) {
        const vf64 a = vf64_four_rows(p + k, stride), b = vf64_four_rows(p + k + stride, stride);
        column[k] = _mm512_unpacklo_pd(a, b);
        column[k + 1] = _mm512_unpackhi_pd(a, b);
    }
}
static inline void vf64_store_strided(double *p, vf64 v, ptrdiff_t stride)
{
    _mm512_i64scatter_pd(p, vf64_offsets(stride), v, 8);
}
static inline vf64 vf64_load_strided_n(const double *p, ptrdiff_t stride, int n)
{
    return vf64_gather_n(p, vf64_offsets(stride), n);
}
static inline void vf64_store_strided_n(double *p, vf64 v, ptrdiff_t stride, int n)
{
    _mm512_mask_i64scatter_pd(p, vf64_tail(n), vf64_offsets(stride), v, 8);
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

/* ---- every second lane, and bytes ---- */

static inline vf32 vf32_even(vf32 a, vf32 b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), b);
}
static inline vf32 vf32_odd(vf32 a, vf32 b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), b);
}
static inline vf32 vf32_zip_low(vf32 a, vf32 b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
static inline vf32 vf32_zip_high(vf32 a, vf32 b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
}
static inline vf64 vf64_even(vf64 a, vf64 b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b);
}
static inline vf64 vf64_odd(vf64 a, vf64 b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), b);
}
static inline vf64 vf64_zip_low(vf64 a, vf64 b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b);
}
static inline vf64 vf64_zip_high(vf64 a, vf64 b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b);
}

typedef __m128i vb32;
typedef __m128i vb64;    /* the low 8 bytes */

static inline vb32 vb32_set1(int x) { return _mm_set1_epi8((char)x); }
static inline vb32 vb32_load(const unsigned char *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
static inline void vb32_store_n(unsigned char *p, vb32 v, int n) { _mm_mask_storeu_epi8(p, vf32_tail(n), v); }
static inline void vb32_store(unsigned char *p, vb32 v) { _mm_storeu_si128((__m128i *)(void *)p, v); }
static inline vb32 vb32_add(vb32 a, vb32 b) { return _mm_add_epi8(a, b); }
static inline mf32 vb32_eq(vb32 a, vb32 b) { return _mm_cmpeq_epi8_mask(a, b); }
static inline vb32 vb32_select(mf32 m, vb32 a, vb32 b) { return _mm_mask_blend_epi8(m, b, a); }

static inline vb64 vb64_set1(int x) { return _mm_set1_epi8((char)x); }
static inline vb64 vb64_load(const unsigned char *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }
static inline void vb64_store_n(unsigned char *p, vb64 v, int n) { _mm_mask_storeu_epi8(p, vf64_tail(n), v); }
static inline void vb64_store(unsigned char *p, vb64 v) { _mm_storel_epi64((__m128i *)(void *)p, v); }
static inline vb64 vb64_add(vb64 a, vb64 b) { return _mm_add_epi8(a, b); }
static inline mf64 vb64_eq(vb64 a, vb64 b) { return (mf64)_mm_cmpeq_epi8_mask(a, b); }
static inline vb64 vb64_select(mf64 m, vb64 a, vb64 b) { return _mm_mask_blend_epi8(m, b, a); }

#endif
