"""Distributions over actions, one module each, all with the same names.

log_prob, entropy, kl, sample, mode            and the gradients            log_prob_grad, entropy_grad, kl_grad
"""

from fastpg.policy import categorical

__all__ = ["categorical"]
