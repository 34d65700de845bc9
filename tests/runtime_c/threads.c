/* threads.h with a team of the size given: prints each element's thread by lossc_thread_range, then checks on loops. */
#include <stdio.h>
#include <stdlib.h>

#include "threads.h"

enum { COUNT = 1000 };

static int owner[COUNT], shared[COUNT], squares[COUNT], singles, teams[64];

/* An orphaned kernel, called by every thread of the team. */
static void kernel(ptrdiff_t count, ptrdiff_t grain)
{
    ptrdiff_t begin, end;
    lossc_thread_range(count, grain, &begin, &end);
    for (ptrdiff_t i = begin; i < end; i++)
        owner[i] = lossc_thread_id();
    teams[lossc_thread_id()] = lossc_team_size();
    LOSSC_BARRIER
    LOSSC_FOR
    for (int i = 0; i < COUNT; i++)
        shared[i] = i;
    LOSSC_FOR_NOWAIT
    for (int i = 0; i < COUNT; i++)
        squares[i] = shared[COUNT - 1 - i] * shared[COUNT - 1 - i];
    LOSSC_SINGLE
    singles++;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    const int threads = atoi(argv[1]);
    const int count = atoi(argv[2]), grain = atoi(argv[3]);
    if (threads > 64 || count > COUNT || lossc_max_threads() < 1)
        return 2;
    for (int i = 0; i < COUNT; i++)
        owner[i] = -1;
    LOSSC_PARALLEL(threads)
    kernel(count, grain);
    for (int i = 0; i < COUNT; i++)
        if (squares[i] != (COUNT - 1 - i) * (COUNT - 1 - i))
            return 3;
    printf("%d %d\n", teams[0], singles);
    for (int i = 0; i < COUNT; i++)
        printf("%d ", owner[i]);
    return 0;
}
