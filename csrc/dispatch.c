/* Compiles the bodies once per instruction set and picks a table of them at load. */
#include "fastpg.h"
#include "threads.h"

#include <math.h>
#include <string.h>

#ifdef __x86_64__
#include <emmintrin.h>
#endif

#define ABS(x) ((x) < 0 ? -(x) : (x))

/* Before a loop whose items do not overlap, which a compiler cannot know. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

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

/* Threads that share the rows of an array write it past the caches: else the prefetcher of each core pulls in the lines that the other
 * is writing (measured, gae float32 (256, 1024) on two cores: 156 us without, 99 us with). */
#ifdef __x86_64__
#define STORE_FENCE() _mm_sfence()
static void store_past_caches(char *to, const char *from, ptrdiff_t bytes)
{
    ptrdiff_t i = -(ptrdiff_t)((uintptr_t)to & 15) & 15;
    if (i > bytes) i = bytes;
    memcpy(to, from, (size_t)i);
    for (; i + 16 <= bytes; i += 16) _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
    memcpy(to + i, from + i, (size_t)(bytes - i));
}
#else
#define STORE_FENCE() (void)0
static void store_past_caches(char *to, const char *from, ptrdiff_t bytes) { memcpy(to, from, (size_t)bytes); }
#endif

/* What a part of a call must know of the rest. */
typedef struct {
    enum {
        FASTPG_WHOLE,
        FASTPG_PIECE,  /* a stretch of time, its carry taken to be 0 */
        FASTPG_REPAIR, /* again from its last row, with the carry of the row that follows, until a row does not change */
        FASTPG_CLOSE   /* what a kernel does once every row is right */
    } stage;
    int shared; /* other threads work on the same rows at the same time */
    int open;   /* rows follow: the last row in hand is not that of the buffer */
} fastpg_part;

typedef ptrdiff_t (*fastpg_runner)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1,
                                   const fastpg_part *part);

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

enum {
    ITEMS_A_THREAD = 32768, /* below this many a thread costs more than it saves (measured) */
    BYTES_A_ROW = 2048,     /* of a row that threads share, for the same reason */
    PARTS_A_THREAD = 4,     /* so that a thread that wakes late leaves more to the others */
    STEPS_A_THREAD = 512    /* of a stretch of time, of which a repair must be a small part */
};

static int most_threads = 1;

int fastpg_threads(void) { return most_threads; }
void fastpg_set_threads(int threads) { most_threads = threads < 1 ? 1 : threads > FASTPG_MOST_THREADS ? FASTPG_MOST_THREADS : threads; }

/* Rows are independent, and so are lanes: a part of them gives the same bits. A stretch of time is not, but all it lacks is the carry of
 * the row that follows. It is taken to be 0, which holds before an ending and fades elsewhere, and is put right afterwards: the repair stops
 * at the first row that comes out as it stood, so the result is the same bits again. Only where nothing ends and nothing fades
 * (gamma = lambda = 1) does it walk the stretch to its start. */
typedef struct {
    int kernel;
    fastpg_dtype dtype;
    const fastpg_operand *operands;
    ptrdiff_t size0, size1, share; /* share: rows, lanes or steps of a part */
    int by_lanes, by_time;
    ptrdiff_t refused[FASTPG_MOST_THREADS * PARTS_A_THREAD];
} job;

static ptrdiff_t run_stage(const job *j, int part, int stage)
{
    const fastpg_kernel *kernel = &kernels[j->kernel];
    const ptrdiff_t from = part * j->share, size = j->by_lanes ? j->size1 : j->size0, count = size - from < j->share ? size - from : j->share;
    const fastpg_part how = {stage, j->by_lanes, j->by_time && from + count < size};
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    for (int k = 0; k < kernel->n_parameters; k++) {
        operands[k] = j->operands[k];
        if (operands[k].data) operands[k].data += from * (j->by_lanes ? operands[k].stride1 : operands[k].stride0);
        if (operands[k].last && j->by_lanes) operands[k].last += from * operands[k].last_stride;
        if (how.open) operands[k].last = NULL;
    }
    const ptrdiff_t size0 = j->by_lanes ? j->size0 : count, size1 = j->by_lanes ? count : j->size1;
    const ptrdiff_t bad = isas[current].table[j->dtype][j->kernel](kernel, operands, size0, size1, &how);
    return bad < 0 ? -1 : from + bad;
}

static void run_part(void *context, int part)
{
    job *j = context;
    j->refused[part] = run_stage(j, part, j->by_time ? FASTPG_PIECE : FASTPG_WHOLE);
}

ptrdiff_t fastpg_run(int kernel, fastpg_dtype dtype, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1)
{
    static const fastpg_part whole = {FASTPG_WHOLE, 0, 0};
    if (size0 == 0 || size1 == 0) return -1;
    const int scans = kernels[kernel].family == FASTPG_TIME;
    const ptrdiff_t item = dtype == FASTPG_F32 ? 4 : 8;
    const int time_major = scans && (size1 == 1 || ABS(operands[0].stride1) < ABS(operands[0].stride0));
    const int by_time = time_major && size1 * item < 2 * BYTES_A_ROW;
    const ptrdiff_t size = scans && !by_time ? size1 : size0;
    ptrdiff_t parts = size0 * size1 / ITEMS_A_THREAD;
    if (parts > most_threads) parts = most_threads;
    if (parts > 1 && !by_time) parts *= PARTS_A_THREAD;
    if (by_time && parts > size0 / STEPS_A_THREAD) parts = size0 / STEPS_A_THREAD;
    if (time_major && !by_time && parts > size1 * item / BYTES_A_ROW) parts = size1 * item / BYTES_A_ROW;
    if (parts < 2 || size < 2) return isas[current].table[dtype][kernel](&kernels[kernel], operands, size0, size1, &whole);
    job j = {kernel, dtype, operands, size0, size1, (size + parts - 1) / parts, scans && !by_time, by_time, {0}};
    if (j.share > 64) j.share = (j.share + 63) & -64; /* whole tiles of rows, whole cache lines of lanes */
    parts = (size + j.share - 1) / j.share;
    fastpg_parallel((int)parts, most_threads, run_part, &j);
    if (by_time) {
        const fastpg_part close = {FASTPG_CLOSE, 0, 0};
        for (ptrdiff_t part = parts - 2; part >= 0; part--) run_stage(&j, (int)part, FASTPG_REPAIR);
        isas[current].table[dtype][kernel](&kernels[kernel], operands, size0, size1, &close);
    }
    for (ptrdiff_t part = 0; part < parts; part++)
        if (j.refused[part] >= 0) return j.refused[part];
    return -1;
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
