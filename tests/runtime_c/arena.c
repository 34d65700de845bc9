/* Allocates SIZE bytes with arena.h, writes the first and last, and prints the address modulo 2 MiB, whether all bytes
 * looked at were 0, and how many bytes became resident; "none" where there is no such block. */
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

#include "arena.h"

static long resident(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss : -1;
}

int main(int argc, char **argv)
{
    const uint64_t size = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    const long before = resident();
    unsigned char *arena = lossc_arena_alloc(size);
    if (arena == NULL) {
        puts("none");
        return 0;
    }
    int zero = 1;
    if (size > 0) {
        const uint64_t step = size <= 1u << 22 ? 1 : size / 4;
        for (uint64_t i = 0; i < size; i += step)
            zero = zero && arena[i] == 0;
        zero = zero && arena[size - 1] == 0;
        arena[0] = arena[size - 1] = 1;
    }
    printf("%" PRIuPTR " %d %ld\n", (uintptr_t)arena % LOSSC_HUGE_PAGE, zero, resident() - before);
    lossc_arena_free(arena);
    lossc_arena_free(NULL);
    return 0;
}
