"""The agent: its gradients in every shape, what it sees of observations, its state, and nets of one's own."""

from __future__ import annotations

import json
import runpy
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastpg
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from fastpg.train.agent import Agent, Normaliser, RewardScale

BOX = Box((-1.0, -2.0), (1.0, 2.0))
RNG = np.random.default_rng


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_of_policy_and_value_reach_every_net(shared_trunk, activation):
    agent = Agent(3, BOX, (5,), RNG(0), shared_trunk=shared_trunk, activation=activation, log_std=-0.3)
    assert list(agent.nets) == (["trunk"] if shared_trunk else ["policy", "value"])
    rng = RNG(1)
    x = rng.standard_normal((6, 3)).astype(np.float32)
    action = rng.standard_normal((6, 2)).astype(np.float32)
    weight, pull = rng.standard_normal((2, 6)).astype(np.float32)
    z, value = agent.forward(x)
    by_z, by_extra = agent.head.log_prob_grad(z, agent.policy.extra, action, weight)
    grads = {name: grad.copy() for name, grad in agent.backward(x, by_z, by_extra, pull).items()}

    def loss():
        z, value = agent.forward(x)
        return float(weight @ agent.head.log_prob(z, agent.policy.extra, action) + pull @ value)

    for name, net in agent.nets.items():
        for k in rng.choice(len(net.parameter), 25, replace=False):
            start, ends = net.parameter[k], []
            for h in (5e-3, -5e-3):
                net.parameter[k] = start + np.float32(h)
                ends.append(loss())
            net.parameter[k] = start
            assert grads[name][k] == pytest.approx((ends[0] - ends[1]) / 1e-2, rel=2e-2, abs=5e-3)


def test_the_policy_of_a_shared_trunk_moves_by_its_own_gradient_alone():
    agent = Agent(3, Discrete(3), (5,), RNG(0), shared_trunk=True)
    x = RNG(1).standard_normal((6, 3)).astype(np.float32)
    z, value = agent.forward(x)
    assert np.array_equal(agent.policy.forward(x), z) and np.array_equal(agent.values(x), value)
    by_z = RNG(2).standard_normal(z.shape).astype(np.float32)
    alone = agent.policy.backward(x, by_z).copy()
    assert np.array_equal(alone, agent.backward(x, by_z, by_z[:0, 0], np.zeros(6, np.float32))["trunk"])


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_weights_start_orthogonal_with_gain_sqrt_2_then_a_hundredth_for_the_policy_and_1_for_the_value(shared_trunk):
    agent = Agent(4, Discrete(3), (64, 64), RNG(0), shared_trunk=shared_trunk)
    last = np.hstack([net.weight[-1] for net in agent.nets.values()])
    assert np.linalg.norm(last, axis=0) == pytest.approx([0.01, 0.01, 0.01, 1])
    for net in agent.nets.values():
        assert np.allclose(net.weight[0] @ net.weight[0].T, 2 * np.eye(4), atol=1e-5)


def test_observations_are_normalised_by_the_mean_and_variance_of_all_that_were_seen():
    rng = RNG(0)
    normaliser = Normaliser(2)
    x = [(rng.standard_normal((5, 4, 2)) * [3, 0.1] + [1000, -2]).astype(np.float32) for _ in range(3)]
    assert np.array_equal(normaliser(x[0] / 1000), x[0] / 1000)  # nothing seen, nothing changed
    for part in x:
        normaliser.update(part)
    everything = np.concatenate(x).reshape(-1, 2).astype(np.float64)
    seen = normaliser(everything.astype(np.float32))
    expected = (everything - everything.mean(axis=0)) / everything.std(axis=0)
    np.testing.assert_allclose(seen, expected, atol=2e-4)
    assert normaliser(np.array([[1e6, -1e6]], np.float32)).tolist() == [[10, -10]]


def test_what_agents_see_stays_the_same_between_updates_and_goes_with_their_state():
    agent = Agent(2, Discrete(2), (4,), RNG(0), normalise_observation=True)
    x = RNG(1).standard_normal((50, 2)).astype(np.float32) * 9 + 5
    before = agent.values(x)
    agent.normaliser.update(x)
    after = agent.values(x)
    assert not np.allclose(before, after)
    assert np.array_equal(after, agent.value.forward(agent.see(x))[:, 0])
    again = Agent.of(json.loads(json.dumps(agent.about())))
    for name, array in again.state().items():
        array[...] = agent.state()[name]
    assert np.array_equal(again.values(x), after) and np.array_equal(again.best(x), agent.best(x))
    again.normaliser.update(x)
    agent.normaliser.update(x)
    assert np.array_equal(again.see(x), agent.see(x))


def test_rewards_are_scaled_as_by_running_return_scale_and_state_can_be_put_back_in_place():
    rng = RNG(0)
    batches = [
        (rng.standard_normal((6, 3)).astype(np.float32), *(rng.random((2, 6, 3)) < 0.2).copy()) for _ in range(3)
    ]
    scale, same = RewardScale(3, 0.9), fastpg.RunningReturnScale(3, 0.9, clip=10.0, convention="gymnasium_same_step")
    views = scale.state()
    first = [scale(*batch) for batch in batches[:2]]
    assert all(np.array_equal(a, same(*batch)) for a, batch in zip(first, batches, strict=False))
    other = RewardScale(3, 0.9)
    for name, array in other.state().items():
        array[...] = views[name]
    assert np.array_equal(other(*batches[2]), scale(*batches[2]))
    scale.restart()
    assert not views["returns"].any() and not views["ended"].any() and views["count"] > 0


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (Discrete(3), {"activation": "relu", "critic": False}),
        (MultiDiscrete((2, 3)), {"shared_trunk": True}),
        (MultiBinary(4), {"normalise_observation": True}),
        (BOX, {"distribution": "squashed_gaussian", "log_std": -1.0, "state_std": True}),
        (BOX, {"distribution": "beta", "shared_trunk": True}),
    ],
)
def test_what_an_agent_says_about_itself_builds_one_like_it(space, options):
    agent = Agent(3, space, (6, 5), RNG(0), **options)
    again = Agent.of(json.loads(json.dumps(agent.about())))
    assert again.options == agent.options and again.action_space == space
    assert {k: v.shape for k, v in again.state().items()} == {k: v.shape for k, v in agent.state().items()}
    for name, array in again.state().items():
        array[...] = agent.state()[name]
    x = RNG(1).standard_normal((9, 3)).astype(np.float32)
    assert np.array_equal(again.sample(x, RNG(2)), agent.sample(x, RNG(2)))
    assert np.array_equal(again.values(x), agent.values(x))


def test_an_agent_without_a_critic_values_everything_0():
    agent = Agent(3, Discrete(2), (4,), RNG(0), critic=False)
    x = np.ones((2, 5, 3), np.float32)
    assert agent.values(x).tolist() == [[0] * 5] * 2 and not agent.forward(x[0])[1].any()
    assert list(agent.backward(x[0], np.ones((5, 2), np.float32), np.empty(0), np.ones(5, np.float32))) == ["policy"]


def test_a_policy_of_ones_own_learns_and_cannot_be_rebuilt_from_a_description(capsys):
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "custom_policy.py"))
    example["main"]()
    said = capsys.readouterr().out
    assert said.startswith("18 numbers balance the pole for ") and float(said.split()[6]) > 400
    policy = example["LinearPolicy"](4, 2)
    agent = Agent(4, Discrete(2), (8,), RNG(0), policy=policy)
    assert agent.policy is policy and agent.state()["policy"] is policy.parameter
    with pytest.raises(ValueError, match="its policy is a net of your own; build the agent"):
        Agent.of(agent.about())
    with pytest.raises(ValueError, match="shared_trunk is True; wanted False for nets of your own"):
        Agent(4, Discrete(2), (8,), RNG(0), policy=policy, shared_trunk=True)


class Linear:
    """x W for two real actions, log_std after W; one thing about it may be otherwise."""

    def __init__(self, outputs=2, log_stds=2, **other):
        self.parameter = np.zeros(3 * outputs + log_stds, np.float32)
        self.extra = self.parameter[3 * outputs :]
        self.weight = self.parameter[: 3 * outputs].reshape(3, outputs)
        self.__dict__.update(other)

    def forward(self, x):
        return x @ self.weight

    def backward(self, x, grad_output, grad_extra=None):
        grad = np.zeros_like(self.parameter)
        grad[: self.weight.size] = (x.T @ grad_output).ravel()
        return grad


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (r"policy.parameter is float64 \(8,\); wanted float32 \(8,\)", {"parameter": np.zeros(8)}),
        (r"policy.parameter is float32 \(2, 4\); wanted float32 \(8,\)", {"parameter": np.zeros((2, 4), np.float32)}),
        ("policy.parameter is not contiguous or not writeable", {"parameter": np.zeros(16, np.float32)[::2]}),
        (
            r"policy.extra is float32 \(0,\); wanted float32 \(2,\), the last of its parameter",
            {"extra": np.empty(0, "f4")},
        ),
        ("policy.extra is a copy; wanted a view of the last 2 numbers", {"extra": np.zeros(2, np.float32)}),
        (r"policy.forward\(x\) is float64 \(2, 2\); wanted float32 \(2, 2\)", {"forward": lambda x: np.zeros((2, 2))}),
        (r"policy.forward\(x\) is float32 \(2, 1\); wanted float32 \(2, 2\)", {"forward": lambda x: x[:, :1]}),
        (r"policy.forward\(x\) is None; wanted float32", {"forward": lambda x: None}),
        (
            r"policy.backward\(...\) is float32 \(7,\); wanted float32 \(8,\)",
            {"backward": lambda *_: np.zeros(7, "f4")},
        ),
        (r"policy.backward\(...\) is None; wanted float32", {"backward": lambda *_: None}),
    ],
)
def test_a_policy_of_ones_own_that_does_not_keep_to_its_word_is_refused_by_name(words, other):
    Agent(3, BOX, (4,), RNG(0), policy=Linear())
    with pytest.raises(ValueError, match=words):
        Agent(3, BOX, (4,), RNG(0), policy=Linear(**other))


def test_a_value_of_ones_own_gives_one_number_a_row_and_a_net_has_all_that_net_asks_for():
    Agent(3, BOX, (4,), RNG(0), value=Linear(1, 0))
    with pytest.raises(ValueError, match=r"value.forward\(x\) is float32 \(2, 2\); wanted float32 \(2, 1\)"):
        Agent(3, BOX, (4,), RNG(0), value=Linear(2, 0))
    incomplete = Linear()
    del incomplete.extra
    with pytest.raises(TypeError, match="policy is <.*> without extra; wanted what fastpg.train.agent.Net has"):
        Agent(3, BOX, (4,), RNG(0), policy=incomplete)


def test_an_unknown_action_space_in_a_description_is_refused():
    about = Agent(4, Discrete(2), (8,), RNG(0)).about()
    with pytest.raises(ValueError, match="action space is 'Text'; wanted one of Box"):
        Agent.of({**about, "action_space": {"kind": "Text"}})


def test_values_of_many_rows_are_those_of_one_pass_and_take_memory_of_a_few_rows():
    agent = Agent(4, Discrete(2), (64, 64), RNG(0))
    observation = RNG(1).standard_normal((400, 101, 4), np.float32)
    tracemalloc.start()
    got = agent.values(observation)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # both layers of 64 of all rows are 20 MB
    wanted = agent.nets["value"].forward(observation.reshape(-1, 4)).reshape(400, 101)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
