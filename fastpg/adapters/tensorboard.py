"""TensorBoard files, by tensorboardX."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastpg.adapters import require

__all__ = ["event_files"]


class event_files:
    """Context that yields a callback for Run: each field of a row of metrics becomes a scalar at its step.

    The folder is written anew from `rows`, those before a run was resumed, so that no step is in it twice.
    """

    def __init__(self, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = require("tensorboardX", "tensorboard").SummaryWriter(str(folder))
        for row in rows:
            self._write(row)

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        return self._write

    def _write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "steps" and value is not None:
                self._writer.add_scalar(name, value, row["steps"])

    def __exit__(self, *error: object) -> None:
        self._writer.close()
