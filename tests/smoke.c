/* csrc/ on its own: every kernel on every instruction set, against closed forms, over the sizes where traversals change.
 * Built under sanitizers by `make sanitize`. Buffers are exact, so that one item too far is seen. */
#include "statistic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(int holds, const char *what, const char *kernel, ptrdiff_t a, ptrdiff_t b)
{
    if (holds) return;
    printf("FAILED %s: %s at %td x %td on %s\n", kernel, what, a, b, fastpg_isa_name(fastpg_isa_current()));
    failures++;
}

static double get(const void *array, fastpg_dtype dtype, ptrdiff_t i) { return dtype == FASTPG_F32 ? ((const float *)array)[i] : ((const double *)array)[i]; }

static void set(void *array, fastpg_dtype dtype, ptrdiff_t i, double x)
{
    if (dtype == FASTPG_F32)
        ((float *)array)[i] = (float)x;
    else
        ((double *)array)[i] = x;
}

/* Rewards 1, values 0, log-ratios 0, clips 1, no endings, gamma = lambda = alpha = 1/2 (exact), windows of 3: every scan over time has a closed
 * form. `left` steps follow, this one included, of `steps` in the lane. */
static double wanted_over_time(const char *name, double steps, double left)
{
    const char *by_gamma_alone[] = {"reward_to_go", "upgo", "n_step_return"};
    if (!strcmp(name, "td_residual") || !strcmp(name, "q_lambda")) return 1; /* greedy is false: no trace */
    if (!strcmp(name, "total_return")) return 2 * (1 - pow(0.5, steps));
    if (!strcmp(name, "n_step_return") && left > 3) left = 3;
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, by_gamma_alone[i])) return 2 * (1 - pow(0.5, left));
    return (1 - pow(0.25, left)) / 0.75;
}

enum { TIME_MAJOR, BATCH_MAJOR, PACKED, INTERLEAVED, WAYS }; /* the last two: the same lanes one after another, and step by step in turn */

static void over_time(int k, fastpg_dtype dtype, ptrdiff_t steps, ptrdiff_t lanes, int way, int mask_mode)
{
    const fastpg_kernel *kernel = fastpg_kernel_at(k);
    const ptrdiff_t item = dtype == FASTPG_F32 ? 4 : 8, n = steps * lanes;
    const int time_inside = way == BATCH_MAJOR || way == PACKED, one_row = way == PACKED || way == INTERLEAVED;
    void *arrays[FASTPG_MAX_PARAMETERS];
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    int64_t *numbers = calloc((size_t)(n + lanes + 1), sizeof *numbers);
    fastpg_layout layout = {.mask_mode = (fastpg_mask_mode)(mask_mode < 0 ? 0 : mask_mode)};
    if (way == PACKED) {
        for (ptrdiff_t b = 0; b <= lanes; b++) numbers[b] = b * steps;
        layout.offsets = numbers;
        layout.sequences = lanes;
    } else if (way == INTERLEAVED) {
        for (ptrdiff_t i = 0; i < n; i++) numbers[i] = i % lanes;
        layout.env_id = numbers;
        layout.envs = lanes;
        layout.memory = malloc(fastpg_env_bytes(dtype, lanes));
    }
    const ptrdiff_t stride0 = time_inside || one_row ? 1 : lanes, stride1 = one_row ? 0 : time_inside ? steps : 1;
    /* A mask that leaves out the first step of each lane: what follows is as if the lane were shorter. */
    const ptrdiff_t gone = mask_mode >= 0 && steps > 1;
    uint8_t *mask = malloc((size_t)n);
    for (ptrdiff_t i = 0; i < n; i++) mask[i] = !gone || (time_inside ? i % steps : i / lanes) > 0;
    if (mask_mode >= 0) layout.mask = (fastpg_operand){(char *)mask, stride0, stride1, NULL, 0};
    for (int i = 0; i < kernel->n_parameters; i++) {
        const fastpg_parameter *p = &kernel->parameters[i];
        const int scalar = p->kind == FASTPG_SCALAR || p->kind == FASTPG_NUMBER || p->kind == FASTPG_COUNT;
        const ptrdiff_t size = p->kind == FASTPG_FLAG ? 1 : p->kind == FASTPG_COUNT ? 8 : item, count = scalar ? 1 : n;
        arrays[i] = calloc((size_t)count, (size_t)size);
        operands[i] = (fastpg_operand){arrays[i], scalar ? 0 : stride0 * size, scalar ? 0 : stride1 * size, NULL, 0};
        if (p->kind == FASTPG_COUNT) *(int64_t *)arrays[i] = 3;
        else if (scalar) set(arrays[i], dtype, 0, p->kind == FASTPG_SCALAR ? 0.5 : 1);
        if (!strcmp(p->name, "reward"))
            for (ptrdiff_t j = 0; j < n; j++) set(arrays[i], dtype, j, 1);
    }
    const fastpg_layout *chosen = one_row || mask_mode >= 0 ? &layout : NULL;
    expect(fastpg_run(k, dtype, operands, one_row ? n : steps, one_row ? 1 : lanes, chosen) == -1, "refused", kernel->name, steps, lanes);
    for (int i = 0; i < kernel->n_parameters; i++) {
        if (kernel->parameters[i].kind == FASTPG_OUT)
            for (ptrdiff_t j = 0; j < n; j++) {
                const ptrdiff_t t = time_inside ? j % steps : j / lanes;
                /* A step of reward 0 before them all halves the return of the whole episode. */
                const double halved = !strcmp(kernel->name, "total_return") && gone && mask_mode == FASTPG_ZERO ? 0.5 : 1;
                const double want = mask[j] ? halved * wanted_over_time(kernel->name, (double)(steps - gone), (double)(steps - t)) : 0;
                if (fabs(get(arrays[i], dtype, j) - want) > 1e-6) {
                    expect(0, kernel->parameters[i].name, kernel->name, steps, lanes);
                    break;
                }
            }
    }
    for (int i = 0; i < kernel->n_parameters; i++) free(arrays[i]);
    free(mask);
    free(numbers);
    free(layout.memory);
}

/* Equal logits, weight 1, uniform 0: the policy is uniform, the first action is drawn. Bits are 1. Numbers, means and log-scales are 0. */
static double wanted_of_rows(const char *name, const char *parameter, ptrdiff_t rows, ptrdiff_t actions, ptrdiff_t action, int shared)
{
    const double half_log_2_pi = 0.91893853320467274178;
    if (!strcmp(name, "bernoulli_log_prob")) return -(double)actions * log(2);
    if (!strcmp(name, "bernoulli_entropy")) return (double)actions * log(2);
    if (!strcmp(name, "bernoulli_log_prob_grad")) return 0.5;
    if (!strcmp(name, "gaussian_log_prob") || !strcmp(name, "squashed_gaussian_log_prob")) return -(double)actions * half_log_2_pi;
    if (!strcmp(name, "gaussian_entropy")) return (double)actions * (half_log_2_pi + 0.5);
    if (!strcmp(name, "gaussian_log_prob_grad") && !strcmp(parameter, "log_std_grad")) return shared ? -(double)rows : -1;
    if (!strcmp(name, "categorical_log_prob")) return -log((double)actions);
    if (!strcmp(name, "categorical_entropy")) return log((double)actions);
    if (!strcmp(name, "categorical_log_prob_grad")) return (action == 0) - 1.0 / (double)actions;
    return 0;
}

static void over_rows(int k, fastpg_dtype dtype, ptrdiff_t rows, ptrdiff_t actions, int masked)
{
    const fastpg_kernel *kernel = fastpg_kernel_at(k);
    const ptrdiff_t item = dtype == FASTPG_F32 ? 4 : 8;
    void *arrays[FASTPG_MAX_PARAMETERS];
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    for (int i = 0; i < kernel->n_parameters; i++) {
        const fastpg_parameter *p = &kernel->parameters[i];
        const ptrdiff_t size = p->kind == FASTPG_FLAG ? 1 : p->kind == FASTPG_INDEX || p->kind == FASTPG_OUT_INDEX ? 8 : item;
        const ptrdiff_t count = p->per_row ? rows : rows * actions;
        arrays[i] = calloc((size_t)count, (size_t)size);
        operands[i] = (fastpg_operand){arrays[i], p->per_row ? size : actions * size, p->per_row ? 0 : size, NULL, 0};
        if (p->kind == FASTPG_FLAG) {
            memset(arrays[i], 1, (size_t)count);
            if (!masked && p->shared) operands[i].data = NULL;
        } else if (p->shared && masked) {
            operands[i].stride0 = 0;
        }
        if (!strcmp(p->name, "weight"))
            for (ptrdiff_t j = 0; j < rows; j++) set(arrays[i], dtype, j, 1);
    }
    expect(fastpg_run(k, dtype, operands, rows, actions, NULL) == -1, "refused", kernel->name, rows, actions);
    for (int i = 0; i < kernel->n_parameters; i++) {
        const fastpg_parameter *p = &kernel->parameters[i];
        const int shared = p->shared && masked;
        for (ptrdiff_t j = 0; p->kind == FASTPG_OUT && j < (p->per_row ? rows : shared ? actions : rows * actions); j++) {
            const double wanted = wanted_of_rows(kernel->name, p->name, rows, actions, p->per_row ? 0 : j % actions, shared);
            const double close = 2e-6 + 1e-9 * (double)actions; /* equal items add up with equal roundings, actions / 64 of them */
            if (fabs(get(arrays[i], dtype, j) - wanted) > close * (log((double)actions + 2) + fabs(wanted))) {
                expect(0, p->name, kernel->name, rows, actions);
                break;
            }
        }
        for (ptrdiff_t j = 0; p->kind == FASTPG_OUT_INDEX && j < rows; j++) expect(((int64_t *)arrays[i])[j] == 0, p->name, kernel->name, rows, actions);
        if (p->kind == FASTPG_INDEX) { /* an action out of range is refused before anything is read */
            ((int64_t *)arrays[i])[rows - 1] = actions;
            expect(fastpg_run(k, dtype, operands, rows, actions, NULL) == rows - 1, "action out of range accepted", kernel->name, rows, actions);
        }
    }
    for (int i = 0; i < kernel->n_parameters; i++) free(arrays[i]);
}

/* Whitening of items with their own moments: mean 0, squares that sum to the count; masked ones 0. Arrays end where their memory ends. */
static void statistics(fastpg_dtype dtype, ptrdiff_t n, int masked)
{
    const size_t size = (size_t)n * (dtype == FASTPG_F32 ? sizeof(float) : sizeof(double));
    void *x = malloc(size), *out = malloc(size), *weight = malloc(size);
    unsigned char *mask = malloc((size_t)n);
    for (ptrdiff_t i = 0; i < n; i++) set(x, dtype, i, (double)(i % 13)), set(weight, dtype, i, 1), mask[i] = i % 3 != 0;
    double found[3] = {0, 0, 0}, weighted[3] = {0, 0, 0}, sum = 0, square = 0;
    fastpg_moments(dtype, x, masked ? mask : NULL, NULL, n, found);
    fastpg_moments(dtype, x, masked ? mask : NULL, weight, n, weighted);
    expect(found[0] == weighted[0] && fabs(found[2] - weighted[2]) <= 1e-9 * found[2], "weights of 1", "moments", n, masked);
    if (found[2] > 0) {
        fastpg_whiten(dtype, x, masked ? mask : NULL, n, found[1], sqrt(found[0] / found[2]), 0, out);
        for (ptrdiff_t i = 0; i < n; i++) sum += get(out, dtype, i), square += get(out, dtype, i) * get(out, dtype, i);
        for (ptrdiff_t i = 0; masked && i < n; i += 3) expect(get(out, dtype, i) == 0, "a masked item", "whiten", n, masked);
        expect(fabs(sum) < 1e-5 * (double)n && fabs(square / found[0] - 1) < 1e-5, "moments of the result", "whiten", n, masked);
    }
    free(x), free(out), free(weight), free(mask);
}

/* With any argument, only the sizes that threads share. */
int main(int argc, char **argv)
{
    const int only_large = argc > 1;
    (void)argv;
    static const ptrdiff_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 97, 130, 1030, 4100, 70000};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    int runs = 0;
    fastpg_set_threads(4);
    for (int isa = 0; isa < fastpg_isa_count(); isa++) {
        if (!fastpg_isa_runs_here(isa) || fastpg_isa_use(fastpg_isa_name(isa))) continue;
        if (only_large && isa > 0) continue; /* threads share work alike on every set */
        for (int i = 0; i < SIZES; i++)
            for (int way = 0; way < 4; way++, runs++) statistics(way & 1 ? FASTPG_F32 : FASTPG_F64, sizes[i], way & 2);
        for (int k = 0; k < fastpg_kernel_count(); k++)
            for (int dtype = 0; dtype < FASTPG_DTYPES; dtype++)
                for (int i = 0; i < SIZES; i++)
                    for (int j = 0; j < SIZES; j++)
                        for (int way = 0; way < WAYS; way++) {
                            if (sizes[i] * sizes[j] > (only_large ? 75000 : 150000) || (only_large && sizes[i] * sizes[j] < 65536)) continue;
                            const ptrdiff_t most = way < 2 ? 75000 : 5000; /* the sanitizers are slow */
                            if (sizes[i] * sizes[j] > most && !only_large) continue;
                            if (fastpg_kernel_at(k)->family == FASTPG_TIME) {
                                /* A window kernel cannot look ahead by lane: its caller lines the steps up. */
                                const int window = !strcmp(fastpg_kernel_at(k)->name, "n_step_return");
                                for (int mode = -1; mode < 3; mode++, runs++)
                                    if (mode >= 0 && (only_large ? mode != FASTPG_SKIP || way != PACKED : sizes[i] * sizes[j] > 2000)) continue;
                                    else if (!window || (way != INTERLEAVED && mode != FASTPG_SKIP))
                                        over_time(k, (fastpg_dtype)dtype, sizes[i], sizes[j], way, mode);
                            } else if (way < 2) {
                                over_rows(k, (fastpg_dtype)dtype, sizes[i], sizes[j], way);
                                runs++;
                            }
                        }
    }
    expect(fastpg_isa_use("none such") == -1, "unknown instruction set accepted", "fastpg_isa_use", 0, 0);
    printf("%d passed, %d failed\n", runs, failures);
    return failures != 0;
}
