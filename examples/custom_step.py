"""A Psi of your own: write its backward step, and scan runs it over the batch at the speed of a compiled loop."""

import numba
import numpy as np

import fastpg


@numba.njit
def risk_averse(carry, reward, terminated, gamma, penalty):
    """G[t] = r[t] - penalty min(r[t], 0)^2 + gamma (1 - terminated[t]) G[t+1]"""
    return reward - penalty * min(reward, 0.0) ** 2 + fastpg.steps.gated(gamma * (not terminated), carry)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    reward, terminated = rng.normal(size=(128, 8)), rng.random((128, 8)) < 0.05
    returns = fastpg.scan(risk_averse, reward, terminated, gamma=0.99, penalty=0.5)
    print(returns.shape, returns.mean())
