/* csrc/ on its own: every kernel on every instruction set, against closed forms, over the sizes where traversals change.
 * Built under sanitizers by `make sanitize`. Buffers are exact, so that one item too far is seen. */
#include "fastpg.h"

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

/* Rewards 1, values 0, no endings, gamma = lambda = 1/2 (exact): every scan over time has a closed form. */
static double wanted_over_time(const char *name, ptrdiff_t steps, ptrdiff_t t)
{
    const double left = (double)(steps - t);
    if (!strcmp(name, "td_residual")) return 1;
    if (!strcmp(name, "gae") || !strcmp(name, "gae_and_return") || !strcmp(name, "lambda_return")) return (1 - pow(0.25, left)) / 0.75;
    if (!strcmp(name, "total_return")) return 2 * (1 - pow(0.5, (double)steps));
    return 2 * (1 - pow(0.5, left));
}

static void over_time(int k, fastpg_dtype dtype, ptrdiff_t steps, ptrdiff_t lanes, int batch_major)
{
    const fastpg_kernel *kernel = fastpg_kernel_at(k);
    const ptrdiff_t item = dtype == FASTPG_F32 ? 4 : 8, n = steps * lanes;
    void *arrays[FASTPG_MAX_PARAMETERS];
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    for (int i = 0; i < kernel->n_parameters; i++) {
        const fastpg_parameter *p = &kernel->parameters[i];
        const ptrdiff_t size = p->kind == FASTPG_FLAG ? 1 : item, count = p->kind == FASTPG_SCALAR ? 1 : n;
        arrays[i] = calloc((size_t)count, (size_t)size);
        operands[i] = (fastpg_operand){arrays[i], batch_major ? size : lanes * size, batch_major ? steps * size : size, NULL, 0};
        if (p->kind == FASTPG_SCALAR) {
            operands[i].stride0 = operands[i].stride1 = 0;
            set(arrays[i], dtype, 0, 0.5);
        }
        if (!strcmp(p->name, "reward"))
            for (ptrdiff_t j = 0; j < n; j++) set(arrays[i], dtype, j, 1);
    }
    expect(fastpg_run(k, dtype, operands, steps, lanes) == -1, "refused", kernel->name, steps, lanes);
    for (int i = 0; i < kernel->n_parameters; i++) {
        if (kernel->parameters[i].kind == FASTPG_OUT)
            for (ptrdiff_t j = 0; j < n; j++) {
                const double want = wanted_over_time(kernel->name, steps, batch_major ? j % steps : j / lanes);
                if (fabs(get(arrays[i], dtype, j) - want) > 1e-6) {
                    expect(0, kernel->parameters[i].name, kernel->name, steps, lanes);
                    break;
                }
            }
    }
    for (int i = 0; i < kernel->n_parameters; i++) free(arrays[i]);
}

/* Equal logits, weight 1, uniform 0: the policy is uniform, the first action is drawn. */
static double wanted_of_rows(const char *name, ptrdiff_t actions, ptrdiff_t action)
{
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
            if (!masked) operands[i].data = NULL;
        }
        if (!strcmp(p->name, "weight"))
            for (ptrdiff_t j = 0; j < rows; j++) set(arrays[i], dtype, j, 1);
    }
    expect(fastpg_run(k, dtype, operands, rows, actions) == -1, "refused", kernel->name, rows, actions);
    for (int i = 0; i < kernel->n_parameters; i++) {
        const fastpg_parameter *p = &kernel->parameters[i];
        for (ptrdiff_t j = 0; p->kind == FASTPG_OUT && j < (p->per_row ? rows : rows * actions); j++)
            if (fabs(get(arrays[i], dtype, j) - wanted_of_rows(kernel->name, actions, p->per_row ? 0 : j % actions)) > 2e-6 * log((double)actions + 2)) {
                expect(0, p->name, kernel->name, rows, actions);
                break;
            }
        for (ptrdiff_t j = 0; p->kind == FASTPG_OUT_INDEX && j < rows; j++) expect(((int64_t *)arrays[i])[j] == 0, p->name, kernel->name, rows, actions);
        if (p->kind == FASTPG_INDEX) { /* an action out of range is refused before anything is read */
            ((int64_t *)arrays[i])[rows - 1] = actions;
            expect(fastpg_run(k, dtype, operands, rows, actions) == rows - 1, "action out of range accepted", kernel->name, rows, actions);
        }
    }
    for (int i = 0; i < kernel->n_parameters; i++) free(arrays[i]);
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
        for (int k = 0; k < fastpg_kernel_count(); k++)
            for (int dtype = 0; dtype < FASTPG_DTYPES; dtype++)
                for (int i = 0; i < SIZES; i++)
                    for (int j = 0; j < SIZES; j++)
                        for (int way = 0; way < 2; way++) {
                            if (sizes[i] * sizes[j] > 150000 || (only_large && sizes[i] * sizes[j] < 65536)) continue;
                            if (fastpg_kernel_at(k)->family == FASTPG_TIME)
                                over_time(k, (fastpg_dtype)dtype, sizes[i], sizes[j], way);
                            else
                                over_rows(k, (fastpg_dtype)dtype, sizes[i], sizes[j], way);
                            runs++;
                        }
    }
    expect(fastpg_isa_use("none such") == -1, "unknown instruction set accepted", "fastpg_isa_use", 0, 0);
    printf("%d passed, %d failed\n", runs, failures);
    return failures != 0;
}
