"""Statistics and scales: whitening of a batch, running scales of rewards, normalised values that keep their outputs.

Sums are float64 whatever comes in, over deviations from a mean already subtracted, so a large offset costs no digits. A slot where `mask`
is False is not read: no garbage there, NaN and inf included, changes a bit of any result; NaN anywhere else shows in the result.
Large arrays go through in blocks: at most 1 MB of temporary memory at any size, any strides, and the same bits from run to run.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_array, as_axis, as_flags, as_floats, as_index, at_home, into, is_foreign, same_shape
from fastpg._moments import (
    BLOCK,
    Axis,
    Moments,
    apply,
    arguments,
    axes_of,
    merged,
    moments_of,
)
from fastpg.returns import reward_to_go

__all__ = ["Moments", "PopArt", "RunningReturnScale", "merge_moments", "moments", "whiten"]

Array = NDArray[Any]


def moments(
    x: ArrayLike, *, mask: ArrayLike | None = None, weight: ArrayLike | None = None, axis: Axis = None
) -> Moments:
    """Count, mean and sum of squared deviations, to `whiten` by or to merge with those of other shards.

      count = sum w,    mean = sum w x / count,    m2 = sum w (x - mean)^2

    Two passes: a mean, then the deviations from it, whose own mean corrects both sums.
    Chan, Golub and LeVeque 1983, eq. 1.7, doi:10.1080/00031305.1983.10483115

    x of any shape, float32 or float64; mask the same shape, bool; weight the same shape and dtype, from 0 up, None for 1 each.
    axis: one, several, or None for all. Returns Moments of floats for None, else of float64 arrays without those axes.

    >>> moments([1.0, 3.0, 99.0], mask=[True, True, False])
    Moments(count=2.0, mean=2.0, m2=2.0)
    """
    home = at_home(x)
    x, mask, weight = arguments("x", x, mask, weight)
    axes = axes_of(axis, x.ndim)
    found = moments_of(x, mask, weight, axes)
    return found if axes is None else Moments(*home(tuple(np.squeeze(field, axes) for field in found)))


def merge_moments(first: Moments, *others: Moments) -> Moments:
    """The moments of several shards taken together.

      count = n_a + n_b,    mean = mean_a + d n_b / count,    m2 = m2_a + m2_b + d^2 n_a n_b / count,    d = mean_b - mean_a

    Chan, Golub and LeVeque 1983, eq. 1.5, doi:10.1080/00031305.1983.10483115

    Each a Moments, or a triple like it, of the same shapes. Returns Moments.

    >>> merge_moments(moments([1.0, 3.0]), moments([8.0]))
    Moments(count=3.0, mean=4.0, m2=26.0)
    """
    whole = Moments(*first)
    for other in others:
        if [np.shape(field) for field in other] != [np.shape(field) for field in whole]:
            raise ValueError(
                f"moments of shapes {np.shape(other[0])} and {np.shape(whole.count)} cannot be merged; the same is wanted"
            )
        whole = merged(whole, Moments(*other))
    return whole


def whiten(
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    center: bool = True,
    scale: bool = True,
    ddof: float = 1,
    eps: float = 1e-8,
    eps_in: str = "std",
    axis: Axis = None,
    moments: Moments | None = None,
    out: Array | None = None,
) -> Array:
    """x less its mean, over its standard deviation.

      y = (x - mean) / (std + eps)            eps_in="std"
      y = (x - mean) / sqrt(variance + eps)   eps_in="variance",    variance = std^2 = m2 / (count - ddof)

    mean, m2 and count are those of `moments(x, mask=mask, weight=weight, axis=axis)`, or are given: those of all shards merged, to
    whiten one shard by. center=False leaves the mean in, scale=False divides by nothing. A weight counts an item that many times,
    in ddof too. Equal items give exactly 0, and every masked slot is 0. So is y where the divisor is unknown, count <= ddof, a lone
    item under the default ddof, and where it is 0, which takes eps=0.

      library                                   the same here
      CleanRL, Stable-Baselines3 (advantages)   the defaults: torch.std divides by n - 1, 1e-8 is added to it
      verl, TRL masked_whiten                   eps_in="variance": Bessel's correction, 1e-8 under the root; they leave masked slots
                                                whitened. shift_mean=False there is whiten(x, ...) + mean, not center=False
      Spinning Up                               ddof=0, eps=0

    x of any shape, float32 or float64; mask the same shape, bool; weight the same shape and dtype, from 0 up.
    axis: the axes that the statistics run over, None for all. Returns the shape and dtype of x; `out=x` works in place.

    >>> whiten([1.0, 3.0, 5.0], eps=0.0)
    array([-1.,  0.,  1.])
    >>> shards = [1.0, 3.0], [5.0]
    >>> whiten(shards[1], moments=merge_moments(moments(shards[0]), moments(shards[1])), eps=0.0)
    array([1.])
    """
    home = at_home(x)
    if moments is not None and weight is not None:
        raise ValueError("weight and moments are both given; a weight belongs in the moments() that made them")
    x, mask, weight = arguments("x", x, mask, weight)
    axes = axes_of(axis, x.ndim)
    ddof, eps = _at_least_0("ddof", ddof), _at_least_0("eps", eps)
    if eps_in not in ("std", "variance"):
        raise ValueError(f"eps_in is {eps_in!r}; one of std, variance is wanted")
    made, target = _target(out, x, mask)
    found = moments_of(x, mask, weight, axes) if moments is None else _given(moments, x.shape, axes)
    one = 1.0 if axes is None else np.ones_like(found.mean)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        divisor = _divisor(found, ddof, eps, eps_in) if scale else one
        apply(x, mask, found.mean if center else 0 * one, divisor, made)
    if target is None:
        return home(made)  # type: ignore[no-any-return]
    if made is not target:
        target[...] = made
    return out  # type: ignore[return-value]


def _given(moments: Any, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> Moments:
    """Moments that came from outside, with the axes they ran over put back, of length 1."""
    if not isinstance(moments, tuple) or len(moments) != 3:
        raise TypeError(f"moments is a {type(moments).__name__}; Moments are wanted, as moments() returns them")
    kept = () if axes is None else tuple(n for k, n in enumerate(shape) if k not in axes)
    fields = []
    for name, value in zip(Moments._fields, moments, strict=True):
        field = as_array(f"moments.{name}", value).astype(np.float64)
        if field.shape != kept:
            raise ValueError(
                f"moments.{name} has shape {field.shape}; {kept} is wanted, one for every index of the axes kept"
            )
        fields.append(float(field) if axes is None else np.expand_dims(field, axes))
    return Moments(*fields)


def _target(out: Any, x: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """Where the result is written, and `out` as an array, which may be the same."""
    if out is None:
        return np.empty(x.shape, x.dtype), None
    target = as_array("out", out) if is_foreign(out) else out
    into(target, x.shape, x.dtype, [], lambda _: target)  # its checks alone
    same = target.ctypes.data == x.ctypes.data and target.strides == x.strides
    shared = np.may_share_memory(target, x) and not same or mask is not None and np.may_share_memory(target, mask)
    return np.empty(x.shape, x.dtype) if shared else target, target


def _divisor(found: Moments, ddof: float, eps: float, eps_in: str) -> Any:
    """std + eps or sqrt(variance + eps); inf, which makes 0 of everything, where that is 0 or not known."""
    count, _, m2 = found
    if isinstance(count, float):
        variance = m2 / (count - ddof) if count > ddof else math.inf
        return (math.sqrt(variance + eps) if eps_in == "variance" else math.sqrt(variance) + eps) or math.inf
    variance = np.divide(m2, count - ddof, out=np.full(m2.shape, np.inf), where=count > ddof)
    divisor = np.sqrt(variance + eps) if eps_in == "variance" else np.sqrt(variance) + eps
    return np.where(divisor == 0, np.inf, divisor)


# How a running return passes an ending. `past`: at a terminated step the return is that step's reward alone. `after`: the step after
# an ending starts at 0. `skip`: the step after an ending is no step but the reset, and only its reward is scaled. Then the clip.
CONVENTIONS = {
    "gymnasium": {"past": True, "after": False, "skip": True, "clip": np.inf},
    "gymnasium_same_step": {"past": True, "after": True, "skip": False, "clip": np.inf},
    "gymnasium_1.0": {"past": True, "after": False, "skip": False, "clip": np.inf},
    "sb3": {"past": False, "after": True, "skip": False, "clip": 10.0},
}
PRIOR = 1e-4  # the count at which a mean of 0 and a variance of 1 stand before any data, in Gymnasium and SB3 alike


class RunningReturnScale:
    """Rewards over the running standard deviation of the discounted return that they add up to.

      G[t] = r[t] + gamma G[t-1]      along each lane, forwards in time
      y[t] = r[t] / sqrt(variance[t] + eps)

    variance[t] is that of every G of every lane up to and with step t, after a pseudo-count of 1e-4 items of mean 0 and variance 1.
    The mean is not subtracted. What happens to G at an ending is the convention's:

      convention             at a terminated step   after an ending                            clip
      gymnasium              G[t] = r[t]            one step not counted, the reset; G goes on   -
      gymnasium_same_step    G[t] = r[t]            G starts at 0                                -
      gymnasium_1.0          G[t] = r[t]            G goes on                                    -
      sb3                    as anywhere            G starts at 0                               10

    gymnasium is `gymnasium.wrappers.vector.NormalizeReward` over environments that reset on the next step, _same_step over those that
    reset at once, _1.0 the wrapper before it told them apart; sb3 is the reward half of VecNormalize, and the one whose G is the
    return of an episode. Gymnasium keeps G in float32, which this does not copy: agreement with it is to float32.

    lanes: how many run side by side. gamma in [0, 1]. eps above 0. clip: bounds y to [-clip, clip]; None as the convention has it,
    inf for none. Called with (reward, terminated, truncated), each (N,) for one step or (T, N) for T of them with the same result,
    reward float32 or float64, flags bool, truncated None for none. Returns the shape and dtype of reward. update=False scales by
    what is known and changes nothing, for any number of lanes: evaluation.

    >>> scale = RunningReturnScale(1, gamma=0.5)
    >>> scale([[2.0], [4.0], [2.0]], [[False], [False], [True]]).round(3)[1:]
    array([[2.666],
           [1.414]])
    >>> worker = RunningReturnScale(1, gamma=0.5)
    >>> worker.merge(scale)
    >>> worker.variance == scale.variance
    True
    """

    def __init__(
        self,
        lanes: int,
        gamma: float = 0.99,
        eps: float = 1e-8,
        clip: float | None = None,
        *,
        convention: str = "gymnasium",
    ) -> None:
        self.lanes = _positive_integer("lanes", lanes)
        if convention not in CONVENTIONS:
            raise ValueError(f"convention is {convention!r}; one of {', '.join(CONVENTIONS)} is wanted")
        self.convention = convention
        self._rules = CONVENTIONS[convention]
        self.gamma, self.eps = _number("gamma", gamma), _above_0("eps", eps)
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; a number in [0, 1] is wanted")
        self.clip = self._rules["clip"] if clip is None else _above_0("clip", clip)
        self._moments = Moments(
            0.0, 0.0, 0.0
        )  # of the data alone: the prior joins when it is read, so merging counts it once
        self.reset()

    def reset(self) -> None:
        """Forgets the returns in progress, as when all environments are reset; the statistics stay."""
        self._return = np.zeros(self.lanes)
        self._ended = np.zeros(self.lanes, bool)

    @property
    def moments(self) -> Moments:
        """Of the returns seen, without the pseudo-count."""
        return self._moments

    @property
    def count(self) -> float:
        return float(self._moments.count) + PRIOR

    @property
    def mean(self) -> float:
        return float(self._moments.mean * self._moments.count) / self.count

    @property
    def variance(self) -> float:
        return float(_with_prior(*self._moments))

    def __call__(
        self, reward: ArrayLike, terminated: ArrayLike, truncated: ArrayLike | None = None, *, update: bool = True
    ) -> Array:
        home = at_home(reward)
        reward = as_floats("reward", reward)
        lanes = self.lanes if update or reward.ndim == 0 else reward.shape[-1]
        if reward.ndim not in (1, 2) or reward.shape[-1] != lanes:
            raise ValueError(f"reward has shape {reward.shape}; ({lanes},) or (T, {lanes}) is wanted")
        terminated = same_shape("terminated", as_flags("terminated", terminated), "reward", reward)
        ended = terminated
        if truncated is not None:
            ended = ended | same_shape("truncated", as_flags("truncated", truncated), "reward", reward)
        out = np.empty(reward.shape, reward.dtype)
        r, te, en, y = (np.atleast_2d(array) for array in (reward, terminated, ended, out))
        rows = max(1, BLOCK // max(1, lanes))
        with np.errstate(invalid="ignore", over="ignore"):
            for i in range(0, len(r), rows):
                part = slice(i, i + rows)
                x = r[part].astype(np.float64)
                variance = self._seen(x, te[part], en[part])[:, None] if update else self.variance
                x /= np.sqrt(variance + self.eps)
                if self.clip < np.inf:
                    np.clip(x, -self.clip, self.clip, out=x)
                np.copyto(y[part], x, casting="same_kind")
        return home(out)  # type: ignore[no-any-return]

    def _seen(self, reward: Array, terminated: Array, ended: Array) -> Array:
        """Takes in some rows; the variance after each."""
        before = np.vstack([self._ended, ended[:-1]])  # whether the step before ended its episode
        alone = terminated & self._rules["past"] | before & self._rules["after"]
        gamma: Any = self.gamma
        counted = None
        if self._rules["skip"]:
            counted = ~before
            reward, alone = np.where(before, 0, reward), alone & counted
            gamma = np.where(before, 1.0, gamma)
        # Time turned around: what ends the future there is what drops the past here, and V after the last row is G before the first.
        back = slice(None, None, -1)
        flipped = gamma if counted is None else gamma[back]
        if len(reward) == 1:  # the same without its checks, for environments that are stepped one at a time
            G = reward + np.where(alone, 0, gamma * self._return)
        else:
            G = reward_to_go(reward[back], self._return, alone[back], None, flipped)[back]
        self._return, self._ended = np.array(G[-1]), ended[-1].copy()

        row = Moments(*(field[:, 0] for field in moments_of(G, counted, None, (1,))))
        known = self._moments
        origin = known.mean if known.count else row.mean[0]
        count = known.count + np.cumsum(row.count)
        mean = origin + np.cumsum(row.count * (row.mean - origin)) / (count + (count == 0))
        earlier = np.concatenate([[origin], mean[:-1]])
        share = (count - row.count) * row.count / (count + (count == 0))
        m2 = known.m2 + np.cumsum(row.m2 + (row.mean - earlier) ** 2 * share)
        self._moments = Moments(float(count[-1]), float(mean[-1]), float(m2[-1]))
        variance: Array = _with_prior(count, mean, m2)
        return variance

    def merge(self, other: RunningReturnScale) -> None:
        """Takes in the statistics of another worker, as if its data had been seen here; its returns in progress stay its own.

        The pseudo-count is counted once, however many workers are merged. What is merged twice counts twice.
        """
        if not isinstance(other, RunningReturnScale):
            raise TypeError(f"other is a {type(other).__name__}; a RunningReturnScale is wanted")
        for name in ("gamma", "convention"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(
                    f"other has {name} {theirs}, but this has {ours}; their returns are not the same quantity"
                )
        self._moments = merged(self._moments, other._moments)

    def state_dict(self) -> dict[str, Any]:
        """All that calls change: count, mean and m2 of the returns seen, the returns in progress, and which lanes just ended."""
        return {**self._moments._asdict(), "returns": self._return.copy(), "ended": self._ended.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called, on an object made with the same arguments."""
        count, mean, m2, returns, ended = _state(state, "count", "mean", "m2", "returns", "ended")
        returns, ended = as_floats("returns", returns), as_flags("ended", ended)
        for name, array in (("returns", returns), ("ended", ended)):
            if array.shape != (self.lanes,):
                raise ValueError(f"{name} has shape {array.shape}; ({self.lanes},) is wanted, one a lane")
        self._moments = Moments(float(count), float(mean), float(m2))
        self._return, self._ended = returns.astype(np.float64), ended.copy()


def _with_prior(count: Any, mean: Any, m2: Any) -> Any:
    """The variance of the data and PRIOR items of mean 0 and variance 1."""
    whole = merged(Moments(PRIOR, 0.0, PRIOR), Moments(count, mean, m2))
    return whole.m2 / whole.count


class PopArt:
    """Values that are learned normalised, and a last layer rescaled so that no output moves when the statistics do.

      Y = sigma f + mu    f what the network gives, Y what it means; one mu and sigma for each index, a task or an agent
      mu <- mu + beta (Y - mu),    nu <- nu + beta (Y^2 - nu),    sigma = sqrt(nu - mu^2), kept in [lower, upper]
      w <- w sigma_old / sigma,    b <- (sigma_old b + mu_old - mu) / sigma

    van Hasselt et al. 2016, sec. 2 and proposition 1, arXiv:1602.07714; Hessel et al. 2018, for many tasks, arXiv:1809.04474

    The variance nu - mu^2 is followed instead of nu, by the same recursion written around mu: large targets cost no digits.

    size: how many statistics. step_size: beta, in (0, 1]. lower and upper bound sigma. reduction: "sum", as rlax, adds every target's
    step, all taken from the statistics before the call: keep beta times the targets an index gets in a call below 1. "mean" averages
    the steps of an index first: one step a call.

    >>> art = PopArt(1, step_size=0.5)
    >>> art.update([3.0])
    >>> art.shift, art.scale.round(3)
    (array([1.5]), array([1.658]))
    >>> weight, bias = art.rescale(np.array([[2.0]]), np.array([1.0]))
    >>> art.unnormalize(weight[0] + bias)  # as before: 1 * (2 + 1) + 0
    array([3.])
    """

    def __init__(
        self, size: int, step_size: float, lower: float = 1e-4, upper: float = 1e6, *, reduction: str = "sum"
    ) -> None:
        self.size = _positive_integer("size", size)
        self.step_size, self.lower, self.upper = (
            _above_0("step_size", step_size),
            _above_0("lower", lower),
            _above_0("upper", upper),
        )
        if self.step_size > 1:
            raise ValueError(f"step_size is {self.step_size}; a number in (0, 1] is wanted")
        if self.lower > self.upper:
            raise ValueError(f"lower is {self.lower}, but upper is {self.upper}; lower <= upper is wanted")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is {reduction!r}; one of sum, mean is wanted")
        self.reduction = reduction
        self._shift, self._variance = np.zeros(self.size), np.ones(self.size)
        self._before = (self._shift, self._variance)

    @property
    def shift(self) -> Array:
        """mu, (size,), float64."""
        return self._shift.copy()

    @property
    def scale(self) -> Array:
        """sigma, (size,), float64."""
        return self._scale_of(self._variance)

    @property
    def second_moment(self) -> Array:
        """nu, (size,), float64."""
        return self._variance + self._shift**2

    def _scale_of(self, variance: Array) -> Array:
        return np.asarray(np.sqrt(np.clip(variance, self.lower**2, self.upper**2)))

    def update(self, target: ArrayLike, index: ArrayLike | None = None) -> None:
        """Moves the statistics towards targets of any shape; index the same shape, integers, None where size is 1."""
        target = as_floats("target", target)
        at = self._index(index, "target", target).reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            d = target.reshape(-1).astype(np.float64) - self._shift[at]
            count = np.bincount(at, minlength=self.size)
            first, second = (np.bincount(at, x, minlength=self.size) for x in (d, d * d))
            beta = self.step_size if self.reduction == "sum" else self.step_size / np.maximum(count, 1)
            move = beta * first
            variance = self._variance + beta * (second - count * self._variance) - move * move
        self._before = (self._shift, self._variance)
        self._shift, self._variance = self._shift + move, variance

    def normalize(self, value: ArrayLike, index: ArrayLike | None = None) -> Array:
        """(value - mu) / sigma, shape and dtype of value."""
        home = at_home(value)
        value = as_floats("value", value)
        at = self._index(index, "value", value)
        return home(((value - self._shift[at]) / self.scale[at]).astype(value.dtype))  # type: ignore[no-any-return]

    def unnormalize(self, value: ArrayLike, index: ArrayLike | None = None) -> Array:
        """sigma value + mu, shape and dtype of value."""
        home = at_home(value)
        value = as_floats("value", value)
        at = self._index(index, "value", value)
        return home((self.scale[at] * value + self._shift[at]).astype(value.dtype))  # type: ignore[no-any-return]

    def rescale(self, weight: ArrayLike, bias: ArrayLike, *, axis: int = -1) -> tuple[Array, Array]:
        """A last layer that gives, under the statistics now, the unnormalised outputs it gave before the last `update`.

        weight with `size` outputs along axis: -1 for (inputs, size), 0 for the (size, inputs) of PyTorch; bias (size,). Returns new
        arrays, and changes nothing: once after each update, for each layer that there is (a target network has its own).
        """
        home = at_home(weight), at_home(bias)
        weight = as_floats("weight", weight)
        bias = as_floats("bias", bias, like=("weight", weight))
        axis = as_axis(axis, weight.ndim)
        if weight.shape[axis] != self.size:
            raise ValueError(f"weight has shape {weight.shape}; {self.size} outputs are wanted along axis {axis}")
        if bias.shape != (self.size,):
            raise ValueError(f"bias has shape {bias.shape}; ({self.size},) is wanted")
        shift, scale = self._before[0], self._scale_of(self._before[1])
        ratio = scale / self.scale
        along = ratio.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])
        moved = (scale * bias + shift - self._shift) / self.scale
        return home[0]((weight * along).astype(weight.dtype)), home[1](moved.astype(bias.dtype))

    def state_dict(self) -> dict[str, Array]:
        """The statistics now and before the last update."""
        shift, variance = self._before
        return {
            "shift": self._shift.copy(),
            "variance": self._variance.copy(),
            "shift_before": shift.copy(),
            "variance_before": variance.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called, on an object made with the same arguments."""
        names = ("shift", "variance", "shift_before", "variance_before")
        arrays = [
            as_floats(name, value).astype(np.float64) for name, value in zip(names, _state(state, *names), strict=True)
        ]
        for name, array in zip(names, arrays, strict=True):
            if array.shape != (self.size,):
                raise ValueError(f"{name} has shape {array.shape}; ({self.size},) is wanted")
        self._shift, self._variance = arrays[:2]
        self._before = (arrays[2], arrays[3])

    def _index(self, index: Any, first: str, anchor: Array) -> Array:
        if index is None:
            if self.size > 1:
                raise TypeError(
                    f"index is None; integers in [0, {self.size}) shaped like {first} {anchor.shape} are wanted"
                )
            return np.zeros(anchor.shape, np.intp)
        at = same_shape("index", as_index("index", index), first, anchor)
        wrong = at[(at < 0) | (at >= self.size)]
        if wrong.size:
            raise ValueError(f"index holds {wrong[0]}; integers in [0, {self.size}) are wanted")
        return at


# --- one argument at a time


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; a number is wanted")
    return float(value)


def _at_least_0(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 <= number < np.inf:
        raise ValueError(f"{name} is {number}; a finite number from 0 up is wanted")
    return number


def _above_0(name: str, value: Any) -> float:
    number = _number(name, value)
    if not number > 0:
        raise ValueError(f"{name} is {number}; a number above 0 is wanted")
    return number


def _positive_integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; an integer is wanted")
    if value < 1:
        raise ValueError(f"{name} is {value}; 1 or more is wanted")
    return int(value)


def _state(state: Mapping[str, Any], *names: str) -> list[Any]:
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"state has no {', '.join(missing)}; a state_dict() of the same class is wanted")
    return [state[name] for name in names]
