/* Compiles the bodies once per instruction set and picks a table of them at load. */
#include "fastpg.h"

#include <math.h>
#include <string.h>

#define ABS(x) ((x) < 0 ? -(x) : (x))

/* A vector of the items of a followed by those of b, picked by number. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (order){__VA_ARGS__})
#define NEEDS_ORDER
#endif

enum {
    STAGE_BYTES = 4096 /* of one parameter's stage: with a dozen parameters still well inside the L2 cache */
};

typedef ptrdiff_t (*fastpg_runner)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1);

/* FASTPG_NO_SIMD, FASTPG_NO_AVX512: set by the build for a compiler that cannot target them. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(FASTPG_NO_SIMD)
#define HAS_AVX2
#ifndef FASTPG_NO_AVX512
#define HAS_AVX512
#endif
#endif

#ifdef __FP_FAST_FMA
#define ISA_HAS_FMA 1
#else
#define ISA_HAS_FMA 0
#endif
#define ISA base
#include "each_dtype.h"
#undef ISA
#undef ISA_HAS_FMA
#define ISA_HAS_FMA 1

#ifdef HAS_AVX2
#define ISA avx2
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "each_dtype.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef ISA
#endif

#ifdef HAS_AVX512
#define ISA avx512
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "each_dtype.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef ISA
#endif

static const fastpg_kernel kernels[] = {
#define PARAMETER(kind_, x, per_row_) {#x, kind_, per_row_},
#define IN(x) PARAMETER(FASTPG_IN, x, 0)
#define FLAG(x) PARAMETER(FASTPG_FLAG, x, 0)
#define SCALAR(x) PARAMETER(FASTPG_SCALAR, x, 0)
#define OUT(x) PARAMETER(FASTPG_OUT, x, 0)
#define ROW_IN(x) PARAMETER(FASTPG_IN, x, 1)
#define ROW_INDEX(x) PARAMETER(FASTPG_INDEX, x, 1)
#define ROW_OUT(x) PARAMETER(FASTPG_OUT, x, 1)
#define ROW_OUT_INDEX(x) PARAMETER(FASTPG_OUT_INDEX, x, 1)
#define LIST(name_, family_, ...)                                                                                                            \
    {.name = #name_,                                                                                                                                 \
     .family = family_,                                                                                                                              \
     .n_parameters = (int)(sizeof((fastpg_parameter[]){__VA_ARGS__}) / sizeof(fastpg_parameter)),                                                    \
     .parameters = {__VA_ARGS__}},
#define TIME(name, parameters) LIST(name, FASTPG_TIME, parameters)
#define ROW(name, parameters) LIST(name, FASTPG_ROW, parameters)
#include "kernels.def"
#undef PARAMETER
#undef IN
#undef FLAG
#undef SCALAR
#undef OUT
#undef ROW_IN
#undef ROW_INDEX
#undef ROW_OUT
#undef ROW_OUT_INDEX
#undef LIST
#undef TIME
#undef ROW
};

enum { KERNELS = sizeof kernels / sizeof kernels[0] };

static const struct {
    const char *name;
    const fastpg_runner *table[FASTPG_DTYPES];
} isas[] = {
    {"base", {table_f32_base, table_f64_base}},
#ifdef HAS_AVX2
    {"avx2", {table_f32_avx2, table_f64_avx2}},
#endif
#ifdef HAS_AVX512
    {"avx512", {table_f32_avx512, table_f64_avx512}},
#endif
};

enum { ISAS = sizeof isas / sizeof isas[0] };

static int current = 0;

int fastpg_kernel_count(void) { return KERNELS; }
const fastpg_kernel *fastpg_kernel_at(int kernel) { return &kernels[kernel]; }
int fastpg_isa_count(void) { return ISAS; }
const char *fastpg_isa_name(int isa) { return isas[isa].name; }
int fastpg_isa_current(void) { return current; }

int fastpg_isa_runs_here(int isa)
{
#ifdef HAS_AVX2
    __builtin_cpu_init();
    if (isa == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl");
#endif
    return isa == 0;
}

int fastpg_isa_use(const char *name)
{
    for (int isa = ISAS - 1; isa >= 0; isa--)
        if ((name == NULL || !strcmp(name, isas[isa].name)) && fastpg_isa_runs_here(isa)) {
            current = isa;
            return 0;
        }
    return -1;
}

ptrdiff_t fastpg_run(int kernel, fastpg_dtype dtype, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1)
{
    if (size0 == 0 || size1 == 0) return -1;
    return isas[current].table[dtype][kernel](&kernels[kernel], operands, size0, size1);
}

ptrdiff_t fastpg_first_cut(fastpg_operand terminated, fastpg_operand truncated, ptrdiff_t size0, ptrdiff_t size1)
{
    static char none = 0;
    if (!truncated.data) return -1;
    if (!terminated.data) terminated = (fastpg_operand){.data = &none};
    for (ptrdiff_t i = 0; i < size0 - 1; i++)
        for (ptrdiff_t j = 0; j < size1; j++)
            if (truncated.data[i * truncated.stride0 + j * truncated.stride1] && !terminated.data[i * terminated.stride0 + j * terminated.stride1])
                return i * size1 + j;
    return -1;
}

enum {
#define TIME(name, parameters) KERNEL_##name,
#define ROW(name, parameters) KERNEL_##name,
#include "kernels.def"
#undef TIME
#undef ROW
};

#define DTYPE f32
#define DTYPE_ID FASTPG_F32
#define REAL float
#include "flat.h"
#undef DTYPE
#undef DTYPE_ID
#undef REAL

#define DTYPE f64
#define DTYPE_ID FASTPG_F64
#define REAL double
#include "flat.h"
#undef DTYPE
#undef DTYPE_ID
#undef REAL

static const struct {
    const char *name[FASTPG_DTYPES];
    fastpg_function address[FASTPG_DTYPES];
} symbols[] = {
#define SYMBOL(name) {{"fastpg_" #name "_f32", "fastpg_" #name "_f64"}, {(fastpg_function)fastpg_##name##_f32, (fastpg_function)fastpg_##name##_f64}},
#define TIME(name, parameters) SYMBOL(name)
#define ROW(name, parameters) SYMBOL(name)
#include "kernels.def"
#undef TIME
#undef ROW
};

const char *fastpg_symbol(int kernel, fastpg_dtype dtype) { return symbols[kernel].name[dtype]; }
fastpg_function fastpg_address(int kernel, fastpg_dtype dtype) { return symbols[kernel].address[dtype]; }
