"""Instructions that each kernel executes, counted by callgrind: the same on a busy machine as on a quiet one.

    python benches/instructions.py [--update]

Builds benches/instructions.c with the flags of setup.py, runs it on one thread under valgrind, which knows the base and avx2 sets but
not avx512, and holds the counts inside fastpg_run against benches/instructions.json: exit status 1 where one has grown by more than 5 %.
--update writes that file. Another compiler gives other counts: then, or without valgrind, it says "skipped" and exits with 0.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "benches" / "instructions.json"
ALLOWED = 1.05
SOURCES = ["benches/instructions.c", "csrc/dispatch.c", "csrc/threads.c"]


def skip(why):
    print(f"instruction counts skipped: {why}")
    raise SystemExit(0)


def build(program):
    sys.path.insert(0, str(ROOT))
    from setup import FLAGS

    compiler = os.environ.get("CC") or "cc"
    if not shutil.which(compiler):
        skip(f"there is no compiler {compiler!r}")
    # Bound at the start, or the first call of a function of the C library costs what the second does not.
    command = [compiler, *FLAGS, "-Wl,-z,now", "-Icsrc", "-o", str(program), *SOURCES, "-lm", "-pthread"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if built.returncode and "valgrind/callgrind.h" in built.stderr:
        skip("the headers of valgrind are not installed")
    if built.returncode:
        raise SystemExit(f"{' '.join(command)}\n{built.stderr}")


def measure(program, folder):
    """{isa: {"kernel dtype layout shape": instructions}}"""
    valgrind = ["valgrind", "--tool=callgrind", "--toggle-collect=fastpg_run", f"--callgrind-out-file={folder}/counts"]
    run = subprocess.run([*valgrind, program], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(valgrind)} {program}\n{run.stderr}")
    counts = {}
    for dump in folder.glob("counts.*"):
        text = dump.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (\S+) (.*)$", text, re.M)
        if name:
            total = int(re.search(r"^summary: (\d+)$", text, re.M)[1])
            counts.setdefault(name[1], {})[name[2]] = total
    if not counts:
        raise SystemExit(
            "callgrind counted nothing: is fastpg_run still the name of what benches/instructions.c calls?"
        )
    return {isa: dict(sorted(counts[isa].items())) for isa in sorted(counts)}


def compare(recorded, counted):
    """Prints every change, growth first; whether one is too large."""
    changes, new, gone = [], [], []
    for isa in counted:
        if isa not in recorded:
            new += [f"{isa} {run}" for run in counted[isa]]
            continue
        new += [f"{isa} {run}" for run in counted[isa].keys() - recorded[isa].keys()]
        gone += [f"{isa} {run}" for run in recorded[isa].keys() - counted[isa].keys()]
        for run in counted[isa].keys() & recorded[isa].keys():
            before, now = recorded[isa][run], counted[isa][run]
            if before != now:
                changes.append((now / before, f"{isa} {run}", before, now))
    for isa in recorded.keys() - counted.keys():
        print(f"{isa}: not counted, this machine cannot run it")
    changes.sort(reverse=True)
    for ratio, run, before, now in changes:
        mark = "GREW" if ratio > ALLOWED else ""
        print(f"{mark:5}{100 * (ratio - 1):+7.1f} %  {before:>9} -> {now:>9}  {run}")
    for word, runs in (("new, not in the record", new), ("gone", gone)):
        if runs:
            kernels = sorted({run.split()[1] for run in runs})
            print(f"{len(runs)} {word}: {', '.join(kernels)}")
    grown = sum(ratio > ALLOWED for ratio, *_ in changes)
    total = sum(map(len, counted.values()))
    print(f"{total} counts, {len(changes)} changed, {grown} grown by more than {100 * ALLOWED - 100:.0f} %")
    if grown:
        print("Where the growth is wanted: make instructions-update, and say why in the commit.")
    return grown > 0


def main():
    parser = argparse.ArgumentParser(description="Holds the instruction counts of the kernels against the record.")
    parser.add_argument("--update", action="store_true", help="write benches/instructions.json")
    chosen = parser.parse_args()
    if not shutil.which("valgrind"):
        skip("valgrind is not installed")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "instructions")
        build(program)
        built_with = subprocess.run([program, "about"], capture_output=True, text=True, check=True).stdout.strip()
        recorded = json.loads(RECORD.read_text()) if RECORD.exists() else None
        if not chosen.update and recorded is None:
            raise SystemExit(f"{RECORD.relative_to(ROOT)} is missing: make instructions-update")
        if not chosen.update and recorded["built_with"] != built_with:
            skip(f"built with {built_with}, but the record with {recorded['built_with']}")
        counted = measure(program, Path(folder))
    if chosen.update:
        RECORD.write_text(json.dumps({"built_with": built_with, "instructions": counted}, indent=1) + "\n")
        print(f"{sum(map(len, counted.values()))} counts into {RECORD.relative_to(ROOT)}")
    elif compare(recorded["instructions"], counted):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
