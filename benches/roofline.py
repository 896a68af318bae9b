"""gae in float32, from caches to memory, beside a plain copy: docs/roofline.png and docs/speed.md.

    python benches/roofline.py [--folder docs] [--largest 16777216]

Bytes are those that must move: every array in once, every array out once. Each answer is checked before it is timed. A library whose calls
have become longer than half a second is not asked about larger batches.
"""

import argparse
import importlib
import textwrap
import time
from pathlib import Path

import loops
import machine
import numpy as np
from table import figure, markdown

import fastpg
from fastpg import _core, reference
from fastpg.testing import CASES, bytes_moved, compare, measure_copy

GAMMA, LAMBDA = 0.99, 0.95
SIZES = [4**k for k in range(5, 13)]  # steps of all lanes together: 18 kB to 302 MB
LAYOUTS = ["time-major", "batch-major", "packed", "one lane"]
SHAPE = {
    "time-major": "128 steps by so many lanes as it takes",
    "batch-major": "so many sequences of 256 steps",
    "packed": "sequences of 1 to 399 steps, end to end",
    "one lane": "so many steps",
}
SECONDS = 0.1  # of timing a point
LONGEST = 0.5  # seconds of a call
AT_MEMORY = 4**11  # steps at which the functions of AT_MEMORY_SPEED are held against the copy: 75 MB for gae
AT_MEMORY_SPEED = ["reward_to_go", "td_residual", "gae", "gae_and_return", "lambda_return", "vtrace"]


class Batch:
    """The arguments of a case in a layout, numbers among them; the keywords that say the layout; where lanes begin and end."""

    def __init__(self, layout, arguments, keywords, offsets):
        self.layout, self.arguments, self.keywords, self.offsets = layout, arguments, keywords, offsets

    @property
    def arrays(self):
        return [x for x in self.arguments.values() if isinstance(x, np.ndarray)]

    def row(self, x):
        """Lane after lane."""
        return np.ascontiguousarray(x.T if self.layout == "time-major" else x).ravel()


def batch_of(case, layout, steps):
    """Normal rewards and values, endings one step in a hundred; inside an episode next_value is the next step's value."""
    shape = {"time-major": (128, steps // 128), "batch-major": (steps // 256, 256)}.get(layout, (steps,))
    rng = np.random.default_rng(steps)
    arguments = case.make(rng, shape, np.float32)
    keywords = {"axis": 1} if layout == "batch-major" else {}
    offsets = np.arange(0, steps + 1, {"time-major": 128, "batch-major": 256}.get(layout, steps))
    if layout == "packed":
        ends = np.cumsum(rng.integers(1, 400, steps // 100 + 1))
        keywords["offsets"] = offsets = np.concatenate([[0], ends[ends < steps], [steps]])
    for name in ("terminated", "truncated"):
        arguments[name] = rng.random(shape, np.float32) < 0.005
    batch = Batch(layout, arguments, keywords, offsets)
    if "value" in arguments:
        after = np.append(batch.row(arguments["value"])[1:], np.float32(0))
        ends = batch.row(arguments["terminated"] | arguments["truncated"])
        ends[offsets[1:] - 1] = True
        after[ends] = rng.standard_normal(ends.sum(), np.float32)
        turned = layout == "time-major"
        arguments["next_value"] = np.ascontiguousarray(after.reshape(shape[::-1]).T if turned else after.reshape(shape))
    return batch


def hand_loop(batch):
    given = [*batch.arrays, GAMMA, LAMBDA]
    if batch.layout == "time-major":
        return loops.gae(*given)
    if batch.layout == "packed":
        return loops.gae_packed(*given, batch.offsets)
    if batch.layout == "batch-major":
        return loops.gae_rows(*given)
    return loops.gae_rows(*(x[None] for x in batch.arrays), GAMMA, LAMBDA)[0]


class Library:
    """A line of the picture: what to call on a batch, how its answer reads as ours, on how many threads of fastpg's."""

    def __init__(self, name, bind, kernel="gae", threads=1):
        self.name, self.bind, self.kernel, self.threads = name, bind, kernel, threads


def ours(threads, out=False):
    """fastpg.gae on at most so many threads; with out, into an array that is there already, as a copy writes into one."""

    def bind(batch):
        keywords = batch.keywords | ({"out": np.empty_like(batch.arguments["reward"])} if out else {})
        return lambda: fastpg.gae(*batch.arguments.values(), **keywords), np.asarray

    return Library(f"fastpg, {counted(threads)}{', out=' if out else ''}", bind, threads=threads)


def counted(threads):
    return f"{threads} thread{'s' * (threads > 1)}"


def peers_for(layout):
    """The adapters of peers.py for GAE whose library is installed; none where that file is not there."""
    try:
        peers = importlib.import_module("peers")
    except ModuleNotFoundError:
        return []
    called = "time-major" if layout == "one lane" else layout
    found = {}
    for peer in peers.PEERS:
        known = peer.library.startswith(("fastpg", "NumPy", "Numba"))
        if known or peer.kernel not in ("gae", "gae_and_return") or called not in peer.layouts:
            continue
        try:
            for module in peer.needs:
                importlib.import_module(module)
        except ImportError:
            continue

        def bind(batch, peer=peer):
            arrays = batch.arrays if layout != "one lane" else [x[:, None] for x in batch.arrays]
            shape = (len(batch.offsets) - 1, 200) if layout == "packed" else arrays[0].shape
            problem = peers.Problem(called, shape, *arrays, arrays[0], batch.offsets)
            call, read = peer.bind(problem)
            return call, lambda got: in_shape(read(got), batch.arguments["reward"].shape)

        if peer.kernel == "gae" or peer.library not in found:
            found[peer.library] = Library(f"{peer.library} {peer.version()}".strip(), bind, peer.kernel)
    return list(found.values())


def in_shape(got, shape):
    return (
        tuple(np.asarray(x).reshape(shape) for x in got) if isinstance(got, tuple) else np.asarray(got).reshape(shape)
    )


def libraries(layout):
    threads = sorted({1, _core.threads()})
    return [
        Library(
            "NumPy, fastpg.reference",
            lambda batch: (lambda: reference.gae(*batch.arrays, GAMMA, LAMBDA, **batch.keywords), np.asarray),
        ),
        Library("@njit loop by hand", lambda batch: (lambda: hand_loop(batch), np.asarray)),
        *peers_for(layout),
        *(ours(n) for n in threads),
        *(ours(n, out=True) for n in threads),
    ]


def seconds_of(call):
    """Median seconds of a call, which has been made once before; of a long one, the seconds of the next."""
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    inner = max(1, int(SECONDS / 20 / once))  # a single short call is too short for the clock
    times = [once] if inner == 1 else []
    while sum(times) * inner < SECONDS:
        start = time.perf_counter()
        for _ in range(inner):
            call()
        times.append((time.perf_counter() - start) / inner)
    return float(np.median(times))


def measure(layout, sizes):
    """{library: {bytes: bytes a second}}, the bytes being those of gae; one that gives returns as well is credited with them."""
    case = next(case for case in CASES if case.id == "gae")
    lines = libraries(layout)
    speeds = {library.name: {} for library in lines}
    last = {}  # library: (steps, seconds) of the point before
    for steps in sizes:
        batch = batch_of(case, layout, steps)
        wanted = {
            kernel: getattr(fastpg, kernel)(*batch.arguments.values(), **batch.keywords)
            for kernel in ("gae", "gae_and_return")
        }
        for library in lines:
            if library.name in last and last[library.name][1] * steps / last[library.name][0] > LONGEST:
                continue
            call, read = library.bind(batch)
            with fastpg.set_threads(library.threads):
                why = compare(read(call()), wanted[library.kernel], 64)
                if why:
                    raise SystemExit(f"{library.name}, {layout}, {steps} steps: {why}")
                seconds = seconds_of(call)
            last[library.name] = steps, seconds
            moved = bytes_moved(batch.arguments, wanted[library.kernel])
            speeds[library.name][bytes_moved(batch.arguments, wanted["gae"])] = moved / seconds
    return speeds


def copies(sizes):
    """{bytes: bytes a second} of a copy by this thread that moves as many bytes as gae."""
    speeds = {}
    for moved in (18 * steps for steps in sizes):
        source, target = np.ones(moved // 2, np.uint8), np.empty(moved // 2, np.uint8)
        np.copyto(target, source)
        speeds[moved] = moved / seconds_of(lambda: np.copyto(target, source))  # noqa: B023
    return speeds


def at_memory():
    """The functions of AT_MEMORY_SPEED in batches far outside the caches, beside a copy."""
    rows = []
    threads = sorted({1, _core.threads()})
    for case in (case for case in CASES if case.id in AT_MEMORY_SPEED):
        for layout in LAYOUTS[:3]:
            batch = batch_of(case, layout, AT_MEMORY)
            wanted = fastpg_call(case, batch)
            moved = bytes_moved(batch.arguments, wanted)
            out = tuple(map(np.empty_like, wanted)) if isinstance(wanted, tuple) else np.empty_like(wanted)
            cells = []
            for n in threads:
                with fastpg.set_threads(n):
                    copied = measure_copy(threads=n)  # beside each, as a shared machine changes its mind
                    fastpg_call(case, batch, out=out)
                    seconds = seconds_of(lambda: fastpg_call(case, batch, out=out))  # noqa: B023
                cells += [figure(moved / seconds / 1e9), figure(moved / seconds / copied)]
            rows.append([f"`{case.id}`", layout, f"{moved / 1e6:.0f}", *cells])
    head = ["function", "layout", "MB"]
    for n in threads:
        head += [f"GB/s, {counted(n)}", "of copy"]
    return markdown(head, rows)


def fastpg_call(case, batch, **keywords):
    return case.call(batch.arguments, **batch.keywords, **keywords)


STYLE = {"NumPy": {"color": "black"}, "@njit": {"color": "tab:orange"}}


def style(name, others):
    if name.startswith("fastpg"):
        first = name.startswith("fastpg, 1 ")
        return {
            "color": "#6aaed6" if first else "#08519c",
            "linestyle": "--" if name.endswith("out=") else "-",
            "linewidth": 2,
            "zorder": 3,
        }
    known = next((look for start, look in STYLE.items() if name.startswith(start)), None)
    return known or {"color": f"C{2 + others.index(name) % 8}", "linewidth": 1.2}


def draw(path, measured, copy, copy_by_size):
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 8.5), layout="constrained")
    grid = picture.subplots(2, 2, sharex=True, sharey=True)
    others = sorted({name for lines in measured.values() for name in lines if not name.startswith(("fastpg", *STYLE))})
    for axes, layout in zip(grid.flat, LAYOUTS, strict=True):
        for n, copied in copy.items():
            axes.axhline(
                copied / 1e9,
                color="0.2",
                linewidth=1,
                linestyle=":" if n == 1 else "-.",
                label=f"copy in memory, {counted(n)}",
            )
        axes.plot(
            list(copy_by_size),
            [rate / 1e9 for rate in copy_by_size.values()],
            color="0.8",
            linewidth=4,
            label="copy of that size, 1 thread",
            zorder=0,
        )
        for name, speeds in measured[layout].items():
            axes.plot(
                list(speeds),
                [x / 1e9 for x in speeds.values()],
                marker="o",
                markersize=3,
                label=name,
                **style(name, others),
            )
        axes.set(xscale="log", yscale="log", title=f"{layout}: {SHAPE[layout]}")
        axes.grid(alpha=0.25)
    for axes in grid[-1]:
        axes.set_xlabel("bytes in and out")
    for axes in grid[:, 0]:
        axes.set_ylabel("GB/s")
    named = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    picture.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=8)
    picture.savefig(path, dpi=100)


def table_of(speeds):
    sizes = sorted({size for by_size in speeds.values() for size in by_size})
    rows = [
        [
            f"`{name}`" if name.startswith("@") else name,
            *(rate(by_size[size] / 1e9) if size in by_size else "-" for size in sizes),
        ]
        for name, by_size in speeds.items()
    ]
    return markdown(["GB/s", *map(readable, sizes)], rows)


def rate(x):
    return figure(x) if x >= 0.1 else f"{x:.1g}"


def readable(size):
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def page(measured, copy, others):
    paragraphs = [
        f"""`gae` in float32, gamma {GAMMA}, lambda {LAMBDA}, an ending one step in a hundred: bytes that must move (three arrays of numbers
        and two of flags in, one out) over the median time of a call from Python. Other libraries run on as many threads as they choose,
        and those that give returns as well are credited with their bytes. The dotted lines are a plain copy outside the caches, read and
        written bytes counted: what no function that reads memory can pass; left of them the batch still lies in a cache. A call gives a
        new array, whose pages the system must first provide; `out=` writes into one that is there, as the copy does. A line ends where a
        call would take longer than half a second. Written by `benches/roofline.py`.""",
    ]
    parts = [
        "# Speed",
        *(textwrap.fill(" ".join(x.split()), 140) for x in paragraphs),
        "![GB/s against bytes](roofline.png)",
    ]
    for layout in LAYOUTS:
        parts += [
            f"## {layout[0].upper()}{layout[1:]}",
            f"{SHAPE[layout][0].upper()}{SHAPE[layout][1:]}.",
            table_of(measured[layout]),
        ]
    parts += [
        "## Beside a copy",
        "Batches that lie in memory, over a copy by as many threads, measured just before. Results go into arrays that are there (`out=`).",
        at_memory(),
        machine.sentence(machine.about(), copy, others.cores_of_others()),
    ]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description="gae from caches to memory, each library a line.")
    parser.add_argument("--folder", type=Path, default=machine.ROOT / "docs")
    parser.add_argument("--largest", type=int, default=max(SIZES), help="steps of the largest batch")
    chosen = parser.parse_args()
    sizes = [size for size in SIZES if size <= chosen.largest]
    others = machine.Clock()
    copy = {n: measure_copy(threads=n) for n in sorted({1, _core.threads()})}
    copy_by_size = copies(sizes)
    measured = {layout: measure(layout, sizes) for layout in LAYOUTS}
    chosen.folder.mkdir(parents=True, exist_ok=True)
    draw(chosen.folder / "roofline.png", measured, copy, copy_by_size)
    (chosen.folder / "speed.md").write_text(page(measured, copy, others))


if __name__ == "__main__":
    main()
