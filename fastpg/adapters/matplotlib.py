"""Learning curves, by Matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastpg.adapters import require

__all__ = ["learning_curve"]


def learning_curve(metrics: Sequence[dict[str, Any]], path: Path, *, title: str, threshold: float | None) -> None:
    """Writes a PNG of mean return against environment steps, with a line at the threshold, if there is one."""
    # Figure and its own canvas, not pyplot: no display, no global state.
    figure = require("matplotlib.figure").Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in metrics if row["mean_return"] is not None]
    axes.plot([row["steps"] for row in rows], [row["mean_return"] for row in rows], label="last 100 training episodes")
    if threshold is not None:
        axes.axhline(threshold, color="0.6", linestyle="--", label=f"solved: {threshold:g}")
    axes.set(xlabel="environment steps", ylabel="mean return", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", dpi=120)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
