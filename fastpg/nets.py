"""A multilayer perceptron and Adam on flat parameter vectors: arrays in, arrays out, matrix products by BLAS.

Every parameter of a net lives in one vector, `net.parameter`; `net.weight[k]` and `net.bias[k]` are views into it.
So clipping, Adam and a checkpoint each handle one array.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["MLP", "Adam", "blas_threads", "clip_norm", "orthogonal"]

Array = NDArray[Any]


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Within it, NumPy's OpenBLAS uses this many threads; does nothing with another BLAS. Also a decorator.

    Nets of 64 units on 256 rows train no faster with two threads than with one, and two such processes on two cores
    each took 18 s where they take 4.6 s with one: OpenBLAS's threads spin while they wait.
    """
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    for get, set_ in (
        ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),  # in NumPy's wheels
        ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
        ("openblas_get_num_threads", "openblas_set_num_threads"),  # in distributions
    ):
        if hasattr(library, get) and hasattr(library, set_):
            before = getattr(library, get)()
            getattr(library, set_)(threads)
            try:
                yield
            finally:
                getattr(library, set_)(before)
            return
    yield


def orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float = 1.0) -> Array:
    """A random (rows, columns) matrix with orthonormal rows or columns, whichever are fewer, times gain.

    Saxe et al. 2014, arXiv:1312.6120

    >>> w = orthogonal(np.random.default_rng(0), 5, 3, gain=2.0)
    >>> bool(np.allclose(w.T @ w, 2.0**2 * np.eye(3)))
    True
    """
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # without the sign, q is not uniformly distributed
    w: Array = gain * (q if rows >= columns else q.T)
    return w


class MLP:
    """y = W_L h_{L-1} + b_L,   h_k = f(W_k h_{k-1} + b_k),   h_0 = x,   f = tanh or relu.

    sizes       (inputs, hidden..., outputs)
    gain        of the orthogonal initial weights, one per layer; None: sqrt(2) for hidden layers and 1 for the last
    extra       of numbers at the end of the vector that the net does not use: parameters learned with it, a log_std say; start at 0
    parameter   all weights and biases as one vector, layer by layer, W_k of shape (sizes[k], sizes[k+1]) before b_k, then extra

    Biases start at 0. Buffers are kept between calls: what forward and backward return is valid until the next call
    of the same method with the same number of rows.

    >>> net = MLP((4, 8, 2), rng=np.random.default_rng(0))
    >>> net.forward(np.ones((5, 4), np.float32)).shape
    (5, 2)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        rng: np.random.Generator,
        activation: Literal["tanh", "relu"] = "tanh",
        gain: Sequence[float] | None = None,
        extra: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes is {tuple(sizes)}; wanted at least (inputs, outputs), each 1 or more")
        if activation not in ("tanh", "relu"):
            raise ValueError(f"activation is {activation!r}; wanted 'tanh' or 'relu'")
        layers = len(self.sizes) - 1
        gain = [2.0**0.5] * (layers - 1) + [1.0] if gain is None else list(gain)
        if len(gain) != layers:
            raise ValueError(f"gain has {len(gain)} entries, but sizes {self.sizes} make {layers} layers")
        self.activation = activation
        shapes = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.parameter: Array = np.zeros(sum((i + 1) * o for i, o in shapes) + extra, dtype)
        self.extra = self.parameter[len(self.parameter) - extra :]
        self.weight, self.bias = self._views(self.parameter)
        for weight, g in zip(self.weight, gain, strict=True):
            weight[...] = orthogonal(rng, len(weight), weight.shape[1], g)
        self._grad = np.zeros_like(self.parameter)
        self._grad_weight, self._grad_bias = self._views(self._grad)
        self._buffers: dict[int, tuple[list[Array], list[Array]]] = {}

    def _views(self, vector: Array) -> tuple[list[Array], list[Array]]:
        weight, bias, start = [], [], 0
        for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            weight.append(vector[start : start + i * o].reshape(i, o))
            bias.append(vector[start + i * o : start + (i + 1) * o])
            start += (i + 1) * o
        return weight, bias

    def _buffer(self, rows: int) -> tuple[list[Array], list[Array]]:
        """Activations h_1..h_L and their gradients for this number of rows."""
        if rows not in self._buffers:
            if len(self._buffers) >= 8:  # callers with ever-changing row counts must not grow memory without end
                self._buffers.clear()
            dtype = self.parameter.dtype
            hidden = [np.empty((rows, size), dtype) for size in self.sizes[1:]]
            grad = [np.empty((rows, size), dtype) for size in self.sizes[:-1]]
            self._buffers[rows] = hidden, grad
        return self._buffers[rows]

    def _check(self, name: str, x: Array, columns: int) -> None:
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(f"{name} has shape {x.shape}; this net of sizes {self.sizes} wants (rows, {columns})")
        if x.dtype != self.parameter.dtype:
            raise TypeError(f"{name} has dtype {x.dtype}; this net wants {self.parameter.dtype}")

    def forward(self, x: Array) -> Array:
        """y for x of shape (rows, sizes[0])."""
        self._check("x", x, self.sizes[0])
        hidden, _ = self._buffer(len(x))
        for k, h in enumerate(hidden):
            np.matmul(hidden[k - 1] if k else x, self.weight[k], out=h)
            h += self.bias[k]
            if k < len(hidden) - 1:
                if self.activation == "tanh":
                    np.tanh(h, out=h)
                else:
                    np.maximum(h, 0, out=h)
        return hidden[-1]

    def backward(self, x: Array, grad_output: Array, grad_extra: Array | None = None) -> Array:
        """d loss / d parameter, one vector, from d loss / d y; forward(x) must have come just before.

        dW_k = h_{k-1}^T d_k,   db_k = sum over rows of d_k,   d_{k-1} = (d_k W_k^T) f'(h_{k-1})

        grad_extra    d loss / d extra, which the caller knows; None: 0
        """
        self._backward(x, grad_output)
        if len(self.extra):
            self._grad[len(self._grad) - len(self.extra) :] = 0 if grad_extra is None else grad_extra
        return self._grad

    def backward_input(self, x: Array, grad_output: Array) -> tuple[Array, Array]:
        """As backward, and d loss / d x of shape (rows, sizes[0])."""
        d = self._backward(x, grad_output)
        grad = self._buffer(len(x))[1][0]
        np.matmul(d, self.weight[0].T, out=grad)
        return self._grad, grad

    def _backward(self, x: Array, grad_output: Array) -> Array:
        self._check("x", x, self.sizes[0])
        self._check("grad_output", grad_output, self.sizes[-1])
        if len(grad_output) != len(x):
            raise ValueError(f"grad_output has {len(grad_output)} rows, but x has {len(x)}")
        hidden, grad = self._buffer(len(x))
        d = grad_output
        for k in range(len(hidden) - 1, -1, -1):
            np.matmul((hidden[k - 1] if k else x).T, d, out=self._grad_weight[k])
            np.sum(d, axis=0, out=self._grad_bias[k])
            if k:
                h, previous = hidden[k - 1], grad[k]
                np.matmul(d, self.weight[k].T, out=previous)
                if self.activation == "tanh":
                    previous *= 1 - h * h
                else:
                    previous *= h > 0
                d = previous
        return d


def clip_norm(grad: Array, most: float) -> float:
    """Scales grad in place to Euclidean norm `most` when it is longer; returns the norm it had.

    Pascanu et al. 2013, arXiv:1211.5063, algorithm 1

    >>> g = np.array([3.0, 4.0])
    >>> clip_norm(g, 2.5), g.tolist()
    (5.0, [1.5, 2.0])
    """
    if not most > 0:
        raise ValueError(f"most is {most}; wanted a number above 0")
    norm = float(np.sqrt(np.dot(grad, grad)))
    if norm > most:
        grad *= most / norm
    return norm


class Adam:
    """m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   parameter -= lr mhat / (sqrt(vhat) + eps).

    mhat = m / (1 - b1^t),   vhat = v / (1 - b2^t).   Kingma & Ba 2015, algorithm 1, arXiv:1412.6980
    """

    def __init__(self, parameter: Array, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} is {beta}; wanted a number in [0, 1)")
        self.parameter, self.beta1, self.beta2, self.eps = parameter, beta1, beta2, eps
        self.m, self.v, self.t = np.zeros_like(parameter), np.zeros_like(parameter), 0
        self._a, self._b = np.empty_like(parameter), np.empty_like(parameter)

    def state(self) -> dict[str, Array]:
        """Both moments as views, and t."""
        return {"m": self.m, "v": self.v, "t": np.array(self.t)}

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Goes on from an earlier state()."""
        self.m[...], self.v[...], self.t = saved["m"], saved["v"], int(saved["t"])

    def step(self, grad: Array, lr: float) -> None:
        """Changes the parameter in place, downhill along grad."""
        if grad.shape != self.parameter.shape:
            raise ValueError(f"grad has shape {grad.shape}, but the parameter has {self.parameter.shape}")
        self.t += 1
        a, b = self._a, self._b
        self.m *= self.beta1
        self.m += np.multiply(grad, 1 - self.beta1, out=a)
        self.v *= self.beta2
        np.multiply(grad, grad, out=a)
        a *= 1 - self.beta2
        self.v += a
        np.divide(self.v, 1 - self.beta2**self.t, out=a)
        np.sqrt(a, out=a)
        a += self.eps
        np.multiply(self.m, lr / (1 - self.beta1**self.t), out=b)
        b /= a
        self.parameter -= b
