"""Progress on stderr: a bar by tqdm on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from fastpg.adapters import require

__all__ = ["progress_bar"]

EVERY = 5.0  # seconds between lines


class progress_bar:
    """Context that yields a callback for Run: of `steps` steps `done` are done, with speed and mean return."""

    def __init__(self, steps: int, done: int = 0) -> None:
        self._steps = steps
        self._bar = None
        if sys.stderr.isatty():
            self._bar = require("tqdm").tqdm(
                total=steps, initial=done, unit=" steps", unit_scale=True, file=sys.stderr, dynamic_ncols=True
            )
        self._told, self._last = time.perf_counter(), ""

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        return self._update

    def _update(self, metrics: dict[str, Any]) -> None:
        mean = metrics["mean_return"]
        about = "" if mean is None else f"mean return {mean:.1f}"
        if self._bar is not None:
            self._bar.set_postfix_str(about, refresh=False)
            self._bar.total = max(self._steps, metrics["steps"])  # the last update may go past the number asked for
            self._bar.update(metrics["steps"] - self._bar.n)
            return
        speed = f"{metrics['steps_per_second']:,} steps/s"
        self._last = ", ".join(filter(None, (f"{metrics['steps']:,} of {self._steps:,} steps", speed, about)))
        if time.perf_counter() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        if self._last:
            print(self._last, file=sys.stderr, flush=True)
        self._told, self._last = time.perf_counter(), ""

    def __exit__(self, *error: object) -> None:
        self._tell()
        if self._bar is not None:
            self._bar.close()
