/* Pairs of bfloat16: reads COUNT floats for each of lo, hi, lo2, hi2, c, and writes the pairs of lo and hi, their scalar
 * products with those of lo2 and hi2, added to c, the pairs of neighbours in vectors of lo and hi, then what the packing
 * functions make of the first ones of lo, then lo as it was stored in 16 bits, and the pairs that begin at each of those. */
#include <stdio.h>
#include <stdlib.h>

#include "simd.h"

enum { COUNT = 1024, GUARD = 32, LINES = 19, TERMS = 7, STEP = 23, WIDTH = 37 };

static float lo[COUNT], hi[COUNT], lo2[COUNT], hi2[COUNT], c[COUNT], out[COUNT + GUARD];

static void receive(float *to)
{
    if (fread(to, sizeof *to, COUNT, stdin) != COUNT)
        exit(1);
}

static void emit(void)
{
    fwrite(out, sizeof *out, COUNT + GUARD, stdout);
    memset(out, 0xA5, sizeof out);
}

int main(void)
{
    receive(lo), receive(hi), receive(lo2), receive(hi2), receive(c);
    memset(out, 0xA5, sizeof out);
    for (int i = 0; i < COUNT; i += VF32_LANES)
        vf32_store(out + i, vf32_pack2(vf32_load(lo + i), vf32_load(hi + i)));
    emit();
    for (int i = 0; i < COUNT; i += VF32_LANES) {
        const vf32 a = vf32_pack2(vf32_load(lo + i), vf32_load(hi + i));
        const vf32 b = vf32_pack2(vf32_load(lo2 + i), vf32_load(hi2 + i));
        vf32_store(out + i, vf32_dot2(a, b, vf32_load(c + i)));
    }
    emit();
    for (int i = 0; i < COUNT; i += VF32_LANES)
        vf32_store(out + i, vf32_pack_next(vf32_load(lo + i), vf32_load(hi + i)));
    emit();
    for (int terms = 1; terms <= TERMS; terms++) {
        lossc_pack_pairs(LINES, terms, lo, STEP, out, WIDTH);
        emit();
    }
    for (int terms = 1; terms <= 2 * VF32_LANES + 1; terms++) {
        lossc_pack_line(terms, lo, out);
        emit();
    }
    static uint16_t stored[COUNT + GUARD];
    for (int i = 0; i < COUNT; i += VF32_LANES)
        vf32_store_bf16(stored + i, vf32_load(lo + i));
    for (int i = 0; i < COUNT; i += VF32_LANES)
        vf32_store(out + i, vf32_load_bf16(stored + i));
    for (int i = COUNT; i < COUNT + GUARD; i++)
        if (stored[i])
            return 1;
    emit();
    for (int i = 0; i < COUNT; i++)
        vf32_store_n(out + i, vf32_set1_pair(stored + i), 1);
    emit();
    return 0;
}
