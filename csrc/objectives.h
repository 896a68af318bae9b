/* Losses over tokens: value and gradient in one pass.
 *
 * A masked token is replaced as it is read, by log-probabilities and an advantage that make every term finite, so nothing that stands in a
 * masked slot reaches an exponential. A comparison with NaN is false: every formula below is written so that this lets NaN through. The
 * sums of a loop are in REAL, those of its TOKEN_BLOCKs in double. */

#ifndef LOG_LEAST_WEIGHT
#define LOG_LEAST_WEIGHT (-18.420680743952367) /* log 1e-8, the least that VESPO lets a sequence or a token weigh */
#define COUNT_SHIFT 4096                       /* above any count in a TOKEN_BLOCK */
#define SIMD_SUMS(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define PRAGMA(...) _Pragma(#__VA_ARGS__)
#endif

enum {
    F(TOKEN_BLOCK) = 512,
    F(LEAN_BLOCK) = 2048, /* of a loop that keeps nothing in between */
    F(TOKEN_LANES) = 64 / sizeof(REAL) /* a loop runs over whole vectors of tokens: what is left of a sequence is filled up to one */
};

/* What a block needs beside the arrays of the call, where they do not stand there as the loop reads them. */
typedef struct {
    _Alignas(64) F(bits) m[F(LEAN_BLOCK)], ones[F(LEAN_BLOCK)]; /* all ones, or 0 for a masked token */
    _Alignas(64) REAL a[F(LEAN_BLOCK)], w[F(TOKEN_BLOCK)], chosen[F(TOKEN_BLOCK)], kl[F(TOKEN_BLOCK)], kl_grad[F(TOKEN_BLOCK)];
    _Alignas(64) REAL filled[6][F(TOKEN_LANES)];
} F(token_block);

/* One block as the loops read it. */
typedef struct {
    const REAL *x, *o, *a, *w, *ref, *chosen, *kl, *kl_grad;
    const F(bits) *m;
    REAL *grad;
    ptrdiff_t n;
} F(token_view);

/* The numbers of a call, and, from `count` on, of a sequence. */
typedef struct {
    REAL bound, low, high, delta, dual, beta, pos, neg, cap, eps, scale;
    int by_sequence;
    REAL count, advantage, weight, b, r, out; /* tokens, mean advantage, geometric mean weight; log-ratio, ratio and whether the bound binds */
} F(numbers);

/* A token in: log_prob, old, advantage, bounded log-ratio, its exp, 1 where the bound binds, 1 where the token was picked, and the ratio of
 * this token less 1 and its log. */
typedef struct {
    REAL x, o, a, b, r, out, chosen, excess;
} F(token);

/* A token out: loss, derivative, and 1 where the lower, upper or dual bound binds. */
typedef struct {
    REAL l, d, low, high, dual;
} F(term);

typedef struct {
    double loss, k1, k2, k3, ratio, squared, low, high, dual, killed;
} F(token_sums);

static inline __attribute__((always_inline)) REAL F(clip_to)(REAL x, REAL low, REAL high)
{
    const REAL above = x < low ? low : x;
    return above > high ? high : above;
}

/* x where keep is all ones, 0 where it is 0. These are choices without a branch, which a compiler would thread through all that follows
 * until no vector is left of it. */
static inline __attribute__((always_inline)) REAL F(kept)(REAL x, F(bits) keep)
{
    F(pun) u = {.real = x};
    u.bits &= keep;
    return u.real;
}

static inline __attribute__((always_inline)) REAL F(choose)(int which, REAL yes, REAL no)
{
    const F(pun) y = {.real = yes}, n = {.real = no};
    const F(bits) keep = -(F(bits))which;
    return (F(pun)){.bits = (y.bits & keep) | (n.bits & ~keep)}.real;
}

static inline __attribute__((always_inline)) REAL F(magnitude)(REAL x) { return x < 0 ? -x : x; }

/* --- one formula each. Where a bound stops the gradient it is 0 * advantage, which NaN survives. */

static inline __attribute__((always_inline)) F(term) F(term_reinforce)(F(numbers) c, F(token) t)
{
    (void)c;
    return (F(term)){-t.a * t.x, -t.a, 0, 0, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_ppo)(F(numbers) c, F(token) t)
{
    const int under = t.r < c.low, over = t.r > c.high, beyond = t.r > c.delta;
    const REAL plain = F(choose)(beyond, c.delta, t.r) * t.a, clipped = F(choose)(under, c.low, F(choose)(over, c.high, t.r)) * t.a;
    const REAL floor = c.dual * t.a;
    const int binds = clipped < plain;
    const REAL surrogate = F(choose)(binds, clipped, plain);
    const int lifted = (t.a < 0) & (surrogate < floor);
    const int dead = (binds & (under | over)) | ((1 - binds) & beyond) | lifted | (t.out != 0);
    return (F(term)){-F(choose)(lifted, floor, surrogate), F(choose)(dead, 0 * t.a, -t.r * t.a), binds & under, binds & over, lifted};
}

static inline __attribute__((always_inline)) F(term) F(term_ppo_kl)(F(numbers) c, F(token) t)
{
    const REAL slope = c.beta * (t.excess + t.b) - t.r * t.a;
    return (F(term)){c.beta * t.excess - t.r * t.a, F(choose)(t.out != 0, 0 * t.a, slope), 0, 0, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_cispo)(F(numbers) c, F(token) t)
{
    const int under = t.r < c.low, over = t.r > c.high;
    const REAL d = -F(choose)(under, c.low, F(choose)(over, c.high, t.r)) * t.a;
    return (F(term)){d * t.x, d, under, over, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_sapo)(F(numbers) c, F(token) t)
{
    const REAL tau = F(choose)(t.a > 0, c.pos, c.neg), e = F(exp_any)(-tau * (t.r - 1)), gate = 1 / (1 + e);
    const REAL rest = F(choose)(e > 1, 1 - gate, e * gate); /* 1 - gate without cancellation */
    return (F(term)){-4 / tau * gate * t.a, F(choose)(t.out != 0, 0 * t.a, -4 * gate * rest * t.r * t.a), 0, 0, 0};
}

/* The log-ratio that GMPO sums; low and high are bounds of the log-ratio. */
static inline __attribute__((always_inline)) F(term) F(clipped_log_ratio)(F(numbers) c, REAL log_ratio, REAL a)
{
    const int under = (a < 0) & (log_ratio < -c.low), over = (a > 0) & (log_ratio > c.high);
    const REAL clipped = F(choose)(under, -c.low, F(choose)(over, c.high, log_ratio)) * (a != 0);
    return (F(term)){F(clip_to)(clipped, -c.bound, c.bound), F(magnitude)(clipped) > c.bound, under, over, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_gmpo)(F(numbers) c, F(token) t)
{
    const F(term) clipped = F(clipped_log_ratio)(c, t.x - t.o, t.a);
    const REAL l = -c.advantage * c.r;
    const int dead = (clipped.low + clipped.high + clipped.d != 0) | (t.a == 0);
    return (F(term)){l, F(choose)(dead, 0 * l, l), clipped.low, clipped.high, 0};
}

static inline __attribute__((always_inline)) F(term) F(held_by_probability)(F(numbers) c, F(token) t, int under, int over)
{
    const int up = t.a > 0, low = (1 - up) & under, high = up & over;
    const REAL held = -F(clip_to)(t.r, 0, c.cap) * t.a, d = F(choose)(low | high, 0 * t.a, held);
    return (F(term)){d * t.x, d, low, high, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_dppo_tv)(F(numbers) c, F(token) t)
{
    const REAL moved = F(exp_any)(t.x) - F(exp_any)(t.o);
    return F(held_by_probability)(c, t, moved < -c.low, moved > c.high);
}

static inline __attribute__((always_inline)) F(term) F(term_dppo_kl)(F(numbers) c, F(token) t)
{
    const REAL now = F(exp_any)(t.x), was = F(exp_any)(t.o), rest_now = 1 - now + c.eps, rest_was = 1 - was + c.eps;
    const REAL quotient = rest_was / rest_now, flipped = rest_now / rest_was; /* log_of_sum wants at least sqrt(1/2) */
    const int grew = quotient > flipped;
    const REAL log_rest = F(log_of_sum)(F(choose)(grew, quotient, flipped));
    const REAL kl = was * (t.o - t.x) + (1 - was) * F(choose)(grew, log_rest, -log_rest); /* NaN where these are no probabilities */
    return F(held_by_probability)(c, t, (kl > c.low) & (t.x < t.o), (kl > c.high) & (t.x > t.o));
}

static inline __attribute__((always_inline)) F(term) F(term_kl_cov)(F(numbers) c, F(token) t)
{
    const REAL log_ratio = t.x - t.o, held = c.beta * t.chosen;
    const REAL slope = log_ratio > 0 ? held : log_ratio < 0 ? -held : 0 * log_ratio;
    return (F(term)){held * F(magnitude)(log_ratio) - t.r * t.a, slope - (t.out != 0 ? 0 * t.a : t.r * t.a), 0, 0, 0};
}

/* pos and neg are the weights of the sequence. */
static inline __attribute__((always_inline)) F(term) F(term_vespo)(F(numbers) c, F(token) t)
{
    const REAL d = -(t.a >= 0 ? c.pos : c.neg) * t.a;
    return (F(term)){d * t.x, d, 0, 0, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_dro)(F(numbers) c, F(token) t)
{
    const REAL log_ratio = t.x - t.o;
    return (F(term)){c.beta / 2 * log_ratio * log_ratio - t.a * t.x, c.beta * log_ratio - t.a, 0, 0, 0};
}

static inline __attribute__((always_inline)) F(term) F(term_ipo)(F(numbers) c, F(token) t)
{
    const REAL log_ratio = t.x - t.o, gain = t.r * t.a, moved = F(exp_any)(t.x) - F(exp_any)(t.o);
    const int under = moved < -c.low, over = moved > c.high;
    return (F(term)){c.beta * log_ratio * log_ratio - (under | over ? 0 : gain),
                     2 * c.beta * log_ratio - (under | over | (t.out != 0) ? 0 : gain), under, over, 0};
}

/* neg is the tapered ratio of the sequence. */
static inline __attribute__((always_inline)) F(term) F(term_topr)(F(numbers) c, F(token) t)
{
    const REAL d = -(t.a < 0 ? c.neg : 1) * t.a;
    return (F(term)){d * t.x, d, 0, 0, 0};
}

/* --- a block: every loss twice, plain, and with weights, a penalty and tokens picked */

static inline __attribute__((always_inline)) void F(run_block)(const F(numbers) * numbers, const F(token_view) * view, F(token_sums) * sums,
                                                               F(term) (*formula)(F(numbers), F(token)), const int full)
{
    /* What is summed goes through the L1 cache: a compiler vectorises a loop of formulas, and a loop of sums, but not both in one. Two counts
     * share a number, which holds them exactly. */
    _Alignas(64) REAL loss[F(TOKEN_BLOCK)], log_ratio[F(TOKEN_BLOCK)], ratio[F(TOKEN_BLOCK)], excess[F(TOKEN_BLOCK)];
    _Alignas(64) REAL bounded[F(TOKEN_BLOCK)], clipped[F(TOKEN_BLOCK)], lost[F(TOKEN_BLOCK)];
    const F(numbers) c = *numbers;
    const REAL *restrict xs = view->x, *restrict os = view->o, *restrict as = view->a, *restrict ws = view->w;
    const REAL *restrict picked = view->chosen, *restrict kl = view->kl, *restrict kl_grad = view->kl_grad;
    const F(bits) *restrict ms = view->m;
    REAL *restrict grad = view->grad;
    const ptrdiff_t n = view->n;
    INDEPENDENT for (ptrdiff_t i = 0; i < n; i++)
    {
        const REAL raw = F(kept)(xs[i] - os[i], ms[i]), b = F(clip_to)(raw, -c.bound, c.bound), r = F(exp_any)(b);
        log_ratio[i] = raw;
        bounded[i] = b;
        excess[i] = F(exp_less_line)(b, r);
        ratio[i] = r;
    }
    INDEPENDENT for (ptrdiff_t i = 0; i < n; i++)
    {
        const F(bits) m = ms[i];
        const REAL x = F(kept)(xs[i], m), o = F(kept)(os[i], m), a = F(kept)(as[i], m);
        const F(term) y = formula(c, (F(token)){x, o, a, F(choose)(c.by_sequence, c.b, bounded[i]), F(choose)(c.by_sequence, c.r, ratio[i]),
                                                F(choose)(c.by_sequence, c.out, F(magnitude)(log_ratio[i]) > c.bound), full ? picked[i] : 0, excess[i]});
        REAL l = y.l, d = y.d;
        if (full) {
            const REAL w = F(kept)(ws[i], m), wl = w * l, wd = w * d;
            l = F(choose)(w == 0, 0, wl);
            d = F(choose)(w == 0, 0, wd);
        }
        const REAL killed = (d == 0) & (a != 0) ? (REAL)1 : (REAL)0;
        clipped[i] = F(kept)(y.low + COUNT_SHIFT * y.high, m);
        lost[i] = F(kept)(y.dual + COUNT_SHIFT * killed, m);
        ratio[i] = F(kept)(ratio[i], m);
        loss[i] = F(kept)(full ? l + kl[i] : l, m);
        grad[i] = F(kept)((full ? d + kl_grad[i] : d) * c.scale, m);
    }
    REAL of_loss = 0, k1 = 0, k2 = 0, k3 = 0, of_ratio = 0, squared = 0, of_clipped = 0, of_lost = 0;
    SIMD_SUMS(of_loss, k1, k2, k3, of_ratio, squared, of_clipped, of_lost)
    for (ptrdiff_t i = 0; i < n; i++) {
        of_loss += loss[i];
        k1 -= log_ratio[i];
        k2 += log_ratio[i] * log_ratio[i];
        k3 += excess[i];
        of_ratio += ratio[i];
        squared += ratio[i] * ratio[i];
        of_clipped += clipped[i];
        of_lost += lost[i];
    }
    const double high = floor((double)of_clipped / COUNT_SHIFT), killed = floor((double)of_lost / COUNT_SHIFT);
    sums->loss += of_loss, sums->k1 += k1, sums->k2 += k2, sums->k3 += k3, sums->ratio += of_ratio, sums->squared += squared;
    sums->high += high, sums->low += of_clipped - COUNT_SHIFT * high, sums->killed += killed, sums->dual += of_lost - COUNT_SHIFT * killed;
}

/* PPO as it mostly comes, a ratio a token, no weights, no penalty: one loop, without bounds on the log-ratio and hence on exp. Answers 0, and
 * has changed no sum, where one binds. */
static inline __attribute__((always_inline)) int F(run_ppo)(const F(numbers) * numbers, const F(token_view) * view, F(token_sums) * sums, const int dual)
{
    const F(numbers) c = *numbers;
    const REAL *restrict xs = view->x, *restrict os = view->o, *restrict as = view->a;
    const F(bits) *restrict ms = view->m;
    REAL *restrict grad = view->grad;
    const ptrdiff_t n = view->n;
    REAL loss = 0, k1 = 0, k2 = 0, k3 = 0, of_ratio = 0, squared = 0, clipped = 0, lost = 0, farthest = 0;
    PRAGMA(omp simd reduction(+ : loss, k1, k2, k3, of_ratio, squared, clipped, lost) reduction(max : farthest))
    for (ptrdiff_t i = 0; i < n; i++) {
        const F(bits) m = ms[i];
        const REAL log_ratio = F(kept)(xs[i] - os[i], m), a = F(kept)(as[i], m), distance = F(kept)(log_ratio, (F(bits))-1 >> 1);
        REAL excess;
        const REAL r = F(exp_and_rest)(log_ratio, &excess), counted = F(kept)(r, m);
        const REAL limit = a > 0 ? c.high : c.low, gain = (r - limit) * a; /* binds where above 0; NaN is not */
        const int binds = gain > 0, lifted = dual && (a < 0) & (r > c.dual);
        const REAL held = F(choose)(binds, limit, dual ? F(choose)(lifted, c.dual, r) : r), slope = F(choose)(binds | lifted, 0, c.scale);
        grad[i] = 0 - r * (slope * a);
        loss -= held * a;
        clipped += F(choose)(binds, a > 0 ? COUNT_SHIFT : 1, 0);
        lost += F(choose)(lifted, 1, 0);
        farthest = distance > farthest ? distance : farthest;
        k1 -= log_ratio;
        k2 = MADD(log_ratio, log_ratio, k2);
        k3 += excess;
        of_ratio += counted;
        squared = MADD(counted, counted, squared);
    }
    if (farthest > c.bound || farthest > MOST_EXACT) return 0;
    const double high = floor((double)clipped / COUNT_SHIFT), low = clipped - COUNT_SHIFT * high;
    sums->loss += loss, sums->k1 += k1, sums->k2 += k2, sums->k3 += k3, sums->ratio += of_ratio, sums->squared += squared;
    sums->high += high, sums->low += low, sums->dual += lost, sums->killed += low + high + lost;
    return 1;
}

static int F(lean_ppo)(const F(numbers) * c, const F(token_view) * v, F(token_sums) * s)
{
    return c->dual < (REAL)INFINITY ? F(run_ppo)(c, v, s, 1) : F(run_ppo)(c, v, s, 0);
}

#define OBJECTIVE(name) \
    static void F(plain_##name)(const F(numbers) * c, const F(token_view) * v, F(token_sums) * s) { F(run_block)(c, v, s, F(term_##name), 0); } \
    static void F(full_##name)(const F(numbers) * c, const F(token_view) * v, F(token_sums) * s) { F(run_block)(c, v, s, F(term_##name), 1); }
#include "objectives.def"
#undef OBJECTIVE

static void (*const F(losses)[][2])(const F(numbers) *, const F(token_view) *, F(token_sums) *) = {
#define OBJECTIVE(name) {F(plain_##name), F(full_##name)},
#include "objectives.def"
#undef OBJECTIVE
};

/* --- KL to the reference: value v and derivative g of each token, from x, ref and, for importance, the token's ratio */

static inline __attribute__((always_inline)) void F(kl_of)(fastpg_kl_options q, REAL x, REAL ref, REAL r, int r_out, REAL *value, REAL *grad)
{
    const REAL bound = (REAL)q.bound, clip = (REAL)q.clip;
    const REAL raw = x - ref, d = F(clip_to)(raw, -bound, bound), zero = F(magnitude)(raw) > bound && q.zero ? 0 : 1;
    REAL v, slope;
    if (q.kind == FASTPG_K1)
        v = d, slope = 1 + 0 * d;
    else if (q.kind == FASTPG_K2)
        v = d * d / 2, slope = d;
    else if (q.kind == FASTPG_K3)
        v = F(exp_less_line)(-d, F(exp_any)(-d)), slope = d - v;
    else
        v = F(magnitude)(d), slope = d > 0 ? 1 : d < 0 ? -1 : d;
    slope *= zero;
    if (q.gradient == FASTPG_SCORE)
        slope += zero * v;
    else if (q.gradient == FASTPG_IMPORTANCE) {
        slope = r * slope + (r_out ? 0 : r * v);
        v = r * v;
    }
    const int clipped = F(magnitude)(v) > clip;
    *value = F(clip_to)(v, -clip, clip);
    *grad = q.gradient == FASTPG_STRAIGHT_THROUGH ? raw : clipped && q.zero ? 0 : slope;
}

/* Of a block into v and g, one loop a kind and gradient. */
static void F(kl_block)(const fastpg_kl_options *q, REAL coef, REAL ratio_bound, const REAL *restrict x, const REAL *restrict ref,
                        const REAL *restrict old, const F(bits) *restrict m, REAL *restrict v, REAL *restrict g, ptrdiff_t n)
{
#define KL_LOOP(kind_, gradient_) \
    if (q->kind == kind_ && q->gradient == gradient_) { \
        const fastpg_kl_options here = {.kind = kind_, .gradient = gradient_, .zero = q->zero, .bound = q->bound, .clip = q->clip}; \
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) \
        { \
            const F(bits) keep = m[i]; \
            REAL value, grad, r = 1, out = 0; \
            if (gradient_ == FASTPG_IMPORTANCE) { \
                const REAL log_ratio = F(kept)(x[i] - old[i], keep); \
                r = F(exp_any)(F(clip_to)(log_ratio, -ratio_bound, ratio_bound)); \
                out = F(magnitude)(log_ratio) > ratio_bound; \
            } \
            F(kl_of)(here, F(kept)(x[i], keep), F(kept)(ref[i], keep), r, out != 0, &value, &grad); \
            v[i] = F(kept)(coef * value, keep); \
            g[i] = F(kept)(coef * grad, keep); \
        } \
    }
#define KL_LOOPS(kind_) \
    KL_LOOP(kind_, FASTPG_PLAIN) KL_LOOP(kind_, FASTPG_STRAIGHT_THROUGH) KL_LOOP(kind_, FASTPG_SCORE) KL_LOOP(kind_, FASTPG_IMPORTANCE)
    KL_LOOPS(FASTPG_K1) KL_LOOPS(FASTPG_K2) KL_LOOPS(FASTPG_K3) KL_LOOPS(FASTPG_ABS)
#undef KL_LOOPS
#undef KL_LOOP
}

static void F(fill_same)(REAL *restrict to, REAL value, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) to[i] = value;
}

static void F(fill_flags)(REAL *restrict to, const char *restrict from, ptrdiff_t n)
{
    INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) to[i] = from[i] != 0;
}

static void F(fill_mask)(F(bits) *restrict to, const char *restrict from, ptrdiff_t n)
{
    if (from)
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) to[i] = -(F(bits))(from[i] != 0);
    else
        for (ptrdiff_t i = 0; i < n; i++) to[i] = -(F(bits))1;
}

static void F(estimate_kl)(const fastpg_kl_options *q, double bound, const fastpg_tokens *t, void *value, ptrdiff_t from, ptrdiff_t to)
{
    _Alignas(64) F(bits) m[F(TOKEN_BLOCK)];
    F(fill_mask)(m, NULL, F(TOKEN_BLOCK));
    for (ptrdiff_t at = from; at < to; at += F(TOKEN_BLOCK)) {
        const ptrdiff_t n = to - at < F(TOKEN_BLOCK) ? to - at : F(TOKEN_BLOCK);
        const REAL *x = (const REAL *)t->log_prob + at, *old = t->old ? (const REAL *)t->old + at : x;
        if (t->mask) F(fill_mask)(m, t->mask + at, n);
        F(kl_block)(q, (REAL)q->coef, (REAL)bound, x, (const REAL *)t->ref + at, old, m, (REAL *)value + at, (REAL *)t->grad + at, n);
    }
}

/* --- sequences */

static ptrdiff_t F(count_mask)(const char *mask, ptrdiff_t count)
{
    enum { MOST = 1 << 15 }; /* a uint16_t holds it */
    ptrdiff_t kept = 0;
    if (!mask || !memchr(mask, 0, (size_t)count)) return count;
    for (ptrdiff_t from = 0; from < count; from += MOST) {
        const ptrdiff_t to = count - from < MOST ? count : from + MOST;
        uint16_t some = 0;
        for (ptrdiff_t i = from; i < to; i++) some = (uint16_t)(some + (mask[i] != 0));
        kept += some;
    }
    return kept;
}

/* How many masked tokens the mask begins with, or, from its end, ends with. */
static ptrdiff_t F(masked_run)(const char *mask, ptrdiff_t count, int from_end)
{
    ptrdiff_t run = 0;
    for (uint64_t eights[8]; run + 64 <= count; run += 64) {
        memcpy(eights, from_end ? mask + count - run - 64 : mask + run, 64);
        uint64_t any = 0;
        for (int k = 0; k < 8; k++) any |= eights[k];
        if (any) break;
    }
    while (run < count && !mask[from_end ? count - run - 1 : run]) run++;
    return run;
}

static F(numbers) F(numbers_of)(const fastpg_objective *q)
{
    const int ratio = q->loss == FASTPG_ppo || q->loss == FASTPG_cispo; /* bounds of the ratio rather than of its log or a probability */
    return (F(numbers)){.bound = (REAL)q->bound, .low = (REAL)(ratio ? 1 - q->clip_low : q->clip_low), .high = (REAL)(ratio ? 1 + q->clip_high : q->clip_high),
                        .delta = (REAL)q->delta, .dual = (REAL)q->dual_clip, .beta = (REAL)q->beta, .pos = (REAL)q->tau_pos,
                        .neg = (REAL)q->tau_neg, .cap = (REAL)q->ratio_cap, .eps = (REAL)q->eps, .by_sequence = q->by_sequence};
}

/* How many of the tokens left are taken at once: whole vectors, or the rest. */
static ptrdiff_t F(at_once)(ptrdiff_t left, ptrdiff_t most)
{
    return left >= most ? most : left > F(TOKEN_LANES) ? left - left % F(TOKEN_LANES) : left;
}

/* Puts tokens [at, at + n) of sequence s in view, n less than a vector as one that is filled up with masked tokens. What does not change
 * along a sequence is filled at its start. */
static void F(show)(F(token_view) * v, F(token_block) * b, const fastpg_tokens *t, ptrdiff_t at, ptrdiff_t n)
{
    const int few = n < F(TOKEN_LANES);
    const REAL *x = t->log_prob, *old = t->old ? t->old : x, *a = t->advantage, *w = t->weight, *ref = t->ref;
    v->x = x + at;
    v->o = old + at;
    v->a = t->advantage_by_sequence ? b->a : a + at;
    v->w = w && !t->weight_by_sequence ? w + at : b->w;
    v->ref = ref ? ref + at : NULL;
    v->grad = (REAL *)t->grad + at;
    v->n = n;
    v->m = b->ones;
    if (few) memset(b->m, 0, F(TOKEN_LANES) * sizeof(F(bits)));
    if (few || (t->mask && memchr(t->mask + at, 0, (size_t)n))) {
        F(fill_mask)(b->m, t->mask ? t->mask + at : NULL, n);
        v->m = b->m;
    }
    if (t->chosen) F(fill_flags)(b->chosen, t->chosen + at, n);
    if (!few) return;
    const REAL **arrays[] = {&v->x, &v->o, &v->a, &v->w, &v->ref};
    for (int k = 0; k < 5; k++)
        if (*arrays[k]) *arrays[k] = memcpy(b->filled[k], *arrays[k], (size_t)n * sizeof(REAL));
    v->grad = b->filled[5];
    v->n = F(TOKEN_LANES);
}

/* First pass, for the losses that read a whole sequence. Logarithms of weights are few and taken by libm. */
static void F(sum_sequence)(const fastpg_objective *q, const fastpg_tokens *t, ptrdiff_t from, ptrdiff_t to, F(token_block) * b,
                            F(numbers) * c)
{
    const int gmpo = q->loss == FASTPG_gmpo, vespo = q->loss == FASTPG_vespo;
    const REAL bound = vespo ? 20 : (REAL)INFINITY;
    const F(numbers) here = *c;
    double log_ratio = 0, advantage = 0, log_weight = 0;
    for (ptrdiff_t at = from, n; at < to; at += n) {
        n = F(at_once)(to - at, F(TOKEN_BLOCK));
        F(token_view) v;
        F(show)(&v, b, t, at, n);
        const REAL *restrict xs = v.x, *restrict os = v.o, *restrict as = v.a;
        const F(bits) *restrict ms = v.m;
        double sum = 0, sum_a = 0; /* what follows takes exp of the sum */
        if (gmpo) {
            SIMD_SUMS(sum, sum_a)
            for (ptrdiff_t i = 0; i < v.n; i++) {
                const REAL a = F(kept)(as[i], ms[i]);
                sum += F(clipped_log_ratio)(here, F(kept)(xs[i] - os[i], ms[i]), a).l;
                sum_a += a;
            }
        } else {
            SIMD_SUMS(sum)
            for (ptrdiff_t i = 0; i < v.n; i++) sum += F(clip_to)(F(kept)(xs[i] - os[i], ms[i]), -bound, bound);
        }
        log_ratio += sum;
        advantage += sum_a;
        for (ptrdiff_t i = 0; t->weight && (gmpo || vespo) && i < n; i++)
            if (ms[i] != 0) {
                const double log_w = log((double)v.w[i]);
                log_weight += !vespo ? log_w : log_w < LOG_LEAST_WEIGHT ? LOG_LEAST_WEIGHT : log_w > 20 ? 20 : log_w;
            }
    }
    const double mean = log_ratio / (double)c->count;
    c->advantage = (REAL)(advantage / (double)c->count);
    c->weight = (REAL)exp(log_weight / (double)c->count);
    c->b = gmpo ? (REAL)mean : F(clip_to)((REAL)mean, -c->bound, c->bound);
    c->r = (REAL)exp((double)c->b);
    c->out = F(magnitude)((REAL)mean) > c->bound;
    if (vespo) {
        const double given = log_ratio + log_weight, log_w = given < LOG_LEAST_WEIGHT ? LOG_LEAST_WEIGHT : given > 20 ? 20 : given;
        c->pos = (REAL)exp(q->lambda_pos + q->k_pos * log_w - q->lambda_pos * exp(log_w));
        c->neg = (REAL)exp(q->lambda_neg + q->k_neg * log_w - q->lambda_neg * exp(log_w));
    } else if (q->loss == FASTPG_topr)
        c->neg = (REAL)exp(log_ratio > 0 ? 0 : log_ratio);
}

static void F(objective)(const fastpg_objective *q, const fastpg_tokens *t, ptrdiff_t first, ptrdiff_t last, double total, fastpg_sums *result)
{
    F(token_block) b;
    F(numbers) c = F(numbers_of)(q);
    const int gmpo = q->loss == FASTPG_gmpo, vespo = q->loss == FASTPG_vespo;
    const int whole = q->by_sequence || gmpo || vespo || q->loss == FASTPG_topr;
    const int full = t->weight || t->ref || t->chosen || q->by_length, weight_of_token = t->weight && !gmpo && !vespo;
    const int lean = q->loss == FASTPG_ppo && !full && !whole && q->delta == INFINITY;
    F(fill_mask)(b.ones, NULL, F(LEAN_BLOCK));
    F(fill_same)(b.w, 1, F(TOKEN_BLOCK));
    memset(b.chosen, 0, sizeof b.chosen), memset(b.kl, 0, sizeof b.kl), memset(b.kl_grad, 0, sizeof b.kl_grad), memset(b.filled, 0, sizeof b.filled);
    for (ptrdiff_t s = first; s < last; s++) {
        ptrdiff_t from = t->offsets ? t->offsets[s] : s * t->length, to = t->offsets ? t->offsets[s + 1] : from + t->length;
        REAL *grad = t->grad;
        ptrdiff_t count = to - from;
        if (t->mask) { /* padding on either side costs a memset */
            const ptrdiff_t before = F(masked_run)(t->mask + from, to - from, 0);
            memset(grad + from, 0, (size_t)before * sizeof(REAL));
            from += before;
            ptrdiff_t after = F(masked_run)(t->mask + from, to - from, 1);
            count = F(count_mask)(t->mask + from, to - after - from);
            const ptrdiff_t missing = -(to - after - from) & (F(TOKEN_LANES) - 1); /* to a whole vector */
            if (missing <= after) after -= missing;
            to -= after;
            memset(grad + to, 0, (size_t)after * sizeof(REAL));
        }
        if (!count) continue;
        const ptrdiff_t most = to - from < F(LEAN_BLOCK) ? to - from : F(LEAN_BLOCK);
        const double share = q->mean_of_sequence ? total * (double)count : total;
        F(token_sums) sums = {0};
        int inside = lean;
        c.count = (REAL)count;
        c.scale = (REAL)(1 / share);
        if (t->advantage_by_sequence) F(fill_same)(b.a, ((const REAL *)t->advantage)[s], most);
        if (t->weight && t->weight_by_sequence) F(fill_same)(b.w, ((const REAL *)t->weight)[s], most < F(TOKEN_BLOCK) ? most : F(TOKEN_BLOCK));
        if (whole) F(sum_sequence)(q, t, from, to, &b, &c);
        if (gmpo || vespo) F(fill_same)(b.w, gmpo && t->weight ? c.weight : 1, F(TOKEN_BLOCK));
        result->sequences += 1;
        result->tokens += (double)count;
        for (ptrdiff_t at = from, n; at < to; at += n) {
            n = F(at_once)(to - at, inside ? F(LEAN_BLOCK) : F(TOKEN_BLOCK));
            F(token_view) v = {.chosen = b.chosen, .kl = b.kl, .kl_grad = b.kl_grad};
            F(show)(&v, &b, t, at, n);
            if (!weight_of_token) v.w = b.w;
            if (q->by_length) {
                for (ptrdiff_t i = 0; i < v.n; i++) b.chosen[i] = c.count * v.w[i];
                v.w = b.chosen; /* LUSPO picks no tokens */
            }
            if (t->ref) F(kl_block)(&q->kl, (REAL)q->kl.coef, c.bound, v.x, v.ref, v.o, v.m, b.kl, b.kl_grad, v.n);
            if (!inside)
                F(losses)[q->loss][full](&c, &v, &sums);
            else if (!(inside = F(lean_ppo)(&c, &v, &sums))) { /* again, within bounds */
                n = 0;
                continue;
            }
            if (n < F(TOKEN_LANES)) memcpy(grad + at, v.grad, (size_t)n * sizeof(REAL));
        }
        result->loss += sums.loss / share;
        result->k1 += sums.k1, result->k2 += sums.k2 / 2, result->k3 += sums.k3, result->ratio += sums.ratio, result->ratio_squared += sums.squared;
        result->low += sums.low, result->high += sums.high, result->dual += sums.dual, result->killed += sums.killed;
    }
}
