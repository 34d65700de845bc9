/* Vectors of float, double and their masks, for the one ISA that this file is compiled for.
 *
 * Exactly one of LOSSC_ISA_AVX512, LOSSC_ISA_AVX2, LOSSC_ISA_NEON, LOSSC_ISA_SCALAR is defined on the command line.
 * X stands for f32 or f64, I for i32 or i64 (as wide as X); the same operations exist for every ISA:
 *
 *   vX_load_n(p, n), vX_store_n(p, v, n)  only the first n lanes, 0 <= n <= lanes: memory past them is never touched,
 *                                         the other lanes of a load are 0; so for all the _n forms
 *   vX_stream(p, v)                       past the caches, p aligned to the vector; then lossc_stream_fence()
 *   vX_turn4(from, line, to, width)       to[p * width + l] = from[l * line + p], p and l < 4: a block turned
 *   vX_load_columns(p, stride, column)    four vectors: lane l of column[k] is p[l * stride + k]
 *   vX_gather(p, idx)                     p[idx[lane]]: idx counts elements
 *   vX_fma(a, b, c), vX_fnma(a, b, c)     a * b + c, c - a * b, rounded once
 *   vX_min(a, b), vX_max(a, b)            a < b ? a : b, a > b ? a : b: b if either is NaN, b of two zeros
 *   vX_lt le gt ge eq ne                  false for NaN, ne true
 *   vX_round(v)                           to nearest, ties to even
 *   vX_sum, vX_reduce_max, vX_reduce_min  a tree of halves: lane i meets lane i + lanes / 2, and so on
 *   vX_to_int(v)                          C's cast; the smallest integer for NaN and what does not fit
 *   vI_shr(v, n)                          fills with zeros; vI_add, sub, mul, shl wrap around
 *   vi64_mul_u32(a, b)                    the 64-bit products of the unsigned low halves
 *   vi32_load_u16(p), vi32_store_u16(p, v)  unsigned 16-bit integers in memory; the low halves of v
 *   vX_bits, vX_from_bits                 the same bits as the other type
 *   vX_even(a, b), vX_odd(a, b)           lanes 0, 2, 4 ..., and 1, 3, 5 ..., of a with b behind it
 *   vX_zip_low(a, b), vX_zip_high(a, b)   the first, and the second, vector of a0 b0 a1 b1 a2 b2 ...
 *   vB_load(p), vB_store, _store_n, _add, _eq, _select   B stands for b32 or b64: bytes in memory, one for each lane
 *                                         of vf32 or vf64; vB_eq gives a mask of these; no sum may exceed 255
 *   vf32_pack2(lo, hi), vf32_pack_next(a, b), vf32_dot2(a, b, c)  pairs of bfloat16, and
 *   vf32_load_bf16(p), vf32_store_bf16(p, v), vf32_set1_pair(p)  numbers that lie in memory as bfloat16: see bf16.h
 */
#ifndef LOSSC_SIMD_H
#define LOSSC_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LOSSC_PREFETCH(address) __builtin_prefetch(address)             /* a hint: nothing need be there */
#define LOSSC_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)    /* the same, without a place in the L1 cache */

/* B_store_n where the ISA has no masked store of bytes. */
#define LOSSC_STORE_BYTES_N(B, count)                                      \
    static inline void B##_store_n(unsigned char *p, B v, int n)           \
    {                                                                      \
        unsigned char lanes[count];                                        \
        if (n == count) {                                                  \
            B##_store(p, v);                                               \
            return;                                                        \
        }                                                                  \
        B##_store(lanes, v);                                               \
        for (int i = 0; i < n; i++)                                        \
            p[i] = lanes[i];                                               \
    }

#if defined(LOSSC_ISA_AVX512)
#include "simd_avx512.h"
#elif defined(LOSSC_ISA_AVX2)
#include "simd_avx2.h"
#elif defined(LOSSC_ISA_NEON)
#include "simd_neon.h"
#elif defined(LOSSC_ISA_SCALAR)
#include "simd_scalar.h"
#else
#error "define one of LOSSC_ISA_AVX512, LOSSC_ISA_AVX2, LOSSC_ISA_NEON, LOSSC_ISA_SCALAR"
#endif

#if defined(LOSSC_LANES_F32)
_Static_assert(VF32_LANES == LOSSC_LANES_F32, "generated for another vector length: compile it for its ISA");
#endif

#include "bf16.h"
#include "vmath.h"

#endif
