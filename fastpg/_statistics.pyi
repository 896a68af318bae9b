from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def moments(
    isa: str, x: Array, mask: Array | None, weight: Array | None, state: tuple[float, float, float]
) -> tuple[float, float, float]: ...
def whiten(isa: str, x: Array, mask: Array | None, mean: float, factor: float, divide: bool, out: Array) -> None: ...
