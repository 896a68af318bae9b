/* What the rest of the world may call for losses over tokens and estimates of KL. The caller has checked; arrays are dense. */
#ifndef FASTPG_OBJECTIVE_H
#define FASTPG_OBJECTIVE_H

#include "fastpg.h"

typedef enum {
#define OBJECTIVE(name) FASTPG_##name,
#include "objectives.def"
#undef OBJECTIVE
    FASTPG_OBJECTIVES
} fastpg_loss;

typedef enum { FASTPG_K1, FASTPG_K2, FASTPG_K3, FASTPG_ABS } fastpg_kl_kind;
typedef enum { FASTPG_PLAIN, FASTPG_STRAIGHT_THROUGH, FASTPG_SCORE, FASTPG_IMPORTANCE } fastpg_kl_gradient;

/* A bound that is not wanted is infinite. */
typedef struct {
    int kind, gradient, zero; /* zero: the derivative is 0 where a bound binds, rather than that at the bound */
    double coef, bound, clip;
} fastpg_kl_options;

typedef struct {
    int loss, by_sequence, by_length, mean_of_sequence; /* the ratio of a sequence; its length a factor; its length a divisor */
    double denominator;                                  /* 0: what is counted here, tokens or sequences (count_sequences) */
    int count_sequences;
    double bound, clip_low, clip_high, dual_clip, delta, beta, tau_pos, tau_neg, ratio_cap, eps, k_pos, lambda_pos, k_neg, lambda_neg;
    fastpg_kl_options kl;
} fastpg_objective;

/* Sequence s holds tokens [offsets[s], offsets[s + 1]), or, offsets NULL, [s * length, (s + 1) * length). NULL where not given:
 * old (the ratio is 1), weight, ref, mask, chosen. advantage and weight have one item a token or, by_sequence, one a sequence. */
typedef struct {
    const void *log_prob, *old, *advantage, *weight, *ref;
    const char *mask, *chosen;
    void *grad;
    const int64_t *offsets;
    ptrdiff_t sequences, length;
    int advantage_by_sequence, weight_by_sequence;
} fastpg_tokens;

/* Sums over the unmasked tokens, but for loss, which is divided already. */
typedef struct {
    double loss, tokens, sequences, k1, k2, k3, low, high, dual, killed, ratio, ratio_squared;
} fastpg_sums;

FASTPG_API fastpg_sums fastpg_policy_loss(fastpg_dtype dtype, const fastpg_objective *objective, const fastpg_tokens *tokens);

/* value and grad of the estimate at each of `length` tokens; old, mask NULL where not given; bound of log pi - log old for IMPORTANCE. */
FASTPG_API void fastpg_kl_estimate(fastpg_dtype dtype, const fastpg_kl_options *kl, double bound, const fastpg_tokens *tokens, void *value);

FASTPG_API const char *fastpg_loss_name(int loss);

#endif
