from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def moments(
    isa: str, x: Array, mask: Array | None, weight: Array | None, state: tuple[float, float, float]
) -> tuple[float, float, float]: ...
def row_moments(isa: str, x: Array, mask: Array | None, weight: Array | None, rows: int, out: Array) -> None: ...
def whiten(isa: str, x: Array, mask: Array | None, mean: Array, by: Array, divide: bool, out: Array) -> None: ...
