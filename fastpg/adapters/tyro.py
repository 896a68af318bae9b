"""Command-line options from dataclasses, by tyro."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

from fastpg.adapters import require

__all__ = ["parse"]


def parse(command: type, args: Sequence[str], prog: str, default: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """An instance of the dataclass `command` from args.

    A field of metadata {"positional": True} takes no --name. A field named in `default` has that default: an instance of
    a dataclass becomes options. What is wrong with args is a ValueError of one line; --help prints and exits.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org; tyro has a switch of its own, read when it is imported
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    tyro = require("tyro")
    hints = get_type_hints(command)
    hints |= {name: type(value) for name, value in default.items() if dataclasses.is_dataclass(value)}
    fields: list[Any] = []
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        if not dataclasses.is_dataclass(hint):
            hint = Annotated[hint, tyro.conf.arg(help=field.metadata["help"], metavar=field.metadata.get("metavar"))]
        if field.metadata.get("positional"):
            hint = tyro.conf.Positional[hint]
        if hints[field.name] is bool:
            hint = tyro.conf.FlagCreatePairsOff[hint]
        fields.append((field.name, hint, dataclasses.field(default=default.get(field.name, field.default))))
    shadow = dataclasses.make_dataclass(command.__name__, fields, kw_only=True)
    shadow.__doc__ = command.__doc__
    args = [re.sub(r"^--lambda(?==|$)", "--lambda_", arg) for arg in args]  # lambda is a keyword only in Python
    args = [re.sub(r"^--(no-)?normalize-", r"--\1normalise-", arg) for arg in args]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            got = tyro.cli(shadow, args=args, prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_line(errors.getvalue()) + f" ({prog} --help lists the options)") from None
    sys.stderr.write(errors.getvalue())
    return command(**{field.name: getattr(got, field.name) for field in dataclasses.fields(command)})


def _one_line(box: str) -> str:
    """The sentence inside tyro's box: its title and rules dropped."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ").strip() for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    sentences: list[str] = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        if line.strip("─- "):
            sentences.append(line)
    return re.sub(r"^Error parsing config: ", "", " ".join(sentences))
