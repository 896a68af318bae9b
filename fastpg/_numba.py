"""Teaches Numba the public names: inside an @njit function, `fastpg.gae(...)` calls the same compiled kernel.

`register` runs by itself when Numba first compiles or loads a function (entry point group `numba_extensions`). It reads
the kernels from `_core` and the parameters from the public functions, so a new kernel needs nothing here unless one of
its parameters works as no other does. Kernels are called by name, not by address: a function compiled with cache=True
finds them again in the next process.
"""

import functools
import hashlib
import inspect
import os
import pickle
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.serialize import dumps
from numba.extending import intrinsic, overload
from numba.np import linalg
from numpy.typing import NDArray

import fastpg
from fastpg import _core

_SUFFIX = {types.float32: "f32", types.float64: "f64"}
_KERNELS: dict[str, list[tuple[str, str]]] = _core.kernels()
_CHANGED = -2  # what a call gives, in place of a bad row, where it was compiled for another version of the kernel
_digests: dict[str, NDArray[np.int64]] = {}  # where compiled code finds the digest of each kernel


def _light_arrays() -> None:
    """Imports Numba's array functions without scipy.linalg, which takes them 0.15 s of 0.35.

    They look only whether it is there, and it is: SciPy is a requirement of fastpg. Functions that call it look again.
    """
    look: Any = getattr(linalg, "ensure_blas", None)
    if look is None:  # it is not public
        return
    linalg.ensure_blas = lambda: None
    try:
        import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = look


_light_arrays()


@functools.cache
def register() -> None:
    """Makes every kernel known to LLVM by name, and every public function to Numba."""
    for symbol, address in _core.symbols().items():
        binding.add_symbol(symbol, address)
    for kernel in _KERNELS:
        _digests[kernel] = np.array(_digest(kernel), np.int64)
        binding.add_symbol(f"fastpg_{kernel}_digest", _digests[kernel].ctypes.data)
        name, function = _public(kernel)
        if function is not None:
            overload(function)(_typing(kernel, name, function))


def cached(function: Callable[..., Any], signature: Any = None, **options: Any) -> Any:
    """numba.njit(cache=True, nogil=True) for functions that call those of fastpg/envs: its cache ends where one of those files changes too.

    Where there is nowhere to keep a cache it is a warning, and the function is compiled anew in every process.
    """
    dispatcher = numba.njit(**{"nogil": True, "boundscheck": False, **options})(function)
    path = inspect.getfile(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no folder can be written to; or it was typed at a prompt, and there is no file
        if os.path.exists(path):
            _tell_uncached(os.path.dirname(path))
    else:
        dispatcher._cache._cache_file = _Files(dispatcher._cache, dispatcher.targetoptions)
    if signature is not None:
        dispatcher.compile(signature)
    return dispatcher


def _tell_uncached(folder: str) -> None:
    warnings.warn(
        f"compiled code cannot be kept in {folder} nor in ~/.cache/numba, so that every process spends seconds on compiling it "
        f"again; make one of them writable, or set NUMBA_CACHE_DIR to a folder that is",
        stacklevel=2,
    )


@functools.cache
def _sources() -> bytes:
    files = sorted(Path(__file__).parent.glob("envs/*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


class _Files:
    """Where a function's cache is kept: a file for each signature, options and processor, written in one piece and checked when read.

    Numba's own way is an index and numbered files. It asks whether the function's own file has changed, but not those of
    the functions compiled into it; and of two processes that fill it at the same time for different signatures, the one may
    leave its code under the other's entry.
    """

    def __init__(self, cache: Any, options: dict[str, Any]) -> None:
        self._start = os.path.join(cache.cache_path, cache._impl.filename_base)
        self._version = repr((numba.__version__, cache._impl.locator.get_source_stamp(), _sources()))
        self._options = sorted(options.items())

    def _path(self, key: Any) -> str:
        return f"{self._start}.{hashlib.sha256(repr((key, self._options)).encode()).hexdigest()[:16]}.nbc"

    def _digest(self, key: Any, data: bytes) -> bytes:
        return hashlib.sha256(repr((self._version, key)).encode() + data).digest()

    def load(self, key: Any) -> Any:
        """What save was given, or None where there is nothing of this version in full."""
        try:
            with open(self._path(key), "rb") as file:
                digest, data = file.read(32), file.read()
        except OSError:
            return None
        if digest != self._digest(key, data):
            return None
        try:
            return pickle.loads(data)
        except (
            Exception
        ):  # it imports the function's module by its name, which a module loaded from a path does not answer to
            return None

    def save(self, key: Any, entry: Any) -> None:
        data, path = dumps(entry), self._path(key)
        temporary = f"{path}.{os.getpid()}"
        try:
            with open(temporary, "wb") as file:
                file.write(self._digest(key, data) + data)
            os.replace(temporary, path)
        except OSError:
            _tell_uncached(os.path.dirname(path))
            Path(temporary).unlink(missing_ok=True)


def _digest(kernel: str) -> int:
    """Tells a kernel from one of another version with other parameters, which a cached function must not call."""
    return int(hashlib.sha256(repr(_KERNELS[kernel]).encode()).hexdigest()[:15], 16)


def _public(kernel: str) -> tuple[str, Callable[..., Any] | None]:
    """fastpg.gae for gae, fastpg.categorical.log_prob for categorical_log_prob; None for a variant without a name."""
    words = kernel.split("_")
    for cut in range(len(words)):
        path = [name for name in ("_".join(words[:cut]), "_".join(words[cut:])) if name]
        function: Any = fastpg
        for name in path:
            function = getattr(function, name, None)
        if inspect.isfunction(function):
            return ".".join(["fastpg", *path]), function
    return kernel, None


def _typing(kernel: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """What Numba asks for an implementation: the types of the arguments in, a function to compile out."""
    public = inspect.signature(function).parameters.values()
    # Numba knows no keyword-only parameters: here they are the last plain ones.
    signature = inspect.Signature([p.replace(kind=p.POSITIONAL_OR_KEYWORD, annotation=p.empty) for p in public])
    python_only = [p.name for p in public if p.kind == p.KEYWORD_ONLY and p.name != "wrt"]
    optional = {p.name for p in public if p.default is None}

    def typing(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        given = signature.bind(*args, **kwargs).arguments
        for x in python_only:
            if x in given:
                raise TypingError(f"{name}: {x} is given; it is for Python only, inside @njit it is left out")
        typed = {x: _plain(given.get(x, parameter.default)) for x, parameter in signature.parameters.items()}
        for x, typ in typed.items():
            if typ is None and x not in optional:
                raise TypingError(f"{name}: {x} is None; an array is wanted")
        variant = (
            _variant(kernel, name, typed["wrt"], signature.parameters["wrt"].default) if "wrt" in typed else kernel
        )
        lines, names = _write(variant, name, typed)
        exec(compile("\n    ".join([f"def implementation{signature}:", *lines]), f"<{name} in @njit>", "exec"), names)
        implementation: Callable[..., Any] = names["implementation"]
        return implementation

    typing.__name__ = kernel
    typing.__signature__ = signature  # type: ignore[attr-defined]
    return typing


def _plain(typ: Any) -> Any:
    """The type of an argument, which may be a default; None for None."""
    value = typ.value if isinstance(typ, types.Omitted) else typ
    if value is None or isinstance(value, types.NoneType):
        return None
    return value if isinstance(value, types.Type | str) else numba.typeof(value)


def _variant(kernel: str, name: str, wrt: Any, default: str) -> str:
    """The kernel for the gradient with respect to `wrt`: kl_grad for the default, "logits", and kl_grad_other for "other"."""
    value = wrt.literal_value if isinstance(wrt, types.StringLiteral) else wrt
    variant = kernel if value == default else f"{kernel}_{value}"
    if variant not in _KERNELS:
        raise TypingError(f"{name}: wrt is {value}; {default!r} or 'other', written out, is wanted")
    return variant


def _write(kernel: str, name: str, typed: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The implementation for arguments of these types: lines that check, make room, call and return; their names."""
    parameters = _KERNELS[kernel]
    over_time = _core.family(kernel) == "time"
    first = parameters[0][1]
    _check_array(name, first, typed[first], tuple(_SUFFIX), (1, 2) if over_time else (2,))
    real, ndim = typed[first].dtype, typed[first].ndim
    spans = _core.spans(kernel)
    checks, makes, operands, results, sums = [], [], [], [], []

    at = "row, column" if ndim == 2 else "row"  # no parameter's name, as n is

    def refuse(condition: str, sentence: str) -> str:
        return f"if {condition}: raise ValueError({f'{name}: {sentence}'!r})"

    def every(line: str, rows: str = "rows") -> list[str]:  # plain loops compile ten times as fast as array expressions
        return [f"for row in range({rows}):", "    for column in range(columns):", f"        {line}"]

    if not over_time:
        checks.append(refuse("columns == 0", f"{first} has no columns; at least one action is wanted"))
    for kind, x in parameters:
        typ, dims = typed.get(x), 1 if spans[x] == "row" else ndim
        shared = not over_time and spans[x] == "action"
        dtype = {"FLAG": types.boolean, "INDEX": types.int64}.get(kind, real)
        one_row = dims == ndim and getattr(typ, "ndim", 0) == ndim - 1
        operand = x
        if kind in ("OUT", "OUT_INDEX"):
            shape = "rows" if dims == 1 and not over_time else f"{first}.shape"
            makes.append(f"{x} = np.empty({shape}, {'real' if kind == 'OUT' else 'np.int64'})")
            source = typed[x.removesuffix("_grad")] if shared else None
            if source is not None and source.ndim == 1:  # one for every row: so is its gradient, the sum over rows
                sums += [f"sum_{x} = np.zeros(columns, real)", *every(f"sum_{x}[column] += {x}[row, column]")]
            results.append(x if source is None or source.ndim == 2 else f"sum_{x}")
        elif x == "uniform":
            if not isinstance(typed["rng"], types.NumPyRandomGeneratorType):
                raise TypingError(f"{name}: rng is {typed['rng']}; a numpy.random.Generator is wanted")
            makes.append("uniform = rng.random(rows, real)")
        elif typ is None:
            operand = "None"
        elif kind == "SCALAR" and isinstance(typ, types.Float | types.Integer):
            checks.append(refuse(f"not 0 <= {x} <= 1", f"{x} is not in [0, 1]"))
        elif kind in ("NUMBER", "COUNT"):
            number = types.Float | types.Integer if kind == "NUMBER" else types.Integer
            if not isinstance(typ, number):
                raise TypingError(f"{name}: {x} is {typ}; {'a number' if kind == 'NUMBER' else 'an integer'} is wanted")
            checks.append(
                refuse(f"not {x} >= {0 if kind == 'NUMBER' else 1}", f"{x} is below {0 if kind == 'NUMBER' else 1}")
            )
        elif x == "next_value" and one_row and isinstance(typ, types.Array | types.Float):  # V after the last row alone
            if "value" not in typed and kernel != "reward_to_go":
                raise TypingError(f"{name}: {x} has one row; other steps read it as well, so all rows are wanted")
            if ndim == 2:
                _check_array(name, x, typ, (real,), (1,))
                checks.append(refuse(f"{x}.size != columns", f"{x} has one row, but not one item a lane of {first}"))
            operand = "all_next_value"
            makes.append(f"{operand} = np.zeros({first}.shape, real)")
            if typed["truncated"] is not None:
                cut = f"truncated[{at}]" + (f" and not terminated[{at}]" if typed["terminated"] is not None else "")
                missing = f"{x} has one row, and truncated is set above the last: V is missing there"
                makes += every(refuse(cut, missing), "rows - 1")
            if "value" in typed:
                makes += every(f"{operand}[{at}] = value[{at.replace('row', 'row + 1')}]", "rows - 1")
            makes += every(f"{operand}[{at}] = {x}{'[column]' if ndim == 2 else ''}", "max(rows - 1, 0), rows")
        else:
            _check_array(name, x, typ, (dtype,), (1, 2) if shared else (dims,))
            if shared and one_row:
                checks.append(refuse(f"{x}.size != columns", f"{x} has one row, but not one item an action of {first}"))
                operand = f"all_{x}"
                makes += [f"{operand} = np.empty({first}.shape, {x}.dtype)", *every(f"{operand}[{at}] = {x}[column]")]
            elif dims == ndim and x != first:
                checks.append(refuse(f"{x}.shape != {first}.shape", f"{x} and {first} differ in shape"))
            elif dims < ndim:
                checks.append(
                    refuse(f"{x}.size != rows", f"{x} and {first} differ in length; one item a row is wanted")
                )
            if kind == "SCALAR":
                makes += every(refuse(f"not 0 <= {x}[{at}] <= 1", f"{x} holds numbers that are not in [0, 1]"))
        operands.append(operand)

    lines = [f"rows, columns = {first}.{'size, 1' if ndim == 1 else 'shape'}", *checks, *makes]
    lines.append(f"bad = call(({', '.join([*operands, 'rows', 'columns'])}))")
    changed = "it has changed since this function was compiled and cached; clear that cache"
    lines.append(refuse(f"bad == {_CHANGED}", changed))
    if "INDEX" in dict(parameters):
        out_of_range = "bad >= 0 and not 0 <= action[bad] < columns"
        lines.append(refuse(out_of_range, f"action is out of range; a column of {first} is wanted"))
    if not over_time:
        unanswered = f"{first} has a row with no legal action, or with NaN or inf where an action is picked"
        lines.append(refuse("bad >= 0", unanswered))
    lines += [*sums, f"return {', '.join(results)}"]
    return lines, {"np": np, "real": np.dtype(str(real)).type, "call": _call(kernel, real)}


def _check_array(name: str, x: str, typ: Any, dtypes: tuple[Any, ...], ndims: tuple[int, ...]) -> None:
    """Refuses, while typing, all but C-contiguous arrays: a kernel reads items next to each other."""
    dtype, ndim = " or ".join(map(str, dtypes)), " or ".join(map(str, ndims))
    if not isinstance(typ, types.Array):
        raise TypingError(f"{name}: {x} is {typ}; inside @njit a C-contiguous array of {dtype} is wanted")
    if typ.dtype not in dtypes:
        raise TypingError(f"{name}: {x} has dtype {typ.dtype}; inside @njit {dtype} is wanted")
    if typ.ndim not in ndims:
        raise TypingError(f"{name}: {x} has {typ.ndim} dimensions; inside @njit {ndim} are wanted")
    if typ.layout != "C" or not typ.aligned:
        raise TypingError(
            f"{name}: {x} is a non-contiguous array (layout {typ.layout!r}); inside @njit a C-contiguous array is"
            f" wanted: np.ascontiguousarray({x})"
        )


def _call(kernel: str, real: Any) -> Callable[..., Any]:
    """call((operand, ..., rows, columns)), which runs a kernel and returns its first bad row, or -1.

    An array becomes its address within the call itself, so that it lives as long as the call.
    """

    kinds = [kind for kind, _ in _KERNELS[kernel]]

    @intrinsic
    def call(context: Any, operands: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            nothing = cgutils.voidptr_t(None)
            passed = []
            for i, typ in enumerate(signature.args[0]):
                operand = builder.extract_value(args[0], i)
                array = isinstance(typ, types.Array)
                address = nothing
                if array:
                    data = context.make_array(typ)(context, builder, operand).data
                    address = builder.bitcast(data, cgutils.voidptr_t)
                if i >= len(kinds):
                    passed.append(context.cast(builder, operand, typ, types.intp))
                elif kinds[i] == "NUMBER":
                    passed.append(context.cast(builder, operand, typ, real))
                elif kinds[i] == "COUNT":
                    passed.append(context.cast(builder, operand, typ, types.int64))
                elif kinds[i] == "SCALAR":
                    number = context.get_constant(real, 0) if array else context.cast(builder, operand, typ, real)
                    passed += [number, address]
                else:
                    passed.append(address)
            intp = context.get_value_type(types.intp)
            signed = ir.FunctionType(intp, [value.type for value in passed])
            function = cgutils.get_or_insert_function(builder.module, signed, f"fastpg_{kernel}_{_SUFFIX[real]}")
            digest = cgutils.add_global_variable(builder.module, ir.IntType(64), f"fastpg_{kernel}_digest")
            bad = cgutils.alloca_once_value(builder, intp(_CHANGED))
            same = builder.icmp_unsigned("==", builder.load(digest), ir.IntType(64)(_digest(kernel)))
            with builder.if_then(same, likely=True):
                builder.store(builder.call(function, passed), bad)
            return builder.load(bad)

        return types.intp(operands), generate

    return call
