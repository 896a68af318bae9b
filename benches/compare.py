"""This working tree, committed or not, against a commit: which kernels became faster, which slower, which give other numbers.

    python benches/compare.py BASE [--kernel gae] [--rounds 5] [--threads 1]

Both trees are copied into a temporary folder and built there; nothing of the clone is touched. Then each runs every kernel of CASES on the
same arrays, base, tree, base, tree ..., each time in a process of its own, so that a machine that slows down slows both. A ratio is
base over tree: 2 means that the tree takes half the time. Exit status 1 where results differ by more than the kernel's tolerance.
"""

import argparse
import io
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from table import figure, markdown

ROOT = Path(__file__).parent.parent
TIME_MAJOR, BATCH_MAJOR = [(128, 8), (2048, 1), (256, 1024)], [(64, 1024)]
PACKED = [100_000]  # steps, in sequences of about 200
ROWS = [(65536, 4), (4096, 512)]
SECONDS = 0.06  # of timing a kernel and process
SURE = 0.05  # a median closer to 1 than this is called the same, whatever its spread


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def commit_of(name):
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except subprocess.CalledProcessError:
        raise SystemExit(f"BASE is {name!r}, which names no commit of this repository; see git log") from None


def copy_commit(commit, folder):
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
        archive.extractall(folder, filter="data")


def copy_working_tree(folder):
    """Every file that git tracks or does not ignore, as it stands now."""
    for name in filter(None, git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():  # one that is deleted but not yet committed is not
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())


def build(trees):
    """All at once."""
    building = {}
    for name, folder in trees.items():
        with open(folder / "build.log", "w") as log:
            command = [sys.executable, "setup.py", "build_ext", "--inplace", "-q"]
            building[name] = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        failed = [name for name, process in building.items() if process.wait()]
    finally:
        for process in building.values():
            process.kill()
    for name in failed:
        raise SystemExit(f"the build of {name} failed:\n{(trees[name] / 'build.log').read_text()[-3000:]}")


def jobs_of(cases, kernel):
    """One dict a kernel, layout and shape: the arguments, how close two results must come, and what to call it."""
    import numpy as np

    jobs = []
    for case in cases:
        if kernel not in case.id:
            continue
        if case.over_time:
            places = [(shape, {}, "") for shape in TIME_MAJOR]
            places += [(shape, {"axis": 1}, ", axis=1") for shape in BATCH_MAJOR]
            places += [((n,), {"offsets": np.append(np.arange(0, n, 200), n)}, ", packed") for n in PACKED]
        else:
            places = [(shape, {}, "") for shape in ROWS]
        for shape, where, called in places:
            label = " x ".join(map(str, shape)) + called
            arguments = case.make(np.random.default_rng(0), shape, np.float32)
            keywords = dict(case.keywords) | where
            job = {"id": case.id, "name": case.name, "shape": label, "tolerance": case.near(shape, "axis" not in where)}
            jobs.append(job | {"arguments": list(arguments.values()), "keywords": keywords})
    if not jobs:
        raise SystemExit(f"no kernel of CASES has {kernel!r} in its name")
    return jobs


def seconds_of(call):
    """Median seconds of a call."""
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    inner = max(1, int(SECONDS / 20 / once))
    times = []
    until = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(inner):
            call()
        times.append((time.perf_counter() - start) / inner)
    return statistics.median(times)


def measure(jobs_file, out_file, threads):
    """What a process of its own does: runs the jobs on the fastpg of its working directory."""
    import fastpg
    from fastpg.testing import CASES

    here = Path.cwd()
    if here not in Path(fastpg.__file__).parents:
        raise SystemExit(f"fastpg came from {fastpg.__file__}, not from {here}")
    if threads:
        fastpg.set_threads(threads)
    measured = []
    for job in pickle.loads(Path(jobs_file).read_bytes()):
        try:
            function = fastpg
            for part in job["name"].split("."):
                function = getattr(function, part)
            result = function(*job["arguments"], **job["keywords"])
        except (AttributeError, TypeError) as error:  # a name or an argument that this tree does not have
            measured.append({"lacks": f"{type(error).__name__}: {error}"})
            continue
        seconds = seconds_of(lambda: function(*job["arguments"], **job["keywords"]))  # noqa: B023
        measured.append({"seconds": seconds, "result": result})
    Path(out_file).write_bytes(pickle.dumps({"cases": [case.id for case in CASES], "measured": measured}))


def run(folder, jobs_file, threads):
    out_file = folder / "measured.pkl"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, __file__, "--measure", str(jobs_file), str(out_file), "--threads", str(threads)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"measuring in {folder.name} failed:\n{done.stderr[-3000:]}")
    return pickle.loads(out_file.read_bytes())


def verdict(ratios):
    """Of one kernel, from the ratio of each round."""
    middle = statistics.median(ratios)
    if abs(middle - 1) < SURE or min(ratios) <= 1 <= max(ratios):
        return "same"
    return "faster" if middle > 1 else "SLOWER"


def report(jobs, rounds, compare):
    """Prints the table; whether results differ."""
    rows, differing, new = [], [], []
    for k, job in enumerate(jobs):
        base, tree = ([one[side]["measured"][k] for one in rounds] for side in ("base", "tree"))
        title = f"{job['id']} {job['shape']}"
        if "lacks" in tree[0]:
            raise SystemExit(f"{title} does not run in the working tree: {tree[0]['lacks']}")
        if "lacks" in base[0]:
            new.append(f"{title}: {figure(1e6 * statistics.median(x['seconds'] for x in tree))} us")
            continue
        why = compare(
            tree[0]["result"], base[0]["result"], 2 * job["tolerance"]
        )  # each within one of the specification
        if why:
            differing.append(f"{title}: {why}")
        ratios = [b["seconds"] / t["seconds"] for b, t in zip(base, tree, strict=True)]
        us = [figure(1e6 * statistics.median(x["seconds"] for x in side)) for side in (base, tree)]
        spread = f"{figure(min(ratios))} to {figure(max(ratios))}"
        rows.append([f"`{job['id']}`", job["shape"], *us, figure(statistics.median(ratios)), spread, verdict(ratios)])
    if rows:
        print(markdown(["kernel", "shape", "base, us", "tree, us", "base/tree", "spread", "tree is"], rows))
    ids = {job["id"] for job in jobs}
    gone = sorted(set(rounds[0]["base"]["cases"]) - set(rounds[0]["tree"]["cases"]) - ids)
    for word, lines in (("new", new), ("gone", gone), ("DIFFERENT NUMBERS", differing)):
        for line in lines:
            print(f"{word}: {line}")
    return bool(differing)


def main():
    parser = argparse.ArgumentParser(description="Times every kernel of this working tree against those of a commit.")
    parser.add_argument("base", nargs="?", metavar="BASE", help="a commit, branch or tag")
    parser.add_argument("--kernel", default="", help="only those with this in their name")
    parser.add_argument("--rounds", type=int, default=7, help="of base and tree in turn")
    parser.add_argument("--threads", type=int, default=0, help="the most a call may use; 0: as fastpg itself decides")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measure(*chosen.measure, chosen.threads)
        return
    if not chosen.base:
        parser.error("BASE is missing: make bench-compare BASE=<commit>")
    if chosen.rounds < 3:
        parser.error(f"--rounds is {chosen.rounds}; 3 or more is wanted, as fewer can agree by chance")
    commit = commit_of(chosen.base)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the folder goes, as it does on Ctrl-C
    with tempfile.TemporaryDirectory(prefix="fastpg-compare-") as temporary:
        trees = {"base": Path(temporary, "base").resolve(), "tree": Path(temporary, "tree").resolve()}
        copy_commit(commit, trees["base"])
        copy_working_tree(trees["tree"])
        print(f"building {commit[:10]} and the working tree", file=sys.stderr)
        build(trees)
        sys.path.insert(0, str(trees["tree"]))
        from fastpg.testing import CASES, compare

        jobs = jobs_of(CASES, chosen.kernel)
        jobs_file = Path(temporary, "jobs.pkl")
        jobs_file.write_bytes(pickle.dumps(jobs))
        rounds = []
        for one in range(chosen.rounds):
            print(f"round {one + 1} of {chosen.rounds}", file=sys.stderr)
            rounds.append({name: run(folder, jobs_file, chosen.threads) for name, folder in trees.items()})
            if one:  # results are compared once
                for side in rounds[-1].values():
                    for measured in side["measured"]:
                        measured.pop("result", None)
        differs = report(jobs, rounds, compare)
    raise SystemExit(int(differs))


if __name__ == "__main__":
    main()
