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
