"""What an action may be. Each space has one family of policies: fastpg.train.heads pairs them."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any

__all__ = ["Box", "Discrete", "MultiBinary", "MultiDiscrete", "Space"]


def _count(space: Any, n: Any) -> int:
    if not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"{type(space).__name__} has n {space.n!r}; wanted integers of 1 or more")
    return index(n)


def _set(space: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(space, name, value)


@dataclass(frozen=True)
class Discrete:
    """One of n actions, 0 to n - 1; a batch is (lanes,) int64."""

    n: int

    def __post_init__(self) -> None:
        _set(self, n=_count(self, self.n))


@dataclass(frozen=True)
class MultiDiscrete:
    """One action of each of several lists, of the lengths n; a batch is (lanes, len(n)) int64."""

    n: tuple[int, ...]

    def __post_init__(self) -> None:
        if not hasattr(self.n, "__len__") or not len(self.n):
            raise ValueError(f"MultiDiscrete has n {self.n!r}; wanted the lengths of one list or more")
        _set(self, n=tuple(_count(self, n) for n in self.n))


@dataclass(frozen=True)
class MultiBinary:
    """n switches; a batch is (lanes, n) int64 of 0 and 1."""

    n: int

    def __post_init__(self) -> None:
        _set(self, n=_count(self, self.n))


@dataclass(frozen=True)
class Box:
    """Real numbers between low and high, which may be infinite; a batch is (lanes, len(low)) float32."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            low, high = (tuple(map(float, bound)) for bound in (self.low, self.high))
        except TypeError:
            raise TypeError(f"{self} has a bound that is no sequence of numbers; wanted one for each number") from None
        if len(low) != len(high) or not low or not all(a <= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"{self}: wanted one low or more, as many high, and none of them below its low")
        _set(self, low=low, high=high)


Space = Discrete | MultiDiscrete | MultiBinary | Box
