/* What a compiled net offers to a program that knows nothing of it beforehand: one table of functions. */
#ifndef LOSSC_ABI_H
#define LOSSC_ABI_H

#include <stdint.h>

typedef struct lossc_net lossc_net;

typedef struct lossc_abi {
    int version;
    lossc_net *(*create)(int threads, uint64_t seed);
    void (*destroy)(lossc_net *net);
    double (*forward)(lossc_net *net);
    void (*backward)(lossc_net *net);
    double (*forward_backward)(lossc_net *net);
    void (*clear_param_diffs)(lossc_net *net);
    void (*renew_param_diffs)(lossc_net *net); /* the next backward pass writes instead of adding */
    void (*update)(lossc_net *net);
    double (*rate)(lossc_net *net);
    double (*step)(lossc_net *net);                    /* renewed gradients, both passes, update; NULL: no solver */
    const char *(*error)(const lossc_net *net);
    void *(*memory)(lossc_net *net, int64_t offset);
    void *(*param)(lossc_net *net, int index);
    void (*share_param)(lossc_net *net, int index, void *data);
    int64_t (*get)(const lossc_net *net, int what);
    void (*set)(lossc_net *net, int what, int64_t value);
    double (*call)(lossc_net *net, void *const *blobs); /* forward_backward on the caller's memory; NULL: net has its own */
    const double *(*seconds)(const lossc_net *net);    /* of each kernel in the last pass; NULL: not compiled to be timed */
    void (*params_changed)(lossc_net *net);            /* the next pass takes them over; NULL: every pass does */
} lossc_abi;

#endif
