"""Prints what `pytest benches --benchmark-json=FILE` measured: the table of speeds, and the targets with the figures reached.

    python benches/table.py FILE [--readme README.md]

With --readme, the short table replaces what stands between the lines <!-- speeds:begin --> and <!-- speeds:end --> of that file.
"""

import argparse
import json
import re
from pathlib import Path

BEGIN, END = "<!-- speeds:begin -->", "<!-- speeds:end -->"
HEAD = ["kernel", "shape", "dtype", "fastpg, us", "x NumPy", "x @njit loop", "in @njit, us", "of copy"]
LEGEND = (
    "Medians of one run, one call from Python; fastpg may use the threads named below, everything else uses one."
    " `x NumPy`: times as fast as naive NumPy, `fastpg.reference`; `x @njit loop`: as the loop one would write by hand,"
    " `benches/loops.py` (`scan`: as fastpg.scan, where that has none); `in @njit`: fastpg called inside compiled code;"
    " `of copy`: bytes that must move a second, over those of a plain copy outside the caches."
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

    def of_copy(self, copy):
        return self.bytes / self.seconds["fastpg"] / copy if "fastpg" in self.seconds else None


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
    ours = [figure(speed.us("fastpg")), figure(speed.times("numpy")), loop]
    return [f"`{kernel}`", shape, dtype, *ours, figure(speed.us("njit")), figure(speed.of_copy(copy))]


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


def machine(measured):
    about = measured["machine_info"]["fastpg"]
    others = about["cores_of_others"]
    beside = "" if others is None else f" other processes kept {others:.2f} cores busy meanwhile;"
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['isa']}, {about['threads']} threads;"
        f" fastpg {about['fastpg']}, Python {about['python']}, NumPy {about['numpy']}, Numba {about['numba']};"
        f" a copy moves {about['copy_bytes_per_second'] / 1e9:.1f} GB/s, read and write counted, one thread;"
        f"{beside} {measured['datetime'][:10]}."
    )


def into_readme(path, text):
    """Replaces what stands between the two marks."""
    old = path.read_text()
    new, found = re.subn(f"(?ms)^{BEGIN}$.*?^{END}$", lambda _: f"{BEGIN}\n{text}\n{END}", old)
    if found != 1:
        raise SystemExit(f"{path} has {found} parts between the lines {BEGIN} and {END}; one is wanted")
    path.write_text(new)


def main():
    parser = argparse.ArgumentParser(
        description="The table of speeds, and the targets, from the JSON of pytest-benchmark."
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("--readme", type=Path, help="put the short table into this file as well")
    chosen = parser.parse_args()
    measured = json.loads(chosen.json.read_text())
    speeds, copy = read(measured), measured["machine_info"]["fastpg"]["copy_bytes_per_second"]
    print(table(speeds, copy), LEGEND, targets(speeds), machine(measured), sep="\n\n")
    if chosen.readme:
        into_readme(chosen.readme, "\n\n".join([short(speeds, copy), LEGEND, machine(measured)]))


if __name__ == "__main__":
    main()
