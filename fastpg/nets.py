"""A multilayer perceptron and Adam on flat parameter vectors: arrays in, arrays out.

Nets up to WIDEST units a layer run in fastpg's own kernels, which keep the rows of a tile in the caches from layer to layer and
share the tiles among threads (fastpg.set_threads); wider ones multiply by BLAS.

Every parameter of a net lives in one vector, `net.parameter`; `net.weight[k]` and `net.bias[k]` are views into it.
So clipping, Adam and a checkpoint each handle one array.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastpg import _core

__all__ = ["MLP", "Adam", "blas_threads", "clip_norm", "orthogonal"]

Array = NDArray[Any]
WIDEST = 512


def _aligned(items: int, dtype: DTypeLike) -> Array:
    """An uninitialised vector that starts on a cache line."""
    bytes_ = np.empty(items * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -bytes_.ctypes.data % 64
    return bytes_[start : len(bytes_) - 64 + start].view(dtype)


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
        self._buffers: dict[int, tuple[Array, ...]] = {}
        self._blas: _BlasLayers | None = None
        self._shape = np.array([layers, activation == "relu", *self.sizes], np.int64)
        native = self.parameter.dtype in (np.float32, np.float64) and self.parameter.dtype.isnative
        if not native or max(self.sizes) > WIDEST or layers > _core.NET_MOST_LAYERS:
            self._blas = _BlasLayers(self, *self._views(self._grad))
        else:
            self._packed = _aligned(_core.net_sizes(self._shape, self.parameter, 0)[0], self.parameter.dtype)

    def _views(self, vector: Array) -> tuple[list[Array], list[Array]]:
        weight, bias, start = [], [], 0
        for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            weight.append(vector[start : start + i * o].reshape(i, o))
            bias.append(vector[start + i * o : start + (i + 1) * o])
            start += (i + 1) * o
        return weight, bias

    def _buffer(self, rows: int) -> tuple[Array, ...]:
        """y, the gradient of x, what the kernels keep in between, and room for that of y, for this number of rows."""
        if rows not in self._buffers:
            if len(self._buffers) >= 8:  # callers with ever-changing row counts must not grow memory without end
                self._buffers.clear()
            dtype = self.parameter.dtype
            _, hidden, room = _core.net_sizes(self._shape, self.parameter, rows)
            y, grad_y = np.empty((2, rows, self.sizes[-1]), dtype)
            grad_x = np.empty((rows, self.sizes[0]), dtype)
            self._buffers[rows] = y, grad_x, _aligned(hidden, dtype), _aligned(room, dtype), grad_y
        return self._buffers[rows]

    def _checked(self, name: str, x: Array, columns: int) -> Array:
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(f"{name} has shape {x.shape}; this net of sizes {self.sizes} wants (rows, {columns})")
        if x.dtype != self.parameter.dtype:
            raise TypeError(f"{name} has dtype {x.dtype}; this net wants {self.parameter.dtype}")
        return np.ascontiguousarray(x)

    def forward(self, x: Array) -> Array:
        """y for x of shape (rows, sizes[0])."""
        x = self._checked("x", x, self.sizes[0])
        if self._blas is not None:
            return self._blas.forward(x)
        y, _, hidden, _, _ = self._buffer(len(x))
        _core.net_forward(*self.packed(), x, hidden, y)
        return y

    @property
    def compiled(self) -> bool:
        """Whether it runs in fastpg's own kernels."""
        return self._blas is None

    def packed(self) -> tuple[Array, Array]:
        """Its shape, and its parameters as they are now, as the kernels take them; valid until the next call of forward."""
        _core.net_pack(self._shape, self.parameter, self._packed)
        return self._shape, self._packed

    def work(self, rows: int) -> tuple[Array, ...]:
        """What a kernel that trains it takes: shape, and room for packed, x, hidden, y, grad_y and more; grad and parameter."""
        y, x, hidden, room, grad_y = self._buffer(rows)
        return self._shape, self._packed, x, hidden, y, grad_y, room, self._grad, self.parameter

    def backward(self, x: Array, grad_output: Array, grad_extra: Array | None = None) -> Array:
        """d loss / d parameter, one vector, from d loss / d y; forward(x) must have come just before.

        dW_k = h_{k-1}^T d_k,   db_k = sum over rows of d_k,   d_{k-1} = (d_k W_k^T) f'(h_{k-1})

        grad_extra    d loss / d extra, which the caller knows; None: 0
        """
        self._backward(x, grad_output, False)
        if len(self.extra):
            self._grad[len(self._grad) - len(self.extra) :] = 0 if grad_extra is None else grad_extra
        return self._grad

    def backward_input(self, x: Array, grad_output: Array) -> tuple[Array, Array]:
        """As backward, and d loss / d x of shape (rows, sizes[0])."""
        return self._grad, self._backward(x, grad_output, True)

    def linearize(self, x: Array) -> Callable[[Array], Array]:
        """v -> J v of shape (rows, sizes[-1]): how fast y at x changes as the parameters, as they are now, move along v, like parameter.

        dh_0 = 0,   dh_k = (dh_{k-1} W_k + h_{k-1} dW_k + db_k) f'(h_k)

        It may be called again and again, whatever the net has done since. Forward mode: Wengert 1964
        """
        x, weights, last = self._checked("x", x, self.sizes[0]), [w.copy() for w in self.weight], len(self.weight) - 1
        h = _BlasLayers(self, [], []).activations(x)
        slopes = [self._slope(h[k + 1]) for k in range(last)]

        def change(vector: Array) -> Array:
            if vector.shape != self.parameter.shape:
                raise ValueError(f"vector has shape {vector.shape}, but the parameter has {self.parameter.shape}")
            dh: Array | None = None
            for k, (dw, db) in enumerate(zip(*self._views(vector), strict=True)):
                d = h[k] @ dw
                d += db
                if dh is not None:
                    d += dh @ weights[k]
                dh = d if k == last else d * slopes[k]
            return dh  # type: ignore[return-value]

        return change

    def _slope(self, h: Array) -> Array:
        """f' where f gave h."""
        return 1 - h * h if self.activation == "tanh" else h > 0

    def _backward(self, x: Array, grad_output: Array, inputs: bool) -> Array:
        x = self._checked("x", x, self.sizes[0])
        grad_output = self._checked("grad_output", grad_output, self.sizes[-1])
        if len(grad_output) != len(x):
            raise ValueError(f"grad_output has {len(grad_output)} rows, but x has {len(x)}")
        if self._blas is not None:
            return self._blas.backward(x, grad_output, inputs)
        _, grad_x, hidden, room, _ = self._buffer(len(x))
        to = grad_x if inputs else None
        _core.net_backward(self._shape, self._packed, x, hidden, grad_output, room, self._grad, to)
        return grad_x


class _BlasLayers:
    """The same layer by layer, by NumPy and its BLAS."""

    def __init__(self, net: MLP, grad_weight: list[Array], grad_bias: list[Array]) -> None:
        self.net, self.grad_weight, self.grad_bias = net, grad_weight, grad_bias
        self._buffers: dict[int, tuple[list[Array], list[Array]]] = {}

    def _buffer(self, rows: int) -> tuple[list[Array], list[Array]]:
        """Activations h_1..h_L and the gradients of h_0..h_L-1."""
        if rows not in self._buffers:
            if len(self._buffers) >= 8:
                self._buffers.clear()
            sizes, dtype = self.net.sizes, self.net.parameter.dtype
            hidden, grad = ([np.empty((rows, size), dtype) for size in some] for some in (sizes[1:], sizes[:-1]))
            self._buffers[rows] = hidden, grad
        return self._buffers[rows]

    def forward(self, x: Array) -> Array:
        return self.activations(x)[-1]

    def activations(self, x: Array) -> list[Array]:
        """x and what each layer makes of it."""
        net, (hidden, _) = self.net, self._buffer(len(x))
        for k, h in enumerate(hidden):
            np.matmul(hidden[k - 1] if k else x, net.weight[k], out=h)
            h += net.bias[k]
            if k < len(hidden) - 1:
                if net.activation == "tanh":
                    np.tanh(h, out=h)
                else:
                    np.maximum(h, 0, out=h)
        return [x, *hidden]

    def backward(self, x: Array, d: Array, inputs: bool) -> Array:
        """The gradient of x, which only with inputs is right."""
        net, (hidden, grad) = self.net, self._buffer(len(x))
        for k in range(len(hidden) - 1, -1, -1):
            np.matmul((hidden[k - 1] if k else x).T, d, out=self.grad_weight[k])
            np.sum(d, axis=0, out=self.grad_bias[k])
            if k or inputs:
                np.matmul(d, net.weight[k].T, out=grad[k])
            if k:
                d = grad[k]
                d *= net._slope(hidden[k - 1])
        return grad[0]


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
        plain = parameter.flags.carray and parameter.dtype in (np.float32, np.float64)
        if not plain:  # csrc writes it in place, item after item
            raise ValueError(
                f"parameter has dtype {parameter.dtype} and strides {parameter.strides} for shape {parameter.shape}; "
                f"wanted a contiguous, writeable array of float32 or float64"
            )
        self.parameter, self.beta1, self.beta2, self.eps = parameter, beta1, beta2, eps
        self.m, self.v, self.t = np.zeros_like(parameter), np.zeros_like(parameter), 0

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
        rate, correction = lr / (1 - self.beta1**self.t), 1 - self.beta2**self.t
        grad = np.ascontiguousarray(grad, self.parameter.dtype)
        _core.adam(grad, 1.0, self.beta1, self.beta2, self.eps, rate, correction, self.m, self.v, self.parameter)
