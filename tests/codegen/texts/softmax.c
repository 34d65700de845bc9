/* softmax, phase TRAIN, from net.prototxt: made by lossc for avx2. Parts: the net's functions, layer by layer;
 * the schedule, which calls them; the interface of softmax.h. Every function is run by all threads of one team.
 */
#define _DEFAULT_SOURCE    /* for madvise: huge pages */
#include "net.h"
#include "kernels.h"
#include "abi.h"

_Static_assert(VF32_LANES == 8, "generated for avx2: compile it for that instruction set");

#define LOSSC_API __attribute__((visibility("default")))
#define SIZE 144          /* reals: gradients of parameters, inputs, whatever is kept, then the shared arena */
#define PARAM_SIZE 1
#define SHARED_SIZE 0
#define LOCAL_SIZE 0
#define AT_label 64    /* label [4] */
#define AT_x 0    /* x [4, 6] */
#define AT_loss 80    /* loss [] */
#define AT_x_diff 112    /* x.diff [4, 6] */
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

/* ---- loss { SoftmaxWithLoss } forward    net.prototxt:6    check_label label[4] in 0..5 */
/* Whether a label of [begin, end) is neither a whole number from 0 to 5. */
static int loss_forward_bad(const float *restrict label, ptrdiff_t begin, ptrdiff_t end)
{
    const vf32 zero = vf32_zero(), one = vf32_set1(1.0f), top = vf32_set1(5.0f);
    vf32 wrong = zero;
    for (ptrdiff_t i = begin; i < end; i += 8) {
        const vf32 x = end - i < 8 ? vf32_load_n(label + i, (int)(end - i)) : vf32_load(label + i);
        const vf32 whole = vf32_trunc(x);
        const mf32 good = mf32_and(mf32_and(vf32_ge(x, zero), vf32_le(x, top)), vf32_eq(x, whole));
        wrong = vf32_add(wrong, vf32_select(good, zero, one));
    }
    return vf32_sum(wrong) > 0.0f;
}

static int loss_forward(lossc_net *net, const float *restrict label)
{
    if (!loss_forward_bad(label, 0, 4)) {    /* few: every thread looks at all, so that nobody waits */
        return 0;
    }
    LOSSC_SINGLE
    {
        ptrdiff_t i = 0;
        while (!loss_forward_bad(label, i, i + 1)) {
            i++;
        }
        net->failed = LOSSC_BAD_LABEL;
        net->bad_value = (double)label[i];
        net->bad_index = i;
        net->bad_layer = "loss";
        net->bad_blob = "label";
        net->last_class = 5;
    }
    return 1;
}

/* ---- loss { SoftmaxWithLoss } forward (loss and gradient in one sweep)    net.prototxt:6    map<o=4xa=6> loss[] = sum_o(min(-log(FLT_MIN) 87.3365447505531, log(sum_a(exp(x[o,a] - max_a(x[o,a])))) - (x[o]@1*[label[o]] - max_a(x[o,a])))) / N 4; x.diff[o,a] = (loss_weight 1 / N 4) * where(a == label[o], exp(x[o,a] - max_a(x[o,a])) * (1 / sum_a(exp(x[o,a] - max_a(x[o,a])))) - 1, exp(x[o,a] - max_a(x[o,a])) * (1 / sum_a(exp(x[o,a] - max_a(x[o,a]))))) */
static void loss_forward_2(const float *restrict x, const float *restrict label, float *restrict loss, float *restrict x_diff)
{
    const vf32 k = vf32_set1(-INFINITY);
    const vf32 zero = vf32_zero();
    const vf32 alpha = vf32_set1(0.25f);    /* loss_weight 1 / N 4 */
    const vf32 k_2 = vf32_set1(1.0f);
    LOSSC_SINGLE
    {
        float total = 0.0f;
        for (ptrdiff_t row = 0; row < 4; row++) {
            const ptrdiff_t o = row;
            float kept[6 + VF32_LANES];
            vf32 max = vf32_set1(-INFINITY);
            {
                const ptrdiff_t a = 0;    /* the last 6 */
                const vf32 x_v = vf32_load_n(x + o * 6 + a, 6);
                max = vf32_max(max, vf32_select(vf32_tail(6), x_v, k));
            }
            const float max_all = vf32_reduce_max(max);
            vf32 sum = vf32_set1(0.0f);
            const vf32 all_max_all = vf32_set1(max_all);
            {
                const ptrdiff_t a = 0;    /* the last 6 */
                const vf32 x_v_2 = vf32_load_n(x + o * 6 + a, 6);
                const vf32 x_2 = vf32_sub(x_v_2, all_max_all);
                const vf32 exp = vf32_exp(x_2);
                vf32_store(kept + a, exp);
                sum = vf32_add(sum, vf32_select(vf32_tail(6), exp, zero));
            }
            const float sum_all = vf32_sum(sum);
            const float label_v = label[o];
            const vf32 all_label_v = vf32_set1(label_v);
            const float div = 1.0f / sum_all;
            const vf32 all_div = vf32_set1(div);
            {
                const ptrdiff_t a = 0;    /* the last 6 */
                const vf32 x_3 = vf32_add(vf32_set1((float)a), vf32_iota());
                const mf32 eq = vf32_eq(x_3, all_label_v);
                const vf32 kept_2 = vf32_load(kept + a);
                const vf32 x_4 = vf32_mul(kept_2, all_div);
                const vf32 x_5 = vf32_sub(x_4, k_2);
                const vf32 where = vf32_select(eq, x_5, x_4);
                const vf32 x_6 = vf32_mul(alpha, where);
                vf32_store_n(x_diff + o * 6 + a, x_6, 6);
            }
            const float log = logf(sum_all);
            const float x_at = x[o * 6 + lossc_pick_f32(label_v, 5.0f) * 1];
            const float x_7 = x_at - max_all;
            const float x_8 = log - x_7;
            const float min = 87.33655f < x_8 ? 87.33655f : x_8;
            total = total + min;
        }
        const float all = total;
        const float div_2 = all / 4.0f;
        loss[0] = div_2;
    }
}

/* ---- total forward (weighted total)    map<> loss_total[] = loss_weight 1 * loss[] */
static void total_forward(const float *restrict loss, float *restrict loss_total)
{
    LOSSC_SINGLE
    {
        const float loss_v = loss[0];
        const float x = 1.0f * loss_v;
        loss_total[0] = x;
    }
}

/* ---- schedule ---- */

static int run_forward(lossc_net *net)    /* 1 where a check has stopped it */
{
    float *const m = net->mem;
    (void)m;
    if (loss_forward(net, m + AT_label)) {
        return 1;
    }
    loss_forward_2(m + AT_x, m + AT_label, m + AT_loss, m + AT_x_diff);
    total_forward(m + AT_loss, m + AT_loss_total);
    return 0;
}

/* ---- interface ---- */

LOSSC_API void softmax_destroy(lossc_net *net)
{
    if (net != NULL) {
        lossc_arena_free(net->mem);
        lossc_arena_free(net->own_params);
        lossc_arena_free(net->shared);
        lossc_arena_free(net->local);
        free(net);
    }
}

LOSSC_API lossc_net *softmax_create(int threads, uint64_t seed)
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
        softmax_destroy(net);
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

LOSSC_API double softmax_forward(lossc_net *net)
{
    net->failed = 0;
    net->calls++;
    LOSSC_TEAM(1, (void)run_forward(net));    /* too little work to share it out */
    return finish(net);
}

LOSSC_API void softmax_backward(lossc_net *net)
{
    (void)net;
}

LOSSC_API double softmax_forward_backward(lossc_net *net)
{
    net->failed = 0;
    net->calls++;
    LOSSC_TEAM(1, (void)run_forward(net));    /* too little work to share it out */
    if (!net->failed) {
        net->renew = 0;
    }
    return finish(net);
}

LOSSC_API const char *softmax_error(const lossc_net *net) { return net->failed ? net->message : NULL; }

LOSSC_API void softmax_clear_param_diffs(lossc_net *net)
{
    (void)net;
}

LOSSC_API void softmax_renew_param_diffs(lossc_net *net)
{
    net->renew = 1;
}

LOSSC_API float *softmax_x(lossc_net *net) { return net->mem + 0; }
LOSSC_API float *softmax_y(lossc_net *net) { return net->mem + 32; }
LOSSC_API float *softmax_label(lossc_net *net) { return net->mem + 64; }
LOSSC_API float *softmax_loss(lossc_net *net) { return net->mem + 80; }
LOSSC_API float *softmax_param(lossc_net *net, int index) { return net->param[index]; }
LOSSC_API float *softmax_param_diff(lossc_net *net, int index)
{
    static const ptrdiff_t at[] = {0};
    return net->mem + at[index];
}
LOSSC_API int64_t softmax_param_size(int index)
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

LOSSC_API const lossc_abi *softmax_abi(void);
LOSSC_API const lossc_abi *softmax_abi(void)
{
    static const lossc_abi abi = {
        1, softmax_create, softmax_destroy, softmax_forward, softmax_backward, softmax_forward_backward,
        softmax_clear_param_diffs, softmax_renew_param_diffs, NULL, NULL, NULL,
        softmax_error, abi_memory, abi_param, abi_share_param, abi_get, abi_set,
        NULL, NULL,
        NULL,
    };
    return &abi;
}
