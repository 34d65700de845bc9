/* bfloat16, for products whose operands are rounded and whose sums are not: simd.h includes this.
 *
 * A pair takes the place of a float: the term that comes first is the low half. Only the functions below may compute
 * with pairs; all others just move their bits. Operands are rounded to nearest, ties to even; NaN stays NaN. Where the
 * CPU has instructions for it (AVX512_BF16) numbers below FLT_MIN count as 0, elsewhere they need not.
 *
 *   vf32_pack2(lo, hi)    the pairs of two vectors' lanes
 *   vf32_pack_next(a, b)  the pairs of neighbouring lanes of a with b behind it
 *   vf32_dot2(a, b, c)    c + a.lo * b.lo + a.hi * b.hi; the products are exact, how sums are rounded is the CPU's
 *
 * In memory a number is the uint16_t of its high half; two that follow each other are a pair.
 *
 *   vf32_load_bf16(p), vf32_store_bf16(p, v)    a vector's lanes, rounded when they are stored
 *   vf32_set1_pair(p)                           the pair at p, in every lane
 */
#ifndef LOSSC_BF16_H
#define LOSSC_BF16_H

static inline vf32 vf32_load_bf16(const uint16_t *p) { return vf32_from_bits(vi32_shl(vi32_load_u16(p), 16)); }
static inline vf32 vf32_set1_pair(const uint16_t *p)
{
    float pair;
    memcpy(&pair, p, sizeof pair);
    return vf32_set1(pair);
}

#if !defined(VF32_HAS_DOT2)
static inline vi32 vf32_to_bf16(vf32 v)    /* in the high halves; the low ones are what is rounded off */
{
    const vi32 bits = vf32_bits(v), odd = vi32_and(vi32_shr(bits, 16), vi32_set1(1));
    const vi32 rounded = vi32_add(bits, vi32_add(odd, vi32_set1(0x7fff)));
    return vi32_select(vf32_ne(v, v), vi32_or(bits, vi32_set1(0x400000)), rounded);
}
static inline vf32 vf32_high(vf32 pairs) { return vf32_from_bits(vi32_and(vf32_bits(pairs), vi32_set1(-0x10000))); }
static inline vf32 vf32_low(vf32 pairs) { return vf32_from_bits(vi32_shl(vf32_bits(pairs), 16)); }

static inline void vf32_store_bf16(uint16_t *p, vf32 v) { vi32_store_u16(p, vi32_shr(vf32_to_bf16(v), 16)); }
static inline vf32 vf32_pack2(vf32 lo, vf32 hi)
{
    const vi32 high = vi32_and(vf32_to_bf16(hi), vi32_set1(-0x10000));
    return vf32_from_bits(vi32_or(high, vi32_shr(vf32_to_bf16(lo), 16)));
}
static inline vf32 vf32_pack_next(vf32 a, vf32 b) { return vf32_pack2(vf32_even(a, b), vf32_odd(a, b)); }
static inline vf32 vf32_dot2(vf32 a, vf32 b, vf32 c)
{
    return vf32_fma(vf32_high(a), vf32_high(b), vf32_fma(vf32_low(a), vf32_low(b), c));
}
#endif

static inline int lossc_lanes_of(ptrdiff_t count)    /* how many lanes of a vector are among the first `count` */
{
    return count < 0 ? 0 : count < VF32_LANES ? (int)count : VF32_LANES;
}

/* to[p * width + l] is the pair of from[2 p * step + l] and from[(2 p + 1) * step + l], 0 where there is no such line
 * or term: p < (terms + 1) / 2, l < width. */
static inline void lossc_pack_pairs(ptrdiff_t lines, ptrdiff_t terms, const float *restrict from, ptrdiff_t step,
                                    float *restrict to, ptrdiff_t width)
{
    for (ptrdiff_t p = 0; p < terms; p += 2) {
        for (ptrdiff_t l = 0; l < width; l += VF32_LANES) {
            const int m = lossc_lanes_of(lines - l);
            const vf32 lo = vf32_load_n(from + l, m);
            const vf32 hi = p + 1 < terms ? vf32_load_n(from + step + l, m) : vf32_zero();
            vf32_store_n(to + l, vf32_pack2(lo, hi), lossc_lanes_of(width - l));
        }
        from += 2 * step;
        to += width;
    }
}

/* A line of pairs for products along it: each vector pairs the terms of two that follow each other, past the end 0. */
static inline void lossc_pack_line(ptrdiff_t terms, const float *restrict from, float *restrict to)
{
    for (ptrdiff_t p = 0; p < terms; p += 2 * VF32_LANES) {
        const vf32 lo = vf32_load_n(from + p, lossc_lanes_of(terms - p));
        const int rest = lossc_lanes_of(terms - p - VF32_LANES);
        const vf32 hi = rest > 0 ? vf32_load_n(from + p + VF32_LANES, rest) : vf32_zero();
        vf32_store(to, vf32_pack2(lo, hi));
        to += VF32_LANES;
    }
}

#endif
