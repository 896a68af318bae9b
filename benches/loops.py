"""The loops that a user of Numba would write instead of calling fastpg: plain, one function a kernel, nothing of ours.

Time: backwards, lanes inside in time-major (T, N), lanes outside in batch-major (B, T). Actions: row by row. All arithmetic
is in the dtype of the arrays. No checks, and NaN is not kept from crossing an ending.
"""

import numpy as np
from numba import njit

# Time-major


@njit(cache=True)
def total_return(reward, terminated, truncated, gamma):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    carry = np.zeros(reward.shape[1], reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        for n in range(reward.shape[1]):
            ended = terminated[t, n] or truncated[t, n]
            carry[n] = reward[t, n] + g * carry[n] * (not ended)
            out[t, n] = carry[n]
    for t in range(1, reward.shape[0]):
        for n in range(reward.shape[1]):
            if not (terminated[t - 1, n] or truncated[t - 1, n]):
                out[t, n] = out[t - 1, n]
    return out


@njit(cache=True)
def reward_to_go(reward, next_value, terminated, truncated, gamma):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    carry = next_value[-1].copy()
    for t in range(reward.shape[0] - 1, -1, -1):
        for n in range(reward.shape[1]):
            after = next_value[t, n] if truncated[t, n] else carry[n]
            carry[n] = reward[t, n] + g * after * (not terminated[t, n])
            out[t, n] = carry[n]
    return out


@njit(cache=True)
def td_residual(reward, value, next_value, terminated, truncated, gamma):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    for t in range(reward.shape[0]):
        for n in range(reward.shape[1]):
            out[t, n] = reward[t, n] + g * next_value[t, n] * (not terminated[t, n]) - value[t, n]
    return out


@njit(cache=True)
def gae(reward, value, next_value, terminated, truncated, gamma, lambda_):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    carry = np.zeros(reward.shape[1], reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        for n in range(reward.shape[1]):
            ended = terminated[t, n] or truncated[t, n]
            delta = reward[t, n] + g * next_value[t, n] * (not terminated[t, n]) - value[t, n]
            carry[n] = delta + g * la * carry[n] * (not ended)
            out[t, n] = carry[n]
    return out


@njit(cache=True)
def gae_and_return(reward, value, next_value, terminated, truncated, gamma, lambda_):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    advantage, returns = np.empty_like(reward), np.empty_like(reward)
    carry = np.zeros(reward.shape[1], reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        for n in range(reward.shape[1]):
            ended = terminated[t, n] or truncated[t, n]
            delta = reward[t, n] + g * next_value[t, n] * (not terminated[t, n]) - value[t, n]
            carry[n] = delta + g * la * carry[n] * (not ended)
            advantage[t, n] = carry[n]
            returns[t, n] = carry[n] + value[t, n]
    return advantage, returns


@njit(cache=True)
def lambda_return(reward, next_value, terminated, truncated, gamma, lambda_):
    one, g, la = reward.dtype.type(1), reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    carry = np.zeros(reward.shape[1], reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        last = t == reward.shape[0] - 1
        for n in range(reward.shape[1]):
            if terminated[t, n]:
                carry[n] = reward[t, n]
            elif truncated[t, n] or last:
                carry[n] = reward[t, n] + g * next_value[t, n]
            else:
                carry[n] = reward[t, n] + g * (one - la) * next_value[t, n] + g * la * carry[n]
            out[t, n] = carry[n]
    return out


@njit(cache=True)
def n_step_of(reward, next_value, terminated, truncated, g, n, t):
    end = t
    while end < min(t + n, len(reward)) - 1 and not terminated[end] and not truncated[end]:
        end += 1
    x = reward[end] + g * next_value[end] * (not terminated[end])
    for k in range(end - 1, t - 1, -1):
        x = reward[k] + g * x
    return x


@njit(cache=True)
def n_step_return(reward, next_value, terminated, truncated, gamma, n):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    for t in range(reward.shape[0]):
        for l in range(reward.shape[1]):  # noqa: E741
            out[t, l] = n_step_of(reward[:, l], next_value[:, l], terminated[:, l], truncated[:, l], g, n, t)
    return out


# Batch-major


@njit(cache=True)
def n_step_return_rows(reward, next_value, terminated, truncated, gamma, n):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    for b in range(reward.shape[0]):
        for t in range(reward.shape[1]):
            out[b, t] = n_step_of(reward[b], next_value[b], terminated[b], truncated[b], g, n, t)
    return out


@njit(cache=True)
def total_return_rows(reward, terminated, truncated, gamma):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    for b in range(reward.shape[0]):
        carry = reward.dtype.type(0)
        for t in range(reward.shape[1] - 1, -1, -1):
            ended = terminated[b, t] or truncated[b, t]
            carry = reward[b, t] + g * carry * (not ended)
            out[b, t] = carry
        for t in range(1, reward.shape[1]):
            if not (terminated[b, t - 1] or truncated[b, t - 1]):
                out[b, t] = out[b, t - 1]
    return out


@njit(cache=True)
def reward_to_go_rows(reward, next_value, terminated, truncated, gamma):
    g = reward.dtype.type(gamma)
    out = np.empty_like(reward)
    for b in range(reward.shape[0]):
        carry = next_value[b, -1]
        for t in range(reward.shape[1] - 1, -1, -1):
            after = next_value[b, t] if truncated[b, t] else carry
            carry = reward[b, t] + g * after * (not terminated[b, t])
            out[b, t] = carry
    return out


@njit(cache=True)
def gae_rows(reward, value, next_value, terminated, truncated, gamma, lambda_):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    for b in range(reward.shape[0]):
        carry = reward.dtype.type(0)
        for t in range(reward.shape[1] - 1, -1, -1):
            ended = terminated[b, t] or truncated[b, t]
            delta = reward[b, t] + g * next_value[b, t] * (not terminated[b, t]) - value[b, t]
            carry = delta + g * la * carry * (not ended)
            out[b, t] = carry
    return out


@njit(cache=True)
def gae_and_return_rows(reward, value, next_value, terminated, truncated, gamma, lambda_):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    advantage, returns = np.empty_like(reward), np.empty_like(reward)
    for b in range(reward.shape[0]):
        carry = reward.dtype.type(0)
        for t in range(reward.shape[1] - 1, -1, -1):
            ended = terminated[b, t] or truncated[b, t]
            delta = reward[b, t] + g * next_value[b, t] * (not terminated[b, t]) - value[b, t]
            carry = delta + g * la * carry * (not ended)
            advantage[b, t] = carry
            returns[b, t] = carry + value[b, t]
    return advantage, returns


@njit(cache=True)
def lambda_return_rows(reward, next_value, terminated, truncated, gamma, lambda_):
    one, g, la = reward.dtype.type(1), reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    for b in range(reward.shape[0]):
        carry = reward.dtype.type(0)
        for t in range(reward.shape[1] - 1, -1, -1):
            if terminated[b, t]:
                carry = reward[b, t]
            elif truncated[b, t] or t == reward.shape[1] - 1:
                carry = reward[b, t] + g * next_value[b, t]
            else:
                carry = reward[b, t] + g * (one - la) * next_value[b, t] + g * la * carry
            out[b, t] = carry
    return out


# Packed


@njit(cache=True)
def gae_packed(reward, value, next_value, terminated, truncated, gamma, lambda_, offsets):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    for b in range(len(offsets) - 1):
        carry = reward.dtype.type(0)
        for t in range(offsets[b + 1] - 1, offsets[b] - 1, -1):
            ended = terminated[t] or truncated[t]
            delta = reward[t] + g * next_value[t] * (not terminated[t]) - value[t]
            carry = delta + g * la * carry * (not ended)
            out[t] = carry
    return out


# Actions


@njit(cache=True)
def max_and_sum(row):
    highest = row[0]
    for x in row:
        highest = max(highest, x)
    total = row.dtype.type(0)
    for x in row:
        total += np.exp(x - highest)
    return highest, total


@njit(cache=True)
def log_prob(logits, action):
    out = np.empty(len(logits), logits.dtype)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        out[i] = logits[i, action[i]] - highest - np.log(total)
    return out


@njit(cache=True)
def log_prob_grad(logits, action, weight):
    out = np.empty_like(logits)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        for a in range(logits.shape[1]):
            out[i, a] = -weight[i] * (np.exp(logits[i, a] - highest) / total)
        out[i, action[i]] += weight[i]
    return out


@njit(cache=True)
def entropy(logits):
    out = np.empty(len(logits), logits.dtype)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        expected = logits.dtype.type(0)
        for x in logits[i]:
            expected += np.exp(x - highest) / total * (x - highest)
        out[i] = np.log(total) - expected
    return out


@njit(cache=True)
def entropy_grad(logits, weight):
    out = np.empty_like(logits)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        expected = logits.dtype.type(0)
        for x in logits[i]:
            expected += np.exp(x - highest) / total * (x - highest)
        for a in range(logits.shape[1]):
            x = logits[i, a] - highest
            out[i, a] = -weight[i] * (np.exp(x) / total) * (x - expected)
    return out


@njit(cache=True)
def kl(logits, other):
    out = np.empty(len(logits), logits.dtype)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        highest_other, total_other = max_and_sum(other[i])
        shift = np.log(total_other) - np.log(total)
        divergence = logits.dtype.type(0)
        for a in range(logits.shape[1]):
            x = logits[i, a] - highest
            divergence += np.exp(x) / total * (x - (other[i, a] - highest_other) + shift)
        out[i] = divergence
    return out


@njit(cache=True)
def kl_grad(logits, other, weight):
    out = np.empty_like(logits)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        highest_other, total_other = max_and_sum(other[i])
        shift = np.log(total_other) - np.log(total)
        divergence = logits.dtype.type(0)
        for a in range(logits.shape[1]):
            x = logits[i, a] - highest
            divergence += np.exp(x) / total * (x - (other[i, a] - highest_other) + shift)
        for a in range(logits.shape[1]):
            x = logits[i, a] - highest
            ratio = x - (other[i, a] - highest_other) + shift
            out[i, a] = weight[i] * (np.exp(x) / total) * (ratio - divergence)
    return out


@njit(cache=True)
def kl_grad_other(logits, other, weight):
    out = np.empty_like(logits)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        highest_other, total_other = max_and_sum(other[i])
        for a in range(logits.shape[1]):
            p = np.exp(logits[i, a] - highest) / total
            q = np.exp(other[i, a] - highest_other) / total_other
            out[i, a] = weight[i] * (q - p)
    return out


@njit(cache=True)
def sample(logits, rng):
    out = np.empty(len(logits), np.int64)
    uniform = rng.random(len(logits), logits.dtype.type)
    for i in range(len(logits)):
        highest, total = max_and_sum(logits[i])
        below = logits.dtype.type(0)
        for a in range(logits.shape[1]):
            below += np.exp(logits[i, a] - highest)
            if below > uniform[i] * total:
                out[i] = a
                break
    return out


@njit(cache=True)
def mode(logits):
    out = np.empty(len(logits), np.int64)
    for i in range(len(logits)):
        best = 0
        for a in range(1, logits.shape[1]):
            if logits[i, a] > logits[i, best]:
                best = a
        out[i] = best
    return out


@njit(cache=True)
def softplus(x):
    return max(x, 0 * x) + np.log1p(np.exp(-abs(x)))


@njit(cache=True)
def bernoulli_log_prob(logits, action):
    out = np.zeros(len(logits), logits.dtype)
    for i in range(len(logits)):
        for d in range(logits.shape[1]):
            out[i] -= softplus(-logits[i, d] if action[i, d] else logits[i, d])
    return out


@njit(cache=True)
def bernoulli_log_prob_grad(logits, action, weight):
    out = np.empty_like(logits)
    one = logits.dtype.type(1)
    for i in range(len(logits)):
        for d in range(logits.shape[1]):
            out[i, d] = weight[i] * (action[i, d] - one / (one + np.exp(-logits[i, d])))
    return out


@njit(cache=True)
def bernoulli_entropy(logits):
    out = np.zeros(len(logits), logits.dtype)
    for i in range(len(logits)):
        for x in logits[i]:
            p = logits.dtype.type(1) / (logits.dtype.type(1) + np.exp(-x))
            out[i] += softplus(x) - p * x
    return out


@njit(cache=True)
def bernoulli_entropy_grad(logits, weight):
    out = np.empty_like(logits)
    one = logits.dtype.type(1)
    for i in range(len(logits)):
        for d in range(logits.shape[1]):
            p = one / (one + np.exp(-logits[i, d]))
            out[i, d] = -weight[i] * logits[i, d] * p * (one - p)
    return out


@njit(cache=True)
def bernoulli_kl(logits, other):
    out = np.zeros(len(logits), logits.dtype)
    one = logits.dtype.type(1)
    for i in range(len(logits)):
        for d in range(logits.shape[1]):
            x, y = logits[i, d], other[i, d]
            out[i] += (x - y) / (one + np.exp(-x)) + softplus(y) - softplus(x)
    return out


@njit(cache=True)
def bernoulli_kl_grad(logits, other, weight):
    out = np.empty_like(logits)
    one = logits.dtype.type(1)
    for i in range(len(logits)):
        for d in range(logits.shape[1]):
            p = one / (one + np.exp(-logits[i, d]))
            out[i, d] = weight[i] * p * (one - p) * (logits[i, d] - other[i, d])
    return out


@njit(cache=True)
def bernoulli_kl_grad_other(logits, other, weight):
    out = np.empty_like(logits)
    one = logits.dtype.type(1)
    for i in range(len(logits)):
        for d in range(logits.shape[1]):
            out[i, d] = weight[i] * (one / (one + np.exp(-other[i, d])) - one / (one + np.exp(-logits[i, d])))
    return out


@njit(cache=True)
def gaussian_log_prob(mean, log_std, action):
    out = np.empty(len(mean), mean.dtype)
    half = mean.dtype.type(0.5)
    for i in range(len(mean)):
        total = mean.dtype.type(mean.shape[1] * 0.5 * np.log(2 * np.pi))
        for d in range(mean.shape[1]):
            z = (action[i, d] - mean[i, d]) * np.exp(-log_std[i, d])
            total += half * z * z + log_std[i, d]
        out[i] = -total
    return out


@njit(cache=True)
def gaussian_log_prob_grad(mean, log_std, action, weight):
    by_mean, by_log_std = np.empty_like(mean), np.empty_like(mean)
    one = mean.dtype.type(1)
    for i in range(len(mean)):
        for d in range(mean.shape[1]):
            by_std = np.exp(-log_std[i, d])
            z = (action[i, d] - mean[i, d]) * by_std
            by_mean[i, d] = weight[i] * z * by_std
            by_log_std[i, d] = weight[i] * (z * z - one)
    return by_mean, by_log_std


@njit(cache=True)
def gaussian_entropy(mean, log_std):
    out = np.empty(len(mean), mean.dtype)
    for i in range(len(mean)):
        total = mean.dtype.type(mean.shape[1] * 0.5 * (1 + np.log(2 * np.pi)))
        for s in log_std[i]:
            total += s
        out[i] = total
    return out


@njit(cache=True)
def gaussian_kl(mean, log_std, other_mean, other_log_std):
    out = np.zeros(len(mean), mean.dtype)
    half, two = mean.dtype.type(0.5), mean.dtype.type(2)
    for i in range(len(mean)):
        for d in range(mean.shape[1]):
            t = two * (log_std[i, d] - other_log_std[i, d])
            z = (mean[i, d] - other_mean[i, d]) * np.exp(-other_log_std[i, d])
            out[i] += half * (np.expm1(t) - t + z * z)
    return out


@njit(cache=True)
def gaussian_kl_grad(mean, log_std, other_mean, other_log_std, weight):
    by_mean, by_log_std = np.empty_like(mean), np.empty_like(mean)
    two = mean.dtype.type(2)
    for i in range(len(mean)):
        for d in range(mean.shape[1]):
            by_std = np.exp(-other_log_std[i, d])
            by_mean[i, d] = weight[i] * (mean[i, d] - other_mean[i, d]) * by_std * by_std
            by_log_std[i, d] = weight[i] * np.expm1(two * (log_std[i, d] - other_log_std[i, d]))
    return by_mean, by_log_std


@njit(cache=True)
def gaussian_kl_grad_other(mean, log_std, other_mean, other_log_std, weight):
    by_mean, by_log_std = np.empty_like(mean), np.empty_like(mean)
    two = mean.dtype.type(2)
    for i in range(len(mean)):
        for d in range(mean.shape[1]):
            by_std = np.exp(-other_log_std[i, d])
            z = (mean[i, d] - other_mean[i, d]) * by_std
            by_mean[i, d] = -weight[i] * z * by_std
            by_log_std[i, d] = -weight[i] * (np.expm1(two * (log_std[i, d] - other_log_std[i, d])) + z * z)
    return by_mean, by_log_std


@njit(cache=True)
def squashed_gaussian_log_prob(mean, log_std, pre_action):
    out = gaussian_log_prob(mean, log_std, pre_action)
    two, log_two = mean.dtype.type(2), mean.dtype.type(np.log(2))
    for i in range(len(mean)):
        for u in pre_action[i]:
            out[i] -= two * (log_two - u - softplus(-two * u))
    return out


# By the id of the case, and by axis: 0 is time-major, or rows of actions.
LOOPS = {
    ("total_return", 0): total_return,
    ("total_return", 1): total_return_rows,
    ("reward_to_go", 0): reward_to_go,
    ("reward_to_go", 1): reward_to_go_rows,
    ("td_residual", 0): td_residual,
    ("td_residual", 1): td_residual,
    ("gae", 0): gae,
    ("gae", 1): gae_rows,
    ("gae_and_return", 0): gae_and_return,
    ("gae_and_return", 1): gae_and_return_rows,
    ("lambda_return", 0): lambda_return,
    ("lambda_return", 1): lambda_return_rows,
    ("n_step_return", 0): n_step_return,
    ("n_step_return", 1): n_step_return_rows,
    ("categorical.log_prob", 0): log_prob,
    ("categorical.log_prob_grad", 0): log_prob_grad,
    ("categorical.entropy", 0): entropy,
    ("categorical.entropy_grad", 0): entropy_grad,
    ("categorical.kl", 0): kl,
    ("categorical.kl_grad", 0): kl_grad,
    ("categorical.kl_grad-other", 0): kl_grad_other,
    ("categorical.sample", 0): sample,
    ("categorical.mode", 0): mode,
    ("bernoulli.log_prob", 0): bernoulli_log_prob,
    ("bernoulli.log_prob_grad", 0): bernoulli_log_prob_grad,
    ("bernoulli.entropy", 0): bernoulli_entropy,
    ("bernoulli.entropy_grad", 0): bernoulli_entropy_grad,
    ("bernoulli.kl", 0): bernoulli_kl,
    ("bernoulli.kl_grad", 0): bernoulli_kl_grad,
    ("bernoulli.kl_grad-other", 0): bernoulli_kl_grad_other,
    ("gaussian.log_prob", 0): gaussian_log_prob,
    ("gaussian.log_prob_grad", 0): gaussian_log_prob_grad,
    ("gaussian.entropy", 0): gaussian_entropy,
    ("gaussian.kl", 0): gaussian_kl,
    ("gaussian.kl_grad", 0): gaussian_kl_grad,
    ("gaussian.kl_grad-other", 0): gaussian_kl_grad_other,
    ("squashed_gaussian.log_prob", 0): squashed_gaussian_log_prob,
}
