/* csrc/ without Python, one fastpg_run after another, for `valgrind --tool=callgrind --toggle-collect=fastpg_run`: one dump a run, named
 * as the run. benches/instructions.py builds it, runs it and reads the dumps. With any argument it says only what it was built with. */
#include "fastpg.h"

#include <gnu/libc-version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/callgrind.h>

typedef struct {
    const char *layout;
    fastpg_family family;
    ptrdiff_t size0, size1; /* T x N for both layouts over time */
} run_shape;

static const run_shape shapes[] = {
    {"time-major", FASTPG_TIME, 128, 8},
    {"time-major", FASTPG_TIME, 32, 512},
    {"time-major", FASTPG_TIME, 2048, 1},
    {"batch-major", FASTPG_TIME, 256, 16},
    {"masked", FASTPG_TIME, 256, 16}, /* batch-major */
    {"packed", FASTPG_TIME, 4096, 1},
    {"interleaved", FASTPG_TIME, 2048, 1},
    {"rows", FASTPG_ROW, 1024, 4},
    {"rows", FASTPG_ROW, 256, 18},
    {"rows", FASTPG_ROW, 8, 512},
};

enum { LENGTH = 100, ENVS = 16 }; /* steps of a packed sequence, lanes of an interleaved batch */

static unsigned drawn;

/* The same numbers everywhere: uniform in [0, 1). */
static double draw(void)
{
    drawn = drawn * 1664525u + 1013904223u;
    return drawn / 4294967296.0;
}

static ptrdiff_t item_of(const fastpg_parameter *p, fastpg_dtype dtype)
{
    if (p->kind == FASTPG_FLAG) return 1;
    if (p->kind == FASTPG_INDEX || p->kind == FASTPG_OUT_INDEX || p->kind == FASTPG_COUNT) return 8;
    return dtype == FASTPG_F32 ? 4 : 8;
}

static int is_number(const fastpg_parameter *p) { return p->kind == FASTPG_SCALAR || p->kind == FASTPG_NUMBER || p->kind == FASTPG_COUNT; }

static ptrdiff_t count_of(const fastpg_parameter *p, const run_shape *s)
{
    if (is_number(p)) return 1;
    return p->per_row ? s->size0 : s->size0 * s->size1;
}

/* Flags that say a step ended are set one time in twenty, those that say an action is legal nineteen times. */
static void fill(void *array, const fastpg_parameter *p, fastpg_dtype dtype, ptrdiff_t count)
{
    const int mostly = !strcmp(p->name, "legal");
    for (ptrdiff_t i = 0; i < count; i++) {
        const double x = draw();
        if (p->kind == FASTPG_FLAG)
            ((uint8_t *)array)[i] = (x < 0.05) != mostly;
        else if (p->kind == FASTPG_INDEX)
            ((int64_t *)array)[i] = 0;
        else if (p->kind == FASTPG_COUNT)
            ((int64_t *)array)[i] = 5;
        else if (dtype == FASTPG_F32)
            ((float *)array)[i] = (float)x;
        else
            ((double *)array)[i] = x;
    }
}

static fastpg_operand operand_of(void *array, const fastpg_parameter *p, fastpg_dtype dtype, const run_shape *s)
{
    const ptrdiff_t item = item_of(p, dtype);
    if (is_number(p)) return (fastpg_operand){.data = array};
    if (p->per_row) return (fastpg_operand){.data = array, .stride0 = item};
    if (!strcmp(s->layout, "batch-major") || !strcmp(s->layout, "masked"))
        return (fastpg_operand){.data = array, .stride0 = item, .stride1 = s->size0 * item};
    return (fastpg_operand){.data = array, .stride0 = s->size1 * item, .stride1 = item};
}

/* The layout of a shape beyond its two axes, in memory that is not given back. */
static fastpg_layout layout_of(const run_shape *s, fastpg_dtype dtype)
{
    fastpg_layout layout = {0};
    int64_t *numbers = malloc(sizeof(int64_t) * (size_t)(s->size0 + 2));
    if (!strcmp(s->layout, "packed")) {
        for (ptrdiff_t end = 0; end < s->size0; end += LENGTH) numbers[layout.sequences++] = end;
        numbers[layout.sequences] = s->size0;
        layout.offsets = numbers;
    } else if (!strcmp(s->layout, "interleaved")) {
        for (ptrdiff_t i = 0; i < s->size0; i++) numbers[i] = (int64_t)(ENVS * draw());
        layout.env_id = numbers;
        layout.envs = ENVS;
        layout.memory = malloc(fastpg_env_bytes(dtype, ENVS));
    } else if (!strcmp(s->layout, "masked")) {
        uint8_t *mask = malloc((size_t)(s->size0 * s->size1));
        for (ptrdiff_t i = 0; i < s->size0 * s->size1; i++) mask[i] = draw() < 0.9;
        layout.mask = (fastpg_operand){.data = (char *)mask, .stride0 = 1, .stride1 = s->size0};
    }
    return layout;
}

/* A window of steps over lanes that do not lie in order is taken apart in Python, before csrc. */
static int runs(const fastpg_kernel *kernel, const run_shape *s)
{
    if (s->family != kernel->family) return 0;
    for (int i = 0; i < kernel->n_parameters; i++)
        if (kernel->parameters[i].kind == FASTPG_COUNT && (!strcmp(s->layout, "interleaved") || !strcmp(s->layout, "masked"))) return 0;
    return 1;
}

static void count(int isa, int k, fastpg_dtype dtype, const run_shape *s)
{
    const fastpg_kernel *kernel = fastpg_kernel_at(k);
    void *arrays[FASTPG_MAX_PARAMETERS];
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    char name[128];
    drawn = 1;
    for (int i = 0; i < kernel->n_parameters; i++) {
        const fastpg_parameter *p = &kernel->parameters[i];
        const ptrdiff_t items = count_of(p, s), bytes = items * item_of(p, dtype);
        arrays[i] = aligned_alloc(64, (size_t)(bytes + 63) & ~(size_t)63); /* what a kernel does before its first whole vector depends on this */
        fill(arrays[i], p, dtype, items);
        operands[i] = operand_of(arrays[i], p, dtype, s);
        if (!strcmp(p->name, "legal")) /* as action 0, the one taken, must be in every row */
            for (ptrdiff_t row = 0; row < s->size0; row++) ((uint8_t *)arrays[i])[row * s->size1] = 1;
    }
    const fastpg_layout layout = layout_of(s, dtype);
    const int plain = !layout.offsets && !layout.env_id && !layout.mask.data;
    CALLGRIND_ZERO_STATS;
    const ptrdiff_t refused = fastpg_run(k, dtype, operands, s->size0, s->size1, plain ? NULL : &layout);
    snprintf(name, sizeof name, "%s %s %s %s %tdx%td", fastpg_isa_name(isa), kernel->name, dtype == FASTPG_F32 ? "float32" : "float64", s->layout,
             s->size0, s->size1);
    CALLGRIND_DUMP_STATS_AT(name);
    if (refused != -1) {
        fprintf(stderr, "%s refuses row %td\n", name, refused);
        exit(1);
    }
    for (int i = 0; i < kernel->n_parameters; i++) free(arrays[i]);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
#ifdef __clang__
        printf("%s, glibc %s\n", __VERSION__, gnu_get_libc_version());
#else
        printf("GCC %s, glibc %s\n", __VERSION__, gnu_get_libc_version());
#endif
        return 0;
    }
    fastpg_set_threads(1);
    for (int isa = 0; isa < fastpg_isa_count(); isa++) {
        if (!fastpg_isa_runs_here(isa) || fastpg_isa_use(fastpg_isa_name(isa))) continue;
        for (int k = 0; k < fastpg_kernel_count(); k++)
            for (int dtype = 0; dtype < FASTPG_DTYPES; dtype++)
                for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
                    if (runs(fastpg_kernel_at(k), &shapes[i])) count(isa, k, (fastpg_dtype)dtype, &shapes[i]);
    }
    return 0;
}
