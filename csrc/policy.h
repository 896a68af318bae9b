/* Categorical distributions over rows of logits.
 *
 * A tile is n x R items, held so that the inner loop always runs over R and always vectorises:
 *   few actions   R rows stand side by side, item (row r, action a) at [a * R + r]: a small transpose in, one out
 *   many actions  one row folded R wide, action a at [a]; sums and maxima end with one fold over R. Rows longer than a tile come in pieces
 * so each formula below stands once for both. Illegal actions enter a tile as -inf and leave it as probability 0. */

enum {
    F(TILE) = TILE_BYTES / sizeof(REAL),
    F(FOLD) = 32,      /* R of a folded row */
    F(FEW) = 64,       /* actions up to which rows stand side by side */
    F(SIDE_ROWS) = 256 /* most rows side by side */
};

typedef struct {
    ptrdiff_t first, rows;    /* rows in hand */
    ptrdiff_t actions, piece; /* of a row, and of those in a tile */
    ptrdiff_t n, R;
    int folded;
} F(shape);

typedef struct {
    _Alignas(64) REAL x[F(TILE)], e[F(TILE)];                                /* logits, and e^(x - m) */
    _Alignas(64) REAL m[F(SIDE_ROWS)], s[F(SIDE_ROWS)], log_s[F(SIDE_ROWS)]; /* maximum, sum of e, its log */
} F(softmax);

static F(shape) F(shape_of)(ptrdiff_t actions, ptrdiff_t rows)
{
    F(shape) g = {.actions = actions, .folded = actions > F(FEW)};
    const ptrdiff_t fit = F(TILE) / actions & -16, side = (rows + 15) & -16;
    g.R = g.folded ? F(FOLD) : fit < side ? fit : side;
    g.R = g.R < F(SIDE_ROWS) ? g.R : F(SIDE_ROWS);
    g.piece = g.folded ? F(TILE) : actions;
    return g;
}

static ptrdiff_t F(at_most)(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Fills the tile with actions [from, from + piece) of the rows in hand, -inf where illegal and where there is nothing. */
static void F(load)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, ptrdiff_t from, REAL *restrict x)
{
    const ptrdiff_t count = F(at_most)(g->piece, g->actions - from), rows = g->folded ? 1 : g->rows;
    const ptrdiff_t by_row = g->folded ? 0 : 1, by_action = g->folded ? 1 : g->R;
    const char *base = logits->data + g->first * logits->stride0 + from * logits->stride1;
    g->n = g->folded ? (count + g->R - 1) / g->R : count;
    if (g->folded && logits->stride1 == (ptrdiff_t)sizeof(REAL))
        memcpy(x, base, (size_t)count * sizeof(REAL));
    else
        for (ptrdiff_t a = 0; a < count; a++)
            for (ptrdiff_t r = 0; r < rows; r++)
                x[a * by_action + r * by_row] = *(const REAL *)(base + r * logits->stride0 + a * logits->stride1);
    if (g->folded)
        for (ptrdiff_t i = count; i < g->n * g->R; i++) x[i] = -(REAL)INFINITY;
    else
        for (ptrdiff_t a = 0; a < count; a++)
            for (ptrdiff_t r = rows; r < g->R; r++) x[a * g->R + r] = 0;
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
    const ptrdiff_t by_row = g->folded ? 0 : 1, by_action = g->folded ? 1 : g->R;
    char *base = out->data + g->first * out->stride0 + from * out->stride1;
    if (g->folded && out->stride1 == (ptrdiff_t)sizeof(REAL))
        memcpy(base, x, (size_t)count * sizeof(REAL));
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
        for (ptrdiff_t r = 0; r < g->R; r++) q->e[i * g->R + r] = F(exp_nonpositive)(q->x[i * g->R + r] - q->m[r]);
}

/* Folded rows: R partial sums become one, in every place. */
static void F(fold)(const F(shape) * g, REAL *s)
{
    if (!g->folded) return;
    for (ptrdiff_t half = g->R / 2; half; half /= 2)
        for (ptrdiff_t r = 0; r < half; r++) s[r] += s[r + half];
    for (ptrdiff_t r = 1; r < g->R; r++) s[r] = s[0];
}

/* m, s, log_s of the rows in hand. Returns the first row without a legal action, or -1. */
static ptrdiff_t F(normalise)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, F(softmax) * q)
{
    REAL *restrict m = q->m, *restrict s = q->s, *restrict log_s = q->log_s;
    const ptrdiff_t R = g->R;
    for (ptrdiff_t r = 0; r < R; r++) m[r] = -(REAL)INFINITY, s[r] = 0;
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        F(load)(g, logits, legal, from, q->x);
        for (ptrdiff_t i = 0; i < g->n; i++)
            for (ptrdiff_t r = 0; r < R; r++) m[r] = q->x[i * R + r] > m[r] ? q->x[i * R + r] : m[r];
    }
    if (g->folded) {
        for (ptrdiff_t half = R / 2; half; half /= 2)
            for (ptrdiff_t r = 0; r < half; r++) m[r] = m[r + half] > m[r] ? m[r + half] : m[r];
        for (ptrdiff_t r = 1; r < R; r++) m[r] = m[0];
    }
    for (ptrdiff_t r = 0; r < g->rows; r++)
        if (m[r] == -(REAL)INFINITY) {
            int has_nan = 0; /* a NaN never wins the maximum; such a row is answered with NaN */
            for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
                F(load)(g, logits, legal, from, q->x);
                for (ptrdiff_t i = 0; i < g->n; i++)
                    for (ptrdiff_t j = g->folded ? 0 : r; j < (g->folded ? R : r + 1); j++) has_nan |= q->x[i * R + j] != q->x[i * R + j];
            }
            if (!has_nan) return g->first + r;
        }
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        if (g->actions > g->piece) F(load)(g, logits, legal, from, q->x);
        for (ptrdiff_t i = 0; i < g->n; i++)
            for (ptrdiff_t r = 0; r < R; r++) {
                const REAL e = F(exp_nonpositive)(q->x[i * R + r] - m[r]);
                q->e[i * R + r] = e;
                s[r] += e;
            }
    }
    F(fold)(g, s);
    for (ptrdiff_t r = 0; r < R; r++) log_s[r] = F(log_of_sum)(s[r]);
    return -1;
}

/* Adds e (x - m - shift) to t: the entropy's sum, and with another distribution's log-probabilities the divergence's. 0 times anything is 0. */
static void F(add_entropy)(const F(shape) * g, const F(softmax) * q, REAL *restrict t)
{
    for (ptrdiff_t i = 0; i < g->n; i++)
        for (ptrdiff_t r = 0; r < g->R; r++) {
            const REAL e = q->e[i * g->R + r], product = e * (q->x[i * g->R + r] - q->m[r]);
            t[r] += e == 0 ? 0 : product;
        }
}

static void F(add_divergence)(const F(shape) * g, const F(softmax) * p, const F(softmax) * q, REAL *restrict t)
{
    for (ptrdiff_t i = 0; i < g->n; i++)
        for (ptrdiff_t r = 0; r < g->R; r++) {
            const ptrdiff_t k = i * g->R + r;
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
    for (ptrdiff_t r = 0; r < g->R; r++) w[r] = g->folded ? F(item)(weight, g->first) : r < g->rows ? F(item)(weight, g->first + r) : 0;
}

/* Walks the rows, several at a time where they are short. */
#define EACH_TILE(g, total)                                                                                                                          \
    for (F(shape) g = F(shape_of)(actions, total); g.first < (total) && (g.rows = g.folded ? 1 : F(at_most)(g.R, (total)-g.first), 1); g.first += g.rows)
#define EACH_PIECE(g, from) for (ptrdiff_t from = 0; from < g.actions; from += g.piece)
#define EACH_ITEM(g, i, r, k)                                                                                                                        \
    for (ptrdiff_t i = 0; i < g.n; i++)                                                                                                              \
        for (ptrdiff_t r = 0, k = i * g.R; r < g.R; r++, k++)

/* log pi(a) = x[a] - m - log s */
static ptrdiff_t F(categorical_log_prob)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *action = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) q;
    (void)kernel;
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
static ptrdiff_t F(categorical_log_prob_grad)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *action = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    F(softmax) q;
    REAL scale[F(SIDE_ROWS)];
    (void)kernel;
    const ptrdiff_t out_of_range = F(first_out_of_range)(action, rows, actions);
    if (out_of_range >= 0) return out_of_range;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(normalise)(&g, logits, legal, &q);
        if (bad >= 0) return bad;
        F(weights)(&g, weight, scale);
        for (ptrdiff_t r = 0; r < g.R; r++) scale[r] = -scale[r] / q.s[r];
        EACH_PIECE(g, from)
        {
            F(piece)(&g, logits, legal, from, &q);
            EACH_ITEM(g, i, r, k) q.x[k] = scale[r] * q.e[k];
            F(store)(&g, out, from, q.x);
        }
        for (ptrdiff_t r = 0; r < g.rows; r++) {
            const ptrdiff_t row = g.first + r;
            const int64_t a = F(index)(action, row);
            REAL *chosen = (REAL *)(out->data + row * out->stride0 + a * out->stride1);
            const REAL x = *(const REAL *)(logits->data + row * logits->stride0 + a * logits->stride1);
            *chosen += F(is_legal)(legal, row, a) && x != -(REAL)INFINITY ? F(item)(weight, row) : 0;
        }
    }
    return -1;
}

/* H = -sum pi log pi = log s - sum e (x - m) / s */
static ptrdiff_t F(entropy_of)(F(shape) * g, const fastpg_operand *logits, const fastpg_operand *legal, F(softmax) * q, REAL *restrict h)
{
    const ptrdiff_t bad = F(normalise)(g, logits, legal, q);
    if (bad >= 0) return bad;
    for (ptrdiff_t r = 0; r < g->R; r++) h[r] = 0;
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        F(piece)(g, logits, legal, from, q);
        F(add_entropy)(g, q, h);
    }
    F(fold)(g, h);
    for (ptrdiff_t r = 0; r < g->R; r++) h[r] = q->log_s[r] - h[r] / q->s[r];
    return -1;
}

static ptrdiff_t F(categorical_entropy)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *legal = &operands[1], *out = &operands[2];
    F(softmax) q;
    REAL h[F(SIDE_ROWS)];
    (void)kernel;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(entropy_of)(&g, logits, legal, &q, h);
        if (bad >= 0) return bad;
        for (ptrdiff_t r = 0; r < g.rows; r++) *(REAL *)(out->data + (g.first + r) * out->stride0) = h[r];
    }
    return -1;
}

/* dH/dx = -pi (log pi + H) */
static ptrdiff_t F(categorical_entropy_grad)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *weight = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) q;
    REAL h[F(SIDE_ROWS)], scale[F(SIDE_ROWS)], shift[F(SIDE_ROWS)];
    (void)kernel;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(entropy_of)(&g, logits, legal, &q, h);
        if (bad >= 0) return bad;
        F(weights)(&g, weight, scale);
        for (ptrdiff_t r = 0; r < g.R; r++) {
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
    for (ptrdiff_t r = 0; r < g->R; r++) kl[r] = 0;
    for (ptrdiff_t from = 0; from < g->actions; from += g->piece) {
        F(piece)(g, logits, legal, from, p);
        F(piece)(g, other, legal, from, q);
        F(add_divergence)(g, p, q, kl);
    }
    F(fold)(g, kl);
    for (ptrdiff_t r = 0; r < g->R; r++) kl[r] = kl[r] / p->s[r] - (p->log_s[r] - q->log_s[r]);
    return -1;
}

static ptrdiff_t F(categorical_kl)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) p, q;
    REAL kl[F(SIDE_ROWS)];
    (void)kernel;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(divergence_of)(&g, logits, other, legal, &p, &q, kl);
        if (bad >= 0) return bad;
        for (ptrdiff_t r = 0; r < g.rows; r++) *(REAL *)(out->data + (g.first + r) * out->stride0) = kl[r];
    }
    return -1;
}

/* dKL/dx = p (log p - log q - KL) */
static ptrdiff_t F(categorical_kl_grad)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    F(softmax) p, q;
    REAL kl[F(SIDE_ROWS)], scale[F(SIDE_ROWS)], shift[F(SIDE_ROWS)];
    (void)kernel;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(divergence_of)(&g, logits, other, legal, &p, &q, kl);
        if (bad >= 0) return bad;
        F(weights)(&g, weight, scale);
        for (ptrdiff_t r = 0; r < g.R; r++) {
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
static ptrdiff_t F(categorical_kl_grad_other)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *other = &operands[1], *weight = &operands[2], *legal = &operands[3], *out = &operands[4];
    F(softmax) p, q;
    REAL w[F(SIDE_ROWS)];
    (void)kernel;
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
static ptrdiff_t F(categorical_sample)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *uniform = &operands[1], *legal = &operands[2], *out = &operands[3];
    F(softmax) q;
    (void)kernel;
    EACH_TILE(g, rows)
    {
        const ptrdiff_t bad = F(normalise)(&g, logits, legal, &q);
        if (bad >= 0) return bad;
        REAL threshold[F(SIDE_ROWS)], sum[F(SIDE_ROWS)];
        F(bits) chosen[F(SIDE_ROWS)], possible[F(SIDE_ROWS)]; /* first beyond the threshold; last of positive probability, where rounding leaves none */
        F(weights)(&g, uniform, threshold);
        for (ptrdiff_t r = 0; r < g.R; r++) {
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
static ptrdiff_t F(categorical_mode)(const fastpg_kernel *kernel, const fastpg_operand *operands, ptrdiff_t rows, ptrdiff_t actions)
{
    const fastpg_operand *logits = &operands[0], *legal = &operands[1], *out = &operands[2];
    (void)kernel;
    for (ptrdiff_t row = 0; row < rows; row++) {
        const char *x = logits->data + row * logits->stride0;
        REAL most = -(REAL)INFINITY;
        int64_t best = -1;
        for (ptrdiff_t a = 0; a < actions; a++) {
            const REAL here = F(is_legal)(legal, row, a) ? *(const REAL *)(x + a * logits->stride1) : -(REAL)INFINITY;
            if (here != here) return row;
            best = here > most ? a : best;
            most = here > most ? here : most;
        }
        if (best < 0) return row;
        *(int64_t *)(out->data + row * out->stride0) = best;
    }
    return -1;
}
