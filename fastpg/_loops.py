"""The loops of `scan`, written out for one step in one layout: each compiles as if it had been written by hand for it.

Arrays are flat; `i` is where a step stands in them, `n` its lane. A lane has a `carry`, `after` (V of the state that
follows, where next_value came as one row) and `last` (no step of it has been run yet): locals where lanes come one
after another, items of `carries`, `afters` and `lasts` where they take turns.
"""

import functools
import re
from collections.abc import Callable
from textwrap import indent
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.core.registry import cpu_target

Kind = Literal["lanes", "rows", "narrow", "ids"]  # one lane after another; time-major, and with few lanes; by env_id
Mode = Literal["", "skip", "zero", "reset"]  # of the mask; empty without one
Carry = Literal["", "number", "array"]  # of a step; empty without one
Loop = Callable[..., None]

COEFFICIENTS = ("gamma", "lambda_", "alpha")  # by which a trace decays through a gap whose arrays count as 0


class Layout(NamedTuple):
    """What a loop is compiled for, besides what it computes; and what the state of a lane is called in it."""

    kind: Kind
    mode: Mode
    dtype: np.dtype[Any]
    ids: np.dtype[Any] = np.dtype(np.int64)  # of env_id

    @property
    def carry(self) -> str:
        return "carry" if self.kind == "lanes" else "carries[n]"

    @property
    def after(self) -> str:
        return "after" if self.kind == "lanes" else "afters[n]"

    @property
    def last(self) -> str:
        return "lasts[n]" if self.kind in ("rows", "narrow") and not self.together else "last"

    @property
    def together(self) -> bool:
        """Whether all lanes are at their last step in the same row."""
        return self.kind in ("rows", "narrow") and self.mode in ("", "zero")

    def set_last(self, value: bool) -> list[str]:
        if self.kind == "ids":
            return [f"if last != {value}:", f"    lasts[n] = {value}", f"    unseen {'+' if value else '-'}= 1"]
        return [] if self.together else [f"{self.last} = {value}"]


class Input(NamedTuple):
    """A parameter of a step, the carry apart."""

    name: str
    kind: Literal["number", "array", "row"]  # one for all steps; one a step; V after the last step of each lane
    flag: bool  # bool; all others have the dtype of the results


class Form(NamedTuple):
    """What a step is handed and returns."""

    carry: Carry
    results: int
    apart: bool  # carry, (result, ...); otherwise the results alone, the first of which is a carry that is a number
    several: bool  # whether the results are a tuple


@functools.cache
def form_of(step: Any, carry: Carry, flags: tuple[bool, ...], dtype: np.dtype[Any]) -> Form:
    """What the step returns for numbers of this dtype; TypeError where Form cannot say it."""
    real = numba.from_dtype(dtype)
    first = {"": (), "number": (real,), "array": (types.Array(real, 1, "C"),)}[carry]
    typed: Any = types.Dispatcher(step)
    arguments = (*first, *(types.boolean if flag else real for flag in flags))
    try:
        returned = typed.get_call_type(cpu_target.typing_context, arguments, {}).return_type
    except TypingError as error:
        handed = ", ".join(map(str, arguments))
        raise TypeError(f"step {step.__name__} does not compile for ({handed}): {error}") from None
    several = isinstance(returned, types.BaseTuple)
    items = tuple(returned) if several else (returned,)
    apart = carry == "number" and len(items) == 2 and isinstance(items[1], types.BaseTuple)
    results = tuple(items[1]) if apart else items
    if not results or not all(isinstance(x, types.Number | types.Boolean) for x in (items[0], *results)):
        wanted = "a number, or a tuple of numbers" + ", or carry, (number, ...)" * (carry == "number")
        raise TypeError(f"step {step.__name__} returns {returned}; {wanted}, is wanted")
    return Form(carry, len(results), apart, len(results) > 1 if apart else several)


@functools.cache
def step_loop(step: Any, form: Form, inputs: tuple[Input, ...], layout: Layout, gaps: bool = True) -> Loop:
    """Runs a step backwards along every lane. Results at masked steps are 0; in mode zero only with `gaps`."""
    carry, after, last = layout.carry, layout.after, layout.last
    items = {x.name: _item(f"a{k}", x, layout) for k, x in enumerate(inputs)}
    by_row = any(x.kind == "row" for x in inputs)
    given = [f"({item} or {last})" if name == "truncated" else item for name, item in items.items()]
    call = f"step({', '.join([carry] * bool(form.carry) + given)})"
    results = [f"r{k}" for k in range(form.results)]
    returned = ", ".join(results) + "," * (form.several or form.apart)
    run = [f"new, ({returned}) = {call}" if form.apart else f"{returned} = {call}"]
    if form.carry == "number":
        run.append(f"{carry} = real({'new' if form.apart else 'r0'})")
    gap = " if live[i] else zero" * (layout.mode == "zero" and gaps)
    run += [f"y{k}[i] = {r}{gap}" for k, r in enumerate(results)]
    run += [f"{after} = {items.get('value')}"] * (by_row and "value" in items)
    run += layout.set_last(False)
    skip = [f"y{k}[i] = zero" for k in range(form.results)]
    fresh = {"": [], "number": [f"{carry} = initial"], "array": [f"{carry}[:] = initial"]}[form.carry]
    if layout.mode == "reset":
        again = [*fresh, *[f"{after} = zero"] * by_row, *layout.set_last(True)]
        skip += [f"if not {last}:", *(f"    {line}" for line in again)]
    prepare = ["carry = carries"] * (form.carry == "array") + fresh + ["after = afters[n]"] * by_row
    arrays = {f"a{k}": _type(x, layout) for k, x in enumerate(inputs) if x.kind != "row"}
    arrays |= {f"y{k}": _array(layout.dtype) for k in range(form.results)}
    return _compile(step.__name__, layout, arrays, _masked(layout, run, skip), prepare, form.carry, step=step)


@functools.cache
def spread_loop(inputs: tuple[Input, ...], layout: Layout) -> Loop:
    """Hands the result at an episode's first step to all of its steps, forwards along every lane."""
    carry, last = layout.carry, "last" if layout.kind == "lanes" else "lasts[n]"
    ended = " or ".join(_item(f"a{k}", x, layout) for k, x in enumerate(inputs))
    gap = " if live[i] else zero" * (layout.mode == "zero")
    run = [f"{carry} = y0[i] if {last} else {carry}", f"y0[i] = {carry}{gap}", f"{last} = {ended}"]
    skip = [f"{last} = True"] if layout.mode == "reset" else ["pass"]
    arrays = {f"a{k}": _type(x, layout) for k, x in enumerate(inputs)} | {"y0": _array(layout.dtype)}
    return _compile("spread", layout, arrays, _masked(layout, run, skip), ["carry = initial"], forwards=True)


@functools.cache
def missing_loop(inputs: tuple[Input, ...], layout: Layout) -> Loop:
    """Finds a step that reads V of its next state where only V after the last step of its lane was given."""
    terminated, truncated = (_item(f"a{k}", x, layout) for k, x in enumerate(inputs))
    gap = layout.carry  # 1 where mask_mode "reset" cuts between this step and the one before
    run = [f"if ({truncated} or {gap} != zero) and not {terminated} and not {layout.last}:", "    found[0] = i"]
    run += [f"{gap} = zero", *layout.set_last(False)]
    skip = [f"{gap} = real(1)"] if layout.mode == "reset" else ["pass"]
    arrays = {f"a{k}": _type(x, layout) for k, x in enumerate(inputs)} | {"found": _array(np.dtype(np.int64))}
    return _compile("missing", layout, arrays, _masked(layout, run, skip), ["carry = initial"])


# The index is unsigned because Numba then leaves out what makes -1 the last item: 1.1 to 1.7 times as fast. A row of many
# lanes is a function of its own so that LLVM vectorises it: 4 times as fast at (2048, 256), and slower with few lanes.
_HEADS = {
    "lanes": """
def loop(offsets, {given}):
    for n in range(len(offsets) - 1):
        start, stop = offsets[n], offsets[n + 1]
        last = True
        # prepare
        for j in {order}:
            i = uintp(j)
            # body
""",
    "rows": """
def inner(start, columns, last, {given}):
    for n in range(columns):
        i = uintp(start + n)
        # body

def loop(shape, {given}):
    start, stop, columns = 0, shape[0], shape[1]
    for j in {order}:
        inner(j * columns, columns, j == stop - 1, {given})
""",
    "narrow": """
def loop(shape, {given}):
    start, stop, columns = 0, shape[0], shape[1]
    for j in {order}:
        last = j == stop - 1
        for n in range(columns):
            i = uintp(j * columns + n)
            # body
""",
    "ids": """
def loop(env_id, {given}):
    start, stop, unseen = 0, len(env_id), len(lasts)
    for j in {order}:
        i, n = uintp(j), uintp(env_id[j])
        last = unseen != 0 and lasts[n]  # once every lane has been seen no flag is read: 1.1 times as fast
        # body
""",
}


def _compile(
    name: str,
    layout: Layout,
    arrays: dict[str, Any],
    body: list[str],
    prepare: list[str],
    carry: str = "",
    forwards: bool = False,
    **names: Any,
) -> Loop:
    """loop(where, initial, carries, afters, lasts, live, *arrays), compiled for the one signature that scan calls it by."""
    wide, dtype = layout.kind != "lanes", layout.dtype
    shape = types.UniTuple(types.int64, 2)
    where = {"lanes": _array(np.dtype(np.int64), readonly=True), "ids": _array(layout.ids, readonly=True)}
    windows = (1 + wide) * (carry == "array") or 1
    given = {
        "initial": _array(dtype, readonly=True) if carry == "array" else numba.from_dtype(dtype),
        "carries": _array(dtype, windows),
        "afters": _array(dtype),
        "lasts": _array(np.dtype(bool)),
        "live": _array(np.dtype(bool), readonly=True),
        **arrays,
    }
    order = "range(start, stop)" if forwards else "range(stop - 1, start - 1, -1)"
    source = _HEADS[layout.kind].format(given=", ".join(given), order=order)
    source = _fill(_fill(source, "# prepare", prepare), "# body", body)
    names |= {"real": dtype.type, "zero": dtype.type(0), "uintp": np.uintp}
    exec(compile(source, f"<fastpg.scan of {name}, {layout.kind}>", "exec"), names)
    njit: Any = functools.partial(numba.njit, nogil=True, no_cfunc_wrapper=True)  # that would take half of the time
    if "inner" in names:
        names["inner"] = njit(no_cpython_wrapper=True)(names["inner"])
    signature = types.void(where.get(layout.kind, shape), *given.values())
    loop: Loop = njit(signature)(names["loop"])
    return loop


def _fill(source: str, mark: str, lines: list[str]) -> str:
    return re.sub(f"( *){mark}\n", lambda found: indent("\n".join([*lines, ""]), found[1]), source)


def _item(array: str, of: Input, layout: Layout) -> str:
    """What a step is handed for a parameter."""
    if of.kind != "array":
        return array if of.kind == "number" else layout.after
    if layout.mode != "zero" or of.name in COEFFICIENTS:
        return f"{array}[i]"
    return f"({array}[i] and live[i])" if of.flag else f"({array}[i] if live[i] else zero)"


def _masked(layout: Layout, run: list[str], skip: list[str]) -> list[str]:
    if layout.mode in ("", "zero"):
        return run
    return ["if live[i]:", *(f"    {line}" for line in run), "else:", *(f"    {line}" for line in skip)]


def _type(of: Input, layout: Layout) -> Any:
    dtype = np.dtype(bool) if of.flag else layout.dtype
    return _array(dtype, readonly=True) if of.kind == "array" else numba.from_dtype(dtype)


def _array(dtype: np.dtype[Any], ndim: int = 1, readonly: bool = False) -> Any:
    return types.Array(numba.from_dtype(dtype), ndim, "C", readonly=readonly)
