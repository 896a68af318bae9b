"""One foreign library per file. Importing this package imports none of them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from fastpg import envs

__all__ = ["make_env", "must_have", "require"]


def require(name: str, extra: str = "train") -> ModuleType:
    """The foreign module `name`, or an ImportError that says what to install."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != library:
            raise  # it is there, but something it needs is not
        raise _missing(library, extra) from None


def must_have(library: str, extra: str = "train") -> None:
    """The ImportError of require without the import, which takes Matplotlib a second."""
    if find_spec(library) is None:
        raise _missing(library, extra)


def _missing(library: str, extra: str) -> ImportError:
    return ImportError(f'{library} is not installed: pip install "fastpg[{extra}]"', name=library)


def make_env(id: str, lanes: int = 1, **kwargs: Any) -> envs.VectorEnv:
    """A vector environment: fastpg/... is built in, envpool:... is EnvPool's, every other id is Gymnasium's.

    kwargs go to the environment: make_env("LunarLander-v3", 8, continuous=True). All kinds take max_episode_steps.
    """
    if id.startswith("fastpg/"):
        return envs.make(id, lanes, **kwargs)
    if id.startswith("envpool:"):
        from fastpg.adapters import envpool

        return envpool.EnvPool(id.removeprefix("envpool:"), lanes, **kwargs)
    from fastpg.adapters import gymnasium

    return gymnasium.make(id, lanes, **kwargs)
