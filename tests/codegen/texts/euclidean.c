/* euclidean, phase TRAIN, from net.prototxt: made by lossc for avx2. Parts: the net's functions, layer by layer;
 * the schedule, which calls them; the interface of euclidean.h. Every function is run by all threads of one team.
 */
#define _DEFAULT_SOURCE    /* for madvise: huge pages */
#include "net.h"
#include "kernels.h"
#include "abi.h"

_Static_assert(VF32_LANES == 8, "generated for avx2: compile it for that instruction set");

#define LOSSC_API __attribute__((visibility("default")))
#define SIZE 176          /* reals: gradients of parameters, inputs, whatever is kept, then the shared arena */
#define PARAM_SIZE 1
#define SHARED_SIZE 0
#define LOCAL_SIZE 0
#define AT_x 0    /* x [4, 6] */
#define AT_y 32    /* y [4, 6] */
#define AT_loss 80    /* loss [] */
#define AT_x_diff 112    /* x.diff [4, 6] */
#define AT_y_diff 144    /* y.diff [4, 6] */
#define AT_loss_total 96    /* loss_total [] */

/* What can stop a pass. */
enum { LOSSC_BAD_LABEL = 1, LOSSC_NOT_FINITE = 2 };

struct lossc_net {
    float *mem;                  /* SIZE reals */
    float *own_params;           /* PARAM_SIZE reals */
    float *param[1];    /* where each parameter is: own_params, or another net's */
    float *shared;               /* scratch of the team */
    float *local;                /* scratch of each thread, LOCAL_SIZE reals apart */
    int threads;
    int failed;
    int renew;                        /* the next backward pass writes gradients of parameters instead of adding to them */
    uint64_t seed;
    uint64_t calls;                   /* forward passes so far: the counter of random numbers */
    int64_t iter;                     /* updates so far */
    int64_t current_step;             /* of the policy multistep */
    double bad_value;
    ptrdiff_t bad_index;
    const char *bad_layer, *bad_blob, *bad_what, *bad_section;
    char bad_at[160];
    long last_class;
    char message[512];
};

/* ---- loss { EuclideanLoss } forward (loss and gradient in one sweep)    net.prototxt:6    map<n=4xc=6> loss[] = sum_cn((x[n,c] - y[n,c]) * (x[n,c] - y[n,c])) / N 4 / 2; x.diff[n,c] = (loss_weight 0.3 / N 4) * (x[n,c] - y[n,c]); y.diff[n,c] = (sign -1 * (loss_weight 0.3 / N 4)) * (x[n,c] - y[n,c]) */
static void loss_forward(const float *restrict x, const float *restrict y, float *restrict loss, float *restrict x_diff, float *restrict y_diff)
{
    const vf32 alpha = vf32_set1(0.075f);    /* loss_weight 0.3 / N 4 */
    const vf32 alpha_2 = vf32_set1(-0.075f);    /* sign -1 * (loss_weight 0.3 / N 4) */
    LOSSC_SINGLE
    {
        vf32 total = vf32_set1(0.0f);
        for (ptrdiff_t n = 0; n + VF32_LANES <= 24; n += VF32_LANES) {
            const vf32 x_v = vf32_load(x + n);
            const vf32 y_v = vf32_load(y + n);
            const vf32 x_2 = vf32_sub(x_v, y_v);
            const vf32 x_3 = vf32_mul(alpha, x_2);
            vf32_store(x_diff + n, x_3);
            const vf32 x_4 = vf32_mul(alpha_2, x_2);
            vf32_store(y_diff + n, x_4);
            total = vf32_fma(x_2, x_2, total);
        }
        const float all = vf32_sum(total);
        const float div = all / 4.0f;
        const float div_2 = div / 2.0f;
        loss[0] = div_2;
    }
}

/* ---- total forward (weighted total)    map<> loss_total[] = loss_weight 0.3 * loss[] */
static void total_forward(const float *restrict loss, float *restrict loss_total)
{
    LOSSC_SINGLE
    {
        const float loss_v = loss[0];
        const float x = 0.3f * loss_v;
        loss_total[0] = x;
    }
}

/* ---- schedule ---- */

static int run_forward(lossc_net *net)    /* 1 where a check has stopped it */
{
    float *const m = net->mem;
    (void)m;
    loss_forward(m + AT_x, m + AT_y, m + AT_loss, m + AT_x_diff, m + AT_y_diff);
    total_forward(m + AT_loss, m + AT_loss_total);
    return 0;
}

/* ---- interface ---- */

LOSSC_API void euclidean_destroy(lossc_net *net)
{
    if (net != NULL) {
        lossc_arena_free(net->mem);
        lossc_arena_free(net->own_params);
        lossc_arena_free(net->shared);
        lossc_arena_free(net->local);
        free(net);
    }
}

LOSSC_API lossc_net *euclidean_create(int threads, uint64_t seed)
{
    static const ptrdiff_t at[] = {0};
    lossc_net *net = calloc(1, sizeof *net);
    if (net == NULL) {
        return NULL;
    }
    net->threads = threads > 0 ? threads : lossc_max_threads();
    net->seed = seed;
    net->mem = lossc_arena_alloc((uint64_t)SIZE * sizeof(*net->mem));
    net->own_params = lossc_arena_alloc((uint64_t)PARAM_SIZE * sizeof(*net->mem));
    net->shared = lossc_arena_alloc(((uint64_t)SHARED_SIZE + 1) * sizeof(*net->mem));
    net->local = lossc_arena_alloc(((uint64_t)net->threads * LOCAL_SIZE + 1) * sizeof(*net->mem));
    if (net->mem == NULL || net->own_params == NULL || net->shared == NULL || net->local == NULL) {
        euclidean_destroy(net);
        return NULL;
    }
    for (int k = 0; k < 1; k++) {
        net->param[k] = net->own_params + at[k];
    }
    return net;
}

static double finish(lossc_net *net)
{
    if (net->failed == LOSSC_NOT_FINITE) {
        (void)snprintf(net->message, sizeof net->message,
                       "layer \"%s\": in %s, the %s of \"%s\" is %g at %s", net->bad_layer, net->bad_section,
                       net->bad_what, net->bad_blob, net->bad_value, net->bad_at);
        return (double)NAN;
    }
    if (net->failed) {
        (void)snprintf(net->message, sizeof net->message,
                       "layer \"%s\": blob \"%s\" holds the label %g at index %lld; labels are whole numbers from 0 to %ld",
                       net->bad_layer, net->bad_blob, net->bad_value, (long long)net->bad_index, net->last_class);
        return (double)NAN;
    }
    return (double)net->mem[AT_loss_total];
}

LOSSC_API double euclidean_forward(lossc_net *net)
{
    net->failed = 0;
    net->calls++;
    LOSSC_TEAM(1, (void)run_forward(net));    /* too little work to share it out */
    return finish(net);
}

LOSSC_API void euclidean_backward(lossc_net *net)
{
    (void)net;
}

LOSSC_API double euclidean_forward_backward(lossc_net *net)
{
    net->failed = 0;
    net->calls++;
    LOSSC_TEAM(1, (void)run_forward(net));    /* too little work to share it out */
    if (!net->failed) {
        net->renew = 0;
    }
    return finish(net);
}

LOSSC_API const char *euclidean_error(const lossc_net *net) { return net->failed ? net->message : NULL; }

LOSSC_API void euclidean_clear_param_diffs(lossc_net *net)
{
    (void)net;
}

LOSSC_API void euclidean_renew_param_diffs(lossc_net *net)
{
    net->renew = 1;
}

LOSSC_API float *euclidean_x(lossc_net *net) { return net->mem + 0; }
LOSSC_API float *euclidean_y(lossc_net *net) { return net->mem + 32; }
LOSSC_API float *euclidean_label(lossc_net *net) { return net->mem + 64; }
LOSSC_API float *euclidean_loss(lossc_net *net) { return net->mem + 80; }
LOSSC_API float *euclidean_param(lossc_net *net, int index) { return net->param[index]; }
LOSSC_API float *euclidean_param_diff(lossc_net *net, int index)
{
    static const ptrdiff_t at[] = {0};
    return net->mem + at[index];
}
LOSSC_API int64_t euclidean_param_size(int index)
{
    static const int64_t size[] = {0};
    return size[index];
}

/* ---- the same as a table, for programs that load any net ---- */

static void *abi_memory(lossc_net *net, int64_t offset) { return net->mem + offset; }
static void *abi_param(lossc_net *net, int index) { return net->param[index]; }
static void abi_share_param(lossc_net *net, int index, void *data) { net->param[index] = data; }
static int64_t abi_get(const lossc_net *net, int what)
{
    return what == 0 ? net->iter : what == 1 ? net->current_step : what == 2 ? (int64_t)net->calls : what == 3 ? net->threads : net->failed;
}
static void abi_set(lossc_net *net, int what, int64_t value)
{
    if (what == 0) {
        net->iter = value;
    } else if (what == 1) {
        net->current_step = value;
    } else if (what == 2) {
        net->calls = (uint64_t)value;
    }
}

LOSSC_API const lossc_abi *euclidean_abi(void);
LOSSC_API const lossc_abi *euclidean_abi(void)
{
    static const lossc_abi abi = {
        1, euclidean_create, euclidean_destroy, euclidean_forward, euclidean_backward, euclidean_forward_backward,
        euclidean_clear_param_diffs, euclidean_renew_param_diffs, NULL, NULL, NULL,
        euclidean_error, abi_memory, abi_param, abi_share_param, abi_get, abi_set,
        NULL, NULL,
        NULL,
    };
    return &abi;
}
