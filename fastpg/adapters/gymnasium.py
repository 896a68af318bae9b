"""Gymnasium environments and vector environments as fastpg.envs.VectorEnv.

An episode that ends restarts within the same step, and what the step led to is kept. So no row is a reset: where
gymnasium.vector would spend a step on it (NEXT_STEP), the ended lanes are reset at once, by reset_mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastpg.adapters import require
from fastpg.envs import check_count, lane_seeds
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

if TYPE_CHECKING:
    import gymnasium

    Env = gymnasium.Env[Any, Any]
    Vector = gymnasium.vector.VectorEnv[Any, Any, Any]

__all__ = ["Adapter", "GymnasiumEnv", "GymnasiumVectorEnv", "actions", "make", "observations", "record"]

Array = NDArray[Any]
Step = tuple[Array, Array, Array, Array, dict[str, Array]]


def make(env: str | Env | Vector | Callable[..., Env], lanes: int | None = None, **kwargs: Any) -> Adapter:
    """A vector environment of `lanes` copies of env, or of one if lanes is None.

    env is an id, a gymnasium.EnvSpec, or a function that makes one environment, called once a lane; all are given kwargs.
    Or it is ready: one environment, or a gymnasium.vector.VectorEnv in any autoreset mode, whose lanes are its num_envs.
    Observations become flat float32, see `observations`; for actions see `actions`. ValueError for any other space.
    """
    if lanes is not None:
        check_count("lanes", lanes)
    gym = require("gymnasium")
    if isinstance(env, gym.Env | gym.vector.VectorEnv):
        ready = getattr(env, "num_envs", 1) if isinstance(env, gym.vector.VectorEnv) else 1
        if lanes not in (None, ready):
            raise ValueError(f"lanes is {lanes}, but env is ready and has {ready}; pass a function that makes one lane")
        if kwargs:
            raise ValueError(f"env is ready, so it takes no {', '.join(kwargs)}")
        return GymnasiumVectorEnv(env) if isinstance(env, gym.vector.VectorEnv) else GymnasiumEnv([env])
    registered = isinstance(env, str | gym.envs.registration.EnvSpec)
    if not (registered or callable(env)):
        raise TypeError(f"env is {env!r}; wanted an id, a function that makes one environment, or an environment")
    with ExitStack() as undo:
        copies: list[Env] = []
        for n in range(lanes or 1):
            copy = _make(env, **kwargs) if registered else env(**kwargs)  # type: ignore[operator, arg-type]
            if not isinstance(copy, gym.Env):
                raise TypeError(f"lane {n}: env made {copy!r}; wanted a gymnasium.Env, one lane of its own")
            if any(copy is other for other in copies):
                raise ValueError(
                    f"lane {n}: env gave the environment of another lane again; wanted a new one each time"
                )
            copies.append(copy)
            undo.callback(copy.close)
        made = GymnasiumEnv(copies)
        undo.pop_all()
    if isinstance(env, str) and ":" in env:  # Gymnasium forgets the module, without which it does not find the id again
        made.id = f"{env.partition(':')[0]}:{made.id}"
    return made


def _make(id: str, **kwargs: Any) -> Env:
    gym = require("gymnasium")
    try:
        made: Env = gym.make(id, disable_env_checker=True, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f"env is {id!r}: {' '.join(str(error).split())}") from error
    except gym.error.Error as error:
        told = " ".join(str(error).split())
        unknown = isinstance(error, gym.error.NamespaceNotFound | gym.error.NameNotFound)
        if unknown and ":" not in str(id) and "Did you mean" not in told:
            told += f" If a module registers it, write MODULE:{id}, as in ale_py:ALE/Pong-v5"
        raise ValueError(f"env is {id!r}: {told}") from None
    except ModuleNotFoundError as error:  # module:Env-v0 with no such module
        raise ValueError(f"env is {id!r}: {error}") from None
    return made


def observations(space: Any, name: str = "observation") -> tuple[int, Callable[[Any, Array], None]]:
    """How many numbers an observation of the space is, and a function that writes one, or a batch, into float32 rows.

    As gymnasium.spaces.flatten: Box and MultiBinary in C order, Discrete and MultiDiscrete one-hot, the parts of Tuple
    and Dict one after another. Nothing is scaled: the pixels of a uint8 Box stay 0 to 255.
    """
    spaces = require("gymnasium.spaces")
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        shape, flat = space.shape, len(space.shape) == 1

        def write(x: Any, out: Array) -> None:
            x = np.asarray(x)
            if (
                out.ndim > 1 or x.shape != shape or x.dtype.kind not in "biuf"
            ):  # a single lane's row is checked in 0.1 us
                _check(name, x, out.shape[:-1] + shape, "biuf")
            out[...] = x if flat else x.reshape(out.shape)

        return math.prod(shape), write
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        shape, start = space.shape, np.ravel(space.start)
        n = np.ravel(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n)
        first = np.cumsum(n) - n

        def write(x: Any, out: Array) -> None:
            x = np.asarray(x)
            _check(name, x, out.shape[:-1] + shape, "iu")
            choice = x.reshape(*out.shape[:-1], len(n)).astype(np.int64) - start
            if ((choice < 0) | (choice >= n)).any():
                raise ValueError(f"{name} is {x.tolist()}, not in {space}")
            out[...] = 0
            np.put_along_axis(out, choice + first, 1, axis=-1)

        return int(n.sum()), write
    if isinstance(space, spaces.Tuple | spaces.Dict):
        keys = list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))
        parts, end = [], 0
        for key in keys:
            size, part = observations(space.spaces[key], f"{name}[{key!r}]")
            parts.append((key, slice(end, end + size), part))
            end += size

        def write(x: Any, out: Array) -> None:
            for key, place, part in parts:
                part(x[key], out[..., place])

        return end, write
    raise ValueError(
        f"{name} space is {space}; wanted Box, Discrete, MultiBinary, MultiDiscrete, or Tuple or Dict of these"
    )


def actions(space: Any) -> tuple[Space, Callable[[Array, int], Array]]:
    """The space of fastpg.envs.spaces for a Gymnasium space, and a function from its batch, and lanes, to Gymnasium's.

    Discrete and MultiDiscrete may start anywhere, spaces of rank above 1 are flat for the policy, an integer Box is
    rounded to. Numbers outside a Box are clipped to it.
    """
    spaces = require("gymnasium.spaces")
    shape = space.shape
    if isinstance(space, spaces.Box) and (space.dtype.kind == "f" or _exact(space)):
        low, high, integer = space.low, space.high, space.dtype.kind != "f"
        bounded = bool(np.isfinite([low, high]).any())

        def decode(action: Array, lanes: int) -> Array:
            _check("action", action, (lanes, low.size), "f")
            if not np.isfinite(action).all():
                raise ValueError(f"action of lane {_lane(~np.isfinite(action))} is not finite: the policy has diverged")
            x = action.reshape(lanes, *shape)
            if integer:
                return np.array(np.clip(np.rint(x.astype(np.float64)), low, high), space.dtype)
            x = x.astype(space.dtype)
            return np.clip(x, low, high, out=x) if bounded else x

        return Box(tuple(map(float, low.flat)), tuple(map(float, high.flat))), decode
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n)), _choices(np.array(space.n), space.start, (), shape, space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        n = space.nvec.ravel()
        flat = MultiDiscrete(tuple(n.tolist()))
        return flat, _choices(n, np.ravel(space.start), n.shape, shape, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        size = math.prod(shape)
        return MultiBinary(size), _choices(np.array(2), 0, (size,), shape, space.dtype)
    raise ValueError(f"action space is {space}; wanted Discrete, MultiDiscrete, MultiBinary or Box")


def _exact(space: Any) -> bool:
    """Whether every integer of the Box is a float64."""
    return bool(np.abs(np.array([space.low, space.high], np.float64)).max() < 2**53)


def _choices(n: Array, start: Any, flat: tuple[int, ...], shape: tuple[int, ...], dtype: Any) -> Any:
    limit, moved = n.astype(np.uint64), bool(np.any(start))

    def decode(action: Array, lanes: int) -> Array:
        _check("action", action, (lanes, *flat), "iu")
        bad = action.astype(np.int64, copy=False).view(np.uint64) >= limit  # what is negative is large here
        if np.count_nonzero(bad):
            lane = _lane(bad)
            raise ValueError(f"action of lane {lane} is {action[lane].tolist()}; wanted 0 to {(n - 1).tolist()}")
        return (action + start if moved else action).astype(dtype).reshape(lanes, *shape)  # the environment's to keep

    return decode


FILMED = 5000  # steps of an episode at most
KINDS = {"biuf": "numbers", "f": "real numbers", "iu": "integers"}


def _check(name: str, x: Array, shape: tuple[int, ...], kinds: str) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}; wanted {shape}")
    if x.dtype.kind not in kinds:
        raise ValueError(f"{name} is {x.dtype}; wanted {KINDS[kinds]}")


def _lane(bad: Array) -> int:
    return int(np.argwhere(bad)[0, 0])


class Adapter:
    """What the environments of another library share; see fastpg.envs.VectorEnv for the interface.

    Whatever an environment raises, and whatever it returns that its spaces do not allow, is a RuntimeError that names
    environment, lane and step; numbers that are not finite are a FloatingPointError. close() still closes it.
    """

    def __init__(self, id: str, lanes: int, observation: Any, action: Any, reward_threshold: float | None) -> None:
        self.id, self.lanes, self.reward_threshold = id, lanes, reward_threshold
        self.action_space: Space
        try:
            self.observation_size, self._write = observations(observation)
            self.action_space, self._decode = actions(action)
        except ValueError as error:
            raise ValueError(f"{id}: {error}") from None
        self._steps = -1  # since reset

    def reset(self, *, seed: int | Sequence[int] | None = None) -> tuple[Array, dict[str, Array]]:
        """Starts a new episode on every lane, lane n with seed + n, as gymnasium.vector does, or with seed[n]."""
        self._steps = 0
        return self._finite("observation", self._reset(seed)), {}

    def step(self, action: Array) -> Step:
        """observation, reward, terminated, truncated, {"final_obs": what the step led to, before any reset}."""
        if self._steps < 0:
            raise RuntimeError(f"{self.id}: step() before reset()")
        action = self._decode(np.asarray(action), self.lanes)
        self._steps += 1
        observation, reward, terminated, truncated, final = self._step(action)
        self._finite("observation", final)
        if observation is not final:
            self._finite("observation after the reset", observation)
        self._finite("reward", reward)
        return observation, reward, terminated, truncated, {"final_obs": final}

    def close(self) -> None:
        """Closes every environment."""
        raise NotImplementedError

    def _reset(self, seed: int | Sequence[int] | None) -> Array:
        raise NotImplementedError

    def _step(self, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        """observation, reward, terminated, truncated, final: final is observation itself if no episode ended."""
        raise NotImplementedError

    def _row(self, observation: Any, lanes: int) -> Array:
        out = np.empty((lanes, self.observation_size), np.float32)
        self._write(observation, out)
        return out

    def _reward(self, reward: Any) -> Array:
        try:
            given = np.array(reward)
            _check("reward", given, (self.lanes,), "biuf")
        except ValueError:
            shown = reward if isinstance(reward, list) else getattr(reward, "tolist", lambda: reward)()
            raise self._blame(f"reward is {shown}; wanted one number a lane") from None
        return given.astype(np.float64, copy=False)

    def _finite(self, name: str, x: Array) -> Array:
        finite = np.isfinite(x)
        if np.count_nonzero(finite) < x.size:
            lane, *at = np.argwhere(~finite)[0].tolist()
            raise FloatingPointError(
                f"{self.id}, lane {lane}, step {self._steps}: {name}{''.join(f'[{k}]' for k in at)} "
                f"is {x[lane][tuple(at)]}; wanted finite numbers"
            )
        return x

    def _blame(self, what: Exception | str, lane: int | None = None) -> RuntimeError:
        if isinstance(what, Exception):
            what = f"{type(what).__name__}: {what}"
        return RuntimeError(f"{self.id}{'' if lane is None else f', lane {lane}'}, step {self._steps}: {what}")


class GymnasiumEnv(Adapter):
    """Gymnasium environments, one a lane."""

    def __init__(self, envs: list[Env]) -> None:
        first, spec = envs[0], envs[0].spec
        id, threshold = (str(first), None) if spec is None else (spec.id, spec.reward_threshold)
        super().__init__(id, len(envs), first.observation_space, first.action_space, threshold)
        for n, env in enumerate(envs):
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                raise ValueError(
                    f"{id}: lane {n} has observations in {env.observation_space} and actions in {env.action_space}, "
                    f"lane 0 in {first.observation_space} and {first.action_space}"
                )
        self._envs = envs
        self._each = [env.step for env in envs]

    def _reset(self, seed: int | Sequence[int] | None) -> Array:
        out = np.empty((self.lanes, self.observation_size), np.float32)
        for n, its_seed in enumerate(lane_seeds(seed, self.lanes)):
            self._restart(n, out, its_seed)
        return out

    def _restart(self, n: int, out: Array, seed: int | None = None) -> None:
        try:
            observation, _ = self._envs[n].reset(seed=seed)
            self._write(observation, out[n])
        except Exception as error:
            raise self._blame(error, n) from error

    def _step(self, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        write, final = self._write, np.empty((self.lanes, self.observation_size), np.float32)
        terminated, truncated = np.empty((2, self.lanes), np.bool_)
        reward = []
        n = 0
        try:
            for n, a in enumerate(action.tolist() if isinstance(self.action_space, Discrete) else action):
                observation, gain, terminated[n], truncated[n], _ = self._each[n](a)
                write(observation, final[n])
                reward.append(gain)
        except Exception as error:
            raise self._blame(error, n) from error
        observation = final
        ended = terminated | truncated
        if ended.any():
            observation = final.copy()
            for n in np.flatnonzero(ended).tolist():
                self._restart(n, observation)
        return observation, self._reward(reward), terminated, truncated, final

    def close(self) -> None:
        """Closes every environment."""
        with ExitStack() as each:
            for env in self._envs:
                each.callback(env.close)


class _ResetMask(dict[str, Any]):
    """Options whose reset_mask stays. A vector environment pops it, and RecordEpisodeStatistics around it looks again."""

    def pop(self, key: str, *default: Any) -> Any:
        return self[key] if key == "reset_mask" else super().pop(key, *default)


def _refuse_partial(env: Vector) -> None:
    """ValueError for wrappers that reset_mask is too little for: the one refuses it, the other forgets the returns of all lanes."""
    wrappers = require("gymnasium.wrappers.vector")
    advice = {
        wrappers.NormalizeObservation: "gymnasium.wrappers.NormalizeObservation in each lane, or the option normalise_observation",
        wrappers.NormalizeReward: "it around SAME_STEP, gymnasium.wrappers.NormalizeReward in each lane, or the option normalise_reward",
    }
    inner: Any = env
    while inner is not inner.unwrapped:
        for wrapper, wanted in advice.items():
            if isinstance(inner, wrapper):
                raise ValueError(f"env is {env}, whose {wrapper.__name__} cannot reset some of its lanes; use {wanted}")
        inner = inner.env


class GymnasiumVectorEnv(Adapter):
    """A gymnasium.vector.VectorEnv, in the autoreset mode that its metadata name.

    SAME_STEP: the final observation is info["final_obs"]. It is wrong if an environment in SyncVectorEnv or AsyncVectorEnv
    tells every observation in the same array, since Gymnasium copies it only after the reset.
    DISABLED and NEXT_STEP: the final observation is what step() returned, and ended lanes are then reset by
    reset(options={"reset_mask": ended}), so NEXT_STEP never gets to its reset step. SyncVectorEnv and AsyncVectorEnv heed
    that option in every mode; another that is NEXT_STEP is a RuntimeError at the first end if it does not.
    """

    def __init__(self, env: Vector) -> None:
        vector = require("gymnasium.vector")
        if any(base.__module__.startswith("envpool.") for base in type(env.unwrapped).__mro__):
            raise ValueError(
                'env is a ready EnvPool, whose seed is fixed; pass "envpool:NAME" to fastpg.adapters.make_env'
            )
        modes = vector.AutoresetMode
        mode = env.metadata.get("autoreset_mode")
        if mode not in tuple(modes):
            raise ValueError(
                f"env is {env}, and its metadata['autoreset_mode'] is {mode!r}; wanted a gymnasium.vector.AutoresetMode"
            )
        if isinstance(env.unwrapped, vector.AsyncVectorEnv):
            if mode is modes.NEXT_STEP and not env.unwrapped.shared_memory:
                # Its workers would still spend the next step on a reset: 1.4 forgets to tell them (_async_worker).
                raise ValueError(
                    f"env is {env}, NEXT_STEP without shared memory; use shared_memory=True or another mode"
                )
        if mode is not modes.SAME_STEP:
            _refuse_partial(env)
        own = isinstance(env.unwrapped, vector.SyncVectorEnv | vector.AsyncVectorEnv)
        self._same_step, self._sure = mode is modes.SAME_STEP, own or mode is modes.DISABLED
        spec = env.spec
        if spec is None and isinstance(env.unwrapped, vector.SyncVectorEnv):
            spec = env.unwrapped.envs[0].spec
        id, threshold = (str(env), None) if spec is None else (spec.id, spec.reward_threshold)
        super().__init__(id, env.num_envs, env.single_observation_space, env.single_action_space, threshold)
        self._env = env

    def _reset(self, seed: int | Sequence[int] | None) -> Array:
        seeds: Any = lane_seeds(seed, self.lanes) if np.ndim(seed) else lane_seeds(seed, 1)[0]  # type: ignore[arg-type]
        try:
            return self._row(self._env.reset(seed=seeds)[0], self.lanes)
        except Exception as error:
            raise self._blame(self._told(error)) from error

    def _step(self, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        try:
            after, gain, *flags, info = self._env.step(action)
            terminated, truncated = np.array(flags, np.bool_)
            final, reward = self._row(after, self.lanes), self._reward(gain)
            ended = terminated | truncated
            if not ended.any():
                return final, reward, terminated, truncated, final
            if self._same_step:
                observation, final = final, final.copy()
                for n in np.flatnonzero(ended).tolist():
                    self._write(info["final_obs"][n], final[n])
                return observation, reward, terminated, truncated, final
            observation = self._row(self._env.reset(options=_ResetMask(reset_mask=ended.copy()))[0], self.lanes)
        except Exception as error:
            raise self._blame(self._told(error)) from error
        if not self._sure and (observation != final)[~ended].any():
            raise self._blame(
                "reset(options={'reset_mask': ...}) changed lanes that it was not to reset. In autoreset mode NEXT_STEP "
                "fastpg needs that option, or a row would be a reset; use SAME_STEP or DISABLED, or, where "
                "gymnasium.make_vec made it, vectorization_mode='sync'"
            )
        observation[~ended] = final[~ended]
        return observation, reward, terminated, truncated, final

    def _told(self, error: Exception) -> Exception | str:
        """The error, or which lane's process has died where that is why."""
        processes = getattr(self._env.unwrapped, "processes", ())
        if isinstance(error, EOFError | ConnectionError) and processes:
            ended = wait([process.sentinel for process in processes], 1)
            for n, process in enumerate(processes):
                if process.sentinel in ended:
                    process.join()
                    return f"the process of lane {n} has ended with exit code {process.exitcode}"
        return error

    def close(self) -> None:
        """Closes the vector environment."""
        inner: Any = self._env.unwrapped
        if isinstance(inner, require("gymnasium.vector").AsyncVectorEnv) and not inner.closed:
            idle = require("gymnasium.vector.async_vector_env").AsyncState.DEFAULT
            pipes = zip(inner.parent_pipes, inner.processes, strict=True)
            if inner._state is not idle or any(pipe and not process.is_alive() for pipe, process in pipes):
                # A call that a dead process or Ctrl-C broke off: Gymnasium would wait for its answers, which never come.
                inner._state = idle
                self._env.close(terminate=True)
                return
        self._env.close()


def record(
    env_id: str,
    act: Callable[[Array], Array],
    folder: str | Path,
    episodes: int = 1,
    seed: int = 0,
    **kwargs: Any,
) -> list[Path]:
    """Films `episodes` episodes of Gymnasium's env_id into folder, and names the files.

    act takes observations (1, observation_size) to actions (1, ...), as VectorEnv gives and takes them. The prefixes
    fastpg/ and envpool: fall off: Gymnasium's environment of that name is what renders. An episode is filmed for 5,000 steps at most.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; wanted 1 or more")
    require("moviepy", "video")
    wrappers, name = require("gymnasium.wrappers"), env_id.removeprefix("fastpg/").removeprefix("envpool:")
    if env_id.startswith("fastpg/") and "NotSlippery" in name:  # an option there, an id of its own here
        name, kwargs = name.replace("NotSlippery", ""), {"is_slippery": False, **kwargs}
    silent = ValueError(f"env_id is {env_id!r}, which does not render: it has no render_mode 'rgb_array'")
    try:
        inner = _make(name, render_mode="rgb_array", **kwargs)
    except TypeError as error:
        raise silent if "'render_mode'" in str(error) else error from None
    try:
        if "rgb_array" not in inner.metadata.get("render_modes", ()):
            raise silent
        prefix = name.replace("/", "-").replace(":", "-")
        film = wrappers.RecordVideo(inner, str(folder), episode_trigger=lambda k: k < episodes, name_prefix=prefix)
        env = GymnasiumEnv([film])
    except BaseException:
        inner.close()
        raise
    try:
        observation, _ = env.reset(seed=seed)
        for _ in range(episodes):
            for _ in range(FILMED):
                observation, _, terminated, truncated, _ = env.step(act(observation))
                if terminated[0] or truncated[0]:
                    break
            else:  # its frames are kept until the end, and it may have none
                observation, _ = env.reset()
    finally:
        env.close()
    return [Path(folder) / f"{prefix}-episode-{k}.mp4" for k in range(episodes)]
