/* Scans over time. Each kernel is x[t] = add[t] + keep[t] x[t+1], one line for add, one for keep, one for what is written;
 * a POINTWISE one has no keep.
 * s holds the step's items under the names of kernels.def. The last row of a buffer arrives with s.truncated set. */

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
     s.reward + times(unless(s.terminated, s.truncated ? s.gamma : s.gamma * (1 - s.lambda_)), s.next_value),
     unless(s.terminated | s.truncated, s.gamma * s.lambda_),
     s.returns = x)
RECUR(lambda_return)
