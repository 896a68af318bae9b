"""Policy-gradient estimators: every Psi, the score grad log pi, and what is made of them.

    g = E[ sum_t  grad log pi(a_t | s_t) * Psi_t ]          Schulman et al. 2016, eq. 1, arXiv:1506.02438

`fastpg.returns` answers how good action t was (Psi), `fastpg.groups` how good a response was next to the others, `fastpg.policy` which
way makes it likelier (grad log pi), `fastpg.objectives` what is descended, their product. `fastpg.shaping` is for rewards before that,
`fastpg.values` for the value function, `fastpg.presets` for the conventions of the field's libraries. `fastpg.natural` holds Fisher-vector
products and the trust-region step.
`fastpg.steps` and `fastpg.scan` are the single steps in Numba, for loops of your own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastpg import (
    baselines,
    groups,
    natural,
    normalization,
    objectives,
    policy,
    presets,
    returns,
    shaping,
    threads,
    values,
)
from fastpg.baselines import *  # noqa: F403
from fastpg.groups import *  # noqa: F403
from fastpg.normalization import *  # noqa: F403
from fastpg.objectives import *  # noqa: F403
from fastpg.policy import *  # noqa: F403
from fastpg.presets import *  # noqa: F403
from fastpg.returns import *  # noqa: F403
from fastpg.shaping import *  # noqa: F403
from fastpg.threads import *  # noqa: F403
from fastpg.values import *  # noqa: F403

if TYPE_CHECKING:
    from fastpg import steps as steps
    from fastpg._scan import scan as scan

__version__ = "0.1.0"
__all__ = [
    *returns.__all__,
    *baselines.__all__,
    *normalization.__all__,
    *groups.__all__,
    *policy.__all__,
    *objectives.__all__,
    *presets.__all__,
    *shaping.__all__,
    *values.__all__,
    *threads.__all__,
    "natural",
    "scan",
    "steps",
]


def __getattr__(name: str) -> Any:  # Numba takes longer to import than all the rest: only on first use
    if name == "steps":
        return import_module("fastpg.steps")
    if name == "scan":
        return import_module("fastpg._scan").scan
    raise AttributeError(f"module 'fastpg' has no attribute {name!r}")
