"""What an action may be. Each space has one family of policies: fastpg.train.heads pairs them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Box", "Discrete", "MultiBinary", "MultiDiscrete", "Space"]


@dataclass(frozen=True)
class Discrete:
    """One of n actions, 0 to n - 1; a batch is (lanes,) int64."""

    n: int


@dataclass(frozen=True)
class MultiDiscrete:
    """One action of each of several lists, of the lengths n; a batch is (lanes, len(n)) int64."""

    n: tuple[int, ...]


@dataclass(frozen=True)
class MultiBinary:
    """n switches; a batch is (lanes, n) int64 of 0 and 1."""

    n: int


@dataclass(frozen=True)
class Box:
    """Real numbers between low and high, which may be infinite; a batch is (lanes, len(low)) float32."""

    low: tuple[float, ...]
    high: tuple[float, ...]


Space = Discrete | MultiDiscrete | MultiBinary | Box
