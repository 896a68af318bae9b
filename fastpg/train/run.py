"""What every training loop shares: the agent, its checkpoint, the run folder, the record of episodes, evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads
from fastpg.train.agent import Agent
from fastpg.train.rollout import Rollout

__all__ = ["Psi", "Run", "check", "create_folder", "evaluate", "load", "save"]

Array = NDArray[Any]
Psi = Literal["total_return", "reward_to_go", "baselined", "q", "gae", "td_residual"]
WINDOW = 100  # episodes in the mean return that counts as solved
SAVE_EVERY = 10.0  # seconds between checkpoints while training


def check(config: Any, *, positive: Sequence[str], not_negative: Sequence[str]) -> None:
    """The ranges of a Config; ValueError names the field, what came and what is wanted."""
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
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise ValueError(f"{name} is {getattr(config, name)!r}; wanted one of {', '.join(get_args(hint))}")
    if any(size < 1 for size in config.hidden):
        raise ValueError(f"hidden is {config.hidden}; wanted sizes of 1 or more")


def create_folder(root: Path, env: str, algo: str, seed: int) -> Path:
    """A new folder root/<env>-<algo>-<seed>-<time>."""
    name = f"{env.replace('/', '-')}-{algo}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    for k in range(1, 1000):
        folder = root / (name if k == 1 else f"{name}-{k}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                break
    raise FileExistsError(f"cannot create a new folder {root / name}")


def save(path: Path, agent: Agent, about: dict[str, Any]) -> None:
    """Writes a checkpoint: the agent's parameters, and `about` with the agent's shape as JSON. A reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                **{f"agent.{name}": array for name, array in agent.state().items()},  # type: ignore[arg-type]
                about=np.array(json.dumps({**about, "agent": agent.about()})),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> tuple[Agent, dict[str, Any]]:
    """The agent and `about` of a checkpoint or of the run folder that holds one."""
    if path.is_dir():
        path = path / "checkpoint.npz"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle
        raise ValueError(f"{path} is not a fastpg checkpoint: not an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            about: dict[str, Any] = json.loads(str(file["about"]))
            shape = about.pop("agent")
            agent = Agent.of(shape)
            for name, array in agent.state().items():
                if (got := file[f"agent.{name}"]).shape != array.shape:
                    raise ValueError(f"{name} has shape {got.shape}; an agent of {shape} wants {array.shape}")
                array[...] = got
    except (ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a fastpg checkpoint: {error}") from None
    return agent, about


class Run:
    """The record of one training run: episodes, metrics, checkpoints. Without a folder it keeps them in memory only.

    solved_at_step, solved_at_seconds: environment steps (all lanes) and seconds when, for the first time, the mean
    return of the last 100 finished training episodes reached the environment's reward threshold; None before.
    """

    def __init__(
        self,
        config: Any,
        env: VectorEnv,
        folder: Path | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
    ) -> None:
        algo = type(config).__module__.rpartition(".")[2]
        self.about = {
            "env": env.id,
            "algo": algo,
            "config": dataclasses.asdict(config),
            "fastpg": fastpg.__version__,
            "numpy": np.__version__,
        }
        self.folder = folder
        self.metrics: list[dict[str, Any]] = []
        self.steps = self.episodes = 0
        self.solved_at_step: int | None = None
        self.solved_at_seconds: float | None = None
        self._progress = progress
        self._threshold = env.reward_threshold
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._return = np.zeros(env.lanes)
        self._start = self._saved = time.perf_counter()
        if folder is not None:
            (folder / "config.json").write_text(json.dumps(self.about, indent=2) + "\n")

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._start

    @property
    def mean_return(self) -> float | None:
        """Of the last 100 finished training episodes, or of all if fewer; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def reached(self, target: float | None) -> bool:
        """Whether 100 episodes are finished and the last 100 have a mean return of target or more."""
        return target is not None and len(self._recent) == WINDOW and sum(self._recent) / WINDOW >= target

    def count(self, reward: Array, ended: Array) -> None:
        """Records T steps of every lane, (T, N)."""
        total = np.cumsum(reward, axis=0, dtype=np.float64)
        for t, n in np.argwhere(ended):
            self._recent.append(float(self._return[n] + total[t, n]))
            self._return[n] = -total[t, n]
            self.episodes += 1
            if self.solved_at_step is None and self.reached(self._threshold):
                self.solved_at_step, self.solved_at_seconds = self.steps + int(t + 1) * reward.shape[1], self.seconds
        self._return += total[-1]
        self.steps += reward.size

    def begin(
        self, env: VectorEnv, rng: np.random.Generator, rollout: Rollout | None, agent: Agent, **optimizer: Adam
    ) -> None:
        """Starts the first episodes; tells the run what its checkpoints hold."""
        self._agent = agent
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        if rollout is not None:
            rollout.current[...] = observation

    def restart(self) -> None:
        """Forgets unfinished episodes, for a loop that resets its environment."""
        self._return[:] = 0

    def log(self, **metrics: float) -> None:
        """Records one update: a line of metrics.jsonl, the progress callback, now and then a checkpoint."""
        seconds = self.seconds
        row: dict[str, Any] = {
            "steps": self.steps,
            "seconds": round(seconds, 3),
            "steps_per_second": round(self.steps / seconds),
            "episodes": self.episodes,
            "mean_return": self.mean_return,
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
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            if time.perf_counter() - self._saved > SAVE_EVERY:
                self.save()
        self._progress(row)

    def save(self) -> None:
        """Writes checkpoint.npz."""
        if self.folder is not None:
            save(self.folder / "checkpoint.npz", self._agent, {**self.about, "steps": self.steps})
            self._saved = time.perf_counter()


@blas_threads(1)
def evaluate(agent: Agent, env: VectorEnv, episodes: int = 100, seed: int = 0) -> Array:
    """Returns (episodes,) of whole episodes that take the most likely action.

    Each lane plays a number of episodes fixed beforehand: counting the first to finish would favour short ones.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; wanted 1 or more")
    if (env.observation_size, env.action_space) != (agent.observation_size, agent.action_space):
        raise ValueError(
            f"{env.id} has observations of {env.observation_size} and {env.action_space}, but the agent was "
            f"trained on {agent.observation_size} and {agent.action_space}"
        )
    left = episodes // env.lanes + (np.arange(env.lanes) < episodes % env.lanes)
    total = np.zeros(env.lanes)
    returns: list[float] = []
    observation, _ = env.reset(seed=seed)
    while left.any():
        observation, reward, terminated, truncated, _ = env.step(agent.head.to_env(agent.best(observation)))
        total += reward
        ended = terminated | truncated
        returns.extend(total[ended & (left > 0)].tolist())
        left[ended & (left > 0)] -= 1
        total[ended] = 0
    return np.array(returns)
