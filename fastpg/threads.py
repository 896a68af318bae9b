"""How many threads a call may use."""

from __future__ import annotations

from types import TracebackType

import numpy as np

from fastpg import _core

__all__ = ["set_threads"]


class set_threads:
    """Sets the most threads that a call may use, for the whole process; as a context manager, only until it ends.

    Large calls alone use more than one thread, and no result depends on how many. Before the first call it is FASTPG_NUM_THREADS,
    else OMP_NUM_THREADS, else the number of processors that the process may run on. A call that finds the threads busy with
    another call runs on its own thread.

    n: an integer from 1; above 64 it counts as 64. TypeError or ValueError for anything else.

    >>> with set_threads(1):
    ...     ...  # calls in here use one thread
    Ellipsis
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise TypeError(f"n is {n!r}; an integer is wanted")
        if n < 1:
            raise ValueError(f"n is {n}; 1 or more is wanted")
        self._before = _core.threads()
        _core.set_threads(min(int(n), 64))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _core.set_threads(self._before)
