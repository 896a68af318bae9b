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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg import categorical
from fastpg.envs import VectorEnv
from fastpg.nets import MLP, blas_threads

__all__ = ["Agent", "Psi", "Run", "check", "create_folder", "evaluate", "load", "save"]

Array = NDArray[Any]
Psi = Literal["total_return", "reward_to_go", "baselined", "q", "gae", "td_residual"]
WINDOW = 100  # episodes in the mean return that counts as solved
SAVE_EVERY = 10.0  # seconds between checkpoints while training


class Agent:
    """A softmax policy and a value function, two MLPs of the same hidden sizes."""

    def __init__(self, observation_size: int, actions: int, hidden: Sequence[int], rng: np.random.Generator) -> None:
        layers = len(hidden)
        # A last policy layer near 0 starts near the uniform policy (Andrychowicz et al. 2021, arXiv:2006.05990, 3.2)
        self.policy = MLP((observation_size, *hidden, actions), rng=rng, gain=[2**0.5] * layers + [0.01])
        self.value = MLP((observation_size, *hidden, 1), rng=rng, gain=[2**0.5] * layers + [1.0])

    def values(self, observation: Array) -> Array:
        """V of observations of shape (..., observation_size), shape (...)."""
        flat = observation.reshape(-1, observation.shape[-1])
        value: Array = self.value.forward(flat)[:, 0].copy()
        return value.reshape(observation.shape[:-1])

    def best(self, observation: Array) -> Array:
        """The most likely action for each row."""
        return categorical.mode(self.policy.forward(observation))


def check(config: Any, *, positive: Sequence[str], not_negative: Sequence[str]) -> None:
    """The ranges of a Config; ValueError names the field, what came and what is wanted."""
    for name in ("gamma", "lambda_"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; wanted a number in [0, 1]")
    for name in positive:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; wanted a number above 0")
    for name in not_negative:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; wanted 0 or more")
    if config.psi not in fastpg.PSI:
        raise ValueError(f"psi is {config.psi!r}; wanted one of {', '.join(fastpg.PSI)}")
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
    """Writes a checkpoint: flat parameters, layer sizes, and `about` as JSON. A reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                policy=agent.policy.parameter,
                policy_sizes=np.array(agent.policy.sizes),
                value=agent.value.parameter,
                value_sizes=np.array(agent.value.sizes),
                about=np.array(json.dumps(about)),
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
            sizes = [int(size) for size in file["policy_sizes"]]
            agent = Agent(sizes[0], sizes[-1], sizes[1:-1], np.random.default_rng(0))
            for name, net in (("policy", agent.policy), ("value", agent.value)):
                if tuple(file[f"{name}_sizes"]) != net.sizes or file[name].shape != net.parameter.shape:
                    raise ValueError(f"{name} has {file[name].shape} parameters for layers {file[f'{name}_sizes']}")
                net.parameter[...] = file[name]
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
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
        """Records one step of every lane."""
        self.steps += len(reward)
        self._return += reward
        if ended.any():
            for n in np.flatnonzero(ended):
                self._recent.append(float(self._return[n]))
                self.episodes += 1
                if self.solved_at_step is None and self.reached(self._threshold):
                    self.solved_at_step, self.solved_at_seconds = self.steps, self.seconds
            self._return[ended] = 0

    def restart(self) -> None:
        """Forgets unfinished episodes, for a loop that resets its environment."""
        self._return[:] = 0

    def log(self, agent: Agent, **metrics: float) -> None:
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
                self.save(agent)
        self._progress(row)

    def save(self, agent: Agent) -> None:
        """Writes checkpoint.npz."""
        if self.folder is not None:
            save(self.folder / "checkpoint.npz", agent, {**self.about, "steps": self.steps})
            self._saved = time.perf_counter()


@blas_threads(1)
def evaluate(agent: Agent, env: VectorEnv, episodes: int = 100, seed: int = 0) -> Array:
    """Returns (episodes,) of whole episodes that take the most likely action.

    Each lane plays a number of episodes fixed beforehand: counting the first to finish would favour short ones.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; wanted 1 or more")
    if (env.observation_size, env.actions) != (agent.policy.sizes[0], agent.policy.sizes[-1]):
        raise ValueError(
            f"{env.id} has observations of {env.observation_size} and {env.actions} actions, but the agent was "
            f"trained on {agent.policy.sizes[0]} and {agent.policy.sizes[-1]}"
        )
    left = episodes // env.lanes + (np.arange(env.lanes) < episodes % env.lanes)
    total = np.zeros(env.lanes)
    returns: list[float] = []
    observation, _ = env.reset(seed=seed)
    while left.any():
        observation, reward, terminated, truncated, _ = env.step(agent.best(observation))
        total += reward
        ended = terminated | truncated
        returns.extend(total[ended & (left > 0)].tolist())
        left[ended & (left > 0)] -= 1
        total[ended] = 0
    return np.array(returns)
