"""Checkpoints: an .npz of arrays and one JSON text. Reading one executes nothing, writing one leaves the two before it or replaces them.

The SHA-256 of the file stands where a zip archive has its comment, so that NumPy reads the file and one flipped bit is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.train.agent import Agent

__all__ = ["NEWEST", "PREVIOUS", "load", "newest", "read", "replace", "restore", "write"]

Array = NDArray[Any]
NEWEST, PREVIOUS = "checkpoint.npz", "previous.npz"
DIGEST = 64
WANTED = "wanted the folder that fastpg train printed, or a checkpoint.npz"


def replace(path: Path, fill: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Writes a file by `fill`, in full and onto the disk, before it takes the place of what was there, which becomes `keep`."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        if str(error.filename) == str(temporary):
            error.filename = str(path)  # the name that its reader knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, arrays: Mapping[str, Array], about: dict[str, Any]) -> None:
    """Writes a checkpoint; one that was there becomes previous.npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, about=np.array(json.dumps(about, default=np.generic.item)))  # type: ignore[arg-type]
    content = buffer.getvalue()[:-2] + struct.pack("<H", DIGEST)  # a zip ends with the length of its comment
    replace(
        path, lambda file: file.write(content + hashlib.sha256(content).hexdigest().encode()), path.with_name(PREVIOUS)
    )


def read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and `about` of a checkpoint; ValueError where it is damaged or something else."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; {WANTED}")
    content = path.read_bytes()
    if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
        raise ValueError(f"{path} is not a fastpg checkpoint, or it is damaged: its checksum does not match")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("about")))


def newest(folder: Path) -> tuple[Path, dict[str, Array], dict[str, Any]]:
    """Path, arrays and `about` of a run folder's last good checkpoint; a warning names one that is damaged."""
    paths = [path for path in (folder / NEWEST, folder / PREVIOUS) if path.exists()]
    if not paths:
        raise FileNotFoundError(f"no checkpoint at {folder}; {WANTED}")
    damage = []
    for path in paths:
        try:
            arrays, about = read(path)
        except (ValueError, OSError) as error:
            damage.append(str(error))
            continue
        for sentence in damage:
            warnings.warn(f"{sentence}; using {path}, of step {about['steps']:,}", stacklevel=2)
        return path, arrays, about
    raise ValueError(f"no checkpoint of {folder} can be used, train anew: {'; '.join(damage)}")


def restore(part: Any, saved: Mapping[str, Array], written_by: str) -> None:
    """Gives an object back the arrays of its state(): through its restore(), or into the views that state() returned."""
    state = part.state()
    for name, array in state.items():
        if name not in saved or saved[name].shape != array.shape:
            raise ValueError(
                f"the checkpoint's {name} is {saved[name].shape if name in saved else 'missing'}, but "
                f"{type(part).__name__} wants {array.shape}; it was written by fastpg {written_by}, this is "
                f"{fastpg.__version__}: use that version, or train anew"
            )
    if hasattr(part, "restore"):
        part.restore(saved)
        return
    for name, array in state.items():
        array[...] = saved[name]


def under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Those arrays whose names begin with "prefix.", by the rest of their names."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def load(path: Path) -> tuple[Agent, dict[str, Any]]:
    """The agent and `about` of a checkpoint or of the run folder that holds one."""
    if path.is_dir():
        _, arrays, about = newest(path)
    else:
        arrays, about = read(path)
    agent = Agent.of(about["agent"])
    restore(agent, under("agent", arrays), about["fastpg"])
    return agent, about
