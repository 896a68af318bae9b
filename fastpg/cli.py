"""The command line: fastpg train | eval | plot | export | bench | selftest | info."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import fastpg
from fastpg import adapters
from fastpg.train.run import SAVE_EVERY

__all__ = ["main"]

Algo = Literal["ppo", "a2c", "trpo", "reinforce", "grpo"]
ALGOS: tuple[str, ...] = get_args(Algo)
# What Stable-Baselines3, CleanRL, Tianshou, Spinning Up and TRL call the options of training.
ELSEWHERE = {
    "lanes": "n_envs num_envs",
    "rows": "n_steps num_steps",
    "steps": "total_timesteps n_timesteps",
    "epochs": "n_epochs update_epochs",
    "minibatch": "batch_size minibatch_size",
    "lr": "learning_rate pi_lr",
    "value_lr": "vf_lr",
    "lr_schedule": "anneal_lr",
    "lambda_": "gae_lambda lam",
    "clip": "clip_range clip_coef clip_ratio eps_clip",
    "value_clip": "clip_range_vf",
    "entropy_weight": "ent_coef",
    "value_weight": "vf_coef",
    "max_norm": "max_grad_norm",
    "normalise_advantage": "normalize_advantage norm_adv advantage_normalization",
    "normalise_observation": "norm_obs",
    "normalise_reward": "norm_reward return_scaling",
    "hidden": "net_arch hidden_sizes",
    "activation": "activation_fn",
    "distribution": "squash_output",
    "log_std": "log_std_init",
    "max_kl": "delta",
    "damping": "cg_damping damping_coeff",
    "iterations": "cg_max_steps cg_iters",
    "backtracks": "line_search_max_iter max_backtracks backtrack_iters",
    "shrink": "line_search_shrinking_factor backtrack_coeff",
    "fisher_rows": "sub_sampling_factor",
    "value_epochs": "n_critic_updates optim_critic_iters train_v_iters",
    "group": "num_generations",
}
MOST_SEEDS = 10_000
# What a user can mend, told in one line.
USERS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)


def _option(help: str, default: Any, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


def _argument(name: str, help: str) -> Any:
    return field(metadata={"help": help, "metavar": name, "positional": True})


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains an agent. The run folder gets metrics.jsonl, config.json, checkpoint.npz and learning_curve.png."""

    env: str = _argument("ENV", "environment: a Gymnasium id, fastpg/CartPole-v1 and others built in, or envpool:ID")
    algo: Algo = _option("algorithm; --algo NAME --help lists its options", "ppo")
    env_kwargs: tuple[str, ...] = _option(
        "what the environment is made with, values in JSON or as they stand: max_episode_steps=200 map_name=8x8",
        (),
        metavar="NAME=VALUE...",
    )
    resume: Path | None = _option("go on with this run, ENV and options as they were; a larger --steps trains on", None)
    seeds: str = _option("instead of --seed, one run each, side by side: 0:10 is 0 to 9; or 3,5,8", "")
    settings: str = _option(
        "options tuned for ENV: tuned, none, or a TOML file like fastpg/train/settings.toml", "tuned"
    )
    save_every: int = _option("environment steps between checkpoints", SAVE_EVERY)
    eval_episodes: int = _option("episodes of the evaluation after training", 100)
    runs: Path = _option("folder of run folders", Path("runs"))
    tensorboard: bool = _option("write TensorBoard files into the run folder too", False)
    json: bool = _option("end with one JSON line, alone on stdout", False)
    config: Any

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ValueError(f"save_every is {self.save_every}; wanted 1 step or more")
        if self.eval_episodes < 1:
            raise ValueError(f"eval_episodes is {self.eval_episodes}; wanted 1 or more")
        _keywords(self.env_kwargs)


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Plays whole episodes with a trained agent."""

    run: Path = _argument("RUN", "run folder or checkpoint")
    episodes: int = _option("number of episodes", 100)
    seed: int = _option("of the environment, and of sampled actions", 0)
    sample: bool = _option("draw actions from the policy instead of taking the most likely", False)
    video: Path | None = _option("also film the episodes into this folder", None, metavar="FOLDER")
    json: bool = _option("print one JSON line", False)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draws learning curves: the mean over runs that differ only in their seed, in a band of one standard error."""

    runs: tuple[Path, ...] = _argument("RUN...", "run folders")
    out: Path = _option("picture to write: .png, .svg or .pdf", Path("curves.png"), metavar="FILE")
    x: Literal["steps", "seconds"] = _option("along the x axis", "steps")
    y: str = _option("along the y axis, a field of metrics.jsonl", "mean_return")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes the trained policy, most likely action, for use without fastpg."""

    run: Path = _argument("RUN", "run folder or checkpoint")
    onnx: Path | None = _option("as an ONNX graph", None, metavar="FILE")
    npz: Path | None = _option("as plain NumPy arrays; docs/training.md has the loader", None, metavar="FILE")


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


def _keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """--env-kwargs as keywords."""
    keywords: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if not (name.isidentifier() and text):
            raise ValueError(f"--env-kwargs has {pair!r}; wanted NAME=VALUE, as in max_episode_steps=200")
        try:
            keywords[name] = json.loads(text.lower() if text in ("True", "False") else text)
        except ValueError:
            keywords[name] = text
    return keywords


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, which ends training as Ctrl-C does."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises Terminated here, and ends processes forked from here as it would without us."""
    here = os.getpid()

    def terminate(number: int, frame: object) -> None:
        if os.getpid() == here:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a run folder for this process, which loses it however it ends; ValueError where another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows: nobody is kept out
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is being trained by another process; wait for its end, or stop it") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)


def train(args: Train) -> None:
    """fastpg train"""
    from fastpg.train import checkpoint
    from fastpg.train.run import Run, create_folder, evaluate

    algo, config = import_module(f"fastpg.train.{args.algo}"), args.config
    libraries = {
        "tqdm": "train",
        "matplotlib": "train",
        **({"tensorboardX": "tensorboard"} if args.tensorboard else {}),
    }
    for library, extra in libraries.items():
        adapters.must_have(library, extra)  # say that it is missing now, not after training
    tqdm, matplotlib = import_module("fastpg.adapters.tqdm"), import_module("fastpg.adapters.matplotlib")
    env_kwargs = _keywords(args.env_kwargs)
    env = adapters.make_env(args.env, config.lanes, **env_kwargs)
    with contextlib.closing(env), terminable(), contextlib.ExitStack() as stack:
        folder = args.resume or create_folder(args.runs, env.id, args.algo, config.seed)
        stack.enter_context(held(folder))
        run = Run(
            config,
            env,
            folder,
            save_every=args.save_every,
            resume=args.resume is not None,
            note={"env_kwargs": env_kwargs, "settings": args.settings, "tensorboard": args.tensorboard},
        )
        try:
            with contextlib.ExitStack() as stack:
                listeners = [stack.enter_context(tqdm.progress_bar(config.steps, run.steps))]
                if args.tensorboard:
                    tensorboard = import_module("fastpg.adapters.tensorboard")
                    listeners.append(stack.enter_context(tensorboard.event_files(folder / "tensorboard", run.metrics)))
                run.listeners = listeners
                agent = algo.train(config, env, run)
            seconds = run.seconds
            # Lane n draws from seed + n: 20 apart, so that no run is judged by episodes of the next seed's.
            print(
                f"evaluating {args.eval_episodes} episodes", file=sys.stderr, flush=True
            )  # minutes, where they are long
            lanes = min(20, args.eval_episodes)
            with contextlib.closing(adapters.make_env(args.env, lanes, **env_kwargs)) as judge:
                returns = evaluate(agent, judge, args.eval_episodes, seed=1_000_000 + 20 * config.seed)
        except KeyboardInterrupt as stop:
            raise type(stop)(run.kept()) from None
        except (OSError, ImportError):
            raise
        except Exception as error:
            message = str(error)
            if not isinstance(error, USERS):  # the environment's own, or a mistake of ours
                traceback.print_exc()
                cause: BaseException = error
                while cause.__cause__ is not None:
                    cause = cause.__cause__
                where = traceback.extract_tb(cause.__traceback__)[-1]
                message += f" ({type(cause).__name__} in {where.filename}, line {where.lineno}): mend that"
            raise RuntimeError(f"{message} ({run.kept()})") from error
    title = f"{env.id}, {args.algo}, psi {config.psi}, seed {config.seed}"
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
        "settings": args.settings,
    }
    with run.writing():
        checkpoint.replace(folder / "result.json", lambda file: file.write(f"{json.dumps(result)}\n".encode()))
    if args.json:
        print(json.dumps(result), flush=True)
    else:
        print(title)
        print(f"settings    {args.settings}")
        print(f"trained     {run.steps:,} steps in {seconds:.1f} s, {run.steps / seconds:,.0f} steps/s")
        if env.reward_threshold is not None:
            when = f"at step {run.solved_at_step:,}, after {run.solved_at_seconds:.1f} s" if solved else "no"
            print(f"solved      {when} (mean return {env.reward_threshold:g} over 100 training episodes)")
        print(f"evaluated   mean return {returns.mean():.1f} over {len(returns)} episodes, most likely action")
        print(f"saved       {folder}", flush=True)
    with run.writing():  # last: Matplotlib takes longer to import than the rest of fastpg
        matplotlib.learning_curve(
            run.metrics, folder / "learning_curve.png", title=title, threshold=env.reward_threshold
        )


def _numbers(text: str) -> list[int]:
    try:
        if ":" in text:
            start, stop = map(int, text.split(":"))
            seeds = list(range(start, stop)) if stop - start <= MOST_SEEDS else []
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"--seeds is {text!r}; wanted START:STOP, as 0:10 for 0 to 9, or different numbers N,N,..., at most {MOST_SEEDS:,}"
        )
    return seeds


def train_seeds(args: Train, argv: Sequence[str]) -> int:
    """fastpg train --seeds: a process each, as many at a time as there are cores, one thread in each."""
    seeds = _numbers(args.seeds)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = ("OMP", "OPENBLAS", "MKL", "NUMBA", "FASTPG")
    # With -P and our path they import what we did: -m alone would look into the working folder first.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        **{f"{name}_NUM_THREADS": "1" for name in threads},
    }
    command = [sys.executable, "-P", "-m", "fastpg", "train"]
    out = sys.stderr if args.json else sys.stdout
    start = time.perf_counter()
    running: set[subprocess.Popen[str]] = set()

    def one(seed: int) -> dict[str, Any] | None:
        options = [*argv, "--seeds", "", "--seed", str(seed), "--json"]  # the last of two equal options counts
        pipe = subprocess.PIPE
        with subprocess.Popen([*command, *options], stdout=pipe, stderr=pipe, text=True, env=environment) as process:
            running.add(process)
            told, errors = process.communicate()
            running.remove(process)
        if process.returncode:
            last = errors.strip().splitlines()[-1:] or [f"ended with code {process.returncode}"]
            print(f"seed {seed:<6}FAILED  {last[0]}", file=out, flush=True)
            return None
        result: dict[str, Any] = json.loads(told)
        print(
            f"seed {seed:<6}mean return {result['mean_return']:<10.1f}{result['seconds']:.1f} s  {result['run_dir']}",
            file=out,
            flush=True,
        )
        return result

    with terminable(), ThreadPoolExecutor(min(cores, len(seeds))) as pool:
        futures = [pool.submit(one, seed) for seed in seeds]
        try:
            all_results = [future.result() for future in futures]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            begun = [future for future in futures if not future.cancelled()]
            wait(begun, timeout=2)  # a terminal's Ctrl-C has reached them too, and they are saving; kill -INT has not
            for process in tuple(running):  # or they would train on without us
                process.terminate()
            raise
    results = [result for result in all_results if result is not None]
    returns = np.array([result["mean_return"] for result in results])
    mean = float(returns.mean()) if results else None
    error = float(returns.std(ddof=1) / len(results) ** 0.5) if len(results) > 1 else None
    summary = {
        "env": args.env,
        "algo": args.algo,
        "psi": args.config.psi,
        "seeds": seeds,
        "failed": [seed for seed, result in zip(seeds, all_results, strict=True) if result is None],
        "mean_return": mean,
        "standard_error": error,
        "solved": sum(result["solved_at_step"] is not None for result in results),
        "seconds": round(time.perf_counter() - start, 3),
        "runs": results,
    }
    if args.json:
        print(json.dumps(summary))
    elif results:
        about = "" if error is None else f", standard error {error:.1f}"
        print(
            f"{args.env}, {args.algo}, psi {args.config.psi}: mean return {mean:.1f}{about} over {len(results)} seeds"
        )
    return 1 if summary["failed"] else 0


def evaluate(args: Eval) -> None:
    """fastpg eval"""
    from fastpg.train.run import evaluate, load

    agent, about = load(args.run)
    env_kwargs = about.get("env_kwargs", {})
    films = [] if args.video is None else film(agent, about["env"], args, env_kwargs)  # first, as not every one renders
    with contextlib.closing(adapters.make_env(about["env"], min(20, max(1, args.episodes)), **env_kwargs)) as env:
        returns = evaluate(agent, env, args.episodes, args.seed, sample=args.sample)
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
        how = "sampled actions" if args.sample else "most likely action"
        print(f"{about['env']}, {about['algo']} after {about['steps']:,} steps, {how}")
        print(f"mean return {returns.mean():.1f} over {len(returns)} episodes, std {returns.std():.1f}, ", end="")
        print(f"min {returns.min():g}, max {returns.max():g}")
        for name in films:
            print(f"filmed {name}")


def film(agent: Any, env: str, args: Eval, env_kwargs: dict[str, Any]) -> list[str]:
    """The episodes of fastpg eval --video, and the files they are in."""
    rng = np.random.default_rng(args.seed)

    def act(observation: Any) -> Any:
        action = agent.sample(observation, rng) if args.sample else agent.best(observation)
        return agent.head.to_env(action)

    record = import_module("fastpg.adapters.gymnasium").record
    return [str(path) for path in record(env, act, args.video, args.episodes, args.seed, **env_kwargs)]


def plot(args: Plot) -> None:
    """fastpg plot"""
    from fastpg.train.curves import curves

    if not args.runs:
        raise ValueError("RUN... is empty; wanted run folders")
    groups = curves(args.runs, args.x, args.y)
    import_module("fastpg.adapters.matplotlib").plot_curves(groups, args.out, xlabel=args.x, ylabel=args.y)
    for curve in groups:
        print(f"{curve.env:<24}{curve.label:<24}  {curve.count}, at the end {curve.mean[-1]:.1f}")
    print(f"saved {args.out}; bands are one standard error to either side")


def export(args: Export) -> None:
    """fastpg export"""
    from fastpg.train import checkpoint
    from fastpg.train.export import policy_arrays
    from fastpg.train.run import load

    if args.onnx is None and args.npz is None:
        raise ValueError("nothing to write; wanted --onnx FILE or --npz FILE")
    agent, _ = load(args.run)
    if args.npz is not None:
        checkpoint.replace(args.npz, lambda file: np.savez(file, **policy_arrays(agent)))  # type: ignore[arg-type]
    if args.onnx is not None:
        import_module("fastpg.adapters.onnx").export(policy_arrays(agent), args.onnx)


def bench(args: Bench) -> None:
    """fastpg bench"""
    if args.json is not None and not args.json.parent.is_dir():  # say so now, not after minutes
        raise ValueError(f"--json is {args.json}, but there is no folder {args.json.parent}")
    testing = import_module("fastpg.testing")
    testing.bench(None if args.json is None else str(args.json), tell=lambda line: print(line, flush=True))


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
    "plot": (Plot, plot),
    "export": (Export, export),
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
    return _parse_train(args)


def _value(args: Sequence[str], option: str) -> str | None:
    """What follows an option among args, its last one counting; None where it is not there."""
    found = None
    for k, arg in enumerate(args):
        key, equals, value = arg.partition("=")
        if key == option:
            found = value if equals else " ".join(args[k + 1 : k + 2])
    return found


def _parse_train(args: Sequence[str]) -> Train:
    """Options of a run: those of its algorithm, with the defaults of the run to resume, or those tuned for the environment."""
    from fastpg.adapters import tyro
    from fastpg.train import settings

    def parse(**default: Any) -> Train:
        try:
            parsed: Train = tyro.parse(Train, args, "fastpg train", default)
        except ValueError as error:
            ours = {other: name for name, others in ELSEWHERE.items() for other in others.split()}
            given = [arg.partition("=")[0] for arg in args if arg.startswith("--")]
            known = [(option, ours.get(option[2:].replace("-", "_"))) for option in given]
            told = [f"{option} is --{name.strip('_').replace('_', '-')} here" for option, name in known if name]
            raise ValueError("; ".join([str(error), *told])) from None
        return parsed

    # The algorithm decides which options there are, so it is read first.
    algo = _value(args, "--algo")
    if algo is not None and algo not in ALGOS:
        raise ValueError(f"--algo is {algo!r}; wanted one of {', '.join(ALGOS)}")
    folder = _value(args, "--resume")
    if folder is not None:
        from fastpg.train.run import read_config

        if _value(args, "--seeds") is not None or _value(args, "--runs") is not None:
            raise ValueError("--resume goes on with one run, where it is; it takes neither --seeds nor --runs")
        about = read_config(Path(folder))
        if algo not in (None, about["algo"]):
            raise ValueError(
                f"{folder} is a run of {about['algo']}, but --algo is {algo!r}; leave the option out, or train anew"
            )
        if about["algo"] not in ALGOS:
            raise ValueError(f"{folder}: algo is {about['algo']!r}; wanted one of {', '.join(ALGOS)}")
        config = settings.config_of(about, folder)
        env_kwargs = tuple(f"{name}={json.dumps(value)}" for name, value in about.get("env_kwargs", {}).items())
        same = {name: about[name] for name in ("env", "algo", "save_every")}
        parsed = parse(**same, env_kwargs=env_kwargs, config=config)
        tensorboard = parsed.tensorboard or about.get("tensorboard") is True
        return replace(parsed, settings=about.get("settings", "none"), tensorboard=tensorboard)
    if _value(args, "--seeds") and _value(args, "--seed") is not None:
        raise ValueError("--seeds stands in the place of --seed; leave one of them out")
    page = import_module(f"fastpg.train.{algo or 'ppo'}")
    parsed = parse(config=page.Config())
    used, options = settings.tuned(parsed.env, parsed.algo, parsed.settings)
    if used is not None:
        parsed = parse(config=page.Config(**options))
    return replace(parsed, settings=used or "none")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: fine, 1: the selftest or a seed failed, 2: something the user can mend, 130: interrupted, 143: terminated.

    141 is what a shell calls a program that wrote to a closed pipe: `head`, say, had seen enough.
    """
    # Numba's imports make half a million objects that stay. To look for garbage among them takes 0.1 s, and 0.3 s more at exit.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = _run(list(sys.argv[1:] if argv is None else argv))
            print(end="", flush=True)  # what goes wrong with it should go wrong here
            return code
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        how = "terminated" if terminated else "interrupted"
        print(f"\nfastpg: {how}{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except BrokenPipeError:
        return 141
    except (*USERS, RuntimeError) as error:
        if sys.flags.dev_mode:  # python -X dev -m fastpg ... shows the traceback
            raise
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename or 'output'}: {error.strerror}"
        print(f"fastpg: {' '.join(message.split())}", file=sys.stderr)
        return 2
    finally:
        try:
            print(end="", flush=True)
        except OSError:  # told already; Python would flush and complain once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    plain = re.sub(r"\x1b\[\d+m(WARN: )?", "", str(message))  # Gymnasium's are yellow, in files too
    print(f"fastpg: warning: {plain}", file=sys.stderr)


def _run(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"fastpg {fastpg.__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise ValueError(f"command is {args[0]!r}; wanted one of {', '.join(COMMANDS)}")
    parsed = _parse(args[0], args[1:])
    if isinstance(parsed, Train) and parsed.seeds:
        return train_seeds(parsed, args[1:])
    return COMMANDS[args[0]][1](parsed) or 0
