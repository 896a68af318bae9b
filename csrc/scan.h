/* The traversals of a backward scan x[t] = add[t] + keep[t] x[t+1] over steps and lanes. Every order of memory gives the same bits.
 *
 *   lanes  time-major. Wide batches: a row at a time, one fused loop. Narrow ones: several rows are one flat chunk for add and keep,
 *          then the recurrence alone walks the rows with the carry in a register.
 *   rows   time contiguous: eight lanes side by side, each chunk of time flat for add and keep, the eight recurrences interleaved.
 *
 * A parameter that is not dense in the order walked (strided, repeated, missing, or with a bootstrap row) is copied chunk by chunk
 * into a small stage; dense ones are read where they lie. No memory is used beyond the workspace on the stack. */

/* A zero coefficient means "not read": NaN and inf stay on their side of an ending, and gamma = 0 or lambda = 0 is exact. */
static inline REAL F(gated)(REAL coefficient, REAL x)
{
    const REAL product = coefficient * x;
    return coefficient != 0 ? product : 0;
}
#define times F(gated)
#define unless(flag, x) ((flag) ? (REAL)0 : (REAL)(x))

enum {
    F(ITEMS) = STAGE_BYTES / sizeof(REAL), /* in a chunk */
    F(LANES) = 4 * F(ITEMS),               /* in a block of wide rows, whose carry must stay in cache */
    F(SIDE) = 8,                           /* lanes side by side in rows order */
    F(NARROW) = 96                         /* lanes up to which flat chunks beat fused rows (measured) */
};

typedef struct {
    int n_parameters, truncated, recursive, spread;
    const fastpg_parameter *parameters;
    void (*fill)(void *const *at, ptrdiff_t n, REAL *add, REAL *keep);
    void (*finish)(void *const *at, ptrdiff_t n, const REAL *x);
    void (*fused)(void *const *at, ptrdiff_t n, REAL *carry);
} F(scan_kernel);

typedef struct {
    _Alignas(64) REAL stage[FASTPG_MAX_PARAMETERS][F(ITEMS)];
    _Alignas(64) REAL add[F(ITEMS)], keep[F(ITEMS)], x[F(ITEMS)], carry[F(LANES)], before[F(LANES)];
    const fastpg_part *part;
    int past_caches;                           /* outputs go through the stage and then past the caches */
    ptrdiff_t constant[FASTPG_MAX_PARAMETERS]; /* so many times the stage holds the one item that this parameter repeats */
    void *at[FASTPG_MAX_PARAMETERS];           /* where the chunk in hand lies */
} F(workspace);

/* Copies count items of `size` bytes, one stride apart there and another here. */
static void F(copy)(char *to, ptrdiff_t to_stride, const char *from, ptrdiff_t from_stride, ptrdiff_t count, ptrdiff_t size)
{
    if (to_stride == size && from_stride == size)
        memcpy(to, from, (size_t)(count * size));
    else if (size == 1)
        for (ptrdiff_t i = 0; i < count; i++) to[i * to_stride] = from[i * from_stride];
    else
        for (ptrdiff_t i = 0; i < count; i++) memcpy(to + i * to_stride, from + i * from_stride, sizeof(REAL));
}

/* Fills a stage with one item. */
static void F(repeat)(char *stage, const char *item, ptrdiff_t count, ptrdiff_t size)
{
    if (size == 1)
        memset(stage, *item, (size_t)count);
    else {
        REAL x, *to = (REAL *)(void *)stage;
        memcpy(&x, item, sizeof x);
        for (ptrdiff_t i = 0; i < count; i++) to[i] = x;
    }
}

static inline ptrdiff_t F(item_size)(const fastpg_parameter *p) { return p->kind == FASTPG_FLAG ? 1 : (ptrdiff_t)sizeof(REAL); }

/* Points w->at[k] at the chunk of `rows` steps from t and `cols` lanes from n, dense in the order walked, staging it where it is not. */
static void F(locate)(F(workspace) * w, const F(scan_kernel) * kernel, const fastpg_operand *operands, ptrdiff_t t, ptrdiff_t rows, ptrdiff_t n,
                      ptrdiff_t cols, ptrdiff_t steps, int time_contiguous)
{
    const int at_end = t + rows == steps && !w->part->open;
    for (int k = 0; k < kernel->n_parameters; k++) {
        const fastpg_operand *o = &operands[k];
        const ptrdiff_t size = F(item_size)(&kernel->parameters[k]);
        const ptrdiff_t outer = time_contiguous ? o->stride1 : o->stride0, inner = time_contiguous ? o->stride0 : o->stride1;
        const ptrdiff_t n_outer = time_contiguous ? cols : rows, n_inner = time_contiguous ? rows : cols;
        const int special = at_end && (o->last || k == kernel->truncated);
        const int dense = (n_inner == 1 || inner == size) && (n_outer == 1 || outer == n_inner * size);
        const int out = kernel->parameters[k].kind == FASTPG_OUT;
        char *from = o->data + t * o->stride0 + n * o->stride1, *stage = (char *)w->stage[k];
        if (dense && !special && !(out && w->past_caches)) {
            w->at[k] = from;
            continue;
        }
        w->at[k] = stage;
        if (out) continue;
        const int repeats = o->stride0 == 0 && o->stride1 == 0;
        if (repeats && w->constant[k] < rows * cols) F(repeat)(stage, o->data, rows * cols, size);
        w->constant[k] = !repeats || special ? 0 : w->constant[k] < rows * cols ? rows * cols : w->constant[k];
        if (dense && !repeats)
            memcpy(stage, from, (size_t)(rows * cols * size));
        else if (!repeats)
            for (ptrdiff_t i = 0; i < n_outer; i++) F(copy)(stage + i * n_inner * size, size, from + i * outer, inner, n_inner, size);
        if (!special) continue;
        char *end = stage + (time_contiguous ? rows - 1 : (rows - 1) * cols) * size;
        const ptrdiff_t end_stride = (time_contiguous ? rows : 1) * size;
        if (k == kernel->truncated)
            for (ptrdiff_t i = 0; i < cols; i++) end[i * end_stride] = 1;
        else
            F(copy)(end, end_stride, o->last + n * o->last_stride, o->last_stride, cols, size);
    }
}

/* Takes back what a chunk wrote into a stage. */
static void F(deliver)(F(workspace) * w, const F(scan_kernel) * kernel, const fastpg_operand *operands, ptrdiff_t t, ptrdiff_t rows, ptrdiff_t n,
                       ptrdiff_t cols, int time_contiguous)
{
    for (int k = 0; k < kernel->n_parameters; k++) {
        const fastpg_operand *o = &operands[k];
        if (kernel->parameters[k].kind != FASTPG_OUT || w->at[k] != (void *)w->stage[k]) continue;
        const ptrdiff_t outer = time_contiguous ? o->stride1 : o->stride0, inner = time_contiguous ? o->stride0 : o->stride1;
        const ptrdiff_t n_outer = time_contiguous ? cols : rows, n_inner = time_contiguous ? rows : cols;
        char *to = o->data + t * o->stride0 + n * o->stride1;
        for (ptrdiff_t i = 0; i < n_outer; i++) {
            char *from = (char *)w->stage[k] + i * n_inner * (ptrdiff_t)sizeof(REAL);
            if (w->past_caches && inner == (ptrdiff_t)sizeof(REAL))
                store_past_caches(to + i * outer, from, n_inner * (ptrdiff_t)sizeof(REAL));
            else
                F(copy)(to + i * outer, inner, from, sizeof(REAL), n_inner, sizeof(REAL));
        }
    }
}

/* x = add + keep x over `rows` rows of `width` lanes, `stride` lanes apart, last row first, the carry in a register. */
#define LANES_OF(width)                                                                                                                              \
    static void F(recur_##width)(const REAL *add, const REAL *keep, REAL *x, REAL *carry, ptrdiff_t rows, ptrdiff_t stride)                          \
    {                                                                                                                                                \
        typedef REAL vector __attribute__((vector_size(width * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));                                    \
        typedef F(bits) bits __attribute__((vector_size(width * sizeof(REAL))));                                                                     \
        vector c = *(const vector *)carry;                                                                                                           \
        for (ptrdiff_t i = (rows - 1) * stride; i >= 0; i -= stride) {                                                                               \
            const vector k = *(const vector *)(keep + i);                                                                                            \
            c = *(const vector *)(add + i) + (vector)((bits)(k * c) & (bits)(k != 0));                                                               \
            *(vector *)(x + i) = c;                                                                                                                  \
        }                                                                                                                                            \
        *(vector *)carry = c;                                                                                                                        \
    }
LANES_OF(16)
LANES_OF(8)
LANES_OF(4)
#undef LANES_OF

/* One lane is bound by the latency of its chain. An ending is rare, so a branch on it is guessed and keeps the comparison out of the chain. */
static void F(recur_1)(const REAL *add, const REAL *keep, REAL *x, REAL *carry, ptrdiff_t rows, ptrdiff_t stride)
{
    REAL c = *carry;
    for (ptrdiff_t i = (rows - 1) * stride; i >= 0; i -= stride) {
        if (__builtin_expect(keep[i] == 0, 0)) c = 0;
        else c = keep[i] * c;
        c = add[i] + c;
        x[i] = c;
    }
    *carry = c;
}

/* One row of x, which is the first output, made dense. */
static void F(read_row)(const fastpg_operand *x, ptrdiff_t t, ptrdiff_t n, ptrdiff_t cols, REAL *to)
{
    F(copy)((char *)to, sizeof(REAL), x->data + t * x->stride0 + n * x->stride1, x->stride1, cols, sizeof(REAL));
}

static void F(chunk)(F(workspace) * w, const F(scan_kernel) * kernel, const fastpg_operand *operands, ptrdiff_t t, ptrdiff_t rows, ptrdiff_t lanes,
                     ptrdiff_t steps)
{
    const ptrdiff_t items = rows * lanes;
    F(locate)(w, kernel, operands, t, rows, 0, lanes, steps, 0);
    if (kernel->recursive) {
        kernel->fill(w->at, items, w->add, w->keep);
        ptrdiff_t n = 0;
        for (; n + 16 <= lanes; n += 16) F(recur_16)(w->add + n, w->keep + n, w->x + n, w->carry + n, rows, lanes);
        for (; n + 8 <= lanes; n += 8) F(recur_8)(w->add + n, w->keep + n, w->x + n, w->carry + n, rows, lanes);
        for (; n + 4 <= lanes; n += 4) F(recur_4)(w->add + n, w->keep + n, w->x + n, w->carry + n, rows, lanes);
        for (; n < lanes; n++) F(recur_1)(w->add + n, w->keep + n, w->x + n, w->carry + n, rows, lanes);
        kernel->finish(w->at, items, w->x);
    } else
        kernel->fused(w->at, items, w->x);
    F(deliver)(w, kernel, operands, t, rows, 0, lanes, 0);
}

/* A repair starts from the row that follows, and ends where a row comes out as it stood: all rows before it would as well. */
static void F(scan_lanes)(const F(scan_kernel) * kernel, const fastpg_operand *operands, const fastpg_operand *x, ptrdiff_t steps, ptrdiff_t lanes,
                          F(workspace) * w)
{
    const int repair = w->part->stage == FASTPG_REPAIR, narrow = lanes <= F(NARROW);
    const ptrdiff_t block = narrow ? lanes : F(LANES), most = narrow ? F(ITEMS) / lanes : 1;
    for (ptrdiff_t n0 = 0; n0 < lanes; n0 += block) {
        const ptrdiff_t n1 = n0 + block < lanes ? n0 + block : lanes;
        const size_t row_bytes = (size_t)(n1 - n0) * sizeof(REAL);
        if (kernel->recursive) memset(w->carry, 0, row_bytes);
        if (repair) F(read_row)(x, steps, n0, n1 - n0, w->carry);
        for (ptrdiff_t t1 = steps; t1 > 0; t1 -= most) {
            const ptrdiff_t t = t1 > most ? t1 - most : 0;
            if (repair) F(read_row)(x, t, n0, n1 - n0, w->before);
            if (narrow)
                F(chunk)(w, kernel, operands, t, t1 - t, lanes, steps);
            else
                for (ptrdiff_t n = n0; n < n1; n += F(ITEMS)) {
                    const ptrdiff_t cols = n + F(ITEMS) < n1 ? F(ITEMS) : n1 - n;
                    F(locate)(w, kernel, operands, t, 1, n, cols, steps, 0);
                    kernel->fused(w->at, cols, w->carry + (n - n0));
                    F(deliver)(w, kernel, operands, t, 1, n, cols, 0);
                }
            if (repair && !memcmp(w->carry, w->before, row_bytes)) break;
        }
    }
}

static void F(scan_rows)(const F(scan_kernel) * kernel, const fastpg_operand *operands, ptrdiff_t steps, ptrdiff_t lanes, F(workspace) * w)
{
    const ptrdiff_t side = lanes < F(SIDE) ? 1 : F(SIDE), most = F(ITEMS) / side;
    for (ptrdiff_t n0 = 0; n0 < lanes; n0 += side) {
        const ptrdiff_t cols = n0 + side <= lanes ? side : lanes - n0;
        REAL carry[F(SIDE)] = {0};
        for (ptrdiff_t t1 = steps; t1 > 0; t1 -= most) {
            const ptrdiff_t t = t1 > most ? t1 - most : 0, rows = t1 - t;
            for (ptrdiff_t j = 0; j < cols; j++) {
                F(locate)(w, kernel, operands, t, rows, n0 + j, 1, steps, 1);
                if (kernel->recursive)
                    kernel->fill(w->at, rows, w->add + j * most, w->keep + j * most);
                else {
                    kernel->fused(w->at, rows, w->x);
                    F(deliver)(w, kernel, operands, t, rows, n0 + j, 1, 1);
                }
            }
            if (!kernel->recursive) continue;
            if (cols == F(SIDE)) {
                REAL c[F(SIDE)];
                for (int j = 0; j < F(SIDE); j++) c[j] = carry[j];
                for (ptrdiff_t i = rows - 1; i >= 0; i--)
#pragma GCC unroll 8
                    for (int j = 0; j < F(SIDE); j++) {
                        c[j] = w->add[j * most + i] + times(w->keep[j * most + i], c[j]);
                        w->x[j * most + i] = c[j];
                    }
                for (int j = 0; j < F(SIDE); j++) carry[j] = c[j];
            } else
                for (ptrdiff_t j = 0; j < cols; j++) F(recur_1)(w->add + j * most, w->keep + j * most, w->x + j * most, carry + j, rows, 1);
            for (ptrdiff_t j = 0; j < cols; j++) {
                F(locate)(w, kernel, operands, t, rows, n0 + j, 1, steps, 1);
                kernel->finish(w->at, rows, w->x + j * most);
                F(deliver)(w, kernel, operands, t, rows, n0 + j, 1, 1);
            }
        }
    }
}

/* Every step takes the item of its episode's first step; a step follows on unless the one before it ended. */
static void F(spread)(const fastpg_operand *x, const fastpg_operand *terminated, const fastpg_operand *truncated, ptrdiff_t steps, ptrdiff_t lanes)
{
    const int dense = x->stride1 == (ptrdiff_t)sizeof(REAL) && terminated->stride1 == 1 && truncated->stride1 == 1;
    if (dense && ABS(x->stride0) > ABS(x->stride1)) {
        for (ptrdiff_t t = 0; t + 1 < steps; t++) {
            const REAL *before = (const REAL *)(x->data + t * x->stride0);
            REAL *here = (REAL *)(x->data + (t + 1) * x->stride0);
            const char *te = terminated->data + t * terminated->stride0, *tr = truncated->data + t * truncated->stride0;
            INDEPENDENT for (ptrdiff_t n = 0; n < lanes; n++) here[n] = te[n] | tr[n] ? here[n] : before[n];
        }
        return;
    }
    for (ptrdiff_t n = 0; n < lanes; n++) {
        char *at = x->data + n * x->stride1;
        const char *te = terminated->data + n * terminated->stride1, *tr = truncated->data + n * truncated->stride1;
        REAL first = *(REAL *)at;
        for (ptrdiff_t t = 1; t < steps; t++) {
            const char ended = te[(t - 1) * terminated->stride0] | tr[(t - 1) * truncated->stride0];
            REAL *here = (REAL *)(at + t * x->stride0);
            first = ended ? *here : first;
            *here = first;
        }
    }
}

/* A kernel without a recurrence over arrays that are dense in one order is one long row. */
static int F(flatten)(const F(scan_kernel) * kernel, fastpg_operand *operands, ptrdiff_t steps, ptrdiff_t lanes)
{
    for (int k = 0; k < kernel->n_parameters; k++) {
        const fastpg_operand *o = &operands[k], *first = &operands[0];
        const ptrdiff_t size = F(item_size)(&kernel->parameters[k]), unit = sizeof(REAL);
        const int time_major = first->stride1 == unit, repeats = o->stride0 == 0 && o->stride1 == 0;
        const ptrdiff_t outer = time_major ? o->stride0 : o->stride1, inner = time_major ? o->stride1 : o->stride0;
        if (o->last || !(repeats || (inner == size && outer == size * (time_major ? lanes : steps)))) return 0;
    }
    for (int k = 0; k < kernel->n_parameters; k++) {
        const int repeats = operands[k].stride0 == 0 && operands[k].stride1 == 0;
        operands[k].stride1 = repeats ? 0 : F(item_size)(&kernel->parameters[k]);
        operands[k].stride0 = repeats ? 0 : operands[k].stride1 * steps * lanes;
    }
    return 1;
}

static void F(scan)(const F(scan_kernel) * kernel, const fastpg_operand *given, ptrdiff_t steps, ptrdiff_t lanes, const fastpg_part *part)
{
    static const REAL zero = 0;
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    const fastpg_operand *terminated = NULL, *truncated = NULL, *out = NULL;
    F(workspace) w;
    w.part = part;
    w.past_caches = part->shared && lanes > F(NARROW);
    for (int k = 0; k < kernel->n_parameters; k++) {
        operands[k] = given[k];
        if (operands[k].data == NULL) operands[k] = (fastpg_operand){(char *)&zero, 0, 0, given[k].last, given[k].last_stride};
        if (lanes == 1) operands[k].stride1 = operands[k].stride0 * steps;
        w.constant[k] = 0;
        if (kernel->parameters[k].kind == FASTPG_OUT && !out) out = &operands[k];
        if (!strcmp(kernel->parameters[k].name, "terminated")) terminated = &operands[k];
        if (!strcmp(kernel->parameters[k].name, "truncated")) truncated = &operands[k];
    }
    if (!kernel->recursive && F(flatten)(kernel, operands, steps, lanes)) {
        lanes *= steps;
        steps = 1;
    }
    if (part->stage != FASTPG_CLOSE) {
        if (ABS(out->stride0) < ABS(out->stride1) && lanes > 1)
            F(scan_rows)(kernel, operands, steps, lanes, &w);
        else if (part->stage != FASTPG_REPAIR || kernel->recursive)
            F(scan_lanes)(kernel, operands, out, steps, lanes, &w);
        if (w.past_caches) STORE_FENCE();
    }
    if (kernel->spread && (part->stage == FASTPG_WHOLE || part->stage == FASTPG_CLOSE)) F(spread)(out, terminated, truncated, steps, lanes);
}

/* From kernels.def: what a step holds, where a chunk's items lie, and how one is read and written. */
#define IN(x) REAL x;
#define FLAG(x) uint8_t x;
#define SCALAR(x) REAL x;
#define OUT(x) REAL x;
#define TIME(name, parameters) typedef struct { parameters } F(name##_step);
#define ROW(name, parameters)
#include "kernels.def"
#undef IN
#undef FLAG
#undef SCALAR
#undef OUT
#undef TIME

#define IN(x) const REAL *x;
#define FLAG(x) const uint8_t *x;
#define SCALAR(x) const REAL *x;
#define OUT(x) REAL *x;
#define TIME(name, parameters)                                                                                                                       \
    typedef struct { parameters } F(name##_at);                                                                                                      \
    enum { F(name##_parameters) = sizeof(F(name##_at)) / sizeof(void *) };
#include "kernels.def"
#undef IN
#undef FLAG
#undef SCALAR
#undef OUT
#undef TIME

#define IN(x) s.x = at->x[i];
#define FLAG(x) s.x = at->x[i];
#define SCALAR(x) s.x = at->x[i];
#define OUT(x)
#define TIME(name, parameters)                                                                                                                       \
    static inline F(name##_step) F(name##_read)(const F(name##_at) * at, ptrdiff_t i)                                                                \
    {                                                                                                                                                \
        F(name##_step) s;                                                                                                                            \
        parameters return s;                                                                                                                         \
    }
#include "kernels.def"
#undef IN
#undef FLAG
#undef SCALAR
#undef OUT
#undef TIME

#define IN(x)
#define FLAG(x)
#define SCALAR(x)
#define OUT(x) at->x[i] = s.x;
#define TIME(name, parameters)                                                                                                                       \
    static inline void F(name##_write)(const F(name##_at) * at, ptrdiff_t i, F(name##_step) s) { parameters }
#include "kernels.def"
#undef IN
#undef FLAG
#undef SCALAR
#undef OUT
#undef TIME
#undef ROW

/* The three loops of a kernel. Chunks never overlap. */
#undef STEP
#define STEP(name, ADD, KEEP, FINISH)                                                                                                                \
    static void F(name##_fill)(void *const *chunk, ptrdiff_t n, REAL *add, REAL *keep)                                                               \
    {                                                                                                                                                \
        F(name##_at) at;                                                                                                                             \
        memcpy(&at, chunk, sizeof at);                                                                                                               \
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++)                                                                                       \
        {                                                                                                                                            \
            const F(name##_step) s = F(name##_read)(&at, i);                                                                                         \
            add[i] = ADD;                                                                                                                            \
            keep[i] = KEEP;                                                                                                                          \
        }                                                                                                                                            \
    }                                                                                                                                                \
    static void F(name##_finish)(void *const *chunk, ptrdiff_t n, const REAL *xs)                                                                    \
    {                                                                                                                                                \
        F(name##_at) at;                                                                                                                             \
        memcpy(&at, chunk, sizeof at);                                                                                                               \
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++)                                                                                       \
        {                                                                                                                                            \
            F(name##_step) s = F(name##_read)(&at, i);                                                                                               \
            const REAL x = xs[i];                                                                                                                    \
            (void)(FINISH);                                                                                                                          \
            F(name##_write)(&at, i, s);                                                                                                              \
        }                                                                                                                                            \
    }                                                                                                                                                \
    static void F(name##_fused)(void *const *chunk, ptrdiff_t n, REAL *carry)                                                                        \
    {                                                                                                                                                \
        F(name##_at) at;                                                                                                                             \
        memcpy(&at, chunk, sizeof at);                                                                                                               \
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++)                                                                                       \
        {                                                                                                                                            \
            F(name##_step) s = F(name##_read)(&at, i);                                                                                               \
            const REAL x = (ADD) + times(KEEP, carry[i]);                                                                                            \
            carry[i] = x;                                                                                                                            \
            (void)(FINISH);                                                                                                                          \
            F(name##_write)(&at, i, s);                                                                                                              \
        }                                                                                                                                            \
    }

#undef POINTWISE
#define POINTWISE(name, X, FINISH)                                                                                                                   \
    static void F(name##_fused)(void *const *chunk, ptrdiff_t n, REAL *carry)                                                                        \
    {                                                                                                                                                \
        F(name##_at) at;                                                                                                                             \
        memcpy(&at, chunk, sizeof at);                                                                                                               \
        (void)carry;                                                                                                                                 \
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++)                                                                                       \
        {                                                                                                                                            \
            F(name##_step) s = F(name##_read)(&at, i);                                                                                               \
            const REAL x = X;                                                                                                                        \
            (void)(FINISH);                                                                                                                          \
            F(name##_write)(&at, i, s);                                                                                                              \
        }                                                                                                                                            \
    }                                                                                                                                                \
    SCAN_KERNEL(name, 0, 0, NULL, NULL)

#undef RECUR
#undef SPREAD
#define RECUR(name) SCAN_KERNEL(name, 1, 0, F(name##_fill), F(name##_finish))
#define SPREAD(name) SCAN_KERNEL(name, 1, 1, F(name##_fill), F(name##_finish))
#undef SCAN_KERNEL
#define SCAN_KERNEL(name, recursive_, spread_, fill_, finish_)                                                                                       \
    static ptrdiff_t F(name##_run)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t steps, ptrdiff_t lanes,                \
                                  const fastpg_part *part)                                                                                           \
    {                                                                                                                                                \
        const F(scan_kernel) scan = {.n_parameters = kernel->n_parameters,                                                                           \
                                     .truncated = recursive_ ? (int)(offsetof(F(name##_at), truncated) / sizeof(void *)) : -1,                       \
                                     .recursive = recursive_,                                                                                        \
                                     .spread = spread_,                                                                                              \
                                     .parameters = kernel->parameters,                                                                               \
                                     .fill = fill_,                                                                                                  \
                                     .finish = finish_,                                                                                              \
                                     .fused = F(name##_fused)};                                                                                      \
        F(scan)(&scan, operands, steps, lanes, part);                                                                                                \
        return -1;                                                                                                                                   \
    }
