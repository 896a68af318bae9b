"""Seconds from the start of a process to what its user waits for: python benches/startup.py [--seeds 10] [--env ID] [--write]

Every figure is that of a fresh process. One that is not measured goes first, so that Python's and Numba's caches are warm; for the row
"cold" Numba's is an empty folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
from table import into_page

PAGE = machine.ROOT / "docs" / "training.md"
FASTPG = [sys.executable, "-m", "fastpg"]
OTHERS = {
    "fastpg --help": [*FASTPG, "--help"],
    "fastpg train --help": [*FASTPG, "train", "--help"],
    "fastpg info": [*FASTPG, "info"],
    "import fastpg": [sys.executable, "-c", "import fastpg"],
    "import numpy": [sys.executable, "-c", "import numpy"],
}


def train(env: str, seed: int, **environ: str) -> dict[str, float | None]:
    """Seconds from the start of one process to each of the moments of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*FASTPG, "train", env, "--algo", "ppo", "--seed", str(seed), "--runs", folder, "--json"]
        start = time.time()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environ
        ) as process:
            line, told = process.stdout.readline(), time.time() - start
            err = process.stderr.read()
        exit_ = time.time() - start
        if process.returncode:
            sys.exit(f"{' '.join(command)}: {err.decode()}")
        result = json.loads(line)
        # A run writes its config.json as its clock starts.
        training = (Path(result["run_dir"]) / "config.json").stat().st_mtime - start
    solved = result["solved_at_seconds"]
    return {
        "training begins": training,
        "solved": None if solved is None else training + solved,
        "learning until solved": solved,
        "trained": training + result["seconds"],
        "result printed": told,
        "exit": exit_,
    }


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):9.2f} |{max(times):9.2f}"


def page(env: str, seeds: int, cold: bool) -> str:
    """The table, and what it was taken on."""
    clock = machine.Clock()
    train(env, 0)
    runs = [train(env, seed) for seed in range(seeds)]
    lines = [f"| `fastpg train {env} --algo ppo --seed k`, {seeds} seeds | median, s | slowest |", "|---|---:|---:|"]
    for moment in runs[0]:
        times = [run[moment] for run in runs if run[moment] is not None]
        about = f"{moment}, {len(times)} of {seeds}" if moment == "solved" else moment
        lines.append(f"| {about} |{spread(times) if times else ' - | -'} |")
    if cold:
        with tempfile.TemporaryDirectory() as empty:
            lines.append(
                f"| result printed, cold |{spread([train(env, 0, NUMBA_CACHE_DIR=empty)['result printed']])} |"
            )
    for name, command in OTHERS.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - start)
        lines.append(f"| `{name}`, 5 times |{spread(times)} |")
    ours, wall = sum(os.times()[2:4]), machine.Clock.now()[0] - clock.start[0]
    others = clock.cores_of_others()
    others = None if others is None else max(0.0, others - ours / wall)
    return "\n".join(lines) + f"\n\n{machine.sentence(machine.about(), others=others)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="fastpg/CartPole-v1")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--no-cold", action="store_true", help="leave out the run that compiles everything anew")
    parser.add_argument("--write", action="store_true", help="into docs/training.md")
    args = parser.parse_args()
    told = page(args.env, args.seeds, not args.no_cold)
    print(told)
    if args.write:
        into_page(PAGE, told, "startup")
