/* LOSSC_TEAM with a team of the size given, outside of all teams and by every thread of a team of the caller's: prints
 * the size, and ends with 0 where each call did the whole of its own work once. */
#include <stdio.h>
#include <stdlib.h>

#include "threads.h"

enum { COUNT = 100, CALLERS = 4 };

struct work {
    int values[COUNT], singles, size;
};

static int kernel(struct work *w)
{
    LOSSC_FOR
    for (int i = 0; i < COUNT; i++)
        w->values[i] += i;
    LOSSC_SINGLE
    {
        w->singles++;
        w->size = lossc_team_size();
    }
    return 0;
}

static int done(const struct work *w, int times)
{
    int right = w->singles == times;
    for (int i = 0; i < COUNT; i++)
        right &= w->values[i] == times * i;
    return right;
}

int main(int argc, char **argv)
{
    static struct work outside, inside[CALLERS];
    static int callers;
    const int threads = argc == 2 ? atoi(argv[1]) : 0;
    if (threads < 1)
        return 2;
    LOSSC_TEAM(threads, (void)(kernel(&outside) || kernel(&outside)));
    if (!done(&outside, 2))
        return 3;
    LOSSC_PARALLEL(CALLERS)
    {
        LOSSC_SINGLE
        callers = lossc_team_size();
        struct work *const mine = &inside[lossc_thread_id()];
        LOSSC_TEAM(threads, (void)kernel(mine));
    }
    for (int i = 0; i < callers; i++)
        if (!done(&inside[i], 1))
            return 4;
    printf("%d\n", outside.size);
    return 0;
}
