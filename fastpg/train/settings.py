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

    source    "tuned": settings.toml; "none": no table; else a file like it, which must have a table for this environment

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
    except ValueError as error:  # text that is no UTF-8 too
        raise ValueError(f"{path} is not TOML: {error}") from None
    names = [env, *(env.removeprefix(twin) for twin in TWINS if env.startswith(twin))]
    for name in names:
        table = tables.get(name)
        if isinstance(table, dict) and algo in table:
            return f"{name}.{algo}", options(algo, table[algo], f'["{name}".{algo}] of {path}')
    if source != "tuned":
        raise ValueError(f'{path} has no table ["{env}".{algo}]')
    return None, {}


def options(algo: str, table: Any, where: str) -> dict[str, Any]:
    """A table of options as keywords of the algorithm's Config; ValueError names one it does not have, or a value it does not take."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}; wanted a table of options")
    config = import_module(f"fastpg.train.{algo}").Config
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted(table.keys() - known):
        raise ValueError(f"{where} has {unknown[0]}, which is no option of {algo}; it has {', '.join(sorted(known))}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    try:
        config(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return given


def config_of(about: dict[str, Any], where: str) -> Any:
    """The Config of a run from its config.json."""
    where = f"{where} (begun with fastpg {about['fastpg']})"
    config = import_module(f"fastpg.train.{about['algo']}").Config
    return config(**options(about["algo"], about["config"], where))
