"""Options tuned for an environment: settings.toml, which lies beside this file."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["config_of", "tuned"]

TUNED = Path(__file__).with_suffix(".toml")
TWINS = ("fastpg/", "envpool:")  # the same environments in other clothes


def tuned(env: str, algo: str, source: str = "tuned") -> tuple[str | None, dict[str, Any]]:
    """The table's name and options for an environment and algorithm; None and {} where there is none.

    source    "tuned": settings.toml; "none": no table; else a file like it

    >>> tuned("envpool:CartPole-v1", "ppo")[0]
    'CartPole-v1.ppo'
    """
    if source == "none":
        return None, {}
    path = TUNED if source == "tuned" else Path(source)
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except FileNotFoundError:
        raise ValueError(f"settings is {source!r}; wanted tuned, none, or a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    names = [env, *(env.removeprefix(twin) for twin in TWINS if env.startswith(twin))]
    for name in names:
        if algo in tables.get(name, {}):
            return f"{name}.{algo}", options(algo, tables[name][algo], f"[{name}.{algo}] of {path}")
    return None, {}


def options(algo: str, table: dict[str, Any], where: str) -> dict[str, Any]:
    """A table of options as keywords of the algorithm's Config; ValueError names one it does not have."""
    known = {field.name for field in dataclasses.fields(import_module(f"fastpg.train.{algo}").Config)}
    if unknown := sorted(table.keys() - known):
        raise ValueError(f"{where} has {unknown[0]}, which is no option of {algo}; it has {', '.join(sorted(known))}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def config_of(about: dict[str, Any], where: str) -> Any:
    """The Config of a run from its config.json."""
    where = f"{where}, begun with fastpg {about['fastpg']},"
    config = import_module(f"fastpg.train.{about['algo']}").Config
    return config(**options(about["algo"], about["config"], where))
