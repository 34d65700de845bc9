/* Loads and stores up to the last byte before a page that nobody may touch, and from the first byte after one. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simd.h"

#define CHECK(X, real, I, integer, LANES)                                                      \
    static void check_##X(char *begin, char *end)                                              \
    {                                                                                          \
        for (int n = 0; n <= LANES; n++) {                                                     \
            real *last = (real *)(void *)end - n, *first = (real *)(void *)begin;              \
            integer *ilast = (integer *)(void *)end - n;                                       \
            v##X##_store_n(last, v##X##_load_n(last, n), n);                                   \
            v##X##_store_n(first, v##X##_load_n(first, n), n);                                 \
            v##I##_store_n(ilast, v##I##_load_n(ilast, n), n);                                 \
            v##X##_store_strided_n(last, v##X##_load_strided_n(last, 1, n), 1, n);             \
            for (int stride = 2; n > 0 && stride < 5; stride++) {                              \
                real *left = (real *)(void *)end - (n - 1) * stride - 1;                       \
                real *right = (real *)(void *)begin + (n - 1) * stride;                        \
                v##X##_store_strided_n(left, v##X##_load_strided_n(left, stride, n), stride, n); \
                v##X##_store_strided_n(right, v##X##_load_strided_n(right, -stride, n), -stride, n); \
            }                                                                                  \
            /* indices beyond the n-th lead far outside */                                     \
            integer idx[LANES];                                                                \
            for (int i = 0; i < LANES; i++)                                                    \
                idx[i] = i < n ? (integer)-1 : (integer)(1 << 20);                             \
            v##X##_store_n(last, v##X##_gather_n((real *)(void *)end, v##I##_load(idx), n), n); \
        }                                                                                      \
    }
CHECK(f32, float, i32, int32_t, VF32_LANES)
CHECK(f64, double, i64, int64_t, VF64_LANES)

int main(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_READ | PROT_WRITE) != 0)
        return 1;
    check_f32(pages + page, pages + 2 * page);
    check_f64(pages + page, pages + 2 * page);
    puts("untouched");
    return 0;
}
