/* Runs every operation of simd.h and writes what came out; test_operations.py compares it with NumPy.
 *
 * Reads N floats for each of a, b, c, then N int32 for each of ia, ib, then the same as double and int64. Writes records:
 * a line "NAME N COUNT\n" and COUNT elements: N results and after them what must not have been written.
 */
#include <stdio.h>
#include <stdlib.h>

#include "simd.h"

enum { SIZE = 64, GUARD = 40, GUARD_BYTE = 0xA5 };

static void emit(const char *name, int n, int count, const void *data, size_t element)
{
    printf("%s %d %d\n", name, n, count);
    fwrite(data, element, (size_t)count, stdout);
}

static void receive(void *data, size_t element, size_t count)
{
    if (fread(data, element, count, stdin) != count)
        exit(1);
}

/* One function for float and one for double. */
#define X f32
#define I i32
#define B b32
#define REAL float
#define INT int32_t
#define LANES VF32_LANES
#include "operations.inc.c"

#define X f64
#define I i64
#define B b64
#define REAL double
#define INT int64_t
#define LANES VF64_LANES
#include "operations.inc.c"

int main(void)
{
    run_f32();
    run_f64();

    int64_t low[SIZE], product[SIZE];
    for (int i = 0; i < SIZE; i++)
        low[i] = (int64_t)((uint64_t)i * 0x9E3779B97F4A7C15u);
    for (int i = 0; i < SIZE; i += VF64_LANES)
        vi64_store(product + i, vi64_mul_u32(vi64_load(low + i), vi64_set1(INT64_C(0x1CD9E8D57))));
    emit("i64_mul_u32", SIZE, SIZE, product, sizeof *product);
    return 0;
}
