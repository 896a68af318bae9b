/* Objectives on the instruction set in use, their sequences shared among threads. Included once, by dispatch.c.
 *
 * A call is cut into parts by its size alone, and the sums of the parts are added in order: the same bits for any number of threads. */

static const struct {
    void (*loss)(const fastpg_objective *, const fastpg_tokens *, ptrdiff_t first, ptrdiff_t last, double total, fastpg_sums *);
    void (*kl)(const fastpg_kl_options *, double bound, const fastpg_tokens *, void *value, ptrdiff_t from, ptrdiff_t to);
    ptrdiff_t (*count)(const char *mask, ptrdiff_t count);
} objectives[][FASTPG_DTYPES] = {
#define OBJECTIVES(isa) {{objective_f32_##isa, estimate_kl_f32_##isa, count_mask_f32_##isa}, {objective_f64_##isa, estimate_kl_f64_##isa, count_mask_f64_##isa}},
    OBJECTIVES(base)
#ifdef HAS_AVX2
    OBJECTIVES(avx2)
#endif
#ifdef HAS_AVX512
    OBJECTIVES(avx512)
#endif
#undef OBJECTIVES
};

enum { TOKENS_A_PART = 16384, MOST_PARTS = 64 };

typedef struct {
    fastpg_dtype dtype;
    const fastpg_objective *objective;
    const fastpg_kl_options *kl;
    const fastpg_tokens *tokens;
    double total;
    void *value;
    ptrdiff_t size, parts;
    fastpg_sums sums[MOST_PARTS];
} token_job;

/* The first sequence that starts at a token or behind it. */
static ptrdiff_t sequence_at(const fastpg_tokens *t, ptrdiff_t token)
{
    if (!t->offsets) return t->length ? (token + t->length - 1) / t->length : t->sequences;
    ptrdiff_t low = 0, high = t->sequences;
    while (low < high) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (t->offsets[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static ptrdiff_t cut(const token_job *j, ptrdiff_t part) { return (ptrdiff_t)((double)j->size / (double)j->parts * (double)part); }

static void run_loss_part(void *context, int part)
{
    token_job *j = context;
    const ptrdiff_t first = part ? sequence_at(j->tokens, cut(j, part)) : 0;
    const ptrdiff_t last = part + 1 < j->parts ? sequence_at(j->tokens, cut(j, part + 1)) : j->tokens->sequences;
    j->sums[part] = (fastpg_sums){0};
    objectives[current][j->dtype].loss(j->objective, j->tokens, first, last, j->total, &j->sums[part]);
}

static void run_kl_part(void *context, int part)
{
    token_job *j = context;
    const ptrdiff_t last = part + 1 < j->parts ? cut(j, part + 1) : j->size;
    objectives[current][j->dtype].kl(j->kl, j->total, j->tokens, j->value, cut(j, part), last);
}

static void run_parts(token_job *j, void (*work)(void *, int))
{
    j->size = j->tokens->offsets ? j->tokens->offsets[j->tokens->sequences] : j->tokens->sequences * j->tokens->length;
    j->parts = j->size / TOKENS_A_PART < 1 ? 1 : j->size / TOKENS_A_PART > MOST_PARTS ? MOST_PARTS : j->size / TOKENS_A_PART;
    fastpg_parallel((int)j->parts, j->parts > 1 ? most_threads : 1, work, j);
}

static double count_all(fastpg_dtype dtype, const fastpg_objective *objective, const fastpg_tokens *t)
{
    ptrdiff_t (*count)(const char *, ptrdiff_t) = objectives[current][dtype].count;
    if (!objective->count_sequences)
        return (double)count(t->mask, t->offsets ? t->offsets[t->sequences] : t->sequences * t->length);
    ptrdiff_t sequences = 0;
    for (ptrdiff_t s = 0; s < t->sequences; s++) {
        const ptrdiff_t from = t->offsets ? t->offsets[s] : s * t->length, to = t->offsets ? t->offsets[s + 1] : from + t->length;
        sequences += count(t->mask ? t->mask + from : NULL, to - from) > 0;
    }
    return (double)sequences;
}

fastpg_sums fastpg_policy_loss(fastpg_dtype dtype, const fastpg_objective *objective, const fastpg_tokens *tokens)
{
    const double total = objective->denominator != 0 ? objective->denominator : count_all(dtype, objective, tokens);
    token_job j = {.dtype = dtype, .objective = objective, .tokens = tokens, .total = total};
    run_parts(&j, run_loss_part);
    fastpg_sums sums = j.sums[0];
    for (ptrdiff_t part = 1; part < j.parts; part++) {
        const fastpg_sums *s = &j.sums[part];
        sums.loss += s->loss, sums.tokens += s->tokens, sums.sequences += s->sequences;
        sums.k1 += s->k1, sums.k2 += s->k2, sums.k3 += s->k3;
        sums.low += s->low, sums.high += s->high, sums.dual += s->dual, sums.killed += s->killed;
        sums.ratio += s->ratio, sums.ratio_squared += s->ratio_squared;
    }
    return sums;
}

void fastpg_kl_estimate(fastpg_dtype dtype, const fastpg_kl_options *kl, double bound, const fastpg_tokens *tokens, void *value)
{
    token_job j = {.dtype = dtype, .kl = kl, .tokens = tokens, .total = bound, .value = value};
    run_parts(&j, run_kl_part);
}

const char *fastpg_loss_name(int loss)
{
    static const char *const names[] = {
#define OBJECTIVE(name) #name,
#include "objectives.def"
#undef OBJECTIVE
    };
    return loss < FASTPG_OBJECTIVES ? names[loss] : NULL;
}
