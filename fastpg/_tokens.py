"""Tokens of sequences: padded (B, T) with a mask, or packed (L,) with offsets. Only tokens are ever read, whatever the padding holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg._check import as_flags, as_offsets

Array = NDArray[Any]


class Tokens:
    """Where the tokens stand in arrays of one layout: sequence after sequence, each in order."""

    def __init__(self, name: str, shape: tuple[int, ...], mask: Any, offsets: Any) -> None:
        """`name` has `shape`: (B, T), or (L,) with B + 1 offsets. `mask` has the same shape; None: every place is a token."""
        self.name, self.shape = name, shape
        if offsets is None:
            if len(shape) != 2:
                raise ValueError(f"{name} has shape {shape}; (B, T) is wanted, or (L,) with offsets")
            starts, width = np.arange(shape[0], dtype=np.int64) * shape[1], np.full(shape[0], shape[1], np.int64)
        else:
            if len(shape) != 1:
                raise ValueError(f"{name} has shape {shape}; (L,) is wanted with offsets")
            bounds = as_offsets(offsets, shape[0], name)
            starts, width = bounds[:-1], np.diff(bounds)
        valid = None
        if mask is not None:
            valid = as_flags("mask", mask)
            if valid.shape != shape:
                raise ValueError(f"mask has shape {valid.shape}, but {name} has {shape}; the same is wanted")
            valid = valid.reshape(-1)
        self.at = None if valid is None or valid.all() else np.flatnonzero(valid)
        size = int(width.sum())
        self.length = (
            width
            if self.at is None
            else np.bincount(np.repeat(np.arange(len(width)), width)[self.at], minlength=len(width))
        )
        self.size = size if self.at is None else len(self.at)
        self._starts, self._width = starts, width

    @classmethod
    def of(cls, mask: Any, offsets: Any) -> Tokens:
        """The layout that a mask, offsets or both describe on their own."""
        if mask is not None:
            valid = as_flags("mask", mask)
            return cls("mask", valid.shape, valid, offsets)
        if offsets is None:
            raise TypeError("mask and offsets are both None; one of them must say where the tokens are")
        bounds = as_offsets(offsets)
        return cls("offsets", (int(bounds[-1]),), None, bounds)

    @property
    def sequence(self) -> Array:
        """The sequence of each token."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def place(self) -> Array:
        """The place of each token in its sequence, gaps counted."""
        everywhere = np.arange(int(self._width.sum())) - np.repeat(self._starts, self._width)
        return everywhere if self.at is None else everywhere[self.at]

    @property
    def rank(self) -> Array:
        """The place of each token among the tokens of its sequence, gaps not counted."""
        return np.arange(self.size) - np.repeat(np.cumsum(self.length) - self.length, self.length)

    @property
    def last(self) -> Array:
        """Where, among the tokens, each sequence that has one ends."""
        return (np.cumsum(self.length) - 1)[self.length > 0]

    def pick(self, name: str, array: Array) -> Array:
        """What an array of this layout holds at the tokens."""
        if array.shape != self.shape:
            raise ValueError(f"{name} has shape {array.shape}, but {self.name} has {self.shape}; the same is wanted")
        flat = array.reshape(-1)
        return flat if self.at is None else flat[self.at]

    def spread(self, tokens: Array, dtype: Any) -> Array:
        """An array of this layout, 0 where no token is."""
        if self.at is None:
            return tokens.astype(dtype).reshape(self.shape)
        full = np.zeros(self.shape, dtype)
        full.reshape(-1)[self.at] = tokens
        return full
