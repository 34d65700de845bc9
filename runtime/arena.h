/* One block of memory for all of a net's blobs: aligned, zero, and free of cost where it is never touched.
 *
 * Huge pages spare most of the TLB misses of large nets. Linux gives them for the asking, but strict -std=c11 hides
 * madvise: define _DEFAULT_SOURCE before the first #include, or compile with -std=gnu11, to have them.
 */
#ifndef LOSSC_ARENA_H
#define LOSSC_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define LOSSC_CACHE_LINE ((uintptr_t)64)             /* also the longest vector */
#define LOSSC_HUGE_PAGE ((uintptr_t)2 * 1024 * 1024)

/* size zeroed bytes, aligned to 64, from 4 MiB on to 2 MiB; NULL if there is no such block. calloc takes large blocks
 * straight from the system, which zeroes a page when it is first touched. The block that calloc gave is remembered in
 * front of the aligned one. */
static inline void *lossc_arena_alloc(uint64_t size)
{
    const uintptr_t alignment = size >= 2 * LOSSC_HUGE_PAGE ? LOSSC_HUGE_PAGE : LOSSC_CACHE_LINE;
    const uintptr_t spare = alignment + sizeof(void *);
    if (size > (uint64_t)PTRDIFF_MAX - spare)
        return NULL;
    char *block = calloc(1, (size_t)size + spare);
    if (block == NULL)
        return NULL;
    const uintptr_t address = (uintptr_t)block;
    const uintptr_t aligned = (address + sizeof(void *) + alignment - 1) / alignment * alignment;
    void **arena = (void **)(void *)(block + (aligned - address));
    arena[-1] = block;
#if defined(MADV_HUGEPAGE)
    if (alignment == LOSSC_HUGE_PAGE)
        madvise(arena, (size_t)(size / LOSSC_HUGE_PAGE * LOSSC_HUGE_PAGE), MADV_HUGEPAGE);
#endif
    return arena;
}

static inline void lossc_arena_free(void *arena)
{
    if (arena != NULL)
        free(((void **)arena)[-1]);
}

#endif
