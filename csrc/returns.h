/* Scans over time. Each kernel is x[t] = add[t] + keep[t] x[t+1], one line for add, one for keep, one for what is written;
 * a POINTWISE one has no keep.
 * s holds the step's items under the names of kernels.def, e^x of an EXP(x); next is x[t+1]. The last step of a lane arrives with s.truncated set. */

/* min(clip, ratio). A NaN stays one. */
static inline REAL F(clipped)(REAL ratio, REAL clip) { return ratio > clip ? clip : ratio; }

/* G[t] = r[t] + gamma (1 - ended[t]) G[t+1]; then every step of an episode takes the G of its first step. */
STEP(total_return,
     s.reward,
     unless(s.terminated | s.truncated, s.gamma),
     s.returns = x)
SPREAD(total_return)

/* G[t] = r[t] + gamma (v'[t] where truncated, nothing where terminated, else G[t+1]) */
STEP(reward_to_go,
     s.reward + times(unless(s.terminated | !s.truncated, s.gamma), s.next_value),
     unless(s.terminated | s.truncated, s.gamma),
     s.returns = x)
RECUR(reward_to_go)

/* delta[t] = r[t] + gamma (1 - terminated[t]) v'[t] - v[t] */
POINTWISE(td_residual,
          s.reward + times(unless(s.terminated, s.gamma), s.next_value) - s.value,
          s.residual = x)

/* A[t] = delta[t] + gamma lambda (1 - ended[t]) A[t+1] */
STEP(gae,
     s.reward + times(unless(s.terminated, s.gamma), s.next_value) - s.value,
     unless(s.terminated | s.truncated, s.gamma * s.lambda_),
     s.advantage = x)
RECUR(gae)

/* The same, and A[t] + v[t] */
STEP(gae_and_return,
     s.reward + times(unless(s.terminated, s.gamma), s.next_value) - s.value,
     unless(s.terminated | s.truncated, s.gamma * s.lambda_),
     (s.advantage = x, s.returns = x + s.value))
RECUR(gae_and_return)

/* R[t] = r[t] + gamma (1 - lambda) v'[t] + gamma lambda R[t+1]; where truncated r[t] + gamma v'[t]; where terminated r[t] */
STEP(lambda_return,
     s.reward + times(unless(s.terminated, s.gamma * (1 - unless(s.truncated, s.lambda_))), s.next_value),
     unless(s.terminated | s.truncated, s.gamma * s.lambda_),
     s.returns = x)
RECUR(lambda_return)

/* The return of the n steps from t on: reward_to_go over a window whose last step counts as truncated. */
STEP(n_step_return,
     s.reward + times(unless(s.terminated | !s.truncated, s.gamma), s.next_value),
     unless(s.terminated | s.truncated, s.gamma),
     s.returns = x)
RECUR(n_step_return)

/* Off-policy returns: G[t] = r[t] + gamma (v'[t] + c[t+1] (G[t+1] - q[t+1])). They differ in q and in the trace c alone;
 * x[t] = c[t] (G[t] - q[t]) is what one step hands to the step before it. */
#undef OFF_POLICY
#define OFF_POLICY(name, Q, TRACE)                                                                                                                   \
    STEP(name, times(TRACE, F(name##_target)(s) - (Q)), times(TRACE, unless(s.terminated | s.truncated, s.gamma)),                                   \
         s.returns = F(name##_target)(s) + times(unless(s.terminated | s.truncated, s.gamma), next))                                                 \
    RECUR(name)
#undef TARGET
#define TARGET(name)                                                                                                                                 \
    static inline REAL F(name##_target)(F(name##_step) s) { return s.reward + times(unless(s.terminated, s.gamma), s.next_value); }

TARGET(retrace)
OFF_POLICY(retrace, s.q_value, s.lambda_ * F(clipped)(s.log_ratio, 1))

TARGET(q_lambda)
OFF_POLICY(q_lambda, s.value, (REAL)(s.greedy != 0) * s.lambda_)

TARGET(tree_backup)
OFF_POLICY(tree_backup, s.q_value, s.lambda_ * s.log_prob)

TARGET(upgo)
OFF_POLICY(upgo, s.value, (REAL)(F(upgo_target)(s) >= s.value))

/* x[t] = rho[t] delta[t] + gamma c[t] x[t+1], target = v + x, and the advantage against q = r + gamma (v' + lambda x[t+1]) */
static inline REAL F(vtrace_delta)(F(vtrace_step) s) { return s.reward + times(unless(s.terminated, s.gamma), s.next_value) - s.value; }
static inline REAL F(vtrace_ratio)(F(vtrace_step) s, REAL clip)
{
    return times(1 - s.alpha, s.log_ratio) + times(s.alpha, F(clipped)(s.log_ratio, clip));
}
STEP(vtrace,
     F(vtrace_ratio)(s, s.clip_rho) * F(vtrace_delta)(s),
     unless(s.terminated | s.truncated, s.gamma * s.lambda_ * F(vtrace_ratio)(s, s.clip_c)),
     (s.target = s.value + x,
      s.pg_advantage = F(clipped)(s.log_ratio, s.clip_pg_rho) *
                       (F(vtrace_delta)(s) + times(unless(s.terminated | s.truncated, s.gamma * s.lambda_), next))))
RECUR(vtrace)
