/* The traversals of a backward scan x[t] = add[t] + keep[t] x[t+1] over steps and lanes.
 *
 *   LANES        time-major. Wide batches: a row at a time, one fused loop. Narrow, masked or repaired ones: several rows are one chunk for
 *                add and keep, then the recurrence alone walks the rows with the carry in a register. The order of operations is the formula's.
 *   FLAT         time contiguous: one lane, batch-major or packed. All lanes are one long row in which every lane's last step cuts the trace,
 *                walked in chunks; within a vector the recurrence is a scan by doubling, so sums associate otherwise than in the formula.
 *   INTERLEAVED  one row whose steps belong to lanes by number: as FLAT, but the carry is looked up for each step.
 *
 * In each, position p counts items in the order of memory: major * minor_size + minor, time being the major axis of LANES and the minor one of
 * FLAT. A parameter that is not dense in that order (strided, repeated, missing, changed at the end of a lane or by a mask) is copied chunk by
 * chunk into a small stage; dense ones are read where they lie. No memory is used beyond the workspace on the stack. */

/* A zero coefficient means "not read": NaN and inf stay on their side of an ending, and gamma = 0 or lambda = 0 is exact. */
static inline REAL F(gated)(REAL coefficient, REAL x)
{
    const REAL product = coefficient * x;
    return coefficient != 0 ? product : 0;
}
#define times F(gated)
#define unless(flag, x) ((flag) ? (REAL)0 : (REAL)(x))

enum {
    F(ITEMS) = MOST_STAGE_BYTES / sizeof(REAL), /* in the largest chunk */
    F(USUAL) = STAGE_BYTES / sizeof(REAL),      /* in a chunk, unless all is far larger than the caches: then longer runs of memory tell */
    F(LANES) = 4 * F(USUAL),                    /* in a block of wide rows, whose carry must stay in cache */
    F(FETCH) = 256, /* items between two rounds of prefetches (measured) */
    F(NARROW) = 96,                        /* lanes up to which flat chunks beat fused rows (measured) */
    F(WIDTH) = VECTOR_BYTES / sizeof(REAL)
};

typedef struct {
    int n_parameters, recursive, spread;
    int value, next_value, terminated, truncated; /* positions among the parameters, or -1 */
    const fastpg_parameter *parameters;
    void (*fill)(void *const *at, int uniform, ptrdiff_t n, REAL *add, REAL *keep); /* uniform: each SCALAR is one number */
    void (*finish)(void *const *at, int uniform, ptrdiff_t n, const REAL *x, const REAL *next);
    void (*fused)(void *const *at, int uniform, ptrdiff_t from, ptrdiff_t to, REAL *carry); /* items from `from` on, whose carry is carry[0] */
} F(scan_kernel);

typedef struct {
    _Alignas(64) REAL stage[FASTPG_MAX_PARAMETERS][F(ITEMS)];
    _Alignas(64) REAL add[F(ITEMS) + F(WIDTH)], keep[F(ITEMS) + F(WIDTH)], x[2 * F(ITEMS) + F(WIDTH)], next[F(ITEMS) + F(WIDTH)];
    _Alignas(64) REAL carry[F(LANES)], stale[F(LANES)], after[F(LANES)]; /* a lane: x[t+1]; the same had a part begun with 0; V of the step to come */
    uint8_t some[F(LANES)];                                              /* a lane: whether an unmasked step is to come */
    uint8_t mask_stage[F(ITEMS)], ahead_stage[F(ITEMS)], cut_stage[F(ITEMS)];
    const uint8_t *mask, *ahead; /* of the chunk: which steps count; where gaps cut or count as 0, the same one step on in each lane */
    int64_t env_stage[F(ITEMS)];
    const int64_t *env;          /* INTERLEAVED: the lane of each step of the chunk */
    int32_t end_at[F(ITEMS)];    /* ends of lanes in the chunk, ascending, and whose */
    ptrdiff_t end_lane[F(ITEMS)], ends;
    const F(scan_kernel) * kernel;
    fastpg_operand operands[FASTPG_MAX_PARAMETERS];
    const fastpg_layout *layout;
    const fastpg_part *part;
    enum fastpg_order order;
    ptrdiff_t steps, lanes, minor_size, size, chunk;
    REAL *carry_of, *after_of; /* INTERLEAVED: carry, after, some and more by lane, in memory of the caller */
    uint8_t *seen, *some_of, *ahead_of;
    int short_value;                           /* next_value came as V after the last step of each lane alone */
    int uniform;                               /* each SCALAR is one number */
    int far;                                   /* all is far larger than the caches */
    int fused;                                 /* an EXP is read as it is */
    int past_caches;                           /* outputs go through the stage and then past the caches */
    int cut;                                   /* every step counts as truncated: the last of a window */
    ptrdiff_t refused;                         /* first position (of those met) whose next value is missing, or -1 */
    ptrdiff_t constant[FASTPG_MAX_PARAMETERS]; /* so many times the stage holds the one item that this parameter repeats */
    void *at[FASTPG_MAX_PARAMETERS];           /* where the chunk in hand lies */
    const char *fetch[FASTPG_MAX_PARAMETERS];  /* where the chunk to come after it does, of each array that is read as it lies, */
    ptrdiff_t fetch_size[FASTPG_MAX_PARAMETERS], fetches; /* and the size of its items; none unless all is far larger than the caches */
} F(workspace);

/* A chunk: count items from position (major, minor). */
typedef struct {
    ptrdiff_t major, minor, count;
} F(place);

static inline F(place) F(place_at)(const F(workspace) * w, ptrdiff_t position, ptrdiff_t count)
{
    return (F(place)){position / w->minor_size, position % w->minor_size, count};
}

static inline ptrdiff_t F(position)(const F(workspace) * w, F(place) c) { return c.major * w->minor_size + c.minor; }

static inline ptrdiff_t F(item_size)(const fastpg_parameter *p)
{
    return p->kind == FASTPG_FLAG ? 1 : p->kind == FASTPG_COUNT ? (ptrdiff_t)sizeof(int64_t) : (ptrdiff_t)sizeof(REAL);
}

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

/* Copies a chunk of an operand to `to`; with `ahead`, the items one step on in each lane, leaving out what lies beyond its last step. */
static void F(gather)(const F(workspace) * w, const fastpg_operand *o, F(place) c, ptrdiff_t size, char *to, int ahead)
{
    const int lanes = w->order == FASTPG_LANES;
    const ptrdiff_t major_stride = lanes ? o->stride0 : o->stride1, minor_stride = lanes ? o->stride1 : o->stride0;
    const ptrdiff_t shift = ahead ? o->stride0 : 0;
    while (c.count > 0) {
        const ptrdiff_t left = w->minor_size - c.minor, count = left < c.count ? left : c.count;
        const ptrdiff_t beyond = !ahead ? 0 : lanes ? (c.major == w->steps - 1 ? count : 0) : count == left;
        F(copy)(to, size, o->data + c.major * major_stride + c.minor * minor_stride + shift, minor_stride, count - beyond, size);
        to += count * size;
        c = (F(place)){c.major + 1, 0, c.count - count};
    }
}

/* Whether the items of a chunk lie one after another. */
static int F(dense)(const F(workspace) * w, const fastpg_operand *o, F(place) c, ptrdiff_t size)
{
    const int lanes = w->order == FASTPG_LANES;
    const ptrdiff_t major_stride = lanes ? o->stride0 : o->stride1, minor_stride = lanes ? o->stride1 : o->stride0;
    return (minor_stride == size || w->minor_size == 1) && (c.minor + c.count <= w->minor_size || major_stride == w->minor_size * size);
}

static inline char *F(address)(const F(workspace) * w, const fastpg_operand *o, F(place) c)
{
    const int lanes = w->order == FASTPG_LANES;
    return o->data + c.major * (lanes ? o->stride0 : o->stride1) + c.minor * (lanes ? o->stride1 : o->stride0);
}

/* --- where lanes end */

/* The first sequence that ends at or after a position. */
static ptrdiff_t F(sequence_at)(const fastpg_layout *layout, ptrdiff_t position)
{
    ptrdiff_t low = 0, high = layout->sequences;
    while (low < high) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (layout->offsets[middle + 1] > position) high = middle;
        else low = middle + 1;
    }
    return low;
}

static void F(end)(F(workspace) * w, ptrdiff_t at, ptrdiff_t lane)
{
    w->end_at[w->ends] = (int32_t)at;
    w->end_lane[w->ends++] = lane;
}

static void F(locate_env)(F(workspace) * w, F(place) c)
{
    w->env = (const int64_t *)w->layout->env_id + c.minor;
    if (!w->layout->env_int32) return;
    const int32_t *from = (const int32_t *)w->layout->env_id + c.minor;
    for (ptrdiff_t i = 0; i < c.count; i++) w->env_stage[i] = from[i];
    w->env = w->env_stage;
}

static void F(find_ends)(F(workspace) * w, F(place) c)
{
    const ptrdiff_t from = F(position)(w, c), to = from + c.count;
    w->ends = 0;
    if (w->order == FASTPG_LANES) {
        const ptrdiff_t last = (w->steps - 1) * w->lanes;
        for (ptrdiff_t p = from > last ? from : last; p < to; p++) F(end)(w, p - from, p - last);
    } else if (w->order == FASTPG_INTERLEAVED) {
        F(locate_env)(w, c);
        const int64_t *env = w->env;
        for (ptrdiff_t i = c.count - 1; i >= 0; i--) {
            if (!w->seen[env[i]]) F(end)(w, i, env[i]);
            w->seen[env[i]] = 1;
        }
    } else if (w->layout && w->layout->offsets) {
        const int64_t *offsets = w->layout->offsets;
        for (ptrdiff_t b = F(sequence_at)(w->layout, from); b < w->layout->sequences && offsets[b + 1] <= to; b++)
            if (offsets[b + 1] > offsets[b]) F(end)(w, offsets[b + 1] - 1 - from, b);
    } else
        for (ptrdiff_t b = c.major; (b + 1) * w->steps <= to; b++) F(end)(w, (b + 1) * w->steps - 1 - from, b);
}

/* --- what a chunk reads */

/* Steps that a mask leaves out count as 0. */
static void F(blank)(char *restrict items, const uint8_t *restrict mask, ptrdiff_t count, ptrdiff_t size)
{
    if (size == 1)
        for (ptrdiff_t i = 0; i < count; i++) items[i] = items[i] & mask[i];
    else {
        REAL *restrict x = (REAL *)(void *)items;
        for (ptrdiff_t i = 0; i < count; i++) x[i] = mask[i] ? x[i] : 0;
    }
}

static void F(cut_at_gaps)(uint8_t *restrict truncated, const uint8_t *restrict ahead, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) truncated[i] = truncated[i] | !ahead[i];
}

static void F(locate_mask)(F(workspace) * w, F(place) c)
{
    const fastpg_operand *o = &w->layout->mask;
    w->mask = w->mask_stage;
    if (F(dense)(w, o, c, 1)) w->mask = (const uint8_t *)F(address)(w, o, c);
    else F(gather)(w, o, c, 1, (char *)w->mask_stage, 0);
    w->ahead = w->ahead_stage;
    if (w->layout->mask_mode == FASTPG_SKIP) return;
    if (w->order == FASTPG_INTERLEAVED) {
        const int64_t *env = w->env;
        for (ptrdiff_t i = c.count - 1; i >= 0; i--) {
            w->ahead_stage[i] = w->ahead_of[env[i]];
            w->ahead_of[env[i]] = w->mask[i];
        }
        return;
    }
    F(gather)(w, o, c, 1, (char *)w->ahead_stage, 1);
    for (ptrdiff_t e = 0; e < w->ends; e++) w->ahead_stage[w->end_at[e]] = 1;
}

/* V of the state after each step, where only that after the last step of each lane came: V of the lane's next step.
 * A kernel without V of its own reads it at no other step. */
static void F(locate_next_value)(F(workspace) * w, F(place) c, REAL *to)
{
    const fastpg_operand *value = w->kernel->value < 0 ? NULL : &w->operands[w->kernel->value], *o = &w->operands[w->kernel->next_value];
    if (w->order == FASTPG_INTERLEAVED) {
        const int64_t *env = w->env;
        for (ptrdiff_t i = c.count - 1; i >= 0; i--) {
            to[i] = w->after_of[env[i]];
            if (value) memcpy(&w->after_of[env[i]], value->data + (c.minor + i) * value->stride0, sizeof(REAL));
        }
        return;
    }
    if (value) F(gather)(w, value, c, sizeof(REAL), (char *)to, 1);
    else memset(to, 0, (size_t)c.count * sizeof(REAL));
    for (ptrdiff_t e = 0; e < w->ends; e++) memcpy(&to[w->end_at[e]], o->last + w->end_lane[e] * o->last_stride, sizeof(REAL));
}

/* Where a lane's own memory stands in the block in hand. */
static inline ptrdiff_t F(lane_in_block)(const F(workspace) * w, ptrdiff_t lane)
{
    return (lane - (w->part->over == FASTPG_OVER_LANES ? w->part->from : 0)) % F(LANES);
}

/* Where a mask skips steps, a lane ends with its last unmasked one. */
static void F(mark_last)(F(workspace) * w, F(place) c, uint8_t *tr)
{
    if (w->order == FASTPG_INTERLEAVED) {
        const int64_t *env = w->env;
        for (ptrdiff_t i = c.count - 1; i >= 0; i--) {
            tr[i] = tr[i] | (w->mask[i] & !w->some_of[env[i]]);
            w->some_of[env[i]] |= w->mask[i];
        }
    } else if (w->order == FASTPG_LANES) {
        const ptrdiff_t cols = c.count < w->minor_size ? c.count : w->minor_size;
        uint8_t *some = w->some + F(lane_in_block)(w, c.minor);
        for (ptrdiff_t i = c.count - cols; i >= 0; i -= cols)
            INDEPENDENT for (ptrdiff_t n = 0; n < cols; n++)
            {
                tr[i + n] = tr[i + n] | (w->mask[i + n] & !some[n]);
                some[n] |= w->mask[i + n];
            }
    } else
        for (ptrdiff_t e = w->ends, i = c.count - 1; e >= 0; e--) { /* down from the end of each lane; first from that of one that goes on above */
            const ptrdiff_t bottom = e > 0 ? w->end_at[e - 1] + 1 : 0;
            if (e < w->ends) w->some[0] = 0;
            for (; i >= bottom && !w->some[0]; i--) {
                tr[i] = tr[i] | w->mask[i];
                w->some[0] = w->mask[i];
            }
            i = bottom - 1;
        }
}

/* V of the lane's next unmasked step, where only that after the last step of each lane came. And which unmasked steps are cut before another
 * one, so that their V is missing. */
static inline void F(past_gap)(REAL *to, const REAL *value, uint8_t mask, uint8_t te, uint8_t *tr, REAL *after, uint8_t *some, uint8_t *cut)
{
    *to = *after;
    *cut = mask & *some & *tr & !te;
    *tr = *tr | (mask & !*some);
    *after = mask ? *value : *after;
    *some = *some | mask;
}

static void F(locate_past_gaps)(F(workspace) * w, F(place) c, REAL *to)
{
    const F(scan_kernel) *k = w->kernel;
    const fastpg_operand *o = &w->operands[k->next_value];
    const REAL *value = k->value < 0 ? (const REAL *)to : w->at[k->value]; /* without V of its own a kernel reads none but the last */
    const uint8_t *te = w->at[k->terminated];
    uint8_t *tr = w->at[k->truncated], *cut = w->cut_stage, any = 0;
    if (w->order == FASTPG_INTERLEAVED) {
        const int64_t *env = w->env;
        for (ptrdiff_t i = c.count - 1; i >= 0; i--)
            F(past_gap)(&to[i], &value[i], w->mask[i], te[i], &tr[i], &w->after_of[env[i]], &w->some_of[env[i]], &cut[i]);
    } else if (w->order == FASTPG_LANES) {
        const ptrdiff_t cols = c.count < w->minor_size ? c.count : w->minor_size, first = F(lane_in_block)(w, c.minor);
        if (w->ends) F(copy)((char *)(w->after + first), sizeof(REAL), o->last + c.minor * o->last_stride, o->last_stride, cols, sizeof(REAL));
        for (ptrdiff_t i = c.count - cols; i >= 0; i -= cols)
            for (ptrdiff_t n = 0; n < cols; n++)
                F(past_gap)(&to[i + n], &value[i + n], w->mask[i + n], te[i + n], &tr[i + n], &w->after[first + n], &w->some[first + n], &cut[i + n]);
    } else
        for (ptrdiff_t e = w->ends, i = c.count - 1; e >= 0; e--) {
            const ptrdiff_t bottom = e > 0 ? w->end_at[e - 1] + 1 : 0;
            if (e < w->ends) {
                memcpy(w->after, o->last + w->end_lane[e] * o->last_stride, sizeof(REAL));
                w->some[0] = 0;
            }
            REAL after = w->after[0];
            uint8_t some = w->some[0];
            for (; i >= bottom; i--) F(past_gap)(&to[i], &value[i], w->mask[i], te[i], &tr[i], &after, &some, &cut[i]);
            w->after[0] = after;
            w->some[0] = some;
        }
    for (ptrdiff_t i = 0; i < c.count; i++) any |= cut[i];
    for (ptrdiff_t i = any ? c.count - 1 : -1; i >= 0; i--)
        if (cut[i]) w->refused = F(position)(w, c) + i;
}

/* A truncated step whose V is missing. */
static void F(find_cut)(F(workspace) * w, F(place) c)
{
    const uint8_t *te = w->at[w->kernel->terminated], *tr = w->at[w->kernel->truncated];
    uint8_t any = 0;
    for (ptrdiff_t i = 0; i < c.count; i++) any |= tr[i] & (uint8_t)~te[i];
    for (ptrdiff_t i = any ? c.count - 1 : -1; i >= 0; i--)
        if (tr[i] & !te[i]) w->refused = F(position)(w, c) + i;
}

/* The hardware foresees neither the step down to the row before nor that to the chunk below. */
static void F(find_fetches)(F(workspace) * w, F(place) c)
{
    const int lanes = w->order == FASTPG_LANES;
    w->fetches = 0;
    for (int k = 0; k < w->kernel->n_parameters && w->far; k++) {
        const fastpg_operand *o = &w->operands[k];
        const ptrdiff_t size = F(item_size)(&w->kernel->parameters[k]);
        if (w->kernel->parameters[k].kind == FASTPG_OUT || (lanes ? o->stride1 : o->stride0) != size) continue;
        w->fetch[w->fetches] = F(address)(w, o, c) - (lanes ? (1 + (F(USUAL) - 1) / w->lanes) * o->stride0 : w->chunk * size);
        w->fetch_size[w->fetches++] = size;
    }
}

/* Into the L2 cache: there are too many arrays for the L1 (measured, gae float32 (128, 32768): 19 GB/s, into the L1 15, without 15). */
static inline void F(fetch)(const F(workspace) * w, ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t k = 0; k < w->fetches; k++)
        for (ptrdiff_t b = from * w->fetch_size[k]; b < to * w->fetch_size[k]; b += 64) __builtin_prefetch(w->fetch[k] + b, 0, 2);
}

/* One pass over a chunk of rows of `cols` lanes, or of one row. What is fetched is asked for bit by bit: all at once, it would be waited for. */
static void F(fuse)(F(workspace) * w, F(place) c, REAL *carry, ptrdiff_t cols)
{
    F(find_fetches)(w, c);
    const ptrdiff_t most = w->fetches ? F(FETCH) : cols;
    for (ptrdiff_t row = c.count - cols; row >= 0; row -= cols)
        for (ptrdiff_t n = 0; n < cols; n += most) {
            const ptrdiff_t from = row + n, to = n + most < cols ? from + most : row + cols;
            F(fetch)(w, from, to);
            w->kernel->fused(w->at, w->uniform, from, to, carry + n);
        }
}

/* Points w->at[k] at each parameter's items of the chunk, staging what is not dense, or changed by the end of a lane or by a mask. */
static void F(locate)(F(workspace) * w, F(place) c)
{
    const F(scan_kernel) *kernel = w->kernel;
    const int masked = w->layout && w->layout->mask.data;
    const int zero = masked && w->layout->mask_mode == FASTPG_ZERO, reset = masked && w->layout->mask_mode == FASTPG_RESET;
    const int past_gaps = masked && !zero && w->short_value, skip = masked && !zero && !reset;
    F(find_ends)(w, c);
    if (masked) F(locate_mask)(w, c);
    for (int k = 0; k < kernel->n_parameters; k++) {
        const fastpg_operand *o = &w->operands[k];
        const fastpg_kind kind = kernel->parameters[k].kind;
        const ptrdiff_t size = F(item_size)(&kernel->parameters[k]);
        char *stage = (char *)w->stage[k];
        w->at[k] = NULL;
        if (kind == FASTPG_COUNT) continue;
        const int next = k == kernel->next_value && w->short_value, truncated = k == kernel->truncated;
        if (next && past_gaps) continue; /* needs the flags that follow it */
        w->at[k] = stage;
        if (next && kernel->value >= 0 && w->order != FASTPG_INTERLEAVED && !w->ends && !masked) { /* dense V one step on */
            const fastpg_operand *value = &w->operands[kernel->value];
            if (F(dense)(w, value, c, size)) {
                w->at[k] = F(address)(w, value, c) + value->stride0;
                continue;
            }
        }
        const int exponent = kind == FASTPG_EXP && !w->fused;
        const int changed = next || exponent || (truncated && (w->ends || w->cut || (masked && !zero))) || (zero && (kind == FASTPG_IN || kind == FASTPG_FLAG));
        const int out = kind == FASTPG_OUT, dense = F(dense)(w, o, c, size);
        if (dense && !changed && !(out && w->past_caches)) {
            w->at[k] = F(address)(w, o, c);
            continue;
        }
        if (out) continue;
        if (next) {
            F(locate_next_value)(w, c, (REAL *)(void *)stage);
            if (zero) F(blank)(stage, w->ahead, c.count, size);
            continue;
        }
        const int repeats = o->stride0 == 0 && o->stride1 == 0;
        if (repeats) {
            if (w->constant[k] < c.count) F(repeat)(stage, o->data, c.count, size);
            w->constant[k] = changed ? 0 : w->constant[k] < c.count ? c.count : w->constant[k];
        } else if (dense)
            memcpy(stage, F(address)(w, o, c), (size_t)(c.count * size));
        else
            F(gather)(w, o, c, size, stage, 0);
        if (zero && changed) F(blank)(stage, w->mask, c.count, size);
        if (exponent)
            for (ptrdiff_t i = 0; i < c.count; i++) w->stage[k][i] = F(exp_any)(w->stage[k][i]);
        if (!truncated) continue;
        if (reset) F(cut_at_gaps)((uint8_t *)stage, w->ahead, c.count);
        if (w->short_value && !past_gaps) { /* at the end of a lane V is known */
            for (ptrdiff_t e = 0; e < w->ends; e++) stage[w->end_at[e]] = 0;
            F(find_cut)(w, c);
        }
        for (ptrdiff_t e = 0; e < w->ends; e++) stage[w->end_at[e]] = 1;
        if (w->cut) memset(stage, 1, (size_t)c.count);
        if (skip && !past_gaps) F(mark_last)(w, c, (uint8_t *)stage);
    }
    if (past_gaps) {
        w->at[kernel->next_value] = w->stage[kernel->next_value];
        F(locate_past_gaps)(w, c, w->stage[kernel->next_value]);
    } else if (w->short_value && w->at[kernel->truncated] != (void *)w->stage[kernel->truncated])
        F(find_cut)(w, c);
}

/* Takes back what a chunk wrote into a stage. */
static void F(deliver)(F(workspace) * w, F(place) c)
{
    for (int k = 0; k < w->kernel->n_parameters; k++) {
        const fastpg_operand *o = &w->operands[k];
        if (w->kernel->parameters[k].kind != FASTPG_OUT || w->at[k] != (void *)w->stage[k]) continue;
        const int lanes = w->order == FASTPG_LANES;
        const ptrdiff_t minor_stride = lanes ? o->stride1 : o->stride0, size = sizeof(REAL);
        const char *from = (const char *)w->stage[k];
        for (F(place) left = c; left.count > 0;) {
            ptrdiff_t count = w->minor_size - left.minor;
            if (count > left.count || F(dense)(w, o, left, size)) count = left.count;
            char *to = F(address)(w, o, left);
            if (w->past_caches && minor_stride == size) store_past_caches(to, from, count * size);
            else F(copy)(to, minor_stride, from, size, count, size);
            from += count * size;
            left = (F(place)){left.major + 1, 0, left.count - count};
        }
    }
}

/* --- the recurrence */

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

static void F(recur_1)(const REAL *add, const REAL *keep, REAL *x, REAL *carry, ptrdiff_t rows, ptrdiff_t stride)
{
    REAL c = *carry;
    for (ptrdiff_t i = (rows - 1) * stride; i >= 0; i -= stride) {
        /* Bound by the latency of its chain. An ending is rare, so a branch on it is guessed and keeps the comparison out of the chain. */
        if (__builtin_expect(keep[i] == 0, 0)) c = 0;
        else c = keep[i] * c;
        c = add[i] + c;
        x[i] = c;
    }
    *carry = c;
}

static void F(recur_lanes)(const F(workspace) * w, REAL *x, REAL *carry, ptrdiff_t rows, ptrdiff_t lanes)
{
    ptrdiff_t n = 0;
    for (; n + 16 <= lanes; n += 16) F(recur_16)(w->add + n, w->keep + n, x + n, carry + n, rows, lanes);
    for (; n + 8 <= lanes; n += 8) F(recur_8)(w->add + n, w->keep + n, x + n, carry + n, rows, lanes);
    for (; n + 4 <= lanes; n += 4) F(recur_4)(w->add + n, w->keep + n, x + n, carry + n, rows, lanes);
    for (; n < lanes; n++) F(recur_1)(w->add + n, w->keep + n, x + n, carry + n, rows, lanes);
}

/* One lane, a vector of steps at a time. By doubling, a[i] and k[i] come to stand for 1, 2, 4, ... steps: a + k x[beyond them]; then the carry
 * is added to all. Most vectors hold one coefficient throughout, whose powers are at hand: the same products, so the same bits.
 * What leads from vector to vector is kept to twice the digits, as k + rest: rounded, it would be off by the same in every vector, as if gamma
 * were off (measured, gae float32, gamma 0.9999, 20,000 steps of noise: 216 ulps of the largest sum; step by step 43). That takes fma; without
 * it the chunk is walked step by step. No coefficient is compared with 0: where anything is not finite the chunk is walked so again. */
static void F(recur_flat)(F(workspace) * w, REAL *x, REAL *carry, ptrdiff_t n)
{
#if !ISA_HAS_FMA
    x[n] = *carry;
    F(recur_1)(w->add, w->keep, x, carry, n, 1);
#else
    typedef REAL vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#ifdef NEEDS_ORDER
    typedef F(bits) order __attribute__((vector_size(VECTOR_BYTES)));
#endif
    const ptrdiff_t whole = (n + F(WIDTH) - 1) / F(WIDTH) * F(WIDTH);
    for (ptrdiff_t i = n; i < whole; i++) w->add[i] = 0, w->keep[i] = 1;
    const vector zero = {0}, one = zero + 1;
#if VECTOR_BYTES / REAL_BYTES == 16
#define AHEAD_1 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
#define AHEAD_2 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
#define AHEAD_4 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
#define AHEAD_8 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23
#define FIRST 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
#define DOUBLINGS(DOUBLE) DOUBLE(0, AHEAD_1) DOUBLE(1, AHEAD_2) DOUBLE(2, AHEAD_4) DOUBLE(3, AHEAD_8)
#elif VECTOR_BYTES / REAL_BYTES == 8
#define AHEAD_1 1, 2, 3, 4, 5, 6, 7, 8
#define AHEAD_2 2, 3, 4, 5, 6, 7, 8, 9
#define AHEAD_4 4, 5, 6, 7, 8, 9, 10, 11
#define FIRST 0, 0, 0, 0, 0, 0, 0, 0
#define DOUBLINGS(DOUBLE) DOUBLE(0, AHEAD_1) DOUBLE(1, AHEAD_2) DOUBLE(2, AHEAD_4)
#elif VECTOR_BYTES / REAL_BYTES == 4
#define AHEAD_1 1, 2, 3, 4
#define AHEAD_2 2, 3, 4, 5
#define FIRST 0, 0, 0, 0
#define DOUBLINGS(DOUBLE) DOUBLE(0, AHEAD_1) DOUBLE(1, AHEAD_2)
#else
#define AHEAD_1 1, 2
#define FIRST 0, 0
#define DOUBLINGS(DOUBLE) DOUBLE(0, AHEAD_1)
#endif
#define MULTIPLY(...)                                                                                                                                \
    {                                                                                                                                                \
        const vector further = SHUFFLE(k, one, __VA_ARGS__), rest_further = SHUFFLE(rest, zero, __VA_ARGS__), product = k * further;                 \
        const vector lost = (vector)F(once)(k, further, -product);                                                                                   \
        rest = (vector)F(once)(k, rest_further, F(once)(rest, further, lost));                                                                       \
        k = product;                                                                                                                                 \
    }
#define GENERAL(j, ...)                                                                                                                              \
    a = (vector)F(once)(k, SHUFFLE(a, zero, __VA_ARGS__), a);                                                                                        \
    MULTIPLY(__VA_ARGS__)
#define OF_POWERS(j, ...)                                                                                                                            \
    power[j] = zero + k[0];                                                                                                                          \
    MULTIPLY(__VA_ARGS__)
#define BY_POWERS(j, ...) a = (vector)F(once)(power[j], SHUFFLE(a, zero, __VA_ARGS__), a);
    const vector usual = zero + w->keep[n / 2]; /* an ending's 0 serves as well as any */
    vector power[4], k = usual, rest = zero, odd = zero, c = zero + *carry;
    DOUBLINGS(OF_POWERS)
    const vector usual_to_end = k, usual_first = SHUFFLE(k, k, FIRST), usual_first_rest = SHUFFLE(rest, rest, FIRST);
    for (ptrdiff_t i = whole - F(WIDTH); i >= 0; i -= F(WIDTH)) {
        vector a = *(const vector *)(w->add + i), first_k = usual_first, first_rest = usual_first_rest;
        k = *(const vector *)(w->keep + i);
        if (F(alike)(k, usual)) {
            DOUBLINGS(BY_POWERS)
            k = usual_to_end;
        } else {
            rest = zero;
            DOUBLINGS(GENERAL)
            first_k = SHUFFLE(k, k, FIRST);
            first_rest = SHUFFLE(rest, rest, FIRST);
        }
        const vector y = (vector)F(once)(k, c, a);
        *(vector *)(x + i) = y;
        odd = (vector)F(once)(y, zero, odd);
        const vector first = SHUFFLE(a, a, FIRST);
        c = (vector)F(once)(first_k, c, F(once)(first_rest, c, first));
        /* While this chunk is computed the next is on its way: asked for all at once, it would be waited for. */
        if (i % 64 == 0) F(fetch)(w, i, i + 64);
    }
#undef AHEAD_1
#undef AHEAD_2
#undef AHEAD_4
#undef AHEAD_8
#undef FIRST
#undef DOUBLINGS
#undef MULTIPLY
#undef GENERAL
#undef OF_POWERS
#undef BY_POWERS
    REAL total = 0;
    for (int i = 0; i < F(WIDTH); i++) total += odd[i];
    x[n] = *carry;
    if (total == 0 && *carry - *carry == 0) *carry = c[0];
    else F(recur_1)(w->add, w->keep, x, carry, n, 1);
#endif
}

static void F(recur_interleaved)(F(workspace) * w, F(place) c)
{
    const int64_t *env = w->env;
    for (ptrdiff_t i = c.count - 1; i >= 0; i--) {
        REAL *carry = &w->carry_of[env[i]];
        w->next[i] = *carry;
        *carry = w->x[i] = w->add[i] + times(w->keep[i], *carry);
    }
}

/* A masked step hands on what comes after it, or stops it. */
static void F(mask_coefficients)(F(workspace) * w, ptrdiff_t count)
{
    const REAL through = w->layout->mask_mode == FASTPG_SKIP;
    REAL *restrict add = w->add, *restrict keep = w->keep;
    const uint8_t *restrict mask = w->mask;
    for (ptrdiff_t i = 0; i < count; i++) {
        add[i] = mask[i] ? add[i] : 0;
        keep[i] = mask[i] ? keep[i] : through;
    }
}

static void F(fill)(F(workspace) * w, ptrdiff_t count)
{
    w->kernel->fill(w->at, w->uniform, count, w->add, w->keep);
    if (w->layout && w->layout->mask.data && w->layout->mask_mode != FASTPG_ZERO) F(mask_coefficients)(w, count);
}

static void F(close_chunk)(F(workspace) * w, F(place) c)
{
    if (w->layout && w->layout->mask.data && !w->kernel->spread) /* a spread blanks what it leaves out itself */
        for (int k = 0; k < w->kernel->n_parameters; k++)
            if (w->kernel->parameters[k].kind == FASTPG_OUT) F(blank)(w->at[k], w->mask, c.count, sizeof(REAL));
    F(deliver)(w, c);
}

/* A chunk of padding alone, as batches of tokens have many: nothing is read, the carry passes through it or stops. */
static int F(pad)(F(workspace) * w, F(place) c, REAL *carry, REAL *stale)
{
    const fastpg_layout *layout = w->layout;
    if (!layout || !layout->mask.data || layout->mask_mode == FASTPG_ZERO || w->kernel->spread || !F(dense)(w, &layout->mask, c, 1)) return 0;
    const uint8_t *restrict mask = (const uint8_t *)F(address)(w, &layout->mask, c);
    uint8_t any = 0;
    for (ptrdiff_t i = 0; i < c.count; i++) any |= mask[i];
    if (any) return 0;
    F(find_ends)(w, c);
    if (w->ends) {
        const fastpg_operand *o = &w->operands[w->kernel->next_value];
        if (w->short_value) memcpy(w->after, o->last + w->end_lane[0] * o->last_stride, sizeof(REAL));
        w->some[0] = 0;
    }
    for (int k = 0; k < w->kernel->n_parameters; k++) {
        if (w->kernel->parameters[k].kind != FASTPG_OUT) continue;
        w->at[k] = F(dense)(w, &w->operands[k], c, sizeof(REAL)) && !w->past_caches ? F(address)(w, &w->operands[k], c) : (void *)w->stage[k];
        memset(w->at[k], 0, (size_t)c.count * sizeof(REAL));
    }
    F(deliver)(w, c);
    if (layout->mask_mode == FASTPG_RESET) *carry = 0;
    if (layout->mask_mode == FASTPG_RESET && stale) *stale = 0;
    return 1;
}

/* A chunk of whole rows of `cols` lanes (1 in the other orders): what it reads, the recurrence, what it writes.
 * In a repair, returns whether the carry came out as if the part had begun with 0: all steps before these are right then. */
static int F(chunk)(F(workspace) * w, F(place) c, REAL *carry, REAL *stale, ptrdiff_t cols)
{
    if (w->order == FASTPG_FLAT && F(pad)(w, c, carry, stale)) return stale && *carry == *stale;
    F(locate)(w, c);
    if (!w->kernel->recursive) {
        F(fuse)(w, c, w->x, c.count);
        F(close_chunk)(w, c);
        return 0;
    }
    F(fill)(w, c.count);
    if (w->order == FASTPG_LANES) {
        if (stale) F(recur_lanes)(w, w->x, stale, c.count / cols, cols);
        memcpy(w->x + c.count, carry, (size_t)cols * sizeof(REAL));
        F(recur_lanes)(w, w->x, carry, c.count / cols, cols);
        w->kernel->finish(w->at, w->uniform, c.count, w->x, w->x + cols);
    } else if (w->order == FASTPG_FLAT) {
        F(find_fetches)(w, c);
        if (stale) F(recur_flat)(w, w->x, stale, c.count);
        F(recur_flat)(w, w->x, carry, c.count);
        w->kernel->finish(w->at, w->uniform, c.count, w->x, w->x + 1);
    } else {
        F(recur_interleaved)(w, c);
        w->kernel->finish(w->at, w->uniform, c.count, w->x, w->next);
    }
    F(close_chunk)(w, c);
    return stale && !memcmp(carry, stale, (size_t)cols * sizeof(REAL));
}

/* The same for a window of `window` steps, each of which starts afresh: from its last step, which counts as truncated, back to its first. */
static void F(window_chunk)(F(workspace) * w, F(place) c, ptrdiff_t window)
{
    const ptrdiff_t unit = w->order == FASTPG_LANES ? w->lanes : 1, from = F(position)(w, c);
    ptrdiff_t furthest = (w->size - 1 - from) / unit;
    if (furthest > window - 1) furthest = window - 1;
    memset(w->x, 0, (size_t)c.count * sizeof(REAL));
    for (ptrdiff_t j = furthest; j >= 0; j--) {
        const ptrdiff_t left = w->size - from - j * unit;
        const F(place) shifted = F(place_at)(w, from + j * unit, left < c.count ? left : c.count);
        w->cut = j == window - 1;
        F(locate)(w, shifted);
        F(fill)(w, shifted.count);
        for (ptrdiff_t i = 0; i < shifted.count; i++) w->x[i] = w->add[i] + times(w->keep[i], w->x[i]);
    }
    w->cut = 0;
    w->kernel->finish(w->at, w->uniform, c.count, w->x, w->x);
    F(close_chunk)(w, c);
}

/* --- the traversals */

static void F(scan_lanes)(F(workspace) * w)
{
    const fastpg_part *part = w->part;
    const int repair = part->stage == FASTPG_REPAIR, over_lanes = part->over == FASTPG_OVER_LANES;
    const ptrdiff_t n_from = over_lanes ? part->from : 0, n_to = over_lanes ? part->to : w->lanes;
    const ptrdiff_t t_from = over_lanes ? 0 : part->from, t_to = over_lanes ? w->steps : part->to;
    const int whole_rows = n_to - n_from == w->lanes && w->lanes <= F(USUAL);
    const int fuse = !(w->layout && w->layout->mask.data) && !repair && !part->window && !(whole_rows && w->lanes <= F(NARROW));
    w->fused = fuse;
    for (ptrdiff_t n0 = n_from; n0 < n_to; n0 += F(LANES)) {
        const ptrdiff_t n1 = n0 + F(LANES) < n_to ? n0 + F(LANES) : n_to, most = whole_rows ? F(USUAL) / w->lanes : 1;
        const size_t row_bytes = (size_t)(n1 - n0) * sizeof(REAL);
        memset(w->carry, 0, row_bytes);
        memset(w->stale, 0, row_bytes);
        memset(w->some, 0, (size_t)(n1 - n0));
        if (repair) memcpy(w->carry, part->carry_in, row_bytes);
        int settled = 0;
        for (ptrdiff_t t1 = t_to; t1 > t_from && !settled; t1 -= most) {
            const ptrdiff_t t = t1 - most > t_from ? t1 - most : t_from;
            for (ptrdiff_t n = n0; n < n1; n += F(USUAL)) {
                const ptrdiff_t cols = n + F(USUAL) < n1 ? F(USUAL) : n1 - n;
                const F(place) c = {t, n, (t1 - t) * cols};
                if (part->window) F(window_chunk)(w, c, part->window);
                else if (!fuse) settled = F(chunk)(w, c, w->carry + (n - n0), repair ? w->stale : NULL, cols);
                else {
                    F(locate)(w, c);
                    F(fuse)(w, c, w->carry + (n - n0), cols);
                    F(deliver)(w, c);
                }
            }
        }
        if (part->carry_out && !settled) memcpy(part->carry_out, w->carry, row_bytes);
    }
}

/* Whether an unmasked step follows in the same lane, and V of it, for a part that ends amid a lane. */
static void F(look_ahead)(F(workspace) * w, ptrdiff_t position)
{
    const fastpg_operand *mask = &w->layout->mask;
    const ptrdiff_t lane = w->layout->offsets ? F(sequence_at)(w->layout, position - 1) : (position - 1) / w->steps;
    const ptrdiff_t end = w->layout->offsets ? w->layout->offsets[lane + 1] : (lane + 1) * w->steps;
    w->some[0] = 0;
    for (ptrdiff_t p = position; p < end && !w->some[0]; p++) {
        const F(place) c = F(place_at)(w, p, 1);
        w->some[0] = *(const uint8_t *)F(address)(w, mask, c);
        if (w->some[0] && w->kernel->value >= 0) memcpy(w->after, F(address)(w, &w->operands[w->kernel->value], c), sizeof(REAL));
    }
    if (w->some[0] || !w->short_value) return;
    const fastpg_operand *o = &w->operands[w->kernel->next_value];
    memcpy(w->after, o->last + lane * o->last_stride, sizeof(REAL));
}

/* Chunks begin at multiples of their size wherever a part does, so that parts give the bits of the whole. */
static void F(scan_flat)(F(workspace) * w)
{
    const fastpg_part *part = w->part;
    const int repair = part->stage == FASTPG_REPAIR;
    REAL carry = 0, stale = 0;
    if (repair) memcpy(&carry, part->carry_in, sizeof carry);
    if (w->layout && w->layout->mask.data && part->to < w->size) F(look_ahead)(w, part->to);
    int settled = 0;
    for (ptrdiff_t to = part->to; to > part->from && !settled;) {
        const ptrdiff_t grid = (to - 1) / w->chunk * w->chunk, from = grid > part->from ? grid : part->from;
        const F(place) c = F(place_at)(w, from, to - from);
        if (part->window) F(window_chunk)(w, c, part->window);
        else settled = F(chunk)(w, c, &carry, repair ? &stale : NULL, 1);
        to = from;
    }
    if (part->carry_out && !settled) memcpy(part->carry_out, &carry, sizeof carry);
}

/* Every step takes the item of its episode's first step; a step follows on unless the one before it ended. */
static void F(spread_lane)(F(workspace) * w, const fastpg_operand *x, ptrdiff_t lane, ptrdiff_t from, ptrdiff_t to)
{
    const fastpg_operand *te = &w->operands[w->kernel->terminated], *tr = &w->operands[w->kernel->truncated];
    const fastpg_operand *mask = w->layout && w->layout->mask.data ? &w->layout->mask : NULL;
    const int reset = mask && w->layout->mask_mode == FASTPG_RESET;
    REAL first = 0;
    int fresh = 1;
    for (ptrdiff_t t = from; t < to; t++) {
        REAL *here = (REAL *)(void *)(x->data + lane * x->stride1 + t * x->stride0);
        const int counts = !mask || mask->data[lane * mask->stride1 + t * mask->stride0];
        if (fresh) first = *here;
        *here = counts ? first : 0;
        fresh = counts ? te->data[lane * te->stride1 + t * te->stride0] | tr->data[lane * tr->stride1 + t * tr->stride0] : reset;
    }
}

static void F(spread)(F(workspace) * w, const fastpg_operand *x)
{
    const fastpg_operand *te = &w->operands[w->kernel->terminated], *tr = &w->operands[w->kernel->truncated];
    const fastpg_layout *layout = w->layout;
    if (w->order == FASTPG_INTERLEAVED) {
        memset(w->seen, 0, (size_t)layout->envs); /* now: whether the lane's episode has begun */
        for (ptrdiff_t p = 0; p < w->size; p++) {
            const int64_t e = layout->env_int32 ? ((const int32_t *)layout->env_id)[p] : ((const int64_t *)layout->env_id)[p];
            REAL *here = (REAL *)(void *)(x->data + p * x->stride0);
            const int counts = !layout->mask.data || layout->mask.data[p * layout->mask.stride0];
            if (!w->seen[e]) w->carry_of[e] = *here;
            *here = counts ? w->carry_of[e] : 0;
            w->seen[e] = counts ? !(te->data[p * te->stride0] | tr->data[p * tr->stride0]) : layout->mask_mode != FASTPG_RESET;
        }
        return;
    }
    const int some_lanes = w->part->over == FASTPG_OVER_LANES; /* the others are another thread's */
    const ptrdiff_t n_from = some_lanes ? w->part->from : 0, n_to = some_lanes ? w->part->to : w->lanes;
    const int dense = x->stride1 == (ptrdiff_t)sizeof(REAL) && te->stride1 == 1 && tr->stride1 == 1;
    if (w->order == FASTPG_LANES && dense && !layout) {
        for (ptrdiff_t t = 0; t + 1 < w->steps; t++) {
            const REAL *before = (const REAL *)(void *)(x->data + t * x->stride0);
            REAL *here = (REAL *)(void *)(x->data + (t + 1) * x->stride0);
            const char *ended = te->data + t * te->stride0, *cut = tr->data + t * tr->stride0;
            INDEPENDENT for (ptrdiff_t n = n_from; n < n_to; n++) here[n] = ended[n] | cut[n] ? here[n] : before[n];
        }
        return;
    }
    if (layout && layout->offsets)
        for (ptrdiff_t b = 0; b < layout->sequences; b++) F(spread_lane)(w, x, 0, layout->offsets[b], layout->offsets[b + 1]);
    else
        for (ptrdiff_t n = n_from; n < n_to; n++) F(spread_lane)(w, x, n, 0, w->steps);
}

/* A kernel without a recurrence over arrays that are dense in one order is one long row. */
static int F(flattens)(const F(workspace) * w)
{
    for (int k = 0; k < w->kernel->n_parameters; k++) {
        const fastpg_operand *o = &w->operands[k];
        const ptrdiff_t size = F(item_size)(&w->kernel->parameters[k]);
        if (!(o->stride0 == 0 && o->stride1 == 0) && !(o->stride1 == size && o->stride0 == w->lanes * size)) return 0;
    }
    return !w->short_value && !(w->layout && w->layout->mask.data);
}

static ptrdiff_t F(scan)(const F(scan_kernel) * kernel, const fastpg_operand *given, ptrdiff_t steps, ptrdiff_t lanes, const fastpg_layout *layout,
                         const fastpg_part *part)
{
    static const REAL zero = 0;
    const fastpg_operand *out = NULL;
    F(workspace) w;
    if (part->stage == FASTPG_REPAIR && !kernel->recursive) return -1;
    w.kernel = kernel;
    w.layout = layout;
    w.part = part;
    w.order = part->order;
    w.steps = steps;
    w.lanes = lanes;
    w.size = steps * lanes;
    w.far = w.size * (ptrdiff_t)sizeof(REAL) >= FAR_LARGER;
    w.chunk = w.far ? F(ITEMS) : F(USUAL);
    w.uniform = 1;
    w.minor_size = w.order == FASTPG_LANES ? lanes : steps;
    w.past_caches = part->past_caches;
    w.cut = w.fused = 0;
    w.refused = -1;
    w.short_value = kernel->next_value >= 0 && given[kernel->next_value].last;
    for (int k = 0; k < kernel->n_parameters; k++) {
        fastpg_operand *o = &w.operands[k];
        *o = given[k];
        if (o->data == NULL) *o = (fastpg_operand){(char *)(uintptr_t)&zero, 0, 0, o->last, o->last_stride};
        w.constant[k] = 0;
        if (kernel->parameters[k].kind == FASTPG_SCALAR && (o->stride0 || o->stride1)) w.uniform = 0;
        if (kernel->parameters[k].kind == FASTPG_OUT && !out) out = o;
    }
    if (w.order == FASTPG_INTERLEAVED) {
        w.carry_of = layout->memory;
        w.after_of = w.carry_of + layout->envs;
        w.seen = (uint8_t *)(void *)(w.after_of + layout->envs);
        w.some_of = w.seen + layout->envs;
        w.ahead_of = w.some_of + layout->envs;
        memset(w.carry_of, 0, (size_t)layout->envs * sizeof(REAL));
        memset(w.seen, 0, (size_t)layout->envs * 2);
        memset(w.ahead_of, 1, (size_t)layout->envs);
        if (w.short_value) {
            const fastpg_operand *o = &w.operands[kernel->next_value];
            F(copy)((char *)w.after_of, sizeof(REAL), o->last, o->last_stride, layout->envs, sizeof(REAL));
        }
    }
    if (part->stage != FASTPG_CLOSE) {
        if (w.order != FASTPG_LANES) F(scan_flat)(&w);
        else if (!kernel->recursive && part->over != FASTPG_OVER_LANES && F(flattens)(&w)) {
            const fastpg_part flat = {.stage = part->stage, .over = FASTPG_OVER_TIME, .from = part->from * lanes, .to = part->to * lanes};
            w.part = &flat;
            w.order = FASTPG_FLAT;
            w.steps = w.minor_size = w.size;
            w.lanes = 1;
            for (int k = 0; k < kernel->n_parameters; k++) w.operands[k].stride0 = w.operands[k].stride1;
            F(scan_flat)(&w);
        } else
            F(scan_lanes)(&w);
        if (w.past_caches) STORE_FENCE();
    }
    if (kernel->spread && (part->stage == FASTPG_WHOLE || part->stage == FASTPG_CLOSE)) F(spread)(&w, out);
    return w.refused < 0 || w.order == FASTPG_LANES ? w.refused : w.refused % steps * lanes + w.refused / steps;
}

/* From kernels.def: what a step holds, where a chunk's items lie, and how one is read and written. */
#define IN(x) REAL x;
#define EXP(x) REAL x;
#define FLAG(x) uint8_t x;
#define SCALAR(x) REAL x;
#define NUMBER(x) REAL x;
#define COUNT(x)
#define OUT(x) REAL x;
#define TIME(name, parameters) typedef struct { parameters } F(name##_step);
#define ROW(name, parameters)
#include "kernels.def"
#undef IN
#undef EXP
#undef FLAG
#undef SCALAR
#undef NUMBER
#undef COUNT
#undef OUT
#undef TIME

#define IN(x) const REAL *x;
#define EXP(x) const REAL *x;
#define FLAG(x) const uint8_t *x;
#define SCALAR(x) const REAL *x;
#define NUMBER(x) const REAL *x;
#define COUNT(x) const int64_t *x;
#define OUT(x) REAL *x;
#define TIME(name, parameters)                                                                                                                       \
    typedef struct { parameters } F(name##_at);                                                                                                      \
    enum { F(name##_parameters) = sizeof(F(name##_at)) / sizeof(void *) };
#include "kernels.def"
#undef IN
#undef EXP
#undef FLAG
#undef SCALAR
#undef NUMBER
#undef COUNT
#undef OUT
#undef TIME

#define IN(x)
#define EXP(x)
#define FLAG(x)
#define SCALAR(x) s.x = *at->x;
#define NUMBER(x) s.x = *at->x;
#define COUNT(x)
#define OUT(x)
#define TIME(name, parameters)                                                                                                                       \
    static inline F(name##_step) F(name##_numbers)(const F(name##_at) * at)                                                                          \
    {                                                                                                                                                \
        F(name##_step) s = {0};                                                                                                                      \
        (void)at;                                                                                                                                    \
        parameters return s;                                                                                                                         \
    }
#include "kernels.def"
#undef IN
#undef EXP
#undef FLAG
#undef SCALAR
#undef NUMBER
#undef COUNT
#undef OUT
#undef TIME

#define IN(x) s.x = at->x[i];
#define EXP(x) s.x = raw ? F(exp_any)(at->x[i]) : at->x[i];
#define FLAG(x) s.x = at->x[i];
#define SCALAR(x) s.x = uniform ? all->x : at->x[i];
#define NUMBER(x) s.x = all->x;
#define COUNT(x)
#define OUT(x)
#define TIME(name, parameters)                                                                                                                       \
    static inline F(name##_step) F(name##_read)(const F(name##_at) * at, ptrdiff_t i, const F(name##_step) * all, int uniform, int raw)              \
    {                                                                                                                                                \
        (void)raw;                                                                                                                                   \
        F(name##_step) s;                                                                                                                            \
        parameters return s;                                                                                                                         \
    }
#include "kernels.def"
#undef IN
#undef EXP
#undef FLAG
#undef SCALAR
#undef NUMBER
#undef COUNT
#undef OUT
#undef TIME

#define IN(x)
#define EXP(x)
#define FLAG(x)
#define SCALAR(x)
#define NUMBER(x)
#define COUNT(x)
#define OUT(x) at->x[i] = s.x;
#define TIME(name, parameters)                                                                                                                       \
    static inline void F(name##_write)(const F(name##_at) * at, ptrdiff_t i, F(name##_step) s) { parameters }
#include "kernels.def"
#undef IN
#undef EXP
#undef FLAG
#undef SCALAR
#undef NUMBER
#undef COUNT
#undef OUT
#undef TIME
#undef ROW

/* Where a parameter that some kernels lack stands among the others, by its name. */
static int F(role)(const fastpg_kernel *kernel, const char *name)
{
    for (int k = 0; k < kernel->n_parameters; k++)
        if (kernel->parameters[k].name[0] == name[0] && !strcmp(kernel->parameters[k].name, name)) return k;
    return -1;
}

/* The three loops of a kernel, each compiled for numbers alone and for arrays as well. Chunks never overlap. The one that reads a step once
 * reads it raw and takes e^x itself; for the two others `locate` has done so. */
#undef LOOP
#define LOOP(name, uniform, raw, from, to, ...)                                                                                                      \
    INDEPENDENT for (ptrdiff_t i = from; i < (to); i++)                                                                                              \
    {                                                                                                                                                \
        F(name##_step) s = F(name##_read)(&at, i, &all, uniform, raw);                                                                               \
        __VA_ARGS__                                                                                                                                  \
    }
#undef LOOPS
#define LOOPS(name, raw, from, to, ...)                                                                                                              \
    {                                                                                                                                                \
        F(name##_at) at;                                                                                                                             \
        memcpy(&at, chunk, sizeof at);                                                                                                               \
        const F(name##_step) all = F(name##_numbers)(&at);                                                                                           \
        if (uniform) LOOP(name, 1, raw, from, to, __VA_ARGS__)                                                                                       \
        else LOOP(name, 0, raw, from, to, __VA_ARGS__)                                                                                               \
    }
#undef STEP
#define STEP(name, ADD, KEEP, FINISH)                                                                                                                \
    static void F(name##_fill)(void *const *chunk, int uniform, ptrdiff_t n, REAL *add, REAL *keep)                                                  \
    LOOPS(name, 0, 0, n, add[i] = ADD; keep[i] = KEEP;)                                                                                              \
    static void F(name##_finish)(void *const *chunk, int uniform, ptrdiff_t n, const REAL *xs, const REAL *nexts)                                    \
    LOOPS(name, 0, 0, n, const REAL x = xs[i]; const REAL next = nexts[i]; (void)next, (void)x, (void)(FINISH); F(name##_write)(&at, i, s);)         \
    static void F(name##_fused)(void *const *chunk, int uniform, ptrdiff_t from, ptrdiff_t to, REAL *carry)                                          \
    LOOPS(name, 1, from, to, const REAL next = carry[i - from]; const REAL x = (ADD) + times(KEEP, next); carry[i - from] = x; (void)(FINISH);       \
          F(name##_write)(&at, i, s);)

#undef POINTWISE
#define POINTWISE(name, X, FINISH)                                                                                                                   \
    static void F(name##_fused)(void *const *chunk, int uniform, ptrdiff_t from, ptrdiff_t to, REAL *carry)                                          \
    LOOPS(name, 1, from, to, (void)carry; const REAL x = X; (void)(FINISH); F(name##_write)(&at, i, s);)                                             \
    SCAN_KERNEL(name, 0, 0, NULL, NULL)

#undef RECUR
#undef SPREAD
#define RECUR(name) SCAN_KERNEL(name, 1, 0, F(name##_fill), F(name##_finish))
#define SPREAD(name) SCAN_KERNEL(name, 1, 1, F(name##_fill), F(name##_finish))
#undef SCAN_KERNEL
#define SCAN_KERNEL(name, recursive_, spread_, fill_, finish_)                                                                                       \
    static ptrdiff_t F(name##_run)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t steps, ptrdiff_t lanes,                    \
                                   const fastpg_layout *layout, const fastpg_part *part)                                                             \
    {                                                                                                                                                \
        const F(scan_kernel) scan = {.n_parameters = kernel->n_parameters,                                                                           \
                                     .recursive = recursive_,                                                                                        \
                                     .spread = spread_,                                                                                              \
                                     .value = F(role)(kernel, "value"),                                                                              \
                                     .next_value = F(role)(kernel, "next_value"),                                                                    \
                                     .terminated = F(role)(kernel, "terminated"),                                                                    \
                                     .truncated = F(role)(kernel, "truncated"),                                                                      \
                                     .parameters = kernel->parameters,                                                                               \
                                     .fill = fill_,                                                                                                  \
                                     .finish = finish_,                                                                                              \
                                     .fused = F(name##_fused)};                                                                                      \
        return F(scan)(&scan, operands, steps, lanes, layout, part);                                                                                 \
    }
