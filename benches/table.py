"""Prints what `make bench` measured into the JSON of pytest-benchmark: the table of speeds, and the targets with the figures reached.

    python benches/table.py FILE [--readme README.md] [--keep benches/results]

With --readme, the short table replaces what stands between the lines <!-- speeds:begin --> and <!-- speeds:end --> of that file.
With --keep, the medians go into a file of that folder, named by date, commit and processor.
"""

import argparse
import json
import re
from pathlib import Path

import machine

HEAD = [
    "kernel",
    "shape",
    "dtype",
    "fastpg, us",
    "x NumPy",
    "x @njit loop",
    "in @njit, us",
    "of copy",
    "1 thread, us",
    "of copy",
]
LEGEND = (
    "Medians of one run, one call from Python; fastpg may use the threads named below, everything else uses one."
    " `x NumPy`: times as fast as naive NumPy, `fastpg.reference`; `x @njit loop`: as the loop one would write by hand,"
    " `benches/loops.py` (`scan`: as fastpg.scan, where that has none); `in @njit`: fastpg called inside compiled code;"
    " `of copy`: bytes that must move a second, over those of a plain copy outside the caches by as many threads;"
    " more than 1 inside them."
)
SHORT = {
    "gae": ["128 x 8", "256 x 1024", "2048 x 256", "64 x 1024, axis=1"],
    "reward_to_go": ["128 x 8", "256 x 1024", "2048 x 256", "64 x 1024, axis=1"],
    "td_residual": ["128 x 8", "256 x 1024", "2048 x 256", "64 x 1024, axis=1"],
    "categorical.log_prob_grad": ["65536 x 4", "65536 x 18", "4096 x 512"],
    "gaussian.log_prob_grad": ["65536 x 4", "65536 x 18"],
    "bernoulli.log_prob_grad": ["65536 x 4", "65536 x 18"],
}
# Issue 2. At most so many us a call, or at least so many times as fast as naive NumPy; float32.
TARGETS = [
    ("gae", "128 x 8", "us", 3),
    ("gae", "128 x 8", "x NumPy", 100),
    ("gae", "2048 x 256", "x NumPy", 40),
    ("gae", "256 x 1024", "x NumPy", 15),
    ("categorical.log_prob_grad", "65536 x 4", "x NumPy", 10),
    ("categorical.log_prob_grad", "65536 x 18", "x NumPy", 10),
    ("group_advantage grpo", "1024", "us", 100),
]


class Speed:
    """One kernel at one shape and dtype: median seconds by library, and bytes moved."""

    def __init__(self):
        self.seconds, self.bytes = {}, 0

    def us(self, library):
        return self.seconds[library] * 1e6 if library in self.seconds else None

    def times(self, library):
        """How many times as fast as `library` fastpg is."""
        return self.seconds[library] / self.seconds["fastpg"] if {library, "fastpg"} <= self.seconds.keys() else None

    def of_copy(self, library, copy):
        return self.bytes / self.seconds[library] / copy if library in self.seconds else None


def read(measured):
    """{(kernel, shape, dtype): Speed}, in the order measured."""
    speeds = {}
    for benchmark in measured["benchmarks"]:
        info = benchmark["extra_info"]
        shape = " x ".join(map(str, info["shape"])) + (", axis=1" if info["layout"] == "batch-major" else "")
        speed = speeds.setdefault((info["kernel"], shape, info["dtype"]), Speed())
        speed.seconds[info["library"]] = benchmark["stats"]["median"]
        speed.bytes = info["bytes"]
    return speeds


def figure(x, digits=3):
    """Three digits, never fewer than the integer part; a dash for None."""
    if x is None:
        return "-"
    whole = len(str(int(abs(x)))) if abs(x) >= 1 else 1
    return f"{x:.{max(0, digits - whole)}f}"


def markdown(head, rows):
    """A Markdown table whose columns of figures stand to the right."""
    columns = list(zip(head, *rows, strict=True))
    width = [max(map(len, column)) for column in columns]
    right = [any(cell[0].isdigit() and " " not in cell for cell in column) for column in columns]
    rule = ["-" * (w - r) + ":" * r for w, r in zip(width, right, strict=True)]
    lines = []
    for line in [head, rule, *rows]:
        cells = zip(line, width, right, strict=True)
        lines.append("| " + " | ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in cells) + " |")
    return "\n".join(lines)


def row(key, speed, copy):
    kernel, shape, dtype = key
    loop = figure(speed.times("scan")) + " (scan)" if "scan" in speed.seconds else figure(speed.times("loop"))
    ours = [figure(speed.us("fastpg")), figure(speed.times("numpy")), loop, figure(speed.us("njit"))]
    of_copy = figure(speed.of_copy("fastpg", copy[max(copy)]))
    one_thread = [figure(speed.us("fastpg-1")), figure(speed.of_copy("fastpg-1", copy[1]))]
    return [f"`{kernel}`", shape, dtype, *ours, of_copy, *one_thread]


def table(speeds, copy):
    return markdown(HEAD, [row(key, speed, copy) for key, speed in speeds.items()])


def short(speeds, copy):
    keys = [(kernel, shape, "float32") for kernel, shapes in SHORT.items() for shape in shapes]
    return markdown(HEAD, [row(key, speeds[key], copy) for key in keys if key in speeds])


def targets(speeds):
    rows = []
    for kernel, shape, unit, wanted in TARGETS:
        speed = speeds.get((kernel, shape, "float32"), Speed())
        if unit == "us":
            goal, reached = f"at most {wanted} us", speed.us("fastpg")
            met = reached is not None and reached <= wanted
        else:
            goal, reached = f"at least {wanted} x NumPy", speed.times("numpy")
            met = reached is not None and reached >= wanted
        answer = "not measured" if reached is None else "yes" if met else "no"
        rows.append([f"`{kernel}` float32", shape, goal, figure(reached), answer])
    return markdown(["target", "shape", "wanted", "reached", "met"], rows)


def keep(measured, folder):
    """A small file of medians to commit: what there was to measure on a machine, and when."""
    about = measured["machine_info"]["fastpg"]
    if about["commit"] is None or about["commit"].endswith("+"):
        raise SystemExit(
            f"measured at commit {about['commit']}, where + means changes that are not committed: no later"
            " reader could tell what was measured"
        )
    rows = [
        {"kernel": kernel, "shape": shape, "dtype": dtype, "bytes": speed.bytes, "us": us}
        for (kernel, shape, dtype), speed in read(measured).items()
        for us in [{library: float(f"{1e6 * seconds:.4g}") for library, seconds in speed.seconds.items()}]
    ]
    folder.mkdir(parents=True, exist_ok=True)
    processor = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", about["cpu"].lower())).strip("-")
    path = folder / f"{about['date']}-{about['commit']}-{processor}.json"
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    path.write_text(f'{{\n "about": {json.dumps(about)},\n "medians": [\n  {lines}\n ]\n}}\n')
    print(f"{len(rows)} medians into {path}")


def into_page(path, text, name="speeds"):
    """Replaces what stands between the two marks of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text()
    new, found = re.subn(f"(?ms)^{begin}$.*?^{end}$", lambda _: f"{begin}\n{text}\n{end}", old)
    if found != 1:
        raise SystemExit(f"{path} has {found} parts between the lines {begin} and {end}; one is wanted")
    path.write_text(new)


def main():
    parser = argparse.ArgumentParser(
        description="The table of speeds, and the targets, from the JSON of pytest-benchmark."
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("--readme", type=Path, help="put the short table into this file as well")
    parser.add_argument("--keep", type=Path, help="put the medians into a file of this folder and print nothing else")
    chosen = parser.parse_args()
    measured = json.loads(chosen.json.read_text())
    if chosen.keep:
        keep(measured, chosen.keep)
        return
    about = measured["machine_info"]["fastpg"]
    speeds, copy = read(measured), {int(n): rate for n, rate in about["copy_bytes_per_second"].items()}
    taken_on = machine.sentence(about, copy, about["cores_of_others"])
    print(table(speeds, copy), LEGEND, targets(speeds), taken_on, sep="\n\n")
    if chosen.readme:
        into_page(chosen.readme, "\n\n".join([short(speeds, copy), LEGEND, taken_on]))


if __name__ == "__main__":
    main()
