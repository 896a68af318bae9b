"""What every training loop shares: the run folder, the record of episodes, what a checkpoint holds, evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import blas_threads
from fastpg.train.agent import Agent
from fastpg.train.checkpoint import NEWEST, PREVIOUS, load, newest, replace, restore, under, write
from fastpg.train.rollout import Rollout

__all__ = ["Psi", "Run", "check", "create_folder", "evaluate", "load", "read_config", "read_metrics"]

Array = NDArray[Any]
Psi = Literal["total_return", "reward_to_go", "baselined", "q", "gae", "td_residual"]
WINDOW = 100  # episodes in the mean return that counts as solved
SAVE_EVERY = 100_000  # environment steps between checkpoints
CONFIG, METRICS = "config.json", "metrics.jsonl"
MAY_CHANGE = {"steps", "stop_at"}  # when a run is resumed
# The longest that an episode may be when an agent is judged: as long as a game of Atari may last, 108,000 frames in fours.
LONGEST = 27_000
INTEGER = int | np.integer
KINDS: dict[Any, tuple[Any, str]] = {
    int: (INTEGER, "an integer"),
    float: (INTEGER | float | np.floating, "a number"),
    bool: (bool, "True or False"),
}


def check(config: Any, *, positive: Sequence[str], not_negative: Sequence[str]) -> None:
    """The types and ranges of a Config; ValueError names the field, what came and what is wanted."""
    hints = get_type_hints(type(config))
    for name, hint in hints.items():
        kinds = (hint,) if get_origin(hint) is tuple else get_args(hint) or (hint,)  # of "float | None" both
        value: Any = getattr(config, name)
        if kinds[0] in KINDS and not (value is None and type(None) in kinds):
            kind, wanted = KINDS[kinds[0]]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name} is {value!r}; wanted {wanted}")
            if name not in (*positive, *not_negative, "gamma", "lambda_") and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; wanted a finite number")
    for name in ("gamma", "lambda_"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; wanted a number in [0, 1]")
    for name in positive:
        value = getattr(config, name)
        if not (value is None and getattr(type(config), name) is None or value is not None and 0 < value < math.inf):
            raise ValueError(f"{name} is {value}; wanted a number above 0")
    for name in not_negative:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; wanted 0 or more")
    for name, hint in hints.items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise ValueError(f"{name} is {getattr(config, name)!r}; wanted one of {', '.join(get_args(hint))}")
    sizes = config.hidden if isinstance(config.hidden, tuple | list) else (None,)
    if not all(isinstance(size, INTEGER) and size is not True and size >= 1 for size in sizes):
        raise ValueError(f"hidden is {config.hidden!r}; wanted a tuple of sizes of 1 or more")


def create_folder(root: Path, env: str, algo: str, seed: int) -> Path:
    """A new folder root/<env>-<algo>-<seed>-<time>."""
    name = f"{re.sub('[/:]', '-', env)}-{algo}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    for k in range(1, 1000):
        folder = root / (name if k == 1 else f"{name}-{k}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                break
        except OSError as error:
            raise OSError(f"cannot create {folder}: {error.strerror}; choose another place with --runs") from error
    raise FileExistsError(f"cannot create a new folder {root / name}; choose another place with --runs")


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of a run; ValueError where folder is not a run's."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a run folder: it has no {CONFIG}; wanted the folder that fastpg train printed"
        )
    try:
        about: dict[str, Any] = json.loads(path.read_text())
        for name, kind in {
            "env": str,
            "algo": str,
            "config": dict,
            "save_every": int,
            "fastpg": str,
            "numpy": str,
        }.items():
            if name not in about:
                raise ValueError(f"it has no {name}")
            if not isinstance(about[name], kind):
                raise ValueError(f"its {name} is {about[name]!r}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; train anew") from None
    return about


def read_metrics(path: Path, most: float = math.inf) -> tuple[list[dict[str, Any]], int]:
    """The rows of metrics.jsonl up to `most` steps, and how many bytes they take; a last line that is half written is left out.

    ValueError names a line that no run wrote.
    """
    rows, size, steps = [], 0, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                if row["steps"] <= steps:
                    raise ValueError(f"step {row['steps']} comes after step {steps}")
                steps = row["steps"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"line {number} of {path} is damaged: {error}; take it out, or the whole file away"
                ) from None
            if steps > most:
                break
            rows.append(row)
            size += len(line)
    return rows, size


@runtime_checkable
class Restorable(Protocol):
    """Something whose whole future is in the arrays that state() gives and restore() takes."""

    def state(self) -> dict[str, Array]: ...

    def restore(self, saved: Mapping[str, Array]) -> None: ...


class Stateful(Protocol):
    """Something whose state() gives its arrays as views, or which is Restorable."""

    def state(self) -> dict[str, Array]: ...


class Run:
    """The record of one training run: episodes, metrics, checkpoints. Without a folder it keeps them in memory only.

    listeners     called with each row of metrics
    resume        go on from the last checkpoint of folder, or from the start where it has none yet
    save_every    environment steps between checkpoints. Where the environment cannot be restored (it has no state() and
                  restore()), every lane is reset there with a seed from the run's own stream, with or without a folder: so a
                  run that was killed and resumed gives the same parameters, bit for bit, as one that was not.
    note          more to write into config.json

    solved_at_step, solved_at_seconds: environment steps (all lanes) and seconds when, for the first time, the mean
    return of the last 100 finished training episodes reached the environment's reward threshold; None before.
    """

    def __init__(
        self,
        config: Any,
        env: VectorEnv,
        folder: Path | None = None,
        *listeners: Callable[[dict[str, Any]], None],
        save_every: int = SAVE_EVERY,
        resume: bool = False,
        note: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if save_every < 1:
            raise ValueError(f"save_every is {save_every}; wanted 1 step or more")
        self.about = {
            "env": env.id,
            "algo": type(config).__module__.rpartition(".")[2],
            "config": json.loads(json.dumps(dataclasses.asdict(config), default=np.generic.item)),
            "save_every": save_every,
            "fastpg": fastpg.__version__,
            "numpy": np.__version__,
            **note,
        }
        self.folder = folder
        self.listeners = list(listeners)
        self.metrics: list[dict[str, Any]] = []
        self.steps = self.episodes = self.saved_steps = self._logged = 0
        self.solved_at_step: int | None = None
        self.solved_at_seconds: float | None = None
        self._every = save_every
        self._threshold = env.reward_threshold
        self._recent: deque[float] = deque(maxlen=WINDOW)  # returns, and
        self._lengths: deque[float] = deque(maxlen=WINDOW)
        self._so_far = np.zeros((2, env.lanes))  # of the episodes in progress
        self._return, self._length = self._so_far
        self._start = time.perf_counter()
        self._resume, self._size = resume, 0  # bytes of metrics.jsonl up to the checkpoint
        self._resumed: tuple[Path, dict[str, Array], dict[str, Any]] | None = None
        self._snapshot: tuple[dict[str, Array], dict[str, Any]] | None = None
        if resume:
            self._go_on()
        elif folder is not None:
            self._write_config(folder)

    def _write_config(self, folder: Path) -> None:
        with self.writing():
            text = json.dumps(self.about, indent=2) + "\n"
            replace(folder / CONFIG, lambda file: file.write(text.encode()))

    def _go_on(self) -> None:
        """Takes counters and metrics from the run folder and writes nothing; begin() gives the arrays to those they belong to."""
        folder = self.folder
        if folder is None:
            raise ValueError("resume is True, but there is no folder to resume from")
        self._check_same(folder / CONFIG, read_config(folder))
        try:
            path, arrays, about = newest(folder)
        except FileNotFoundError:  # killed before the first checkpoint: from the start
            return
        self._check_same(path, about)
        for library in ("fastpg", "numpy"):
            if about[library] != self.about[library]:
                warnings.warn(
                    f"{path} was written with {library} {about[library]}, this is {self.about[library]}: training goes on, "
                    f"but its numbers may differ in the last digits from those of a run never interrupted",
                    stacklevel=3,
                )
        self._resumed = path, arrays, about
        for name in ("steps", "episodes", "solved_at_step", "solved_at_seconds"):
            setattr(self, name, about[name])
        self.saved_steps = self._logged = self.steps
        self._recent.extend(arrays["run.recent"].tolist())
        self._lengths.extend(arrays.get("run.lengths", np.empty(0)).tolist())
        self._return[...], self._length[...] = arrays["run.return"], arrays.get("run.length", 0)
        self._start -= about["seconds"]
        if (folder / METRICS).exists():
            self.metrics, self._size = read_metrics(folder / METRICS, self.steps)
        if not self.metrics or self.metrics[-1]["steps"] != self.steps:
            warnings.warn(
                f"{folder / METRICS} lacks rows before step {self.steps:,}, from which training goes on", stacklevel=3
            )

    def _check_same(self, path: Path, about: dict[str, Any]) -> None:
        ours, theirs = (
            {**{name: both.get(name, {}) for name in ("env", "algo", "save_every", "env_kwargs")}, **both["config"]}
            for both in (self.about, about)
        )
        for name in sorted((ours.keys() | theirs.keys()) - MAY_CHANGE):
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{path} is of a run with {name} {theirs.get(name)!r}, this one has {ours.get(name)!r}; of these only "
                    f"{' and '.join(sorted(MAY_CHANGE))} may change when a run is resumed: leave the option out, or train anew"
                )

    def _tidy(self) -> None:
        """Leaves in the folder of a resumed run what there was when its checkpoint was written; the rest will be written again."""
        folder = self.folder
        assert folder is not None
        with self.writing():
            for left in folder.glob(".*.*.*"):  # of a process killed while it wrote
                left.unlink()
            if self._resumed is not None and self._resumed[0].name == PREVIOUS:
                os.replace(folder / PREVIOUS, folder / NEWEST)  # or the next would push it out and keep a damaged one
            if (folder / METRICS).exists():
                os.truncate(folder / METRICS, self._size)
        self._write_config(folder)

    @property
    def seconds(self) -> float:
        """Since the run began, those before it was resumed included."""
        return time.perf_counter() - self._start

    @property
    def mean_return(self) -> float | None:
        """Of the last 100 finished training episodes, or of all if fewer; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def reached(self, target: float | None) -> bool:
        """Whether 100 episodes are finished and the last 100 have a mean return of target or more."""
        return target is not None and len(self._recent) == WINDOW and sum(self._recent) / WINDOW >= target

    def count(self, reward: Array, ended: Array) -> None:
        """Records T steps of every lane, (T, N). FloatingPointError when a reward is not finite."""
        total = np.cumsum(np.ascontiguousarray(reward.T, np.float64), axis=1)  # (N, T): half the time of (T, N)
        if not np.isfinite(total[:, -1]).all():
            t, n = np.argwhere(~np.isfinite(reward))[0]
            raise FloatingPointError(
                f"{self.about['env']}, lane {n}: the reward is {reward[t, n]} after step {self.steps + int(t) * reward.shape[1]}; "
                f"mend the environment"
            )
        n, t = np.nonzero(ended.T)
        if len(t):
            # Of episodes side by side in one lane, each has earned, and taken, what the lane has by its end less what it had by the
            # end of the last.
            by_end, changes = np.array([total[n, t], t + 1]), n[1:] != n[:-1]
            first, last = np.append(True, changes), np.append(changes, True)
            before = np.empty_like(by_end)
            before[:, 1:] = by_end[:, :-1]
            before[:, first] = -self._so_far[:, n[first]]
            in_time = np.argsort(t, kind="stable")
            returns, lengths = (by_end - before)[:, in_time]
            if self.solved_at_step is None and self._threshold is not None:
                known = np.concatenate([self._recent, returns])
                sums = np.cumsum(np.concatenate([[0.0], known]))
                solved = (sums[WINDOW:] - sums[:-WINDOW] >= WINDOW * self._threshold).nonzero()[0]
                if len(solved):
                    at = max(int(solved[0]) + WINDOW - 1 - len(self._recent), 0)
                    self.solved_at_step, self.solved_at_seconds = (
                        self.steps + (int(t[in_time[at]]) + 1) * reward.shape[1],
                        self.seconds,
                    )
            self._recent.extend(returns[-WINDOW:].tolist())
            self._lengths.extend(lengths[-WINDOW:].tolist())
            self.episodes += len(returns)
            self._so_far[:, n[last]] = -by_end[:, last]
        self._return += total[:, -1]
        self._length += len(reward)
        self.steps += reward.size

    def begin(
        self, env: VectorEnv, rng: np.random.Generator, rollout: Rollout | None, agent: Agent, **optimizer: Stateful
    ) -> None:
        """Starts the first episodes, or those after the checkpoint; tells the run what its checkpoints hold."""
        self._env, self._rng, self._rollout, self._agent = env, rng, rollout, agent
        self._parts: dict[str, Stateful] = {"agent": agent, **optimizer}
        if isinstance(env, Restorable):
            self._parts["env"] = env
        if self._resumed is None:
            if self._resume:
                self._tidy()
            self._reset()
            return
        _, arrays, about = self._resumed
        for name, part in self._parts.items():
            restore(part, under(name, arrays), about["fastpg"])
        rng.bit_generator.state = about["rng"]
        self._tidy()
        self._resumed = None
        if "env" not in self._parts:
            self._reset()
        elif rollout is not None:
            rollout.current[...] = arrays["rollout.current"]

    def _reset(self) -> None:
        """Starts a new episode on every lane."""
        observation, _ = self._env.reset(seed=int(self._rng.integers(2**31)))
        if self._rollout is not None:
            self._rollout.current[...] = observation
        self.restart()
        for part in self._parts.values():
            if hasattr(part, "restart"):  # a RewardScale has returns in progress as well
                part.restart()

    def restart(self) -> None:
        """Forgets unfinished episodes, for a loop that resets its environment."""
        self._so_far[:] = 0

    def log(self, **metrics: float) -> None:
        """Records one update: a line of metrics.jsonl, the listeners, a checkpoint every save_every steps."""
        seconds = self.seconds
        row: dict[str, Any] = {
            "steps": self.steps,
            "seconds": round(seconds, 3),
            "steps_per_second": round(self.steps / seconds),
            "episodes": self.episodes,
            "mean_return": self.mean_return,
            "mean_length": sum(self._lengths) / len(self._lengths) if self._lengths else None,
            **{name: float(value) for name, value in metrics.items()},
        }
        bad = [name for name in metrics if not math.isfinite(row[name])]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} is {row[bad[0]]} at step {self.steps}: training diverged or the rewards are not finite; "
                f"try a smaller lr"
            )
        self.metrics.append(row)
        if self.folder is not None:
            with self.writing(), open(self.folder / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
            self._snapshot = self._state()
        before, self._logged = self._logged, self.steps
        if self.steps // self._every > before // self._every:
            self.save()
            if "env" not in self._parts:
                self._reset()
        for listen in self.listeners:
            listen(row)

    def _state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """All that a checkpoint holds, copied: an update that fails half-way must not reach it."""
        arrays = {"run.recent": np.array(self._recent), "run.lengths": np.array(self._lengths)}
        arrays |= {"run.return": self._return.copy(), "run.length": self._length.copy()}
        for name, part in self._parts.items():
            arrays |= {f"{name}.{key}": array.copy() for key, array in part.state().items()}
        if self._rollout is not None:
            arrays["rollout.current"] = self._rollout.current.copy()
        return arrays, {
            **self.about,
            "steps": self.steps,
            "seconds": self.seconds,
            "episodes": self.episodes,
            "solved_at_step": self.solved_at_step,
            "solved_at_seconds": self.solved_at_seconds,
            "rng": self._rng.bit_generator.state,
            "agent": self._agent.about(),
        }

    def save(self) -> None:
        """Writes checkpoint.npz as of the last finished update, if it is not written yet."""
        if self.folder is not None and self._snapshot is not None:
            with self.writing():
                write(self.folder / NEWEST, *self._snapshot)
            self.saved_steps, self._snapshot = self._snapshot[1]["steps"], None

    def kept(self) -> str:
        """What there is to go on from, and how."""
        if self.folder is None or not self.saved_steps:
            return "no checkpoint yet"
        return f"checkpoint of step {self.saved_steps:,} in {self.folder / NEWEST}; go on with fastpg train --resume {self.folder}"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Says, where the folder cannot be written to, what is kept and what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"cannot write to {self.folder}: {error.strerror or error}; make room there, or make it writable ({self.kept()})"
            ) from error


@blas_threads(1)
def evaluate(agent: Agent, env: VectorEnv, episodes: int = 100, seed: int = 0, *, sample: bool = False) -> Array:
    """Returns (episodes,) of whole episodes that take the most likely action, or a sampled one.

    Each lane plays a number of episodes fixed beforehand: counting the first to finish would favour short ones. One that
    does not end within 27,000 steps counts as it stands then, and a warning tells of it: not every environment has a time limit.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; wanted 1 or more")
    if seed < 0:
        raise ValueError(f"seed is {seed}; wanted 0 or more")
    if (env.observation_size, env.action_space) != (agent.observation_size, agent.action_space):
        raise ValueError(
            f"{env.id} has observations of {env.observation_size} and {env.action_space}, but the agent was "
            f"trained on {agent.observation_size} and {agent.action_space}"
        )
    left = episodes // env.lanes + (np.arange(env.lanes) < episodes % env.lanes)
    total, length = np.zeros(env.lanes), np.zeros(env.lanes, np.int64)
    returns: list[float] = []
    cut = 0
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    while left.any():
        action = agent.sample(observation, rng) if sample else agent.best(observation)
        observation, reward, terminated, truncated, _ = env.step(agent.head.to_env(action))
        total += reward
        length += 1
        ended = terminated | truncated
        late = (length == LONGEST) & ~ended & (left > 0)
        over = late | ended & (length <= LONGEST) & (left > 0)
        returns.extend(total[over].tolist())
        left[over] -= 1
        cut += int(late.sum())
        total[ended], length[ended] = 0, 0
        if left.any() and (length[left > 0] >= LONGEST).all():  # the lanes still wanted are all in such an episode
            observation, _ = env.reset()
            total[:], length[:] = 0, 0
    if cut:
        warnings.warn(
            f"{cut} of {episodes} episodes of {env.id} did not end within {LONGEST:,} steps and count as they stood then",
            stacklevel=2,
        )
    return np.array(returns)
