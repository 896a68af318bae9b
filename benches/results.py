"""What fastpg train reaches with the settings of fastpg/train/settings.toml, over seeds: benches/results.json and docs/results.md.

    python benches/results.py [--only CartPole-v1.ppo ...] [--seeds 10] [--steps N] [--page docs/results.md]
    python benches/results.py --page-only      # the page anew from benches/results.json
    python benches/results.py --sb3 PYTHON     # SB3's PPO on this machine too, by a Python that has it

Every table of the settings is a row. Rows run anew replace the old ones, so that one environment can be run at a time.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import machine
import numpy as np
from table import markdown

from fastpg import adapters, envs
from fastpg.train.settings import TUNED, TWINS

KEPT, PAGE = machine.ROOT / "benches" / "results.json", machine.ROOT / "docs" / "results.md"
SEEDS = {"LunarLander-v3": 5, "HalfCheetah-v4": 3}  # ten elsewhere
# Those of Box2D and MuJoCo run there.
ENVPOOL = ("LunarLander", "Ant", "HalfCheetah", "Hopper", "Humanoid", "Swimmer", "Walker2d")

ZOO = "https://github.com/DLR-RM/rl-baselines3-zoo/blob/22e3ff2450fd92033f7f032915e1f64894a09584/benchmark.md"
TIANSHOU = "https://github.com/thu-ml/tianshou/blob/f2402056b03acafeedf2518a5088db55add004ab/examples/mujoco/README.md"
CLEANRL = "https://github.com/vwxyzjn/cleanrl/blob/fe8d8a03c41a7ef5b523e2e354bd01c363e786bb/docs/benchmark"
# (environment, algorithm): library, what it publishes, steps it takes, where; a version in brackets is of another environment's.
PUBLISHED = {
    ("CartPole-v1", "ppo"): [
        ("SB3 zoo", "500.0 +- 0.0", "100k", ZOO),
        ("CleanRL", "490.0 +- 6.1", "500k", f"{CLEANRL}/ppo.md"),
    ],
    ("CartPole-v1", "a2c"): [("SB3 zoo", "500.0 +- 0.0", "500k", ZOO)],
    ("CartPole-v1", "trpo"): [("SB3 zoo", "500.0 +- 0.0", "100k", ZOO)],
    ("Acrobot-v1", "ppo"): [
        ("SB3 zoo", "-73.5 +- 18.2", "1M", ZOO),
        ("CleanRL", "-86.4 +- 1.3", "500k", f"{CLEANRL}/ppo.md"),
    ],
    ("Acrobot-v1", "a2c"): [("SB3 zoo", "-83.4 +- 17.2", "500k", ZOO)],
    ("Acrobot-v1", "trpo"): [("SB3 zoo", "-83.1 +- 18.6", "100k", ZOO)],
    ("MountainCar-v0", "ppo"): [
        ("SB3 zoo", "-110.4 +- 19.5", "1M", ZOO),
        ("CleanRL", "-200.0 +- 0.0", "500k", f"{CLEANRL}/ppo.md"),
    ],
    ("MountainCar-v0", "a2c"): [("SB3 zoo", "-111.3 +- 24.1", "1M", ZOO)],
    ("MountainCar-v0", "trpo"): [("SB3 zoo", "-107.3 +- 13.2", "100k", ZOO)],
    ("MountainCarContinuous-v0", "ppo"): [("SB3 zoo", "88.3 +- 2.6", "20k", ZOO)],
    ("MountainCarContinuous-v0", "a2c"): [("SB3 zoo", "91.2 +- 0.3", "100k", ZOO)],
    ("MountainCarContinuous-v0", "trpo"): [("SB3 zoo", "92.5 +- 0.4", "50k", ZOO)],
    ("Pendulum-v1", "ppo"): [("SB3 zoo", "-172.2 +- 104.2", "100k", ZOO)],
    ("Pendulum-v1", "a2c"): [("SB3 zoo", "-163.0 +- 103.2", "1M", ZOO)],
    ("Pendulum-v1", "trpo"): [("SB3 zoo", "-174.6 +- 127.6", "100k", ZOO)],
    ("LunarLander-v3", "ppo"): [("SB3 zoo (v2)", "242.1 +- 31.8", "1M", ZOO)],
    ("LunarLander-v3", "a2c"): [("SB3 zoo (v2)", "155.8 +- 80.4", "200k", ZOO)],
    ("LunarLander-v3", "trpo"): [("SB3 zoo (v2)", "133.2 +- 112.2", "200k", ZOO)],
    ("HalfCheetah-v4", "ppo"): [
        ("SB3 zoo (v3)", "5819.1 +- 663.5", "1M", ZOO),
        ("Tianshou (v3)", "5783.9 +- 1244.0", "1M", TIANSHOU),
        ("CleanRL", "1442.6 +- 46.0", "1M", f"{CLEANRL}/ppo_continuous_action.md"),
    ],
    ("HalfCheetah-v4", "a2c"): [
        ("SB3 zoo (v3)", "3041.2 +- 157.3", "1M", ZOO),
        ("Tianshou (v3)", "1829.9 +- 1068.3", "1M", TIANSHOU),
    ],
    ("HalfCheetah-v4", "reinforce"): [("Tianshou (v3)", "884.0 +- 41.0", "3M", TIANSHOU)],
    ("HalfCheetah-v4", "trpo"): [
        ("SB3 zoo (v3)", "1785.5 +- 68.7", "1M", ZOO),
        ("Tianshou (v3)", "4471.2 +- 804.9", "1M", TIANSHOU),
    ],
    ("Hopper-v4", "ppo"): [
        ("SB3 zoo (v3)", "2410.4 +- 10.0", "1M", ZOO),
        ("Tianshou (v3)", "2609.3 +- 700.8", "1M", TIANSHOU),
        ("CleanRL", "2382.9 +- 271.7", "1M", f"{CLEANRL}/ppo_continuous_action.md"),
    ],
    ("Hopper-v4", "a2c"): [
        ("SB3 zoo (v3)", "733.5 +- 376.6", "1M", ZOO),
        ("Tianshou (v3)", "1253.2 +- 458.0", "1M", TIANSHOU),
    ],
    ("Hopper-v4", "reinforce"): [("Tianshou (v3)", "395.8 +- 64.5", "3M", TIANSHOU)],
    ("Hopper-v4", "trpo"): [
        ("SB3 zoo (v3)", "3618.4 +- 356.8", "1M", ZOO),
        ("Tianshou (v3)", "2046.0 +- 1037.9", "1M", TIANSHOU),
    ],
}
LEGEND = f"""\
`fastpg train ENV --algo ALGO --seeds 0:n`, where ENV is what stands in the row, with the settings of
[settings.toml](../fastpg/train/settings.toml), and nothing chosen by hand: every seed counts, with the parameters at the end of
its training. Settings were tuned on other seeds, but for those of fastpg/CartPole-v1 by PPO, which three of the ten helped to
pick, and of HalfCheetah, where seed 0 did. Those of CartPole-v1 and Hopper (PPO), MountainCarContinuous (PPO, A2C) and Pendulum
(TRPO) were tuned again, on other seeds, after a seed of these had done badly. `mean` is over seeds of the mean return of
100 episodes that take the most likely action, `s.e.` its standard error, sample standard deviation / sqrt(seeds), `worst` the
lowest of them. `steps` are environment steps of one seed; `seconds` is its training on the wall, mean over seeds, while as many
seeds trained as there are cores, one thread each; `solved` counts seeds whose last 100 training episodes reached the
environment's threshold.

What others publish is not the same measure. The [SB3 zoo]({ZOO})'s is
one trained agent, +- the standard deviation of its episodes; [Tianshou]({TIANSHOU})'s
the best evaluation of each of 10 seeds, +- their standard deviation; [CleanRL]({CLEANRL}/ppo.md)'s
the return while training, +- the standard deviation over seeds. (v2), (v3) are older versions of the environment.
"""
# SB3's PPO with the zoo's settings (hyperparams/ppo.yml at the commit above), in its own process: seed, then one JSON line.
SB3 = """
import json, sys, time
import numpy as np, torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
env, seed, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
lanes, steps = options.pop("lanes"), options.pop("steps")
linear = {name: (lambda left, start=options.pop(name): left * start) for name in ("learning_rate", "clip_range") if name in options}
torch.set_num_threads(1)
model = PPO("MlpPolicy", make_vec_env(env, lanes, seed=seed), seed=seed, device="cpu", **options, **linear)
start = time.perf_counter()
model.learn(steps)
seconds = time.perf_counter() - start
returns, _ = evaluate_policy(model, make_vec_env(env, 10, seed=1_000_000 + 10 * seed), 100, return_episode_rewards=True)
print(json.dumps({"steps": model.num_timesteps, "seconds": seconds, "mean_return": float(np.mean(returns)), "solved_at_step": None}))
"""
SB3_SETTINGS = {
    "CartPole-v1": {
        **{
            "lanes": 8,
            "steps": 100_000,
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
        },
        **{"learning_rate": 1e-3, "clip_range": 0.2},
    },
    "LunarLander-v3": {
        **{"lanes": 16, "steps": 1_000_000, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999},
        **{"n_epochs": 4, "ent_coef": 0.01},
    },
}


def bare(env):
    """The name without fastpg/ or envpool:, under which others publish."""
    for twin in TWINS:
        env = env.removeprefix(twin)
    return env


def id_of(env, algo, tables):
    """The environment as fastpg runs it fastest, compiled here or in EnvPool, unless that has a table of its own; or Gymnasium's."""
    twin = f"fastpg/{env}" if f"fastpg/{env}" in envs.IDS else f"envpool:{env}"
    known = twin in envs.IDS or env.partition("-")[0] in ENVPOOL
    return twin if known and f"{twin}.{algo}" not in tables else env


def fastpg_runs(id, algo, seeds, steps):
    command = [
        sys.executable,
        "-m",
        "fastpg",
        "train",
        id,
        "--algo",
        algo,
        "--seeds",
        ",".join(map(str, seeds)),
        "--json",
    ]
    command += ["--runs", str(machine.ROOT / "build" / "runs")] + ([] if steps is None else ["--steps", str(steps)])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with code {done.returncode}; benches/results.json is as it was before"
        )
    return json.loads(done.stdout)["runs"]


def sb3_runs(python, env, seeds, steps):
    """Side by side as fastpg's: as many as there are cores, one thread each, with which torch is fastest at these sizes."""
    options = json.dumps(SB3_SETTINGS[env] | ({} if steps is None else {"steps": steps}))

    def run(seed):
        done = subprocess.run(
            [python, "-c", SB3, env, str(seed), options], stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(run, seeds))


def summary(env, algo, library, runs, id):
    returns = np.array([run["mean_return"] for run in runs])
    seconds = np.array([run["seconds"] for run in runs])
    counts = library == "fastpg" and adapters.make_env(id).reward_threshold is not None
    return {
        "env": env,
        "id": id,
        "algo": algo,
        "library": library,
        "seeds": len(runs),
        "returns": returns.round(3).tolist(),
        "steps": int(np.mean([run["steps"] for run in runs])),
        "seconds": round(float(seconds.mean()), 3),
        "solved": sum(run["solved_at_step"] is not None for run in runs) if counts else None,
        **{name: machine.about()[name] for name in ("fastpg", "commit", "date", "cpu", "cores", "python", "numpy")},
    }


def row(of):
    returns = np.array(of["returns"])
    error = "-" if len(returns) < 2 else f"{returns.std(ddof=1) / len(returns) ** 0.5:.1f}"
    solved = "-" if of["solved"] is None else f"{of['solved']}/{of['seeds']}"
    rate = f"{of['steps'] / of['seconds']:,.0f}"
    numbers = [
        f"{returns.mean():.1f}",
        error,
        f"{returns.min():.1f}",
        f"{of['steps']:,}",
        f"{of['seconds']:.1f}",
        rate,
        solved,
    ]
    return [
        f"**fastpg**, {of['id']}" if of["library"] == "fastpg" else f"{of['library']}, here",
        str(of["seeds"]),
        *numbers,
    ]


HEAD = ["library", "seeds", "mean", "s.e.", "worst", "steps", "seconds", "steps/s", "solved"]


def page(kept):
    out = ["# Results of training", "", LEGEND, "Written by `make results` (`benches/results.py`).", ""]
    for env, algo in dict.fromkeys((bare(of["env"]), of["algo"]) for of in kept.values()):
        rows = [row(of) for of in kept.values() if (bare(of["env"]), of["algo"]) == (env, algo)]
        rows += [
            [f"[{library}]({link})", "-", figure, "-", "-", steps, "-", "-", "-"]
            for library, figure, steps, link in PUBLISHED.get((env, algo), [])
        ]
        out += [f"## {env}, {algo}", "", markdown(HEAD, rows), ""]
    for of in kept.values():
        on = f"{of['cpu']}, {of['cores']} cores; fastpg {of['fastpg']} (commit {of['commit'] or 'unknown'})"
        out.append(
            f"- {of['id']}, {of['algo']}, {of['library']}: {on}, Python {of['python']}, NumPy {of['numpy']}; {of['date']}"
        )
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="ENV.ALGO", help="these tables of the settings")
    parser.add_argument("--seeds", type=int, help="how many, from 0; else ten, five or three")
    parser.add_argument("--steps", type=int, help="in the place of the settings' own")
    parser.add_argument(
        "--sb3", metavar="PYTHON", help="run SB3's PPO too, where its settings are here, with this Python"
    )
    parser.add_argument("--page-only", action="store_true", help="run nothing")
    parser.add_argument("--json", type=Path, default=KEPT)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    tables = {f"{env}.{algo}": (env, algo) for env, of in tomllib.loads(TUNED.read_text()).items() for algo in of}
    if unknown := [name for name in args.only if name not in tables]:
        parser.error(f"{unknown[0]} has no settings; {TUNED.name} has {', '.join(tables)}")
    for name in [] if args.page_only else args.only or tables:
        env, algo = tables[name]
        seeds, id = range(args.seeds or SEEDS.get(bare(env), 10)), id_of(env, algo, tables)
        jobs = {"fastpg": lambda i=id, a=algo, s=seeds: fastpg_runs(i, a, s, args.steps)}
        if args.sb3 and algo == "ppo" and env in SB3_SETTINGS:
            jobs["SB3"] = lambda e=env, s=seeds: sb3_runs(args.sb3, e, s, args.steps)
        for library, job in jobs.items():
            start = time.perf_counter()
            kept[f"{name}, {library}"] = of = summary(env, algo, library, job(), id if library == "fastpg" else env)
            print(f"{name}, {library}: {np.mean(of['returns']):.1f}, {time.perf_counter() - start:.0f} s", flush=True)
            args.json.write_text(json.dumps(kept, indent=1) + "\n")
    args.page.write_text(page(kept))


if __name__ == "__main__":
    main()
