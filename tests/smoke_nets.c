/* Nets and minibatches of PPO without Python, on every instruction set of this machine: for the sanitizers. Arrays end where their memory ends. */
#define _POSIX_C_SOURCE 200112L
#include "net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int failures = 0;

static void expect(int holds, const char *what, const int64_t *shape, ptrdiff_t rows)
{
    if (!holds) failures++, printf("%s: %d layers from %d to %d, %td rows\n", what, (int)shape[0], (int)shape[2], (int)shape[2 + shape[0]], rows);
}

static size_t item_of(fastpg_dtype dtype) { return dtype == FASTPG_F32 ? sizeof(float) : sizeof(double); }
static double get(const void *x, fastpg_dtype dtype, ptrdiff_t i) { return dtype == FASTPG_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i]; }

static void set(void *x, fastpg_dtype dtype, ptrdiff_t i, double to)
{
    if (dtype == FASTPG_F32)
        ((float *)x)[i] = (float)to;
    else
        ((double *)x)[i] = to;
}

/* Memory for n items at a multiple of 64 bytes, full of NaN: what reads before it writes is found out. */
static void *room_for(fastpg_dtype dtype, ptrdiff_t n)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (size_t)n * item_of(dtype) + !n)) abort();
    for (ptrdiff_t i = 0; i < n; i++) set(memory, dtype, i, NAN);
    return memory;
}

/* The same with values between -1 and 1. */
static void *numbers(fastpg_dtype dtype, ptrdiff_t n)
{
    void *memory = room_for(dtype, n);
    for (ptrdiff_t i = 0; i < n; i++) set(memory, dtype, i, (double)(i * 37 % 101) / 50 - 1);
    return memory;
}

static ptrdiff_t parameters(const int64_t *shape)
{
    ptrdiff_t n = 0;
    for (int k = 0; k < shape[0]; k++) n += (shape[2 + k] + 1) * shape[3 + k];
    return n;
}

static double sum_of_y(fastpg_dtype dtype, const int64_t *shape, const void *parameter, void *packed, const void *x, ptrdiff_t rows, void *hidden, void *y)
{
    double sum = 0;
    fastpg_net_pack(dtype, shape, parameter, packed);
    fastpg_net_forward(dtype, shape, packed, x, rows, hidden, y);
    for (ptrdiff_t i = 0; i < rows * shape[2 + shape[0]]; i++) sum += get(y, dtype, i);
    return sum;
}

static void run(fastpg_dtype dtype, const int64_t *shape, ptrdiff_t rows)
{
    const ptrdiff_t inputs = shape[2], outputs = shape[2 + shape[0]], n = parameters(shape);
    void *parameter = numbers(dtype, n), *packed = room_for(dtype, fastpg_net_packed(dtype, shape)), *x = numbers(dtype, rows * inputs);
    void *hidden = room_for(dtype, fastpg_net_hidden(dtype, shape, rows)), *y = room_for(dtype, rows * outputs), *grad_y = numbers(dtype, rows * outputs);
    void *room = room_for(dtype, fastpg_net_room(dtype, shape, rows)), *grad = room_for(dtype, n), *grad_x = room_for(dtype, rows * inputs);
    for (ptrdiff_t i = 0; i < rows * outputs; i++) set(grad_y, dtype, i, 1);
    sum_of_y(dtype, shape, parameter, packed, x, rows, hidden, y);
    fastpg_net_backward(dtype, shape, packed, x, rows, hidden, grad_y, room, grad, grad_x);
    for (ptrdiff_t i = 0; i < n; i++) expect(isfinite(get(grad, dtype, i)), "finite gradient", shape, rows);
    for (ptrdiff_t i = 0; i < rows * inputs; i++) expect(isfinite(get(grad_x, dtype, i)), "finite gradient of x", shape, rows);
    for (ptrdiff_t i = 1; i <= outputs; i++) expect(get(grad, dtype, n - i) == (double)rows, "gradient of the last bias", shape, rows);
    if (dtype == FASTPG_F64) { /* of sum y by the first weight, by central differences */
        double *p = parameter, kept = p[0];
        p[0] = kept + 1e-6;
        const double up = sum_of_y(dtype, shape, parameter, packed, x, rows, hidden, y);
        p[0] = kept - 1e-6;
        const double down = sum_of_y(dtype, shape, parameter, packed, x, rows, hidden, y);
        const double slope = (up - down) / 2e-6;
        expect(shape[1] || fabs(slope - get(grad, dtype, 0)) <= 1e-5 * (1 + (double)rows), "gradient of the first weight", shape, rows);
    }
    void *const all[] = {parameter, packed, x, hidden, y, grad_y, room, grad, grad_x};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) free(all[k]);
}

static void minibatch(fastpg_dtype dtype, const int64_t *policy, const int64_t *value, ptrdiff_t rows, int gaussian)
{
    const ptrdiff_t inputs = policy[2], actions = policy[2 + policy[0]], all = 2 * rows + 1;
    void *memory[40];
    int used = 0;
    fastpg_ppo ppo = {.rows = all, .minibatch = rows, .actions = actions, .gaussian = gaussian, .clip = 0.2, .entropy_weight = 0.1, .max_norm = 0.5};
    ppo.target_kl = INFINITY;
    for (int k = 0; k < 2; k++) {
        const int64_t *shape = k ? value : policy;
        const ptrdiff_t n = parameters(shape) + (k || !gaussian ? 0 : actions);
        fastpg_ppo_net net = {.shape = shape, .items = n, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-5};
        net.packed = memory[used++] = room_for(dtype, fastpg_net_packed(dtype, shape));
        net.x = memory[used++] = room_for(dtype, rows * inputs);
        net.hidden = memory[used++] = room_for(dtype, fastpg_net_hidden(dtype, shape, rows));
        net.y = memory[used++] = room_for(dtype, rows * shape[2 + shape[0]]);
        net.grad_y = memory[used++] = room_for(dtype, rows * shape[2 + shape[0]]);
        net.room = memory[used++] = room_for(dtype, fastpg_net_room(dtype, shape, rows));
        net.grad = memory[used++] = room_for(dtype, n), net.parameter = memory[used++] = numbers(dtype, n);
        net.m = memory[used++] = numbers(dtype, n), net.v = memory[used++] = numbers(dtype, n);
        for (ptrdiff_t i = 0; i < n; i++) set(net.v, dtype, i, 1);
        *(k ? &ppo.value : &ppo.policy) = net;
    }
    int64_t *index = memory[used++] = malloc((size_t)all * sizeof *index), *choice = memory[used++] = malloc((size_t)all * sizeof *choice);
    for (ptrdiff_t i = 0; i < all; i++) index[i] = all - 1 - i;
    for (ptrdiff_t i = 0; i < all; i++) choice[i] = i % actions;
    void *many = memory[used++] = numbers(dtype, all * actions);
    ppo.index = index;
    ppo.action = gaussian ? many : choice;
    ppo.observation = memory[used++] = numbers(dtype, all * inputs);
    ppo.log_prob = memory[used++] = numbers(dtype, all);
    ppo.advantage = memory[used++] = numbers(dtype, all);
    ppo.target = memory[used++] = numbers(dtype, all);
    const fastpg_ppo_result result = fastpg_ppo_epoch(dtype, &ppo);
    const fastpg_ppo_means last = result.last; /* of a single row */
    expect(result.steps == 3, "steps", policy, rows);
    expect(isfinite(last.policy_loss) && last.value_loss >= 0 && last.clipped >= 0 && last.clipped <= 1, "means", policy, rows);
    for (ptrdiff_t i = 0; i < ppo.policy.items; i++)
        if (!isfinite(get(ppo.policy.parameter, dtype, i))) {
            expect(0, "parameter of the policy", policy, rows);
            break;
        }
    while (used) free(memory[--used]);
}

int main(void)
{
    static const int64_t nets[][7] = {{1, 0, 3, 2},           {2, 0, 4, 7, 2},   {3, 0, 4, 64, 64, 2},
                                     {3, 1, 17, 65, 8, 6}, {2, 0, 5, 130, 1}, {4, 0, 3, 8, 4, 2, 3}};
    static const int64_t policies[][6] = {{3, 0, 4, 64, 9, 3}, {3, 0, 4, 8, 4, 3}}, values[][6] = {{2, 0, 4, 33, 1}, {3, 0, 4, 8, 4, 1}};
    static const ptrdiff_t sizes[] = {0, 1, 7, 8, 63, 64, 65, 600, 1100};
    int runs = 0;
    fastpg_set_threads(4);
    for (int isa = 0; isa < fastpg_isa_count(); isa++) {
        if (!fastpg_isa_runs_here(isa) || fastpg_isa_use(fastpg_isa_name(isa))) continue;
        for (int dtype = 0; dtype < FASTPG_DTYPES; dtype++)
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                for (size_t k = 0; k < sizeof nets / sizeof nets[0]; k++, runs++) run((fastpg_dtype)dtype, nets[k], sizes[i]);
                for (int k = 0; k < 4 && sizes[i]; k++, runs++)
                    minibatch((fastpg_dtype)dtype, policies[k / 2], values[k / 2], sizes[i], k % 2);
            }
    }
    printf("%d passed, %d failed\n", runs, failures);
    return failures != 0;
}
