"""Steps a second of PPO at equal settings; --write puts the table into docs/training.md:

    python benches/training.py [--lanes 64 4] [--seconds 5]     # CartPole-v1: fastpg, a PureJaxRL-style PPO in JAX, Stable-Baselines3
    python benches/training.py --cheetah [--lanes 64] [...]     # HalfCheetah-v4: fastpg in EnvPool, SB3 in Gymnasium's and in EnvPool

Policy and value of 64-64 tanh units. CartPole: 128 steps a lane, 4 epochs of 4 minibatches. HalfCheetah: 2,048 steps of all lanes, 10
epochs of minibatches of 512, observations and rewards normalised. Compilation is not counted. Peers that are not installed are left out.
"""

import argparse
import importlib.metadata
import importlib.util
import sys
import time

import machine
import numpy as np
from table import into_page, markdown

from fastpg.adapters import make_env
from fastpg.envs import make
from fastpg.train import ppo

T, EPOCHS, MINIBATCHES, GAMMA, LAMBDA, CLIP, LR, ENTROPY, MAX_NORM = 128, 4, 4, 0.99, 0.95, 0.2, 2.5e-4, 0.01, 0.5


def train_fastpg(lanes, updates, minibatch=None):
    config = ppo.Config(
        steps=lanes * T * updates,
        lanes=lanes,
        rows=T,
        epochs=EPOCHS,
        minibatch=minibatch or lanes * T // MINIBATCHES,
        gamma=GAMMA,
        lambda_=LAMBDA,
        clip=CLIP,
        lr=LR,
        value_lr=LR,
        lr_schedule="constant",
        clip_schedule="constant",
        entropy_weight=ENTROPY,
        max_norm=MAX_NORM,
    )
    ppo.train(config, make("fastpg/CartPole-v1", lanes))


def time_fastpg(lanes, updates):
    """Seconds that so many updates take."""
    train_fastpg(lanes, 2)
    start = time.perf_counter()
    train_fastpg(lanes, updates)
    return time.perf_counter() - start


def time_jax(lanes, updates):
    """The same by one jitted scan over updates of scans over steps and minibatches (Lu et al. 2022, PureJaxRL)."""
    import jax
    import jax.numpy as jnp

    def init(key, outputs, last):
        sizes, gains = (4, 64, 64, outputs), (2**0.5, 2**0.5, last)
        keys = jax.random.split(key, 3)
        orthogonal = jax.nn.initializers.orthogonal
        return [
            (orthogonal(g)(k, (i, o)), jnp.zeros(o))
            for k, i, o, g in zip(keys, sizes[:-1], sizes[1:], gains, strict=True)
        ]

    def net(layers, x):
        for w, b in layers[:-1]:
            x = jnp.tanh(x @ w + b)
        w, b = layers[-1]
        return x @ w + b

    def step(state, elapsed, action, key):
        x, v, angle, spin = state.T
        force = jnp.where(action == 1, 10.0, -10.0)
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        push = (force + 0.05 * spin**2 * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        slide = push - 0.05 * turn * cos / 1.1
        after = jnp.stack([x + 0.02 * v, v + 0.02 * slide, angle + 0.02 * spin, spin + 0.02 * turn], axis=1)
        ended = (jnp.abs(after[:, 0]) > 2.4) | (jnp.abs(after[:, 2]) > 12 * np.pi / 180) | (elapsed + 1 >= 500)
        fresh = jax.random.uniform(key, after.shape, minval=-0.05, maxval=0.05)
        return jnp.where(ended[:, None], fresh, after), jnp.where(ended, 0, elapsed + 1), ended

    def loss(nets, batch):
        x, action, old, advantage, target, old_value = batch
        log_p = jax.nn.log_softmax(net(nets[0], x))
        value = net(nets[1], x)[:, 0]
        ratio = jnp.exp(jnp.take_along_axis(log_p, action[:, None], 1)[:, 0] - old)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
        held = old_value + jnp.clip(value - old_value, -CLIP, CLIP)
        value_loss = 0.5 * jnp.maximum((value - target) ** 2, (held - target) ** 2).mean()
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=1).mean()
        return -surrogate + 0.5 * value_loss - ENTROPY * entropy

    def descend(carry, batch):
        nets, m, v, t = carry
        grad = jax.grad(loss)(nets, batch)
        norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grad)))
        grad = jax.tree.map(lambda g: g * jnp.minimum(1, MAX_NORM / (norm + 1e-6)), grad)
        t += 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grad)
        move = jax.tree.map(lambda m, v: LR * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-5), m, v)
        return (jax.tree.map(jnp.subtract, nets, move), m, v, t), None

    def update(carry, _):
        learner, state, elapsed, key = carry
        nets = learner[0]

        def act(carry, _):
            state, elapsed, key = carry
            key, for_action, for_reset = jax.random.split(key, 3)
            z, value = net(nets[0], state), net(nets[1], state)[:, 0]
            action = jax.random.categorical(for_action, z)
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(z), action[:, None], 1)[:, 0]
            after, elapsed, ended = step(state, elapsed, action, for_reset)
            return (after, elapsed, key), (state, action, log_prob, value, ended)

        (state, elapsed, key), (x, action, log_prob, value, ended) = jax.lax.scan(act, (state, elapsed, key), None, T)
        last = net(nets[1], state)[:, 0]

        def back(carry, row):
            advantage, next_value = carry
            value, ended = row
            delta = 1 + GAMMA * next_value * ~ended - value
            advantage = delta + GAMMA * LAMBDA * ~ended * advantage
            return (advantage, value), advantage

        _, advantage = jax.lax.scan(back, (jnp.zeros_like(last), last), (value, ended), reverse=True, unroll=16)
        rows = [a.reshape(T * lanes, *a.shape[2:]) for a in (x, action, log_prob, advantage, advantage + value, value)]

        def epoch(carry, _):
            learner, key = carry
            key, for_order = jax.random.split(key)
            order = jax.random.permutation(for_order, T * lanes)
            batches = [a[order].reshape(MINIBATCHES, -1, *a.shape[1:]) for a in rows]
            learner, _ = jax.lax.scan(descend, learner, tuple(batches))
            return (learner, key), None

        (learner, key), _ = jax.lax.scan(epoch, (learner, key), None, EPOCHS)
        return (learner, state, elapsed, key), ended.sum()

    @jax.jit
    def train(key):
        of_policy, of_value, of_state, key = jax.random.split(key, 4)
        nets = init(of_policy, 2, 0.01), init(of_value, 1, 1.0)
        zeros = jax.tree.map(jnp.zeros_like, nets)
        state = jax.random.uniform(of_state, (lanes, 4), minval=-0.05, maxval=0.05)
        carry = (nets, zeros, zeros, 0), state, jnp.zeros(lanes, jnp.int32), key
        return jax.lax.scan(update, carry, None, updates)[1]

    compiled = train.lower(jax.random.key(0)).compile()
    start = time.perf_counter()
    episodes = jax.block_until_ready(compiled(jax.random.key(0)))
    seconds = time.perf_counter() - start
    steps = T * lanes / np.maximum(np.asarray(episodes), 1)
    print(f"    JAX: steps an episode {steps[0]:.0f} in the first update, {steps[-1]:.0f} in the last", file=sys.stderr)
    return seconds


def time_sb3(lanes, updates):
    """Stable-Baselines3 with its own vector of Gymnasium environments in this process."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.env_util import make_vec_env

    model = sb3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", lanes),
        n_steps=T,
        batch_size=lanes * T // MINIBATCHES,
        n_epochs=EPOCHS,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        clip_range=CLIP,
        learning_rate=LR,
        ent_coef=ENTROPY,
        max_grad_norm=MAX_NORM,
        device="cpu",
    )
    model.learn(lanes * T)
    start = time.perf_counter()
    model.learn(lanes * T * updates)
    return time.perf_counter() - start


CHEETAH = {"lr": 1e-3, "gamma": 0.99, "lambda_": 0.95, "clip": 0.2, "epochs": 10, "minibatch": 512, "max_norm": 0.5}
BATCH = 2048


def time_cheetah(lanes, updates):
    """Seconds that so many updates on HalfCheetah-v4 take, its lanes in EnvPool."""
    constant = {"lr_schedule": "constant", "clip_schedule": "constant"}
    config = ppo.Config(
        **{**CHEETAH, **constant, "value_lr": CHEETAH["lr"], "log_std": -0.5},
        **{"lanes": lanes, "rows": BATCH // lanes, "steps": BATCH * updates},
        **{"normalise_observation": True, "normalise_reward": True},
    )
    env = make_env("envpool:HalfCheetah-v4", lanes)
    start = time.perf_counter()
    ppo.train(config, env)
    return time.perf_counter() - start


def sb3_cheetah(lanes, updates, env):
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)  # with which it is fastest at these sizes

    options = CHEETAH | {"n_steps": BATCH // lanes, "device": "cpu", "policy_kwargs": {"log_std_init": -0.5}}
    names = ("learning_rate", "lr"), ("gae_lambda", "lambda_"), ("clip_range", "clip"), ("n_epochs", "epochs")
    for theirs, ours in (*names, ("batch_size", "minibatch"), ("max_grad_norm", "max_norm")):
        options[theirs] = options.pop(ours)
    model = sb3.PPO("MlpPolicy", VecNormalize(env, gamma=CHEETAH["gamma"]), **options)
    start = time.perf_counter()
    model.learn(BATCH * updates)
    return time.perf_counter() - start


def time_sb3_cheetah(lanes, updates):
    """Stable-Baselines3 with Gymnasium's environments in this process, as its users run it."""
    from stable_baselines3.common.env_util import make_vec_env

    return sb3_cheetah(lanes, updates, make_vec_env("HalfCheetah-v4", lanes))


def time_sb3_envpool(lanes, updates):
    """Stable-Baselines3 with the same lanes in EnvPool that fastpg has."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    class Lanes(VecEnv):
        def __init__(self):
            self.inner = make_env("envpool:HalfCheetah-v4", lanes)
            low, high = np.array([self.inner.action_space.low, self.inner.action_space.high], np.float32)
            seen = spaces.Box(-np.inf, np.inf, (self.inner.observation_size,), np.float32)
            super().__init__(lanes, seen, spaces.Box(low, high))

        def reset(self):
            return self.inner.reset()[0]

        def step_async(self, actions):
            self.action = actions

        def step_wait(self):
            observation, reward, terminated, truncated, info = self.inner.step(self.action)
            ended = terminated | truncated
            told = [{} for _ in range(lanes)]
            for n in np.flatnonzero(ended):
                told[n] = {"terminal_observation": info["final_obs"][n], "TimeLimit.truncated": not terminated[n]}
            return observation, reward, ended, told

        def close(self):
            self.inner.close()

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * lanes

        def get_attr(self, attr_name, indices=None):
            return [None] * lanes

        def set_attr(self, attr_name, value, indices=None):
            raise NotImplementedError

        def env_method(self, method_name, *args, indices=None, **kwargs):
            raise NotImplementedError

    return sb3_cheetah(lanes, updates, Lanes())


# name: the module it is imported as, the distribution whose version the table names, what runs it
LIBRARIES = {
    "fastpg": ("fastpg", "fastpg", time_fastpg),
    "JAX": ("jax", "jax", time_jax),
    "SB3": ("stable_baselines3", "stable-baselines3", time_sb3),
}
ON_CHEETAH = {
    "fastpg": ("envpool", "fastpg", time_cheetah),
    "SB3": ("mujoco", "stable-baselines3", time_sb3_cheetah),
    "SB3 in EnvPool": ("stable_baselines3", "stable-baselines3", time_sb3_envpool),
}


def rates_of(runs, lanes, steps, seconds):
    """Steps a second of each, three times over, in turns, so that what else the machine does meets all of them."""
    for run in runs.values():
        run(lanes, 2)  # imports
    updates = {name: max(2, round(2 * seconds / run(lanes, 2))) for name, run in runs.items()}
    return [{name: steps * updates[name] / run(lanes, updates[name]) for name, run in runs.items()} for _ in range(3)]


def page(cheetah, lanes_of, seconds):
    libraries, clock, rows = ON_CHEETAH if cheetah else LIBRARIES, machine.Clock(), []
    here = {name: of for name, of in libraries.items() if importlib.util.find_spec(of[0]) is not None}
    for lanes in lanes_of:
        runs = {name: run for name, (_, _, run) in here.items()}
        rounds = rates_of(runs, lanes, BATCH if cheetah else lanes * T, seconds)
        for name, (_, distribution, _) in here.items():
            rate = np.median([rates[name] for rates in rounds])
            times = np.median([rates["fastpg"] / rates[name] for rates in rounds])
            library, _, fed = name.partition(" ")
            label = f"{library} {importlib.metadata.version(distribution)} {fed}".strip()
            rows.append([str(lanes), label, f"{rate:,.0f}", "1.00" if name == "fastpg" else f"{times:.2f}"])
    others = clock.cores_of_others()
    what = f"CartPole-v1, {T} steps a lane, {EPOCHS} epochs of {MINIBATCHES} minibatches"
    if cheetah:
        what = f"HalfCheetah-v4, {BATCH:,} steps, {CHEETAH['epochs']} epochs of minibatches of {CHEETAH['minibatch']}"
    table = markdown(["environments", f"PPO, {what}", "steps/s", "fastpg, times that"], rows)
    return f"{table}\n\n{machine.sentence(machine.about(), others=others)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cheetah", action="store_true", help="HalfCheetah-v4 in the place of CartPole-v1")
    parser.add_argument("--lanes", type=int, nargs="+", help="64 and 4; 64 of HalfCheetah")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="about how long each library is timed, each of three times"
    )
    parser.add_argument("--write", action="store_true", help="into docs/training.md")
    arguments = parser.parse_args()
    cheetah = arguments.cheetah
    told = page(cheetah, arguments.lanes or ([64] if cheetah else [64, 4]), arguments.seconds)
    print(told)
    if arguments.write:
        into_page(machine.ROOT / "docs" / "training.md", told, "cheetah" if cheetah else "cartpole")


if __name__ == "__main__":
    main()
