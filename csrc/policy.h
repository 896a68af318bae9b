/* Categorical distributions over rows of logits.
 *
 * A tile is n x R items, held so that the inner loop always runs over R and always vectorises:
 *   few actions   R rows stand side by side, item (row r, action a) at [a * R + r]: a small transpose in, one out
 *   many actions  one row folded R wide, action a at [a]; sums and maxima end with one fold over R. Rows longer than a tile come in pieces
 * so each formula below stands once for both. Illegal actions enter a tile as -inf and leave it as probability 0. */

enum {
    F(R) = 64,   /* four vectors of AVX-512: enough to hide latency, few enough for small batches */
    F(FEW) = 64, /* actions up to which rows stand side by side */
    F(TILE) = F(R) * F(FEW)
};

typedef struct {
    ptrdiff_t first, rows;    /* rows in hand */
    ptrdiff_t actions, piece; /* of a row, and of those in a tile */
    ptrdiff_t n;
    int folded;
} F(shape);

typedef struct {
    _Alignas(64) REAL x[F(TILE)], e[F(TILE)];        /* logits, and e^(x - m) */
    _Alignas(64) REAL m[F(R)], s[F(R)], log_s[F(R)]; /* maximum, sum of e, its log */
} F(softmax);

/* Nothing in a tile overlaps. */
#define EACH_PLACE(r) INDEPENDENT for (ptrdiff_t r = 0; r < F(R); r++)

static F(shape) F(shape_of)(ptrdiff_t actions)
{
    const int folded = actions > F(FEW);
    return (F(shape)){.actions = actions, .piece = folded ? F(TILE) : actions, .folded = folded};
}

static ptrdiff_t F(at_most)(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* to[c * to_stride + r] = from[r * from_stride + c], in squares of 16-byte vectors; the last square of an edge overlaps the one before it. */
static void F(transpose)(const REAL *restrict from, ptrdiff_t from_stride, REAL *restrict to, ptrdiff_t to_stride, ptrdiff_t rows, ptrdiff_t cols)
{
    enum { SIDE = 16 / sizeof(REAL) };
    typedef REAL vector __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));
#ifdef NEEDS_ORDER
    typedef F(bits) order __attribute__((vector_size(16)));
#endif
    if (rows < SIDE || cols < SIDE) {
        for (ptrdiff_t c = 0; c < cols; c++)
            for (ptrdiff_t r = 0; r < rows; r++) to[c * to_stride + r] = from[r * from_stride + c];
        return;
    }
    for (ptrdiff_t c0 = 0; c0 < cols; c0 += SIDE)
        for (ptrdiff_t r0 = 0; r0 < rows; r0 += SIDE) {
            const ptrdiff_t r = r0 + SIDE <= rows ? r0 : rows - SIDE, c = c0 + SIDE <= cols ? c0 : cols - SIDE;
            const REAL *source = from + r * from_stride + c;
            REAL *target = to + c * to_stride + r;
#ifdef REAL_IS_FLOAT
            const vector r_0 = *(const vector *)source, r_1 = *(const vector *)(source + from_stride);
            const vector r_2 = *(const vector *)(source + 2 * from_stride), r_3 = *(const vector *)(source + 3 * from_stride);
            const vector low_01 = SHUFFLE(r_0, r_1, 0, 4, 1, 5), high_01 = SHUFFLE(r_0, r_1, 2, 6, 3, 7);
            const vector low_23 = SHUFFLE(r_2, r_3, 0, 4, 1, 5), high_23 = SHUFFLE(r_2, r_3, 2, 6, 3, 7);
            *(vector *)target = SHUFFLE(low_01, low_23, 0, 1, 4, 5);
            *(vector *)(target + to_stride) = SHUFFLE(low_01, low_23, 2, 3, 6, 7);
            *(vector *)(target + 2 * to_stride) = SHUFFLE(high_01, high_23, 0, 1, 4, 5);
            *(vector *)(target + 3 * to_stride) = SHUFFLE(high_01, high_23, 2, 3, 6, 7);
#else
            const vector r_0 = *(const vector *)source, r_1 = *(const vector *)(source + from_stride);
            *(vector *)target = SHUFFLE(r_0, r_1, 0, 2);
            *(vector *)(target + to_stride) = SHUFFLE(r_0, r_1, 1, 3);
#endif
        }
}

/* Fills the tile with actions [from, from + piece) of the rows in hand, -inf where illegal and where there is nothing. */
static void F(load)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, ptrdiff_t from, REAL *restrict x)
{
    const ptrdiff_t count = F(at_most)(g->piece, g->actions - from), rows = g->folded ? 1 : g->rows;
    const ptrdiff_t by_row = g->folded ? 0 : 1, by_action = g->folded ? 1 : F(R);
    const char *base = logits->data + g->first * logits->stride0 + from * logits->stride1;
    const int dense = logits->stride1 == (ptrdiff_t)sizeof(REAL) && logits->stride0 % (ptrdiff_t)sizeof(REAL) == 0;
    g->n = g->folded ? (count + F(R) - 1) / F(R) : count;
    if (dense && g->folded)
        memcpy(x, base, (size_t)count * sizeof(REAL));
    else if (dense)
        F(transpose)((const REAL *)base, logits->stride0 / (ptrdiff_t)sizeof(REAL), x, F(R), rows, count);
    else
        for (ptrdiff_t a = 0; a < count; a++)
            for (ptrdiff_t r = 0; r < rows; r++)
                x[a * by_action + r * by_row] = *(const REAL *)(base + r * logits->stride0 + a * logits->stride1);
    if (g->folded)
        for (ptrdiff_t i = count; i < g->n * F(R); i++) x[i] = -(REAL)INFINITY;
    else
        for (ptrdiff_t a = 0; a < count; a++)
            for (ptrdiff_t r = rows; r < F(R); r++) x[a * F(R) + r] = 0;
    if (!legal->data) return;
    const char *may = legal->data + g->first * legal->stride0 + from * legal->stride1;
    for (ptrdiff_t a = 0; a < count; a++)
        for (ptrdiff_t r = 0; r < rows; r++) {
            REAL *item = &x[a * by_action + r * by_row];
            *item = may[r * legal->stride0 + a * legal->stride1] ? *item : -(REAL)INFINITY;
        }
}

static void F(store)(const F(shape) * g, const fastpg_operand *out, ptrdiff_t from, const REAL *restrict x)
{
    const ptrdiff_t count = F(at_most)(g->piece, g->actions - from), rows = g->folded ? 1 : g->rows;
    const ptrdiff_t by_row = g->folded ? 0 : 1, by_action = g->folded ? 1 : F(R);
    char *base = out->data + g->first * out->stride0 + from * out->stride1;
    const int dense = out->stride1 == (ptrdiff_t)sizeof(REAL) && out->stride0 % (ptrdiff_t)sizeof(REAL) == 0;
    if (dense && g->folded)
        memcpy(base, x, (size_t)count * sizeof(REAL));
    else if (dense)
        F(transpose)(x, F(R), (REAL *)base, out->stride0 / (ptrdiff_t)sizeof(REAL), count, rows);
    else
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t a = 0; a < count; a++) *(REAL *)(base + r * out->stride0 + a * out->stride1) = x[a * by_action + r * by_row];
}

/* A tile of actions [from, ...) with e = e^(x - m). A row in one piece is loaded only once. */
static void F(piece)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, ptrdiff_t from, F(softmax) * q)
{
    if (g->actions <= g->piece) return;
    F(load)(g, logits, legal, from, q->x);
    for (ptrdiff_t i = 0; i < g->n; i++)
        EACH_PLACE(r) q->e[i * F(R) + r] = F(exp_nonpositive)(q->x[i * F(R) + r] - q->m[r]);
}

/* Folded rows: R partial sums become one, in every place. */
static void F(fold)(const F(shape) * g, REAL *s)
{
    if (!g->folded) return;
    for (ptrdiff_t half = F(R) / 2; half; half /= 2)
        for (ptrdiff_t r = 0; r < half; r++) s[r] += s[r + half];
    for (ptrdiff_t r = 1; r < F(R); r++) s[r] = s[0];
}

/* m of the rows in hand, the tile left as the last piece was loaded. A NaN never wins. */
static void F(maximum)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, F(softmax) * q)
{
    REAL *restrict m = q->m;
    EACH_PLACE(r) m[r] = -(REAL)INFINITY;
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        F(load)(g, logits, legal, from, q->x);
        for (ptrdiff_t i = 0; i < g->n; i++)
            EACH_PLACE(r) m[r] = q->x[i * F(R) + r] > m[r] ? q->x[i * F(R) + r] : m[r];
    }
    if (!g->folded) return;
    for (ptrdiff_t half = F(R) / 2; half; half /= 2)
        for (ptrdiff_t r = 0; r < half; r++) m[r] = m[r + half] > m[r] ? m[r + half] : m[r];
    for (ptrdiff_t r = 1; r < F(R); r++) m[r] = m[0];
}

/* m, s, log_s of the rows in hand. Returns the first row without a legal action, or -1. */
static ptrdiff_t F(normalise)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, F(softmax) * q)
{
    REAL *restrict m = q->m, *restrict s = q->s, *restrict log_s = q->log_s;
    F(maximum)(g, logits, legal, q);
    EACH_PLACE(r) s[r] = 0;
    for (ptrdiff_t r = 0; r < g->rows; r++)
        if (m[r] == -(REAL)INFINITY) {
            int has_nan = 0; /* a NaN never wins the maximum; such a row is answered with NaN */
            for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
                F(load)(g, logits, legal, from, q->x);
                for (ptrdiff_t i = 0; i < g->n; i++)
                    for (ptrdiff_t j = g->folded ? 0 : r; j < (g->folded ? F(R) : r + 1); j++) has_nan |= q->x[i * F(R) + j] != q->x[i * F(R) + j];
            }
            if (!has_nan) return g->first + r;
        }
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        if (g->actions > g->piece) F(load)(g, logits, legal, from, q->x);
        for (ptrdiff_t i = 0; i < g->n; i++)
            EACH_PLACE(r) {
                const REAL e = F(exp_nonpositive)(q->x[i * F(R) + r] - m[r]);
                q->e[i * F(R) + r] = e;
                s[r] += e;
            }
    }
    F(fold)(g, s);
    EACH_PLACE(r) log_s[r] = F(log_of_sum)(s[r]);
    return -1;
}

/* Adds e (x - m - shift) to t: the entropy's sum, and with another distribution's log-probabilities the divergence's. 0 times anything is 0. */
static void F(add_entropy)(const F(shape) * g, const F(softmax) * q, REAL *restrict t)
{
    for (ptrdiff_t i = 0; i < g->n; i++)
        EACH_PLACE(r) {
            const REAL e = q->e[i * F(R) + r], product = e * (q->x[i * F(R) + r] - q->m[r]);
            t[r] += e == 0 ? 0 : product;
        }
}

static void F(add_divergence)(const F(shape) * g, const F(softmax) * p, const F(softmax) * q, REAL *restrict t)
{
    for (ptrdiff_t i = 0; i < g->n; i++)
        EACH_PLACE(r) {
            const ptrdiff_t k = i * F(R) + r;
            const REAL e = p->e[k], product = e * ((p->x[k] - p->m[r]) - (q->x[k] - q->m[r]));
            t[r] += e == 0 ? 0 : product;
        }
}

static REAL F(item)(const fastpg_operand *o, ptrdiff_t row) { return *(const REAL *)(o->data + row * o->stride0); }
static int64_t F(index)(const fastpg_operand *o, ptrdiff_t row) { return *(const int64_t *)(o->data + row * o->stride0); }

static int F(is_legal)(const fastpg_operand *legal, ptrdiff_t row, ptrdiff_t action)
{
    return !legal->data || legal->data[row * legal->stride0 + action * legal->stride1];
}

static ptrdiff_t F(first_out_of_range)(const fastpg_operand *action, ptrdiff_t rows, ptrdiff_t actions)
{
    for (ptrdiff_t row = 0; row < rows; row++)
        if (F(index)(action, row) < 0 || F(index)(action, row) >= actions) return row;
    return -1;
}

/* The weight of each row of the tile; a folded row has its one weight in every place. */
static void F(weights)(const F(shape) * g, const fastpg_operand *weight, REAL *w)
{
    EACH_PLACE(r) w[r] = g->folded ? F(item)(weight, g->first) : r < g->rows ? F(item)(weight, g->first + r) : 0;
}

/* Walks the rows, several at a time where they are short. */
#define EACH_TILE(g, total)                                                                                                                          \
    for (F(shape) g = F(shape_of)(actions); g.first < (total) && (g.rows = g.folded ? 1 : F(at_most)(F(R), (total)-g.first), 1); g.first += g.rows)
#define EACH_PIECE(g, from) for (ptrdiff_t from = 0; from < g.actions; from += g.piece)
#define EACH_ITEM(g, i, r, k)                                                                                                                        \
    for (ptrdiff_t i = 0; i < g.n; i++)                                                                                                              \
        INDEPENDENT for (ptrdiff_t r = 0, k = i * F(R); r < F(R); r++, k++)

/* log pi(a) = x[a] - m - log s */
static ptrdiff_t F(categorical_log_prob)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *action = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) q;
    (void)kernel, (void)layout, (void)part;
    const ptrdiff_t out_of_range = F(first_out_of_range)(action, rows, actions);
    if (out_of_range >= 0) return out_of_range;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(normalise)(&g, logits, legal, &q);
        if (bad >= 0) return bad;
        for (ptrdiff_t r = 0; r < g.rows; r++) {
            const ptrdiff_t row = g.first + r;
            const int64_t a = F(index)(action, row);
            const REAL x = F(is_legal)(legal, row, a) ? *(const REAL *)(logits->data + row * logits->stride0 + a * logits->stride1) : -(REAL)INFINITY;
            *(REAL *)(out->data + row * out->stride0) = (x - q.m[r]) - q.log_s[r];
        }
    }
    return -1;
}

/* w (1{a} - pi), Williams 1992; 0 at illegal actions */
static ptrdiff_t F(categorical_log_prob_grad)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *action = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    F(softmax) q;
    REAL w[F(R)], scale[F(R)];
    (void)kernel, (void)layout, (void)part;
    const ptrdiff_t out_of_range = F(first_out_of_range)(action, rows, actions);
    if (out_of_range >= 0) return out_of_range;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(normalise)(&g, logits, legal, &q);
        if (bad >= 0) return bad;
        F(weights)(&g, weight, w);
        EACH_PLACE(r) scale[r] = -w[r] / q.s[r];
        EACH_PIECE(g, from)
        {
            F(piece)(&g, logits, legal, from, &q);
            EACH_ITEM(g, i, r, k) q.e[k] *= scale[r];
            for (ptrdiff_t r = 0; r < g.rows; r++) {
                const ptrdiff_t a = F(index)(action, g.first + r) - from, k = g.folded ? a : a * F(R) + r;
                if (a >= 0 && a < g.piece) q.e[k] += q.x[k] > -(REAL)INFINITY ? w[r] : 0;
            }
            F(store)(&g, out, from, q.e);
        }
    }
    return -1;
}

/* H = -sum pi log pi = log s - sum e (x - m) / s */
static ptrdiff_t F(entropy_of)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, F(softmax) * q, REAL *restrict h)
{
    const ptrdiff_t bad = F(normalise)(g, logits, legal, q);
    if (bad >= 0) return bad;
    EACH_PLACE(r) h[r] = 0;
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        F(piece)(g, logits, legal, from, q);
        F(add_entropy)(g, q, h);
    }
    F(fold)(g, h);
    EACH_PLACE(r) h[r] = q->log_s[r] - h[r] / q->s[r];
    return -1;
}

static ptrdiff_t F(categorical_entropy)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *legal = &operands[1], *out = &operands[2];
    F(softmax) q;
    REAL h[F(R)];
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(entropy_of)(&g, logits, legal, &q, h);
        if (bad >= 0) return bad;
        for (ptrdiff_t r = 0; r < g.rows; r++) *(REAL *)(out->data + (g.first + r) * out->stride0) = h[r];
    }
    return -1;
}

/* dH/dx = -pi (log pi + H) */
static ptrdiff_t F(categorical_entropy_grad)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *weight = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) q;
    REAL h[F(R)], scale[F(R)], shift[F(R)];
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(entropy_of)(&g, logits, legal, &q, h);
        if (bad >= 0) return bad;
        F(weights)(&g, weight, scale);
        EACH_PLACE(r) {
            scale[r] = -scale[r] / q.s[r];
            shift[r] = h[r] - q.log_s[r];
        }
        EACH_PIECE(g, from)
        {
            F(piece)(&g, logits, legal, from, &q);
            EACH_ITEM(g, i, r, k)
            {
                const REAL e = q.e[k], product = scale[r] * e * ((q.x[k] - q.m[r]) + shift[r]);
                q.x[k] = e == 0 ? 0 : product;
            }
            F(store)(&g, out, from, q.x);
        }
    }
    return -1;
}

/* KL(p || q) = sum p (log p - log q) */
static ptrdiff_t F(divergence_of)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *other, const fastpg_operand *legal,
                                  F(softmax) * p, F(softmax) * q, REAL *restrict kl)
{
    const ptrdiff_t bad = F(normalise)(g, logits, legal, p), bad_other = F(normalise)(g, other, legal, q);
    if (bad >= 0 || bad_other >= 0) return bad_other < 0 || (bad >= 0 && bad < bad_other) ? bad : bad_other;
    EACH_PLACE(r) kl[r] = 0;
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        F(piece)(g, logits, legal, from, p);
        F(piece)(g, other, legal, from, q);
        F(add_divergence)(g, p, q, kl);
    }
    F(fold)(g, kl);
    EACH_PLACE(r) kl[r] = kl[r] / p->s[r] - (p->log_s[r] - q->log_s[r]);
    return -1;
}

static ptrdiff_t F(categorical_kl)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) p, q;
    REAL kl[F(R)];
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(divergence_of)(&g, logits, other, legal, &p, &q, kl);
        if (bad >= 0) return bad;
        for (ptrdiff_t r = 0; r < g.rows; r++) *(REAL *)(out->data + (g.first + r) * out->stride0) = kl[r];
    }
    return -1;
}

/* dKL/dx = p (log p - log q - KL) */
static ptrdiff_t F(categorical_kl_grad)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    F(softmax) p, q;
    REAL kl[F(R)], scale[F(R)], shift[F(R)];
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(divergence_of)(&g, logits, other, legal, &p, &q, kl);
        if (bad >= 0) return bad;
        F(weights)(&g, weight, scale);
        EACH_PLACE(r) {
            scale[r] = scale[r] / p.s[r];
            shift[r] = (p.log_s[r] - q.log_s[r]) + kl[r];
        }
        EACH_PIECE(g, from)
        {
            F(piece)(&g, logits, legal, from, &p);
            F(piece)(&g, other, legal, from, &q);
            EACH_ITEM(g, i, r, k)
            {
                const REAL e = p.e[k], product = scale[r] * e * (((p.x[k] - p.m[r]) - (q.x[k] - q.m[r])) - shift[r]);
                p.x[k] = e == 0 ? 0 : product;
            }
            F(store)(&g, out, from, p.x);
        }
    }
    return -1;
}

/* dKL/dy = q - p, y the other logits */
static ptrdiff_t F(categorical_kl_grad_other)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    F(softmax) p, q;
    REAL w[F(R)];
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(normalise)(&g, logits, legal, &p), bad_other = F(normalise)(&g, other, legal, &q);
        if (bad >= 0 || bad_other >= 0) return bad_other < 0 || (bad >= 0 && bad < bad_other) ? bad : bad_other;
        F(weights)(&g, weight, w);
        EACH_PIECE(g, from)
        {
            F(piece)(&g, logits, legal, from, &p);
            F(piece)(&g, other, legal, from, &q);
            EACH_ITEM(g, i, r, k) p.x[k] = w[r] * (q.e[k] / q.s[r] - p.e[k] / p.s[r]);
            F(store)(&g, out, from, p.x);
        }
    }
    return -1;
}

/* Inverse CDF: the first action whose cumulated e exceeds u s. Strict, so an action of probability 0 is never drawn. A row with NaN is refused. */
static ptrdiff_t F(categorical_sample)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                                   const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *uniform = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) q;
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(normalise)(&g, logits, legal, &q);
        if (bad >= 0) return bad;
        REAL threshold[F(R)], sum[F(R)];
        F(bits) chosen[F(R)], possible[F(R)]; /* first beyond the threshold; last of positive probability, where rounding leaves none */
        F(weights)(&g, uniform, threshold);
        EACH_PLACE(r) {
            threshold[r] *= q.s[r];
            sum[r] = 0;
            chosen[r] = possible[r] = 0;
        }
        for (ptrdiff_t r = 0; r < g.rows; r++)
            if (q.s[r] != q.s[r]) return g.first + r;
        EACH_PIECE(g, from)
        {
            F(piece)(&g, logits, legal, from, &q);
            if (g.folded)
                for (ptrdiff_t a = 0; a < F(at_most)(g.piece, actions - from); a++) {
                    sum[0] += q.e[a];
                    chosen[0] += sum[0] <= threshold[0];
                    possible[0] = q.e[a] > 0 ? (F(bits))(from + a) : possible[0];
                }
            else
                EACH_ITEM(g, i, r, k)
                {
                    sum[r] += q.e[k];
                    chosen[r] += sum[r] <= threshold[r] ? 1 : 0;
                    possible[r] = q.e[k] > 0 ? (F(bits))i : possible[r];
                }
        }
        for (ptrdiff_t r = 0; r < g.rows; r++)
            *(int64_t *)(out->data + (g.first + r) * out->stride0) = (int64_t)(chosen[r] < possible[r] ? chosen[r] : possible[r]);
    }
    return -1;
}

/* The first action of the largest logit. A row with NaN is refused. */
static ptrdiff_t F(categorical_mode)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,
                                     const fastpg_layout *layout, const fastpg_part *part)
{
    const fastpg_operand *logits = &operands[0], *legal = &operands[1], *out = &operands[2];
    F(softmax) q;
    (void)kernel, (void)layout, (void)part;
    EACH_TILE(g, rows)
    {
        const F(bits) nowhere = (F(bits))-1;
        F(bits) first[F(R)], nan[F(R)]; /* where the maximum stands: the action, of a folded row the action / R in each place */
        int64_t folded = -1;
        EACH_PLACE(r) nan[r] = 0;
        F(maximum)(&g, logits, legal, &q);
        EACH_PIECE(g, from)
        {
            if (actions > g.piece) F(load)(&g, logits, legal, from, q.x);
            EACH_PLACE(r) first[r] = nowhere;
            for (ptrdiff_t i = g.n - 1; i >= 0; i--)
                EACH_PLACE(r)
                {
                    const REAL x = q.x[i * F(R) + r];
                    first[r] = x == q.m[r] ? (F(bits))i : first[r];
                    nan[r] |= x != x;
                }
            int64_t here = -1;
            for (ptrdiff_t r = 0; g.folded && r < F(R); r++) {
                const int64_t action = (int64_t)from + (int64_t)first[r] * F(R) + r;
                nan[0] |= nan[r];
                here = first[r] != nowhere && (here < 0 || action < here) ? action : here;
            }
            folded = folded < 0 ? here : folded;
        }
        for (ptrdiff_t r = 0; r < g.rows; r++) {
            if (nan[r] || q.m[r] == -(REAL)INFINITY) return g.first + r;
            *(int64_t *)(out->data + (g.first + r) * out->stride0) = g.folded ? folded : (int64_t)first[r];
        }
    }
    return -1;
}

/* --- rows of independent items: bits and normal numbers
 *
 * An item needs no neighbour but in the sum of its row, so tiles lie as memory does, item (row r, action a) at [r * count + a], and dense
 * arrays are read and written in place. */

#define HALF_LOG_2_PI ((REAL)0.91893853320467274178)
#define ROW_KERNEL(name)                                                                                                                             \
    static ptrdiff_t F(name##_of)(const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions);                                                \
    static ptrdiff_t F(name)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions,                         \
                             const fastpg_layout *layout, const fastpg_part *part)                                                                   \
    {                                                                                                                                                \
        (void)kernel, (void)layout, (void)part;                                                                                                      \
        return F(name##_of)(operands, rows, actions);                                                                                                \
    }                                                                                                                                                \
    static ptrdiff_t F(name##_of)(const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
#define EACH_NUMBER(k) INDEPENDENT for (ptrdiff_t k = 0; k < n; k++)

static ptrdiff_t F(count_of)(const F(shape) * g, ptrdiff_t from) { return F(at_most)(g->piece, g->actions - from); }

static int F(lies_densely)(const F(shape) * g, const fastpg_operand *o, ptrdiff_t count)
{
    return o->stride1 == (ptrdiff_t)sizeof(REAL) && (g->rows == 1 || o->stride0 == count * (ptrdiff_t)sizeof(REAL));
}

/* The numbers of a tile: where they are, or gathered into x. */
static const REAL *F(tile_as_it_lies)(const F(shape) * g, const fastpg_operand *o, ptrdiff_t from, REAL *restrict x)
{
    const ptrdiff_t count = F(count_of)(g, from);
    const char *base = o->data + g->first * o->stride0 + from * o->stride1;
    if (F(lies_densely)(g, o, count)) return (const REAL *)base;
    for (ptrdiff_t r = 0; r < g->rows; r++)
        for (ptrdiff_t a = 0; a < count; a++) x[r * count + a] = *(const REAL *)(base + r * o->stride0 + a * o->stride1);
    return x;
}

/* Where a tile of the output is to be written: in its place, or into x, for `put_tile` to scatter. */
static REAL *F(place_of_tile)(const F(shape) * g, const fastpg_operand *o, ptrdiff_t from, REAL *x)
{
    const int direct = F(lies_densely)(g, o, F(count_of)(g, from)) && o->stride0;
    return direct ? (REAL *)(o->data + g->first * o->stride0 + from * o->stride1) : x;
}

/* Takes a tile that was not written in place: scatters it, or, where rows share the output and `sum` is given, adds rows up in that and it to
 * the output at the end. */
static void F(put_tile)(const F(shape) * g, ptrdiff_t rows, const fastpg_operand *o, ptrdiff_t from, const REAL *restrict x, REAL *restrict sum)
{
    const ptrdiff_t count = F(count_of)(g, from), n = g->rows * count;
    char *base = o->data + g->first * o->stride0 + from * o->stride1;
    if (o->stride0 || !sum) {
        if ((const char *)x == base) return;
        for (ptrdiff_t r = 0; r < g->rows; r++)
            for (ptrdiff_t a = 0; a < count; a++) *(REAL *)(base + r * o->stride0 + a * o->stride1) = x[r * count + a];
    } else if (g->folded) {
        for (ptrdiff_t a = 0; a < count; a++) *(REAL *)(base + a * o->stride1) += x[a];
    } else {
        if (!g->first) memset(sum, 0, (size_t)(count * F(R)) * sizeof(REAL));
        for (ptrdiff_t k = 0; k < n; k++) sum[k] += x[k];
        if (g->first + g->rows < rows) return;
        for (ptrdiff_t half = F(R) / 2; half; half /= 2)
            INDEPENDENT for (ptrdiff_t k = 0; k < half * count; k++) sum[k] += sum[k + half * count];
        for (ptrdiff_t a = 0; a < count; a++) *(REAL *)(base + a * o->stride1) += sum[a];
    }
}

enum { F(SPLAT) = 16 };

/* The weight of each item of a tile. Whole vectors are written, and what runs over is the next row's. */
static void F(weight_of_items)(const F(shape) * g, const fastpg_operand *weight, ptrdiff_t count, REAL *restrict w)
{
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        const REAL of_row = F(item)(weight, g->first + r);
        for (ptrdiff_t a = 0; a < count; a += F(SPLAT))
            for (ptrdiff_t i = 0; i < F(SPLAT); i++) w[r * count + a + i] = of_row;
    }
}

/* Adds a tile to the sums of its rows. */
static void F(add_rows)(const F(shape) * g, ptrdiff_t count, const REAL *restrict x, REAL *restrict sum)
{
    if (g->folded) {
        ptrdiff_t i = 0;
        for (; i + F(R) <= count; i += F(R))
            EACH_PLACE(r) sum[r] += x[i + r];
        for (ptrdiff_t r = 0; i + r < count; r++) sum[r] += x[i + r];
        return;
    }
    _Alignas(64) REAL turned[F(TILE)];
    F(transpose)(x, count, turned, F(R), g->rows, count);
    for (ptrdiff_t a = 0; a < count; a++)
        for (ptrdiff_t r = 0; r < g->rows; r++) sum[r] += turned[a * F(R) + r];
}

static void F(sum_of_rows)(const F(shape) * g, const fastpg_operand *out, REAL *sum, REAL constant)
{
    F(fold)(g, sum);
    for (ptrdiff_t r = 0; r < g->rows; r++) *(REAL *)(out->data + (g->first + r) * out->stride0) = sum[r] + constant;
}

/* Flags of a tile: where they are, or gathered into x. */
static const uint8_t *F(flags_as_they_lie)(const F(shape) * g, const fastpg_operand *o, ptrdiff_t from, uint8_t *restrict x)
{
    const ptrdiff_t count = F(count_of)(g, from);
    const char *base = o->data + g->first * o->stride0 + from * o->stride1;
    if (o->stride1 == 1 && (g->rows == 1 || o->stride0 == count)) return (const uint8_t *)base;
    for (ptrdiff_t r = 0; r < g->rows; r++)
        for (ptrdiff_t a = 0; a < count; a++) x[r * count + a] = (uint8_t)base[r * o->stride0 + a * o->stride1];
    return x;
}

/* The logits of a tile, -inf where illegal. */
static const REAL *F(logits_as_they_lie)(const F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, ptrdiff_t from, REAL *restrict x)
{
    const ptrdiff_t n = g->rows * F(count_of)(g, from);
    const REAL *given = F(tile_as_it_lies)(g, logits, from, x);
    if (!legal->data) return given;
    uint8_t own[F(TILE)];
    const uint8_t *may = F(flags_as_they_lie)(g, legal, from, own);
    EACH_NUMBER(k) x[k] = may[k] ? given[k] : -(REAL)INFINITY;
    return x;
}

/* Of a bit with logit x, e = e^-|x|: the probabilities of 1 and of 0, each to its last digit, and their logs. */
static inline REAL F(of_one)(REAL x, REAL e) { return (x >= 0 ? 1 : e) / (1 + e); }
static inline REAL F(of_none)(REAL x, REAL e) { return (x >= 0 ? e : 1) / (1 + e); }
static inline REAL F(log_of_one)(REAL x, REAL log_1e) { return (x < 0 ? x : 0) - log_1e; }
static inline REAL F(log_of_none)(REAL x, REAL log_1e) { return (x > 0 ? -x : 0) - log_1e; }

/* log pi(a) = sum log sigmoid(x) where a is 1, log sigmoid(-x) where it is 0 */
ROW_KERNEL(bernoulli_log_prob)
{
    const fastpg_operand *logits = &operands[0], *action = &operands[1], *legal = &operands[2], *out = &operands[3];
    _Alignas(64) REAL own[F(TILE)], term[F(TILE)], sum[F(R)];
    uint8_t own_bits[F(TILE)];
    EACH_TILE(g, rows)
    {
        EACH_PLACE(r) sum[r] = 0;
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own);
            const uint8_t *bit = F(flags_as_they_lie)(&g, action, from, own_bits);
            EACH_NUMBER(k)
            {
                const REAL y = bit[k] ? x[k] : -x[k];
                term[k] = F(log_of_one)(y, F(log_one_plus)(F(exp_nonpositive)(-ABS(y))));
            }
            F(add_rows)(&g, count, term, sum);
        }
        F(sum_of_rows)(&g, out, sum, 0);
    }
    return -1;
}

/* w (a - sigmoid(x)); 0 where the logit is -inf */
ROW_KERNEL(bernoulli_log_prob_grad)
{
    const fastpg_operand *logits = &operands[0], *action = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    _Alignas(64) REAL own[F(TILE)], w[F(TILE) + F(SPLAT)], own_grad[F(TILE)];
    uint8_t own_bits[F(TILE)];
    EACH_TILE(g, rows)
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own);
            const uint8_t *bit = F(flags_as_they_lie)(&g, action, from, own_bits);
            REAL *grad = F(place_of_tile)(&g, out, from, own_grad);
            F(weight_of_items)(&g, weight, count, w);
            EACH_NUMBER(k)
            {
                const REAL y = bit[k] ? x[k] : -x[k], rest = F(of_none)(y, F(exp_nonpositive)(-ABS(y))) * w[k];
                grad[k] = x[k] == -(REAL)INFINITY ? 0 : bit[k] ? rest : -rest;
            }
            F(put_tile)(&g, rows, out, from, grad, NULL);
        }
    return -1;
}

/* H = sum of log(1 + e) + |x| e / (1 + e), e = e^-|x| */
ROW_KERNEL(bernoulli_entropy)
{
    const fastpg_operand *logits = &operands[0], *legal = &operands[1], *out = &operands[2];
    _Alignas(64) REAL own[F(TILE)], term[F(TILE)], sum[F(R)];
    EACH_TILE(g, rows)
    {
        EACH_PLACE(r) sum[r] = 0;
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own);
            EACH_NUMBER(k)
            {
                const REAL distance = ABS(x[k]), e = F(exp_nonpositive)(-distance), product = distance * e;
                term[k] = F(log_one_plus)(e) + (e == 0 ? 0 : product / (1 + e));
            }
            F(add_rows)(&g, count, term, sum);
        }
        F(sum_of_rows)(&g, out, sum, 0);
    }
    return -1;
}

/* dH/dx = -x p (1 - p) */
ROW_KERNEL(bernoulli_entropy_grad)
{
    const fastpg_operand *logits = &operands[0], *weight = &operands[1], *legal = &operands[2], *out = &operands[3];
    _Alignas(64) REAL own[F(TILE)], w[F(TILE) + F(SPLAT)], own_grad[F(TILE)];
    EACH_TILE(g, rows)
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own);
            REAL *grad = F(place_of_tile)(&g, out, from, own_grad);
            F(weight_of_items)(&g, weight, count, w);
            EACH_NUMBER(k)
            {
                const REAL e = F(exp_nonpositive)(-ABS(x[k])), product = -w[k] * x[k] * (e / ((1 + e) * (1 + e)));
                grad[k] = e == 0 ? 0 : product;
            }
            F(put_tile)(&g, rows, out, from, grad, NULL);
        }
    return -1;
}

/* KL(p || q) = sum of p (log p - log q) over both values of each bit */
ROW_KERNEL(bernoulli_kl)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *legal = &operands[2], *out = &operands[3];
    _Alignas(64) REAL own[F(TILE)], own_other[F(TILE)], term[F(TILE)], sum[F(R)];
    EACH_TILE(g, rows)
    {
        EACH_PLACE(r) sum[r] = 0;
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own), *y = F(logits_as_they_lie)(&g, other, legal, from, own_other);
            EACH_NUMBER(k)
            {
                const REAL e_x = F(exp_nonpositive)(-ABS(x[k])), e_y = F(exp_nonpositive)(-ABS(y[k]));
                const REAL log_x = F(log_one_plus)(e_x), log_y = F(log_one_plus)(e_y);
                const REAL one = F(of_one)(x[k], e_x), none = F(of_none)(x[k], e_x);
                const REAL first = one * (F(log_of_one)(x[k], log_x) - F(log_of_one)(y[k], log_y));
                const REAL second = none * (F(log_of_none)(x[k], log_x) - F(log_of_none)(y[k], log_y));
                term[k] = (one == 0 ? 0 : first) + (none == 0 ? 0 : second);
            }
            F(add_rows)(&g, count, term, sum);
        }
        F(sum_of_rows)(&g, out, sum, 0);
    }
    return -1;
}

/* dKL/dx = p (1 - p) (x - y) */
ROW_KERNEL(bernoulli_kl_grad)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    _Alignas(64) REAL own[F(TILE)], own_other[F(TILE)], w[F(TILE) + F(SPLAT)], own_grad[F(TILE)];
    EACH_TILE(g, rows)
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own), *y = F(logits_as_they_lie)(&g, other, legal, from, own_other);
            REAL *grad = F(place_of_tile)(&g, out, from, own_grad);
            F(weight_of_items)(&g, weight, count, w);
            EACH_NUMBER(k)
            {
                const REAL e = F(exp_nonpositive)(-ABS(x[k])), product = w[k] * (e / ((1 + e) * (1 + e))) * (x[k] - y[k]);
                grad[k] = e == 0 ? 0 : product;
            }
            F(put_tile)(&g, rows, out, from, grad, NULL);
        }
    return -1;
}

/* dKL/dy = q - p, from the smaller probabilities of both where they lie on one side */
ROW_KERNEL(bernoulli_kl_grad_other)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    _Alignas(64) REAL own[F(TILE)], own_other[F(TILE)], w[F(TILE) + F(SPLAT)], own_grad[F(TILE)];
    EACH_TILE(g, rows)
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            const REAL *x = F(logits_as_they_lie)(&g, logits, legal, from, own), *y = F(logits_as_they_lie)(&g, other, legal, from, own_other);
            REAL *grad = F(place_of_tile)(&g, out, from, own_grad);
            F(weight_of_items)(&g, weight, count, w);
            EACH_NUMBER(k)
            {
                const REAL e_x = F(exp_nonpositive)(-ABS(x[k])), e_y = F(exp_nonpositive)(-ABS(y[k]));
                const REAL by_one = F(of_one)(y[k], e_y) - F(of_one)(x[k], e_x), by_none = F(of_none)(x[k], e_x) - F(of_none)(y[k], e_y);
                grad[k] = w[k] * (x[k] > 0 ? by_none : by_one);
            }
            F(put_tile)(&g, rows, out, from, grad, NULL);
        }
    return -1;
}

/* A tile of a diagonal Gaussian. Log-scales that all rows share are spread, and their exponentials taken, once a call where rows are short. */
typedef struct {
    const REAL *mean, *log_std;
    _Alignas(64) REAL by_std[F(TILE)]; /* 1 / std */
    _Alignas(64) REAL own_mean[F(TILE)], own_log_std[F(TILE)];
} F(gaussian);

static void F(load_gaussian)(const F(shape) * g, const fastpg_operand *mean, const fastpg_operand *log_std, ptrdiff_t from, F(gaussian) * q)
{
    const ptrdiff_t n = g->rows * F(count_of)(g, from);
    q->mean = F(tile_as_it_lies)(g, mean, from, q->own_mean);
    if (!log_std->stride0 && !g->folded && g->first) return;
    q->log_std = F(tile_as_it_lies)(g, log_std, from, q->own_log_std);
    const REAL *log_of = q->log_std;
    REAL *by_std = q->by_std;
    INDEPENDENT for (ptrdiff_t k = 0; k < n; k++) by_std[k] = F(exp_any)(-log_of[k]);
}

/* log (1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + e^(-2|u|))), without the square that rounds to 1 */
static inline REAL F(log_slope_of_tanh)(REAL u)
{
    const REAL distance = ABS(u);
    return 2 * ((REAL)0.69314718055994530942 - distance - F(log_one_plus)(F(exp_nonpositive)(-2 * distance)));
}

/* log pi(u) = -sum (z^2 / 2 + log std + log(2 pi) / 2), z = (u - mean) / std; of tanh(u), less its log-slopes */
static inline ptrdiff_t F(normal_log_prob)(const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions, int squashed)
{
    const fastpg_operand *mean = &operands[0], *log_std = &operands[1], *action = &operands[2], *out = &operands[3];
    F(gaussian) q;
    _Alignas(64) REAL own[F(TILE)], term[F(TILE)], sum[F(R)];
    EACH_TILE(g, rows)
    {
        EACH_PLACE(r) sum[r] = 0;
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            F(load_gaussian)(&g, mean, log_std, from, &q);
            const REAL *u = F(tile_as_it_lies)(&g, action, from, own), *m = q.mean, *s = q.log_std, *by_std = q.by_std;
            EACH_NUMBER(k)
            {
                const REAL z = (u[k] - m[k]) * by_std[k], log_density = -((REAL)0.5 * z * z + s[k]);
                term[k] = squashed ? log_density - F(log_slope_of_tanh)(u[k]) : log_density;
            }
            F(add_rows)(&g, count, term, sum);
        }
        F(sum_of_rows)(&g, out, sum, -HALF_LOG_2_PI * (REAL)actions);
    }
    return -1;
}

ROW_KERNEL(gaussian_log_prob) { return F(normal_log_prob)(operands, rows, actions, 0); }
ROW_KERNEL(squashed_gaussian_log_prob) { return F(normal_log_prob)(operands, rows, actions, 1); }
/* w z / std and w (z^2 - 1) */
ROW_KERNEL(gaussian_log_prob_grad)
{
    const fastpg_operand *mean = &operands[0], *log_std = &operands[1], *action = &operands[2], *weight = &operands[3];
    const fastpg_operand *mean_grad = &operands[4], *log_std_grad = &operands[5];
    F(gaussian) q;
    _Alignas(64) REAL own[F(TILE)], w[F(TILE) + F(SPLAT)], sum[F(TILE)], by_mean_[F(TILE)], by_log_std_[F(TILE)];
    EACH_TILE(g, rows)
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            F(load_gaussian)(&g, mean, log_std, from, &q);
            F(weight_of_items)(&g, weight, count, w);
            const REAL *u = F(tile_as_it_lies)(&g, action, from, own), *m = q.mean, *by_std = q.by_std;
            REAL *by_mean = F(place_of_tile)(&g, mean_grad, from, by_mean_), *by_log_std = F(place_of_tile)(&g, log_std_grad, from, by_log_std_);
            EACH_NUMBER(k)
            {
                const REAL z = (u[k] - m[k]) * by_std[k];
                by_mean[k] = w[k] * z * by_std[k];
                by_log_std[k] = w[k] * (z * z - 1);
            }
            F(put_tile)(&g, rows, mean_grad, from, by_mean, NULL);
            F(put_tile)(&g, rows, log_std_grad, from, by_log_std, sum);
        }
    return -1;
}

/* H = sum (log std + (1 + log(2 pi)) / 2) */
ROW_KERNEL(gaussian_entropy)
{
    const fastpg_operand *log_std = &operands[1], *out = &operands[2];
    _Alignas(64) REAL own[F(TILE)], sum[F(R)];
    EACH_TILE(g, rows)
    {
        EACH_PLACE(r) sum[r] = 0;
        EACH_PIECE(g, from) F(add_rows)(&g, F(count_of)(&g, from), F(tile_as_it_lies)(&g, log_std, from, own), sum);
        F(sum_of_rows)(&g, out, sum, ((REAL)0.5 + HALF_LOG_2_PI) * (REAL)actions);
    }
    return -1;
}

/* With t = 2 log(std / std'), d = (mean - mean') / std': KL = sum (e^t - 1 - t + d^2) / 2 */
ROW_KERNEL(gaussian_kl)
{
    const fastpg_operand *mean = &operands[0], *log_std = &operands[1], *other_mean = &operands[2], *other_log_std = &operands[3];
    const fastpg_operand *out = &operands[4];
    F(gaussian) q;
    _Alignas(64) REAL own_mean[F(TILE)], own_log_std[F(TILE)], term[F(TILE)], sum[F(R)];
    EACH_TILE(g, rows)
    {
        EACH_PLACE(r) sum[r] = 0;
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            F(load_gaussian)(&g, other_mean, other_log_std, from, &q);
            const REAL *m = F(tile_as_it_lies)(&g, mean, from, own_mean), *s = F(tile_as_it_lies)(&g, log_std, from, own_log_std);
            const REAL *other_m = q.mean, *other_s = q.log_std, *by_std = q.by_std;
            EACH_NUMBER(k)
            {
                const REAL t = 2 * (s[k] - other_s[k]), d = (m[k] - other_m[k]) * by_std[k];
                term[k] = (REAL)0.5 * (F(exp_less_line)(t, F(exp_any)(t)) + d * d);
            }
            F(add_rows)(&g, count, term, sum);
        }
        F(sum_of_rows)(&g, out, sum, 0);
    }
    return -1;
}

/* w d / std' and w (e^t - 1); with respect to the other, -w d / std' and -w (e^t - 1 + d^2) */
static inline ptrdiff_t F(normal_kl_grad)(const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions, int other)
{
    const fastpg_operand *mean = &operands[0], *log_std = &operands[1], *other_mean = &operands[2], *other_log_std = &operands[3];
    const fastpg_operand *weight = &operands[4], *mean_grad = &operands[5], *log_std_grad = &operands[6];
    F(gaussian) q;
    _Alignas(64) REAL own_mean[F(TILE)], own_log_std[F(TILE)], w[F(TILE) + F(SPLAT)], sum[F(TILE)], by_mean_[F(TILE)], by_log_std_[F(TILE)];
    EACH_TILE(g, rows)
        EACH_PIECE(g, from)
        {
            const ptrdiff_t count = F(count_of)(&g, from), n = g.rows * count;
            F(load_gaussian)(&g, other_mean, other_log_std, from, &q);
            F(weight_of_items)(&g, weight, count, w);
            const REAL *m = F(tile_as_it_lies)(&g, mean, from, own_mean), *s = F(tile_as_it_lies)(&g, log_std, from, own_log_std);
            const REAL *other_m = q.mean, *other_s = q.log_std, *by_std = q.by_std;
            REAL *by_mean = F(place_of_tile)(&g, mean_grad, from, by_mean_), *by_log_std = F(place_of_tile)(&g, log_std_grad, from, by_log_std_);
            EACH_NUMBER(k)
            {
                const REAL e = F(exp_less_one)(2 * (s[k] - other_s[k])), d = (m[k] - other_m[k]) * by_std[k];
                const REAL signed_w = other ? -w[k] : w[k];
                by_mean[k] = signed_w * d * by_std[k];
                by_log_std[k] = signed_w * (other ? e + d * d : e);
            }
            F(put_tile)(&g, rows, mean_grad, from, by_mean, NULL);
            F(put_tile)(&g, rows, log_std_grad, from, by_log_std, sum);
        }
    return -1;
}

ROW_KERNEL(gaussian_kl_grad) { return F(normal_kl_grad)(operands, rows, actions, 0); }
ROW_KERNEL(gaussian_kl_grad_other) { return F(normal_kl_grad)(operands, rows, actions, 1); }
