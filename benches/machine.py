"""What figures were taken on, and with: for every page and record that benches/ writes."""

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def cpu():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def commit():
    """Of the code measured, with a + where csrc/ or fastpg/ has changes that are not committed; None outside a clone."""
    try:
        git = ["git", "-C", str(ROOT)]
        short = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "csrc", "fastpg", "setup.py"], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return short.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Clock:
    """Cores that other processes kept busy since it was made: with one busy of two, two threads are as slow as one."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        """Seconds on the wall, of this process, and of all processes of the machine; the last is None where /proc is missing."""
        stat = Path("/proc/stat")
        ticks = sum(map(int, stat.read_text().split()[1:4])) if stat.exists() else None
        everyone = None if ticks is None else ticks / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), time.process_time(), everyone

    def cores_of_others(self):
        wall, own, everyone = (
            now - start if now is not None else None for now, start in zip(self.now(), self.start, strict=True)
        )
        return None if everyone is None else max(0.0, (everyone - own) / wall)


def about():
    import numba  # here, because table.py and compare.py read what others measured
    import numpy as np

    import fastpg
    from fastpg import _core

    return {
        "fastpg": fastpg.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "isa": _core.isa(),
        "threads": _core.threads(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }


def sentence(about, copy=None, others=None):
    """copy: bytes a second by number of threads."""
    copied = ""
    if copy:
        rates = " and ".join(
            f"{rate / 1e9:.1f} GB/s with {n} thread{'s' * (n > 1)}" for n, rate in sorted(copy.items())
        )
        copied = f" a copy moves {rates}, read and write counted;"
    beside = "" if others is None else f" other processes kept {others:.2f} cores busy meanwhile;"
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['isa']}, {about['threads']} threads;"
        f" fastpg {about['fastpg']} (commit {about['commit'] or 'unknown'}), Python {about['python']},"
        f" NumPy {about['numpy']}, Numba {about['numba']};{copied}{beside} {about['date']}."
    )
