"""Writes docs/options.md from the Configs of fastpg.train: python docs/options.py."""

import ast
import dataclasses
import inspect
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from fastpg.cli import ALGOS, ELSEWHERE

TARGET = Path(__file__).with_suffix(".md")
HEAD = """# Options of training

Every option of every algorithm: what it is where it is not set, a dash where the algorithm has none, and what Stable-Baselines3,
CleanRL, Tianshou, Spinning Up or TRL call it. On the command line `value_lr` is `--value-lr`; in Python it is a field of
`fastpg.train.ppo.Config`. `fastpg train --algo NAME --help` has each algorithm's own words. Tuned settings go before these numbers,
[training.md](training.md) says when. Written by `docs/options.py`; edit the Configs.
"""


def sentences(config: type) -> dict[str, str]:
    """The sentence under each field of a Config, and of what it inherits."""
    found: dict[str, str] = {}
    for part in config.__mro__[:-1]:
        body = ast.parse(inspect.getsource(part)).body[0].body
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found.setdefault(field.target.id, text.value.value)
    return found


def choices(config: type) -> dict[str, str]:
    """What a field that is one of a few words may be."""
    hints = get_type_hints(config)
    return {name: ", ".join(get_args(hint)) + ": " for name, hint in hints.items() if get_origin(hint) is Literal}


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def text() -> str:
    configs = [import_module(f"fastpg.train.{algo}").Config for algo in ALGOS]
    defaults = [{field.name: shown(field.default) for field in dataclasses.fields(config)} for config in configs]
    said = {name: words for config in reversed(configs) for name, words in sentences(config).items()}
    may_be = {name: words for config in reversed(configs) for name, words in choices(config).items()}
    names = dict.fromkeys(name for known in defaults for name in known)
    rows = [("option", *ALGOS, "elsewhere", "")]
    for name in names:
        others = ", ".join(ELSEWHERE.get(name, "").split())
        told = "" if name.endswith("_schedule") else may_be.get(name, "")
        row = f"`{name}`", *(known.get(name, "-") for known in defaults), others, told + said[name]
        rows.append(tuple(cell.replace("|", r"\|") for cell in row))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join([HEAD, *lines, ""])


if __name__ == "__main__":
    TARGET.write_text(text())
