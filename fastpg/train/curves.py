"""Learning curves of several runs: mean and standard error over those that differ only in their seed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg.train.run import METRICS, read_config, read_metrics

__all__ = ["Curve", "curves"]

Array = NDArray[Any]
POINTS = 200


@dataclass(frozen=True)
class Curve:
    """x, mean and standard error, each (200,), of `runs` runs; error is 0 with one run.

    mean[i] = sum_k y_k(x[i]) / K,   error[i] = sqrt(sum_k (y_k(x[i]) - mean[i])^2 / (K - 1) / K)

    y_k is run k between its rows, in straight lines; x spans what all K runs have.
    """

    env: str
    label: str
    runs: int
    x: Array
    mean: Array
    error: Array

    @property
    def count(self) -> str:
        """How many runs, in words."""
        return f"{self.runs} run{'s' if self.runs > 1 else ''}"


def curves(folders: Sequence[Path], x: str = "steps", y: str = "mean_return") -> list[Curve]:
    """A Curve for all runs that differ only in their seed, in the order in which they come; a folder named twice is one run.

    x, y    fields of metrics.jsonl; rows that have no y yet are left out, and so is, with a warning, a run that has none. ValueError
            where all are.

    Labels name algorithm and psi, and the options in which the runs of one environment and algorithm differ.
    """
    abouts: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[tuple[Array, Array]]] = {}
    missing: list[str] = []
    for folder in {folder.resolve(): folder for folder in folders}.values():
        about = read_config(folder)
        path = folder / METRICS
        rows = read_metrics(path)[0] if path.exists() else []
        points = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
        if not points:
            has = f"it has {', '.join(rows[-1])}" if rows else "it is empty"
            missing.append(f"{path} has no row with {x} and {y}; {has}")
            continue
        about["config"] |= {f"env {name}": value for name, value in about.get("env_kwargs", {}).items()}
        about = {name: about[name] for name in ("env", "algo", "config")}
        about["config"].pop("seed", None)
        key = json.dumps(about, sort_keys=True)
        abouts[key] = about
        xs, ys = np.array(points, np.float64).T
        groups.setdefault(key, []).append((xs, ys))
    if missing and not groups:
        raise ValueError(missing[0])
    for sentence in missing:
        warnings.warn(f"{sentence}; it is left out", stacklevel=2)
    out = []
    for key, runs in groups.items():
        env, label = abouts[key]["env"], _label(abouts[key], abouts.values())
        first, last = max(xs[0] for xs, _ in runs), min(xs[-1] for xs, _ in runs)
        if first > last:
            raise ValueError(f"the runs of {env}, {label} have no {x} in common; plot them one by one")
        grid = np.linspace(first, last, POINTS)
        values = np.array([np.interp(grid, xs, ys) for xs, ys in runs])
        K = len(runs)
        error = values.std(axis=0, ddof=1) / K**0.5 if K > 1 else np.zeros(POINTS)
        out.append(Curve(env, label, K, grid, values.mean(axis=0), error))
    return out


def _label(about: dict[str, Any], all_of_them: Iterable[dict[str, Any]]) -> str:
    rivals = [
        other["config"] for other in all_of_them if (other["env"], other["algo"]) == (about["env"], about["algo"])
    ]
    mine = about["config"]
    names = [name for name in mine if name == "psi" or any(other.get(name) != mine[name] for other in rivals)]
    return ", ".join([about["algo"], *(f"{name} {mine[name]}" for name in names)])
