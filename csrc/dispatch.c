/* Compiles the bodies once per instruction set and picks a table of them at load. */
#include "fastpg.h"
#include "net.h"
#include "objective.h"
#include "statistic.h"
#include "threads.h"

#include <math.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
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

/* By dtype and instruction set: whether two vectors hold the same numbers; a b + c, rounded once. */
#ifdef __x86_64__
#define alike_f32_avx2(a, b) (_mm256_movemask_ps(_mm256_cmp_ps((__m256)(a), (__m256)(b), _CMP_NEQ_UQ)) == 0)
#define alike_f64_avx2(a, b) (_mm256_movemask_pd(_mm256_cmp_pd((__m256d)(a), (__m256d)(b), _CMP_NEQ_UQ)) == 0)
#define alike_f32_avx512(a, b) (_mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_NEQ_UQ) == 0)
#define alike_f64_avx512(a, b) (_mm512_cmp_pd_mask((__m512d)(a), (__m512d)(b), _CMP_NEQ_UQ) == 0)
#define once_f32_avx2(a, b, c) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define once_f64_avx2(a, b, c) _mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#define once_f32_avx512(a, b, c) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define once_f64_avx512(a, b, c) _mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#endif
/* The same for any other vectors; the base set of x86-64 has no fma and needs neither. */
#define ALIKE(a, b, width) __extension__({                                                                                                           \
    int alike = 1;                                                                                                                                   \
    for (int j = 0; j < width; j++) alike &= (a)[j] == (b)[j];                                                                                       \
    alike;                                                                                                                                           \
})
#define ONCE(a, b, c, width, fma) __extension__({                                                                                                    \
    __typeof__(a) sum;                                                                                                                               \
    for (int j = 0; j < width; j++) sum[j] = fma((a)[j], (b)[j], (c)[j]);                                                                            \
    sum;                                                                                                                                             \
})
#define alike_f32_base(a, b) ALIKE(a, b, 4)
#define alike_f64_base(a, b) ALIKE(a, b, 2)
#define once_f32_base(a, b, c) ONCE(a, b, c, 4, __builtin_fmaf)
#define once_f64_base(a, b, c) ONCE(a, b, c, 2, __builtin_fma)

enum {
    STAGE_BYTES = 4096, /* of one parameter's stage: with a dozen parameters still well inside the L2 cache */
    MOST_STAGE_BYTES = 4 * STAGE_BYTES,
    FAR_LARGER = 8 << 20 /* bytes of a parameter: with the others more than the caches hold */
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

/* How a TIME kernel walks memory, see scan.h. */
enum fastpg_order { FASTPG_LANES, FASTPG_FLAT, FASTPG_INTERLEAVED };

/* A part of a call, and what it must know of the rest. */
typedef struct {
    enum {
        FASTPG_WHOLE,
        FASTPG_PIECE,  /* a stretch of time, its carry taken to be 0 */
        FASTPG_REPAIR, /* again from its end, with the carry of what follows, until that makes no difference any more */
        FASTPG_CLOSE   /* what a kernel does once every step is right */
    } stage;
    enum { FASTPG_OVER_TIME, FASTPG_OVER_LANES } over; /* what from and to count: rows of LANES, positions of FLAT; or lanes */
    ptrdiff_t from, to;
    enum fastpg_order order;
    int past_caches;      /* write past the caches */
    ptrdiff_t window;     /* steps of the window after which each item starts afresh, 0 for a scan to the end of the lane */
    const void *carry_in; /* a REPAIR's, one REAL a lane */
    void *carry_out;      /* where a part leaves its own, or NULL */
} fastpg_part;

enum { MOST_NET_PARTS = 64 };

/* A minibatch of PPO, and what its parts leave to one another. Even parts work for the policy, odd ones for the value. */
enum {
    PPO_PACK = 1, /* after the step of Adam that is due */
    PPO_ROWS = 2,
    PPO_GRAD = 4
};

typedef struct {
    const fastpg_ppo *ppo;
    const int64_t *index;
    ptrdiff_t rows, parts, share; /* parts: of the rows, for each net */
    int stages, due;
    double scale[2]; /* of the gradients of the step that is due */
    int64_t steps;   /* with it */
    fastpg_ppo_means sums[MOST_NET_PARTS];
    double norm[2], extra[MOST_NET_PARTS][FASTPG_PPO_ACTIONS];
} ppo_job;

typedef ptrdiff_t (*fastpg_runner)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1,
                                   const fastpg_layout *layout, const fastpg_part *part);

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
#define VECTOR_BYTES 16
#include "each_dtype.h"
#undef ISA
#undef VECTOR_BYTES
#undef ISA_HAS_FMA
#define ISA_HAS_FMA 1

#ifdef HAS_AVX2
#define ISA avx2
#define VECTOR_BYTES 32
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
#undef VECTOR_BYTES
#endif

#ifdef HAS_AVX512
#define ISA avx512
#define VECTOR_BYTES 64
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
#undef VECTOR_BYTES
#endif

static const fastpg_kernel kernels[] = {
#define PARAMETER(kind_, x, per_row_, shared_) {#x, kind_, per_row_, shared_},
#define IN(x) PARAMETER(FASTPG_IN, x, 0, 0)
#define EXP(x) PARAMETER(FASTPG_EXP, x, 0, 0)
#define FLAG(x) PARAMETER(FASTPG_FLAG, x, 0, 1)
#define SCALAR(x) PARAMETER(FASTPG_SCALAR, x, 0, 0)
#define NUMBER(x) PARAMETER(FASTPG_NUMBER, x, 0, 0)
#define COUNT(x) PARAMETER(FASTPG_COUNT, x, 0, 0)
#define OUT(x) PARAMETER(FASTPG_OUT, x, 0, 0)
#define BIT(x) PARAMETER(FASTPG_FLAG, x, 0, 0)
#define SHARED_IN(x) PARAMETER(FASTPG_IN, x, 0, 1)
#define SHARED_OUT(x) PARAMETER(FASTPG_OUT, x, 0, 1)
#define ROW_IN(x) PARAMETER(FASTPG_IN, x, 1, 0)
#define ROW_INDEX(x) PARAMETER(FASTPG_INDEX, x, 1, 0)
#define ROW_OUT(x) PARAMETER(FASTPG_OUT, x, 1, 0)
#define ROW_OUT_INDEX(x) PARAMETER(FASTPG_OUT_INDEX, x, 1, 0)
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
#undef EXP
#undef FLAG
#undef SCALAR
#undef NUMBER
#undef COUNT
#undef OUT
#undef BIT
#undef SHARED_IN
#undef SHARED_OUT
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
    ITEMS_A_THREAD = 32768,   /* below this many a thread costs more than it saves (measured) */
    BYTES_A_ROW = 2048,       /* of a row that threads share, for the same reason */
    PARTS_A_THREAD = 4,       /* so that a thread that wakes late leaves more to the others */
    STEPS_A_THREAD = 512,     /* of a stretch of time, of which a repair must be a small part */
    MOST_STRETCHES = 16,      /* of time in a call */
    PAST_CACHES = FAR_LARGER  /* bytes of a result that is not worth keeping in the caches */
};

static int most_threads = 1;

int fastpg_threads(void) { return most_threads; }
void fastpg_set_threads(int threads) { most_threads = threads < 1 ? 1 : threads > FASTPG_MOST_THREADS ? FASTPG_MOST_THREADS : threads; }

size_t fastpg_env_bytes(fastpg_dtype dtype, ptrdiff_t envs) { return (size_t)envs * (2 * (dtype == FASTPG_F32 ? sizeof(float) : sizeof(double)) + 3); }

/* Rows are independent, and so are lanes: a part of them gives the same bits. A stretch of time is not, but all it lacks is the carry of
 * what follows. It is taken to be 0, which holds before an ending and fades elsewhere, and is put right afterwards: the repair stops where the
 * right carry and 0 lead to the same one, so the result is the same bits again. Only where nothing ends and nothing fades
 * (gamma = lambda = 1) does it walk the stretch to its start. */
typedef struct {
    int kernel;
    fastpg_dtype dtype;
    const fastpg_operand *operands;
    ptrdiff_t size0, size1;
    const fastpg_layout *layout;
    fastpg_part part; /* what all parts have in common */
    ptrdiff_t size, share; /* of what is shared: all, and of a part */
    int repaired;
    ptrdiff_t *refused;
    char (*carry)[2 * BYTES_A_ROW];
} job;

static ptrdiff_t run_stage(job *j, int part, int stage)
{
    fastpg_part p = j->part;
    p.stage = stage;
    p.from = part * j->share;
    p.to = p.from + j->share < j->size ? p.from + j->share : j->size;
    if (j->repaired) p.carry_out = j->carry[part];
    if (stage == FASTPG_REPAIR) p.carry_in = j->carry[part + 1];
    const fastpg_kernel *kernel = &kernels[j->kernel];
    const fastpg_runner run = isas[current].table[j->dtype][j->kernel];
    if (kernel->family == FASTPG_TIME) return run(kernel, j->operands, j->size0, j->size1, j->layout, &p);
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    for (int k = 0; k < kernel->n_parameters; k++) {
        operands[k] = j->operands[k];
        if (operands[k].data) operands[k].data += p.from * operands[k].stride0;
    }
    const ptrdiff_t bad = run(kernel, operands, p.to - p.from, j->size1, NULL, &p);
    return bad < 0 ? -1 : p.from + bad;
}

static void run_part(void *context, int part)
{
    job *j = context;
    j->refused[part] = run_stage(j, part, j->repaired ? FASTPG_PIECE : FASTPG_WHOLE);
}

/* The window of a kernel that has one; 0 where it reaches beyond every lane, and so is no window. */
static ptrdiff_t window_of(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t steps, const fastpg_layout *layout)
{
    for (int k = 0; k < kernel->n_parameters; k++) {
        if (kernel->parameters[k].kind != FASTPG_COUNT) continue;
        const int64_t n = *(const int64_t *)(const void *)operands[k].data;
        ptrdiff_t longest = layout && layout->offsets ? 0 : steps;
        for (ptrdiff_t b = 0; layout && layout->offsets && b < layout->sequences; b++)
            if (layout->offsets[b + 1] - layout->offsets[b] > longest) longest = layout->offsets[b + 1] - layout->offsets[b];
        return n < longest ? (ptrdiff_t)n : 0;
    }
    return 0;
}

static enum fastpg_order order_of(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t lanes, const fastpg_layout *layout)
{
    int out = 0;
    while (kernel->parameters[out].kind != FASTPG_OUT) out++;
    if (layout && layout->env_id) return FASTPG_INTERLEAVED;
    return lanes > 1 && ABS(operands[out].stride1) <= ABS(operands[out].stride0) ? FASTPG_LANES : FASTPG_FLAT;
}

/* Whether rows are summed: in one order, whatever the threads. */
static int sums(int kernel, const fastpg_operand *operands)
{
    for (int k = 0; k < kernels[kernel].n_parameters; k++)
        if (kernels[kernel].parameters[k].kind == FASTPG_OUT && kernels[kernel].parameters[k].shared && !operands[k].stride0) return 1;
    return 0;
}

ptrdiff_t fastpg_run(int kernel, fastpg_dtype dtype, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1, const fastpg_layout *layout)
{
    if (size0 == 0 || size1 == 0) return -1;
    const ptrdiff_t item = dtype == FASTPG_F32 ? 4 : 8, chunk = MOST_STAGE_BYTES / item, bytes = size0 * size1 * item;
    job j = {.kernel = kernel, .dtype = dtype, .operands = operands, .size0 = size0, .size1 = size1, .layout = layout};
    fastpg_part *part = &j.part;
    ptrdiff_t parts = size0 * size1 / ITEMS_A_THREAD, share_of = 64; /* whole tiles of rows, whole cache lines of lanes */
    if (parts > most_threads) parts = most_threads;
    if (kernels[kernel].family == FASTPG_ROW) {
        j.size = size0;
        if (parts > 1) parts *= PARTS_A_THREAD;
        if (sums(kernel, operands)) parts = 1;
    } else {
        part->order = order_of(&kernels[kernel], operands, size1, layout);
        part->window = window_of(&kernels[kernel], operands, size0, layout);
        const int masked = layout && layout->mask.data;
        if (part->order == FASTPG_LANES && size1 * item >= 2 * BYTES_A_ROW) {
            part->over = FASTPG_OVER_LANES;
            part->past_caches = 1;
            j.size = size1;
            if (parts > 1) parts *= PARTS_A_THREAD;
            if (parts > size1 * item / BYTES_A_ROW) parts = size1 * item / BYTES_A_ROW;
        } else {
            const ptrdiff_t rows = part->order == FASTPG_LANES ? size0 : size0 * size1;
            part->over = FASTPG_OVER_TIME;
            j.size = rows;
            j.repaired = 1;
            if (parts > MOST_STRETCHES) parts = MOST_STRETCHES;
            if (parts > rows / STEPS_A_THREAD) parts = rows / STEPS_A_THREAD;
            if (part->order == FASTPG_FLAT) share_of = chunk;
            if (part->order == FASTPG_INTERLEAVED || (part->order == FASTPG_LANES && masked)) parts = 1;
        }
    }
    if (parts < 2 || j.size < 2) {
        part->to = j.size;
        part->past_caches = bytes >= PAST_CACHES;
        return isas[current].table[dtype][kernel](&kernels[kernel], operands, size0, size1, layout, part);
    }
    part->past_caches |= bytes >= PAST_CACHES;
    j.share = (j.size + parts - 1) / parts;
    if (j.share > share_of) j.share = (j.share + share_of - 1) / share_of * share_of;
    parts = (j.size + j.share - 1) / j.share;
    ptrdiff_t refusals[FASTPG_MOST_THREADS * PARTS_A_THREAD];
    _Alignas(64) char carries[MOST_STRETCHES][2 * BYTES_A_ROW];
    j.refused = refusals;
    j.carry = carries;
    fastpg_parallel((int)parts, most_threads, run_part, &j);
    ptrdiff_t refused = -1;
    for (ptrdiff_t k = 0; k < parts; k++)
        if (j.refused[k] >= 0 && (refused < 0 || j.refused[k] < refused)) refused = j.refused[k];
    if (j.repaired && refused < 0) {
        for (ptrdiff_t k = parts - 2; k >= 0 && !part->window; k--) run_stage(&j, (int)k, FASTPG_REPAIR);
        run_stage(&j, 0, FASTPG_CLOSE);
    }
    return refused;
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

#include "objectives_run.h"
#include "statistics_run.h"
#include "nets_run.h"
#include "groups.h"
