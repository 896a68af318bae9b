/* Layers of nets, for one dtype and one instruction set. See net.h. */

typedef REAL F(row_vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

typedef REAL F(short_vector) __attribute__((vector_size(16), may_alias));

enum {
    F(VECTOR_ITEMS) = VECTOR_BYTES / sizeof(REAL),
    F(LINE) = 64 / sizeof(REAL),
    F(MOST_ACROSS) = VECTOR_BYTES == 64 ? 4 : 2, /* vectors, so that 6 rows of sums and a row of b stay in registers */
    F(TILE_ITEMS) = 65536 / sizeof(REAL)         /* of one layer's rows on the stack */
};

#if ISA_HAS_FMA
#define ADD_PRODUCT(a, b, c) (F(row_vector)) F(once)(a, b, c)
#else
#define ADD_PRODUCT(a, b, c) ((a) * (b) + (c))
#endif

#ifdef REAL_IS_FLOAT
#define SQUARE_ROOT(x) __builtin_sqrtf(x)
#else
#define SQUARE_ROOT(x) __builtin_sqrt(x)
#endif

/* c (down, across vectors) = start + a b, summed in order of k: a[i, k] is a[i * a_row + k * a_step], row k of b is b + k * b_row.
 * start: that of every row, or NULL for c as it is. down and across are constants where this is inlined. */
static inline __attribute__((always_inline)) void F(block)(const REAL *a, ptrdiff_t a_row, ptrdiff_t a_step, const REAL *b, ptrdiff_t b_row, ptrdiff_t n,
                                                           const REAL *start, REAL *c, ptrdiff_t c_row, const int down, const int across)
{
    F(row_vector) sum[6][4], y[4];
#pragma GCC unroll 6
    for (int i = 0; i < down; i++)
#pragma GCC unroll 4
        for (int j = 0; j < across; j++)
            sum[i][j] = *(const F(row_vector) *)((start ? start : c + i * c_row) + j * F(VECTOR_ITEMS));
    for (ptrdiff_t k = 0; k < n; k++) {
#pragma GCC unroll 4
        for (int j = 0; j < across; j++) y[j] = *(const F(row_vector) *)(b + k * b_row + j * F(VECTOR_ITEMS));
#pragma GCC unroll 6
        for (int i = 0; i < down; i++) {
            const F(row_vector) x = a[i * a_row + k * a_step] - (F(row_vector)){0};
#pragma GCC unroll 4
            for (int j = 0; j < across; j++) sum[i][j] = ADD_PRODUCT(x, y[j], sum[i][j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < down; i++)
#pragma GCC unroll 4
        for (int j = 0; j < across; j++) *(F(row_vector) *)(c + i * c_row + j * F(VECTOR_ITEMS)) = sum[i][j];
}

static inline __attribute__((always_inline)) void F(strip)(const REAL *a, ptrdiff_t a_row, ptrdiff_t a_step, const REAL *b, ptrdiff_t b_row, ptrdiff_t n,
                                                           const REAL *start, REAL *c, ptrdiff_t c_row, ptrdiff_t rows, const int across)
{
    ptrdiff_t i = 0;
    for (; i + 6 <= rows; i += 6) F(block)(a + i * a_row, a_row, a_step, b, b_row, n, start, c + i * c_row, c_row, 6, across);
    if (i + 4 <= rows) {
        F(block)(a + i * a_row, a_row, a_step, b, b_row, n, start, c + i * c_row, c_row, 4, across);
        i += 4;
    }
    if (i + 2 <= rows) {
        F(block)(a + i * a_row, a_row, a_step, b, b_row, n, start, c + i * c_row, c_row, 2, across);
        i += 2;
    }
    if (i < rows) F(block)(a + i * a_row, a_row, a_step, b, b_row, n, start, c + i * c_row, c_row, 1, across);
}

/* c (rows, columns) = start + a b; columns are whole cache lines. */
static void F(multiply)(const REAL *a, ptrdiff_t a_row, ptrdiff_t a_step, const REAL *b, ptrdiff_t b_row, ptrdiff_t n, const REAL *start, REAL *c,
                        ptrdiff_t c_row, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t j = 0; j < columns; j += F(MOST_ACROSS) * F(VECTOR_ITEMS)) {
        const ptrdiff_t left = (columns - j) / F(VECTOR_ITEMS);
        const REAL *s = start ? start + j : NULL;
        if (left >= F(MOST_ACROSS))
            F(strip)(a, a_row, a_step, b + j, b_row, n, s, c + j, c_row, rows, F(MOST_ACROSS));
#if VECTOR_BYTES == 64
        else if (left == 3)
            F(strip)(a, a_row, a_step, b + j, b_row, n, s, c + j, c_row, rows, 3);
        else if (left == 2)
            F(strip)(a, a_row, a_step, b + j, b_row, n, s, c + j, c_row, rows, 2);
        else
            F(strip)(a, a_row, a_step, b + j, b_row, n, s, c + j, c_row, rows, 1);
#endif
    }
}

/* c (rows, columns) = start + a b^T for few columns: rows of a and of b have n items, whole cache lines. */
static void F(multiply_narrow)(const REAL *a, ptrdiff_t n, const REAL *b, const REAL *start, REAL *c, ptrdiff_t c_row, ptrdiff_t rows,
                               ptrdiff_t columns)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) {
            const F(row_vector) *x = (const F(row_vector) *)(a + i * n), *y = (const F(row_vector) *)(b + j * n);
            F(row_vector) sum = {0};
            for (ptrdiff_t k = 0; k < n / F(VECTOR_ITEMS); k++) sum = ADD_PRODUCT(x[k], y[k], sum);
            union {
                F(row_vector) all;
                REAL quarter[VECTOR_BYTES / 16][16 / sizeof(REAL)] __attribute__((aligned(16)));
            } parts = {.all = sum};
            F(short_vector) s = *(F(short_vector) *)parts.quarter[0];
            for (int k = 1; k < VECTOR_BYTES / 16; k++) s += *(F(short_vector) *)parts.quarter[k];
#ifdef REAL_IS_FLOAT
            c[i * c_row + j] = start[j] + ((s[0] + s[2]) + (s[1] + s[3]));
#else
            c[i * c_row + j] = start[j] + (s[0] + s[1]);
#endif
        }
}

/* One layer of a net: its sizes as they are and in whole cache lines, and where it stands in each buffer. */
typedef struct {
    ptrdiff_t in, out, in_line, out_line;
    ptrdiff_t parameter, packed, transposed, hidden, sums; /* hidden: of what goes in, by row; nothing for x */
    int narrow; /* few outputs of the net: computed from the transpose, which leaves the rest of a line as it was */
    int turned; /* its gradient is summed as a transpose */
} F(layer);

typedef struct {
    int layers, relu;
    ptrdiff_t widest, parameters, packed, hidden, sums;
    F(layer) layer[FASTPG_NET_MOST_LAYERS];
} F(net);

static ptrdiff_t F(whole_lines)(ptrdiff_t items) { return (items + F(LINE) - 1) / F(LINE) * F(LINE); }

static F(net) F(net_of)(const int64_t *shape)
{
    F(net) net = {.layers = (int)shape[0], .relu = (int)shape[1]};
    for (int k = 0; k < net.layers; k++) {
        F(layer) *l = &net.layer[k];
        l->in = shape[2 + k], l->out = shape[3 + k];
        l->in_line = F(whole_lines)(l->in), l->out_line = F(whole_lines)(l->out);
        l->turned = l->out_line * l->in > l->in_line * l->out;
        l->narrow = k && k + 1 == net.layers && l->turned && l->out <= 4;
        l->parameter = net.parameters, l->packed = net.packed, l->hidden = net.hidden, l->sums = net.sums;
        l->transposed = l->packed + (l->in + 1) * l->out_line;
        net.parameters += (l->in + 1) * l->out;
        net.packed = l->transposed + l->out * l->in_line;
        net.hidden += k ? l->in_line : 0;
        net.sums += l->out_line + (l->turned ? l->out * l->in_line : l->in * l->out_line);
        net.widest = l->in_line > net.widest ? l->in_line : net.widest;
        net.widest = l->out_line > net.widest ? l->out_line : net.widest;
    }
    return net;
}

/* Rows of a tile: the activations of one layer and of the next stay in the first caches. */
static ptrdiff_t F(tile_rows)(const F(net) *net)
{
    const ptrdiff_t most = F(TILE_ITEMS) / net->widest;
    return most >= 48 ? 48 : most >= 6 ? most / 6 * 6 : most;
}

static void F(copy_rows)(const REAL *from, ptrdiff_t from_row, REAL *to, ptrdiff_t to_row, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t filled)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t j = 0; j < columns; j++) to[i * to_row + j] = from[i * from_row + j];
        for (ptrdiff_t j = columns; j < filled; j++) to[i * to_row + j] = 0;
    }
}

/* The transpose of what is packed of a layer. */
static void F(turn)(const F(layer) *l, REAL *packed)
{
    REAL *transposed = packed + l->transposed;
    F(transpose)(packed + l->packed, l->out_line, transposed, l->in_line, l->in, l->out);
    for (ptrdiff_t j = 0; j < l->out; j++)
        for (ptrdiff_t i = l->in; i < l->in_line; i++) transposed[j * l->in_line + i] = 0;
}

/* What forward reads. */
static void F(net_pack)(const int64_t *shape, const REAL *parameter, REAL *packed)
{
    const F(net) net = F(net_of)(shape);
    for (int k = 0; k < net.layers; k++) {
        const F(layer) *l = &net.layer[k];
        F(copy_rows)(parameter + l->parameter, l->out, packed + l->packed, l->out_line, l->in + 1, l->out, l->out_line);
        if (l->narrow) F(turn)(l, packed);
    }
}

/* And what backward reads besides, from a layer on: the first is for the gradient of x alone. */
static void F(net_turn)(const int64_t *shape, int from, REAL *packed)
{
    const F(net) net = F(net_of)(shape);
    for (int k = from; k < net.layers; k++)
        if (!net.layer[k].narrow) F(turn)(&net.layer[k], packed);
}

static void F(net_forward)(const int64_t *shape, const REAL *packed, const REAL *x, ptrdiff_t rows, ptrdiff_t from, ptrdiff_t to, REAL *hidden, REAL *y)
{
    _Alignas(64) REAL stack[2][F(TILE_ITEMS)];
    const F(net) net = F(net_of)(shape);
    const ptrdiff_t tile = F(tile_rows)(&net), outputs = net.layer[net.layers - 1].out;
    for (ptrdiff_t row = from; row < to; row += tile) {
        const ptrdiff_t size = to - row < tile ? to - row : tile;
        const REAL *input = x + row * net.layer[0].in;
        ptrdiff_t input_row = net.layer[0].in;
        for (int k = 0; k < net.layers; k++) {
            const F(layer) *l = &net.layer[k];
            const int last = k + 1 == net.layers;
            const REAL *weight = packed + l->packed, *bias = weight + l->in * l->out_line;
            REAL *h = stack[k % 2];
            if (!last && hidden) h = hidden + l[1].hidden * rows + row * l->out_line;
            if (l->narrow)
                F(multiply_narrow)(input, l->in_line, packed + l->transposed, bias, h, l->out_line, size, l->out);
            else
                F(multiply)(input, input_row, 1, weight, l->out_line, l->in, bias, h, l->out_line, size, l->out_line);
            if (last)
                F(copy_rows)(h, l->out_line, y + row * outputs, outputs, size, outputs, outputs);
            else if (net.relu)
                for (ptrdiff_t i = 0; i < size * l->out_line; i++) h[i] = h[i] < 0 ? 0 : h[i];
            else
                for (ptrdiff_t i = 0; i < size * l->out_line; i++) h[i] = F(tanh)(h[i]);
            input = h, input_row = l->out_line;
        }
    }
}

/* The gradient of rows [from, to), as layer[].sums says, into sums. */
static void F(net_backward)(const int64_t *shape, const REAL *packed, const REAL *x, ptrdiff_t rows, ptrdiff_t from, ptrdiff_t to, const REAL *hidden,
                            const REAL *grad_y, REAL *sums, REAL *grad_x)
{
    static const REAL one = 1, zeros[FASTPG_NET_WIDEST] = {0};
    _Alignas(64) REAL stack[3][F(TILE_ITEMS)];
    const F(net) net = F(net_of)(shape);
    const ptrdiff_t tile = F(tile_rows)(&net);
    for (ptrdiff_t i = 0; i < net.sums; i++) sums[i] = 0;
    for (ptrdiff_t row = from; row < to; row += tile) {
        const ptrdiff_t size = to - row < tile ? to - row : tile;
        const F(layer) *l = &net.layer[net.layers - 1];
        REAL *d = stack[0], *before = stack[1];
        F(copy_rows)(grad_y + row * l->out, l->out, d, l->out_line, size, l->out, l->out_line);
        for (int k = net.layers - 1; k >= 0; k--) {
            l = &net.layer[k];
            const REAL *h = k ? hidden + l->hidden * rows + row * l->in_line : x + row * l->in;
            ptrdiff_t h_row = k ? l->in_line : l->in;
            REAL *bias = sums + l->sums, *weight = bias + l->out_line;
            F(multiply)(&one, 0, 0, d, l->out_line, size, NULL, bias, 0, 1, l->out_line);
            if (l->turned && h_row != l->in_line) {
                F(copy_rows)(h, h_row, stack[2], l->in_line, size, l->in, l->in_line);
                h = stack[2], h_row = l->in_line;
            }
            if (l->turned)
                F(multiply)(d, 1, l->out_line, h, h_row, size, NULL, weight, l->in_line, l->out, l->in_line);
            else
                F(multiply)(h, 1, h_row, d, l->out_line, size, NULL, weight, l->out_line, l->in, l->out_line);
            if (!k && !grad_x) break;
            F(multiply)(d, l->out_line, 1, packed + l->transposed, l->in_line, l->out, zeros, before, l->in_line, size, l->in_line);
            if (!k)
                F(copy_rows)(before, l->in_line, grad_x + row * l->in, l->in, size, l->in, l->in);
            else if (net.relu)
                for (ptrdiff_t i = 0; i < size * l->in_line; i++) before[i] = h[i] > 0 ? before[i] : 0;
            else
                for (ptrdiff_t i = 0; i < size * l->in_line; i++) before[i] *= 1 - h[i] * h[i];
            REAL *swap = d;
            d = before, before = swap;
        }
    }
}

/* grad = the sum over parts, in order, each net.sums apart. */
static void F(net_gather)(const int64_t *shape, REAL *sums, ptrdiff_t parts, REAL *grad)
{
    const F(net) net = F(net_of)(shape);
    for (ptrdiff_t part = 1; part < parts; part++)
        for (ptrdiff_t i = 0; i < net.sums; i++) sums[i] += sums[part * net.sums + i];
    for (int k = 0; k < net.layers; k++) {
        const F(layer) *l = &net.layer[k];
        const REAL *bias = sums + l->sums, *weight = bias + l->out_line;
        REAL *to = grad + l->parameter;
        if (l->turned)
            for (ptrdiff_t i = 0; i < l->in; i++)
                for (ptrdiff_t j = 0; j < l->out; j++) to[i * l->out + j] = weight[j * l->in_line + i];
        else
            F(copy_rows)(weight, l->out_line, to, l->out, l->in, l->out, l->out);
        F(copy_rows)(bias, 0, to + l->in * l->out, 0, 1, l->out, l->out);
    }
}

static void F(adam)(ptrdiff_t n, const REAL *restrict grad, double scale, double beta1, double beta2, double eps, double rate, double correction,
                    REAL *restrict m, REAL *restrict v, REAL *restrict parameter)
{
    const REAL s = (REAL)scale, b1 = (REAL)beta1, b2 = (REAL)beta2, c1 = (REAL)(1 - beta1), c2 = (REAL)(1 - beta2);
    const REAL small = (REAL)eps, step = (REAL)rate, up = (REAL)(1 / correction);
    for (ptrdiff_t i = 0; i < n; i++) {
        const REAL g = s * grad[i];
        m[i] = b1 * m[i] + c1 * g;
        v[i] = b2 * v[i] + c2 * (g * g);
        parameter[i] -= step * m[i] / (SQUARE_ROOT(v[i] * up) + small);
    }
}
static double F(norm)(ptrdiff_t n, const REAL *x)
{
    double sum[8] = {0}, all = 0;
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++) all += (double)x[i] * (double)x[i];
    for (int k = 0; k < 8; k++) all += sum[k];
    return __builtin_sqrt(all);
}

/* log_prob, entropy and the gradients of a tile of PPO_TILE rows, rows last: by logits, or by means. */
static void F(ppo_policy_rows)(const ppo_job *job, ptrdiff_t row, ptrdiff_t size, const REAL *log_stds, fastpg_ppo_means *sums,
                                 REAL *extra)
{
    enum { TILE = FASTPG_PPO_TILE };
    REAL z[FASTPG_PPO_ACTIONS][TILE], e[FASTPG_PPO_ACTIONS][TILE];
    REAL log_prob[TILE], entropy[TILE], by_log_prob[TILE], loss[TILE], kl[TILE], sum[TILE], most[TILE], old[TILE], advantage[TILE];
    int64_t action[TILE];
    const fastpg_ppo *p = job->ppo;
    const ptrdiff_t n = p->actions;
    const int64_t *index = job->index + row;
    const REAL *outputs = (const REAL *)p->policy.y + row * n;
    const REAL w = (REAL)(1 / (double)job->rows), c = (REAL)p->entropy_weight * w, up = (REAL)(1 + p->clip), down = (REAL)(1 - p->clip);
    REAL *grad = (REAL *)p->policy.grad_y + row * n;

    for (ptrdiff_t i = 0; i < size; i++) {
        old[i] = ((const REAL *)p->log_prob)[index[i]];
        advantage[i] = ((const REAL *)p->advantage)[index[i]];
        for (ptrdiff_t j = 0; j < n; j++) z[j][i] = outputs[i * n + j];
        if (p->gaussian)
            for (ptrdiff_t j = 0; j < n; j++) e[j][i] = ((const REAL *)p->action)[index[i] * n + j];
        else
            action[i] = ((const int64_t *)p->action)[index[i]];
    }
    for (ptrdiff_t i = 0; i < size; i++) log_prob[i] = entropy[i] = 0;
    if (p->gaussian)
        for (ptrdiff_t j = 0; j < n; j++) { /* z becomes (a - mean) / sigma, e this over sigma */
            const REAL log_std = log_stds[j], inverse = F(exp_any)(-log_std), constant = log_std + (REAL)0.91893853320467274178;
            for (ptrdiff_t i = 0; i < size; i++) {
                const REAL u = (e[j][i] - z[j][i]) * inverse;
                z[j][i] = u, e[j][i] = u * inverse;
                log_prob[i] -= (REAL)0.5 * u * u + constant;
                entropy[i] += constant + (REAL)0.5;
            }
        }
    else {
        for (ptrdiff_t i = 0; i < size; i++) most[i] = z[0][i], sum[i] = 0;
        for (ptrdiff_t j = 1; j < n; j++)
            for (ptrdiff_t i = 0; i < size; i++) most[i] = z[j][i] > most[i] ? z[j][i] : most[i];
        for (ptrdiff_t j = 0; j < n; j++)
            for (ptrdiff_t i = 0; i < size; i++) {
                e[j][i] = F(exp_nonpositive)(z[j][i] - most[i]);
                sum[i] += e[j][i];
            }
        for (ptrdiff_t i = 0; i < size; i++) {
            most[i] += F(log_of_sum)(sum[i]);
            sum[i] = 1 / sum[i];
        }
        for (ptrdiff_t j = 0; j < n; j++) /* z becomes log p, e becomes p */
            for (ptrdiff_t i = 0; i < size; i++) {
                z[j][i] -= most[i];
                e[j][i] *= sum[i];
                entropy[i] -= e[j][i] * z[j][i];
            }
        for (ptrdiff_t i = 0; i < size; i++) log_prob[i] = z[action[i]][i];
    }
    for (ptrdiff_t i = 0; i < size; i++) {
        const REAL change = log_prob[i] - old[i], ratio = F(exp_any)(change), held = ratio < down ? down : ratio > up ? up : ratio;
        const REAL A = advantage[i], free = ratio * A, bound = held * A;
        by_log_prob[i] = (A > 0 ? ratio > up : ratio < down) ? 0 : -free * w;
        loss[i] = free < bound ? free : free >= bound ? bound : free + bound;
        kl[i] = F(exp_less_line)(change, ratio);
    }
    for (ptrdiff_t i = 0; i < size; i++) {
        sums->policy_loss -= (double)loss[i];
        sums->kl += (double)kl[i];
        sums->clipped += by_log_prob[i] == 0 && advantage[i] != 0;
        sums->entropy += (double)entropy[i];
    }
    if (p->gaussian)
        for (ptrdiff_t j = 0; j < n; j++)
            for (ptrdiff_t i = 0; i < size; i++) {
                grad[i * n + j] = by_log_prob[i] * e[j][i];
                extra[j] += by_log_prob[i] * (z[j][i] * z[j][i] - 1) - c;
            }
    else {
        for (ptrdiff_t j = 0; j < n; j++)
            for (ptrdiff_t i = 0; i < size; i++) grad[i * n + j] = e[j][i] * (c * (z[j][i] + entropy[i]) - by_log_prob[i]);
        for (ptrdiff_t i = 0; i < size; i++) grad[i * n + action[i]] += by_log_prob[i];
    }
}

static void F(ppo_value_rows)(const ppo_job *job, ptrdiff_t from, ptrdiff_t to, fastpg_ppo_means *sums)
{
    const fastpg_ppo *p = job->ppo;
    const REAL *v = p->value.y, *target = p->target, w = (REAL)(1 / (double)job->rows);
    REAL *grad = p->value.grad_y;
    for (ptrdiff_t i = from; i < to; i++) {
        const REAL error = v[i] - target[job->index[i]];
        sums->value_loss += 0.5 * (double)error * (double)error;
        grad[i] = error * w;
    }
}

static void F(ppo_part)(void *context, int part)
{
    ppo_job *j = context;
    const fastpg_ppo *p = j->ppo;
    const int of_value = part % 2, share = part / 2;
    const fastpg_ppo_net *net = of_value ? &p->value : &p->policy;
    const ptrdiff_t inputs = net->shape[2];
    const F(net) sizes = F(net_of)(net->shape);
    if (j->stages & PPO_PACK) {
        const double t = (double)(net->steps + j->steps);
        if (j->due)
            F(adam)(net->items, net->grad, j->scale[of_value], net->beta1, net->beta2, net->eps, net->lr / (1 - pow(net->beta1, t)),
                    1 - pow(net->beta2, t), net->m, net->v, net->parameter);
        F(net_pack)(net->shape, net->parameter, net->packed);
        F(net_turn)(net->shape, 1, net->packed);
    }
    if (j->stages & PPO_ROWS) {
        const ptrdiff_t from = share * j->share, to = F(at_most)(from + j->share, j->rows);
        const REAL *log_stds = (const REAL *)net->parameter + sizes.parameters;
        REAL *x = net->x, *extra = (REAL *)j->extra[share];
        fastpg_ppo_means sums = {0};
        for (ptrdiff_t i = from; i < to; i++)
            for (ptrdiff_t k = 0; k < inputs; k++) x[i * inputs + k] = ((const REAL *)p->observation)[j->index[i] * inputs + k];
        F(net_forward)(net->shape, net->packed, x, j->rows, from, to, net->hidden, net->y);
        if (of_value)
            F(ppo_value_rows)(j, from, to, &sums);
        else {
            for (ptrdiff_t i = 0; i < p->actions; i++) extra[i] = 0;
            for (ptrdiff_t i = from; i < to; i += FASTPG_PPO_TILE)
                F(ppo_policy_rows)(j, i, F(at_most)(to - i, FASTPG_PPO_TILE), log_stds, &sums, extra);
        }
        j->sums[part] = sums;
        F(net_backward)(net->shape, net->packed, x, j->rows, from, to, net->hidden, net->grad_y, (REAL *)net->room + share * sizes.sums, NULL);
    }
    if (j->stages & PPO_GRAD) {
        F(net_gather)(net->shape, net->room, j->parts, net->grad);
        for (ptrdiff_t i = 0; p->gaussian && !of_value && i < p->actions; i++) {
            REAL *sum = (REAL *)net->grad + sizes.parameters + i;
            *sum = 0;
            for (ptrdiff_t k = 0; k < j->parts; k++) *sum += ((const REAL *)j->extra[k])[i];
        }
        j->norm[of_value] = F(norm)(net->items, net->grad);
    }
}

#undef ADD_PRODUCT
#undef SQUARE_ROOT
