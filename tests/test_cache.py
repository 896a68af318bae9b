"""Compiled code on the disk: found again by the next process, never stale, never half a file, never a reason to stop."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import fastpg
from fastpg import _numba

SOURCE = "from fastpg._numba import cached\n@cached\ndef f(x):\n    return x + 1\n"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that imports the module mine.py anew, as the next process would."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    (tmp_path / "mine.py").write_text(SOURCE)

    def start():
        spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
        module = importlib.util.module_from_spec(spec)
        exec(compile((tmp_path / "mine.py").read_text(), tmp_path / "mine.py", "exec"), vars(module))
        return module.f

    return start


def call(f, x):
    """What f gives, and whether its code came from the cache."""
    return f(x), bool(f._cache_hits)


def files(folder):
    return sorted(folder.glob("__pycache__/*"))


def test_the_next_process_finds_the_code_of_every_signature(start, tmp_path):
    one, other = start(), start()  # both see an empty cache
    assert call(one, 1) == (2, False) and call(other, 1.5) == (2.5, False)
    assert len(files(tmp_path)) == 2
    assert call(start(), 1) == (2, True) and call(start(), 1.5) == (2.5, True)


def test_another_source_of_the_function_or_of_the_environments_ends_the_cache(start, tmp_path, monkeypatch):
    call(start(), 1)
    monkeypatch.setattr(_numba, "_sources", lambda: b"another version")
    assert call(start(), 1) == (2, False) and call(start(), 1) == (2, True)
    (tmp_path / "mine.py").write_text(SOURCE.replace("+ 1", "+ 7"))
    assert call(start(), 1) == (8, False) and call(start(), 1) == (8, True)
    assert len(files(tmp_path)) == 1  # in the place of the old one


def test_a_module_that_cannot_be_imported_by_its_name_is_compiled_again(start, tmp_path):
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("no_such_name", {str(tmp_path / "mine.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.f(1))
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "2\n", done.stderr


def test_the_same_function_under_other_options_is_other_code(start, tmp_path):
    def checked():
        return _numba.cached(start().py_func, boundscheck=True)

    assert call(start(), 1) == (2, False) and call(checked(), 1) == (2, False)
    assert call(start(), 1) == (2, True) and call(checked(), 1) == (2, True)


def test_every_file_of_the_environments_counts_as_a_source(tmp_path, monkeypatch):
    folder = tmp_path / "fastpg" / "envs"
    shutil.copytree(Path(fastpg.__file__).parent / "envs", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_numba, "__file__", str(tmp_path / "fastpg" / "_numba.py"))
    sources = _numba._sources.__wrapped__
    assert sources() == _numba._sources()
    (folder / "streams.py").write_text((folder / "streams.py").read_text() + "\n")
    assert sources() != _numba._sources()


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b""])
def test_a_damaged_file_is_compiled_again(start, tmp_path, damage):
    call(start(), 1)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert call(start(), 1) == (2, False) and call(start(), 1) == (2, True)


def test_where_nothing_can_be_kept_it_is_a_warning(start, tmp_path, monkeypatch):
    (tmp_path / "__pycache__").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    with pytest.warns(UserWarning, match=rf"cannot be kept in {tmp_path} .*set NUMBA_CACHE_DIR"):
        f = start()
    assert call(f, 1) == (2, False)


def test_a_full_disk_is_a_warning_and_leaves_no_half_file(start, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="compiled code cannot be kept"):
        assert call(start(), 1) == (2, False)
    assert files(tmp_path) == []


def test_a_function_typed_at_a_prompt_is_compiled_without_a_word():
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(SOURCE, "<stdin>", "exec"), scope)
    assert scope["f"](1) == 2


def test_making_an_environment_does_not_import_scipy_linalg_and_compiled_code_still_has_it():
    code = (
        "import sys, numba, numpy as np; from fastpg import envs; envs.make('fastpg/CartPole-v1', 2)\n"
        "assert 'scipy.linalg' not in sys.modules\n"
        "product = numba.njit(lambda a, b: a @ b)(np.full((2, 3), 2.0), np.full((3, 4), 5.0))\n"
        "assert (product == 30).all() and 'scipy.linalg' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
