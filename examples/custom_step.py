"""A Psi of your own: write its backward step, and scan runs it over a batch in any layout at the speed of a compiled loop."""

import numba
import numpy as np

import fastpg


@numba.njit
def risk_averse(carry, reward, terminated, truncated, gamma, penalty):
    """G[t] = r[t] - penalty min(r[t], 0)^2 + gamma (1 - ended[t]) G[t+1]"""
    trace = gamma * (not (terminated or truncated))
    return reward - penalty * min(reward, 0.0) ** 2 + fastpg.steps.gated(trace, carry)


if __name__ == "__main__":
    rng = np.random.default_rng(0)

    # Time-major: 128 steps of 8 lanes.
    reward, (terminated, truncated) = rng.normal(size=(128, 8)), rng.random((2, 128, 8)) < 0.05
    returns = fastpg.scan(risk_averse, reward, terminated, truncated, gamma=0.99, penalty=0.5)
    print("time-major", returns.shape, returns.mean())

    # Packed: the episodes of 3, 1 and 4 steps, one after another, none of them cut within.
    reward, offsets = rng.normal(size=8), [0, 3, 4, 8]
    packed = fastpg.scan(risk_averse, reward, False, False, gamma=0.99, penalty=0.5, offsets=offsets)
    print("packed", packed)

    # Padded: the same, a row each. What stands where the mask is False is not read.
    mask = np.arange(4) < np.diff(offsets)[:, None]
    padded = np.full(mask.shape, np.nan)
    padded[mask] = reward
    masked = fastpg.scan(risk_averse, padded, False, False, gamma=0.99, penalty=0.5, axis=1, mask=mask)
    print("masked", masked[mask], (masked[mask] == packed).all())
