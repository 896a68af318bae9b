"""The command line: fastpg train | eval | bench | selftest | info."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

import fastpg
from fastpg import adapters

__all__ = ["main"]

ALGOS = ("ppo", "reinforce")


def _option(help: str, default: Any, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


def _argument(name: str, help: str) -> Any:
    return field(metadata={"help": help, "metavar": name, "positional": True})


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains an agent. The run folder gets metrics.jsonl, config.json, checkpoint.npz and learning_curve.png."""

    env: str = _argument("ENV", "environment: any Gymnasium id, or fastpg/CartPole-v1, built in")
    algo: Literal["ppo", "reinforce"] = _option("algorithm; --algo NAME --help lists its options", "ppo")
    runs: Path = _option("folder of run folders", Path("runs"))
    json: bool = _option("end with one JSON line, alone on stdout", False)
    config: Any


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Plays whole episodes with the most likely action of a trained agent."""

    run: Path = _argument("RUN", "run folder or checkpoint")
    episodes: int = _option("number of episodes", 100)
    seed: int = _option("of the environment", 0)
    json: bool = _option("print one JSON line", False)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Times the kernels against naive NumPy on this machine."""

    json: Path | None = _option("also write one JSON row a measurement to this file", None, metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class Selftest:
    """Checks every kernel of this installation against the spec."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Version, instruction set, threads and BLAS."""

    json: bool = _option("print one JSON line", False)


def train(args: Train) -> None:
    """fastpg train"""
    from fastpg.train.run import Run, create_folder, evaluate

    algo, config = import_module(f"fastpg.train.{args.algo}"), args.config
    tqdm, matplotlib = import_module("fastpg.adapters.tqdm"), import_module("fastpg.adapters.matplotlib")
    for library in ("tqdm", "matplotlib.figure"):
        adapters.require(library)  # say that it is missing now, not after training
    env = adapters.make_env(args.env, config.lanes)
    folder = create_folder(args.runs, env.id, args.algo, config.seed)
    try:
        with tqdm.progress_bar(config.steps) as progress:
            run = Run(config, env, folder, progress)
            agent = algo.train(config, env, run)
        seconds = run.seconds
        returns = evaluate(agent, adapters.make_env(args.env, 20), 100, seed=config.seed + 1_000_000)
    except KeyboardInterrupt:
        checkpoint = folder / "checkpoint.npz"
        raise KeyboardInterrupt(f"checkpoint in {checkpoint}" if checkpoint.exists() else "no checkpoint") from None
    finally:
        env.close()
    title = f"{env.id}, {args.algo}, psi {config.psi}, seed {config.seed}"
    matplotlib.learning_curve(run.metrics, folder / "learning_curve.png", title=title, threshold=env.reward_threshold)
    solved = run.solved_at_step is not None
    result = {
        "env": env.id,
        "algo": args.algo,
        "psi": config.psi,
        "seed": config.seed,
        "steps": run.steps,
        "seconds": round(seconds, 3),
        "steps_per_second": round(run.steps / seconds),
        "mean_return": float(returns.mean()),
        "solved_at_step": run.solved_at_step,
        "solved_at_seconds": round(run.solved_at_seconds or 0.0, 3) if solved else None,
        "run_dir": str(folder),
    }
    (folder / "result.json").write_text(json.dumps(result) + "\n")
    if args.json:
        print(json.dumps(result))
        return
    print(title)
    print(f"trained     {run.steps:,} steps in {seconds:.1f} s, {run.steps / seconds:,.0f} steps/s")
    if env.reward_threshold is not None:
        when = f"at step {run.solved_at_step:,}, after {run.solved_at_seconds:.1f} s" if solved else "no"
        print(f"solved      {when} (mean return {env.reward_threshold:g} over 100 training episodes)")
    print(f"evaluated   mean return {returns.mean():.1f} over 100 episodes, most likely action")
    print(f"saved       {folder}")


def evaluate(args: Eval) -> None:
    """fastpg eval"""
    from fastpg.train.run import evaluate, load

    agent, about = load(args.run)
    env = adapters.make_env(about["env"], min(20, max(1, args.episodes)))
    returns = evaluate(agent, env, args.episodes, args.seed)
    env.close()
    result = {
        "env": about["env"],
        "algo": about["algo"],
        "trained_steps": about["steps"],
        "episodes": len(returns),
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "min_return": float(returns.min()),
        "max_return": float(returns.max()),
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{about['env']}, {about['algo']} after {about['steps']:,} steps, most likely action")
        print(f"mean return {returns.mean():.1f} over {len(returns)} episodes, std {returns.std():.1f}, ", end="")
        print(f"min {returns.min():g}, max {returns.max():g}")


def bench(args: Bench) -> None:
    """fastpg bench"""
    testing = import_module("fastpg.testing")
    print(testing.bench(None if args.json is None else str(args.json)))


def selftest(args: Selftest) -> int:
    """fastpg selftest"""
    failures = import_module("fastpg.testing").selftest()
    kernels = len(import_module("fastpg._core").kernels())
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{kernels} kernels checked against the spec: {len(failures) or 'no'} failures")
    return 1 if failures else 0


def info(args: Info) -> None:
    """fastpg info"""
    core = import_module("fastpg._core")
    blas: Any = np.show_config(mode="dicts")
    blas = blas["Build Dependencies"]["blas"]
    about = {
        "fastpg": fastpg.__version__,
        "instruction_set": core.isa(),
        "threads": core.threads(),
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.platform(),
    }
    if args.json:
        print(json.dumps(about))
    else:
        for name, value in about.items():
            print(f"{name.replace('_', ' '):<16}{value}")


COMMANDS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "train": (Train, train),
    "eval": (Eval, evaluate),
    "bench": (Bench, bench),
    "selftest": (Selftest, selftest),
    "info": (Info, info),
}


def _help() -> str:
    lines = [f"  {name:<10}{(command.__doc__ or '').partition('.')[0]}" for name, (command, _) in COMMANDS.items()]
    return "usage: fastpg COMMAND ...\n\n" + "\n".join(lines) + "\n\nfastpg COMMAND --help lists its options."


def _parse(name: str, args: Sequence[str]) -> Any:
    from fastpg.adapters import tyro

    command = COMMANDS[name][0]
    if command is not Train:
        return tyro.parse(command, args, f"fastpg {name}")
    # The algorithm decides which options there are, so it is read first.
    algo = "ppo"
    for k, arg in enumerate(args):
        key, _, value = arg.partition("=")
        if key == "--algo":
            algo = value or " ".join(args[k + 1 : k + 2])
    if algo not in ALGOS:
        raise ValueError(f"--algo is {algo!r}; wanted one of {', '.join(ALGOS)}")
    return tyro.parse(command, args, f"fastpg {name}", config=import_module(f"fastpg.train.{algo}").Config)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: fine, 1: the selftest failed, 2: something the user can mend, 130: interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"fastpg {fastpg.__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(f"fastpg: command is {args[0]!r}; wanted one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[args[0]][1](_parse(args[0], args[1:])) or 0
    except KeyboardInterrupt as stop:
        print(f"\nfastpg: interrupted{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        if sys.flags.dev_mode:  # python -X dev -m fastpg ... shows the traceback
            raise
        print(f"fastpg: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
