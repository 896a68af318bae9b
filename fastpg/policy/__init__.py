"""Distributions over actions, one module each, all with the same names.

log_prob, entropy, kl, sample, mode            and the gradients            log_prob_grad, entropy_grad, kl_grad

A distribution's parameters come first, those of another after them, a weight after those. A `_grad` function takes the upstream weight
of each row and answers the gradient with respect to the parameters, a tuple where there are several.
"""

from fastpg.policy import bernoulli, beta, categorical, gaussian, multi_categorical, squashed_gaussian

__all__ = ["bernoulli", "beta", "categorical", "gaussian", "multi_categorical", "squashed_gaussian"]
