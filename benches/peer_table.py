"""Prints what `pytest benches/test_peers.py --benchmark-json=FILE` measured: a table for each kernel, every library a line.

    python benches/peer_table.py FILE [--page docs/peers.md]

With --page, the tables replace what stands between the lines <!-- speeds:begin --> and <!-- speeds:end --> of that file.
"""

import argparse
import json
from pathlib import Path

import peers
from table import figure, into_page, markdown

LEGEND = (
    "Medians in microseconds, and in brackets how many times fastpg takes less; every result is checked against a float64 loop before it is"
    " timed. float32, arrays in each library's own layout beforehand, compilation excluded; a dash where a library has no such function or"
    " its loop in Python would take minutes. T x N is time-major; `axis=1` is batch-major with endings; `tokens` is batch-major without,"
    " and in `skip` and `zero` a tenth of the tokens and the padding are masked; `packed` is 10,000 episodes of 100 to 300 steps in one"
    " array. verl whitens as well. `PyTorch, chunks` is the idea of slime's GAE, written anew."
)


def read(measured):
    """{kernel: {library: {point: seconds}}} and {library: version}."""
    seconds, versions = {kernel: {} for kernel in peers.KERNELS}, {}
    for benchmark in measured["benchmarks"]:
        info = benchmark["extra_info"]
        if "peer" in info:
            of_library = seconds[info["kernel"]].setdefault(info["peer"], {})
            of_library[point(info["layout"], info["shape"])] = benchmark["stats"]["median"]
            versions[info["peer"]] = info["version"]
    return {kernel: of_kernel for kernel, of_kernel in seconds.items() if of_kernel}, versions


def point(layout, shape):
    shape = " x ".join(map(str, shape))
    return shape if layout == "time-major" else f"{'axis=1' if layout == 'batch-major' else layout}, {shape}"


def cell(seconds, ours):
    if seconds is None:
        return "-"
    return figure(seconds * 1e6) + (f" ({figure(seconds / ours)})" if ours is not None else "")


def table(of_kernel, versions):
    measured = set().union(*of_kernel.values())
    points = [at for at in (point(*p) for p in peers.POINTS) if at in measured]
    ours = of_kernel.get("fastpg", {})
    rows = []
    for library, times in of_kernel.items():
        base = {} if library == "fastpg" else ours
        rows.append([f"{library} {versions[library]}".strip(), *(cell(times.get(at), base.get(at)) for at in points)])
    return markdown(["library", *points], rows)


def verdict(seconds):
    """Where fastpg is not the fastest, or that there is no such place."""
    faster = [
        f"{library} at {kernel}, {at} ({figure(time / of_kernel['fastpg'][at])})"
        for kernel, of_kernel in seconds.items()
        for library, times in of_kernel.items()
        for at, time in times.items()
        if library != "fastpg" and at in of_kernel.get("fastpg", {}) and time <= of_kernel["fastpg"][at]
    ]
    return "Not slower than fastpg: " + "; ".join(faster) + "." if faster else "fastpg is the fastest in every column."


def machine(measured):
    about = measured["machine_info"]["fastpg"]
    others = about.get("cores_of_others")
    beside = "" if others is None else f" other processes kept {others:.2f} cores busy meanwhile;"
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['isa']}, {about['threads']} threads;"
        f" fastpg {about['fastpg']}, Python {about['python']}, NumPy {about['numpy']};{beside} {measured['datetime'][:10]}."
    )


def main():
    parser = argparse.ArgumentParser(description="The table of peers, from the JSON of pytest-benchmark.")
    parser.add_argument("json", type=Path)
    parser.add_argument("--page", type=Path, help="put the tables into this file as well")
    chosen = parser.parse_args()
    measured = json.loads(chosen.json.read_text())
    seconds, versions = read(measured)
    if not seconds:
        raise SystemExit(f"{chosen.json} holds nothing that benches/test_peers.py measured")
    parts = [f"### {kernel}\n\n{table(of_kernel, versions)}" for kernel, of_kernel in seconds.items()]
    text = "\n\n".join([*parts, LEGEND, verdict(seconds), machine(measured)])
    print(text)
    if chosen.page:
        into_page(chosen.page, text)


if __name__ == "__main__":
    main()
