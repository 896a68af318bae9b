"""What the figures were taken on, and beside what, into the JSON of pytest-benchmark."""

import os
import platform
import time
from pathlib import Path

import numba
import numpy as np

import fastpg
from fastpg import _core
from fastpg.testing import measure_copy


def _clock():
    """Seconds on the wall, of this process, and of all processes of the machine; the last is None where /proc is missing."""
    stat = Path("/proc/stat")
    everyone = sum(map(int, stat.read_text().split()[1:4])) / os.sysconf("SC_CLK_TCK") if stat.exists() else None
    return time.perf_counter(), time.process_time(), everyone


_start = _clock()


def _cores_of_others():
    """Cores that other processes kept busy since the start: with one busy of two, two threads are as slow as one."""
    wall, own, everyone = _clock()
    if everyone is None:
        return None
    return max(0.0, (everyone - _start[2] - (own - _start[1])) / (wall - _start[0]))


def pytest_benchmark_update_machine_info(config, machine_info):
    others = _cores_of_others()
    machine_info["fastpg"] = {
        "fastpg": fastpg.__version__,
        "isa": _core.isa(),
        "threads": _core.threads(),
        "cpu": machine_info["cpu"].get("brand_raw") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_of_others": others,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "copy_bytes_per_second": measure_copy(),
    }


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # every single round: megabytes that nothing reads
