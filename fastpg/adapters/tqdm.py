"""A progress bar on stderr, by tqdm."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fastpg.adapters import require

__all__ = ["progress_bar"]


class progress_bar:
    """Context that yields a callback for Run: a bar of `steps` steps, `done` of them done, with speed and mean return."""

    def __init__(self, steps: int, done: int = 0) -> None:
        # A log file gets a line's worth every few seconds, a terminal a live bar.
        self._bar = require("tqdm").tqdm(
            total=steps,
            initial=done,
            unit=" steps",
            unit_scale=True,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 5.0,
        )

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        return self._update

    def _update(self, metrics: dict[str, Any]) -> None:
        if metrics["mean_return"] is not None:
            self._bar.set_postfix_str(f"mean return {metrics['mean_return']:.1f}", refresh=False)
        self._bar.total = max(self._bar.total, metrics["steps"])  # the last update may go past the number asked for
        self._bar.update(metrics["steps"] - self._bar.n)

    def __exit__(self, *error: object) -> None:
        self._bar.close()
