"""Into the JSON of pytest-benchmark: what the figures were taken on, and how fast it copies, which is measured before them."""

import machine
import pytest

from fastpg import _core
from fastpg.testing import measure_copy

copy_bytes_per_second = pytest.StashKey()
clock = pytest.StashKey()


def pytest_sessionstart(session):
    if session.config.getoption("benchmark_json"):
        threads = sorted({1, _core.threads()})
        session.config.stash[copy_bytes_per_second] = {n: measure_copy(threads=n) for n in threads}
        session.config.stash[clock] = machine.Clock()


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["fastpg"] = machine.about()
    if clock in config.stash:
        machine_info["fastpg"]["cores_of_others"] = config.stash[clock].cores_of_others()
        machine_info["fastpg"]["copy_bytes_per_second"] = config.stash[copy_bytes_per_second]


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # every single round: megabytes that nothing reads
