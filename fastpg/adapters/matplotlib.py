"""Learning curves, by Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastpg.adapters import require
from fastpg.train.checkpoint import replace
from fastpg.train.curves import Curve

__all__ = ["learning_curve", "plot_curves"]


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
    replace(path, lambda file: figure.savefig(file, format="png", dpi=120))


def plot_curves(curves: Sequence[Curve], path: Path, *, xlabel: str, ylabel: str) -> None:
    """Writes a picture with a panel for each environment: every curve in a band of one standard error to either side."""
    envs = list(dict.fromkeys(curve.env for curve in curves))
    figure = require("matplotlib.figure").Figure(figsize=(6.4 * len(envs), 4.0), layout="constrained")
    formats, format = figure.canvas.get_supported_filetypes(), path.suffix[1:].lower()
    if format not in formats:
        raise ValueError(f"--out is {path}; wanted a file that ends in one of {', '.join(sorted(formats))}")
    for axes, env in zip(figure.subplots(1, len(envs), squeeze=False)[0], envs, strict=True):
        for curve in (curve for curve in curves if curve.env == env):
            (line,) = axes.plot(curve.x, curve.mean, label=f"{curve.label} ({curve.count})")
            low, high = curve.mean - curve.error, curve.mean + curve.error
            axes.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=f"{ylabel}, +- standard error", title=env)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    replace(path, lambda file: figure.savefig(file, format=format, dpi=120))
