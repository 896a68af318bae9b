"""Random numbers for compiled environments: every lane owns a PCG64 stream, four words of uint64, equal to NumPy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg._numba import cached

__all__ = ["seed_streams", "uniform"]

Array = NDArray[Any]

_U32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIER = np.uint64(2549297995355413924), np.uint64(4865540595714422341)  # 128 bits, high and low


@cached
def uniform(stream: Array) -> float:
    """The next number in [0, 1) of the PCG64 stream (state high, low, increment high, low), as Generator.random.

    state = state * multiplier + increment mod 2^128;   output = rotate(high ^ low, high >> 58)
    O'Neill 2014, PCG XSL-RR 128/64

    >>> streams = np.empty((1, 4), np.uint64)
    >>> seed_streams(streams, [7])
    >>> uniform(streams[0]) == np.random.default_rng(7).random()
    True
    """
    mh, ml = _MULTIPLIER
    high, low = stream[0], stream[1]
    # low * ml as 128 bits from four 32-bit products
    a, b, c, d = low >> _32, low & _U32, ml >> _32, ml & _U32
    bd, ad, bc = b * d, a * d, b * c
    middle = (bd >> _32) + (ad & _U32) + (bc & _U32)
    carry = a * c + (ad >> _32) + (bc >> _32) + (middle >> _32)
    high = carry + high * ml + low * mh
    low = low * ml
    total = low + stream[3]
    high = high + stream[2] + np.uint64(total < low)
    stream[0], stream[1] = high, total
    x = high ^ total
    turn = high >> np.uint64(58)
    x = (x >> turn) | (x << ((np.uint64(64) - turn) & np.uint64(63)))
    return float(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def seed_streams(streams: Array, seeds: Sequence[int | None]) -> None:
    """Stream n (of streams (lanes, 4) uint64) becomes that of default_rng(seeds[n]), of fresh entropy for None."""
    for n, seed in enumerate(seeds):
        bits: Any = np.random.PCG64(seed).state["state"]
        for k, word in enumerate((bits["state"], bits["inc"])):
            streams[n, 2 * k : 2 * k + 2] = word >> 64, word & (2**64 - 1)
