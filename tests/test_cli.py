"""The command line, run as its users run it: real processes."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fastpg
from fastpg import cli, testing
from fastpg.envs import make
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from fastpg.train import export, ppo, settings
from fastpg.train.agent import Agent
from fastpg.train.curves import curves
from fastpg.train.run import LONGEST, Run, evaluate, load

for extra in ("gymnasium", "matplotlib", "tqdm", "tyro"):
    pytest.importorskip(extra)

COMMAND = [sys.executable, "-m", "fastpg"]
RESULT = [
    "env",
    "algo",
    "psi",
    "seed",
    "steps",
    "seconds",
    "steps_per_second",
    "mean_return",
    "solved_at_step",
    "solved_at_seconds",
    "run_dir",
    "settings",
]


def fastpg_(*args, cwd, command=COMMAND):
    return subprocess.run([*command, *args], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on Gymnasium's CartPole: its folder's parent and the finished process."""
    cwd = tmp_path_factory.mktemp("trained")
    args = "train CartPole-v1 --steps 4000 --seed 5 --psi q --lambda 0.9 --hidden 8 8 --json"
    return cwd, fastpg_(*args.split(), cwd=cwd)


def test_train_json_is_one_line_alone_on_stdout(trained):
    cwd, done = trained
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert list(result) == RESULT
    assert [result[key] for key in RESULT[:4]] == ["CartPole-v1", "ppo", "q", 5]
    assert 4000 <= result["steps"] < 4000 + 256
    assert result["steps_per_second"] == pytest.approx(result["steps"] / result["seconds"], rel=0.01)
    assert 8 <= result["mean_return"] <= 500 and result["solved_at_step"] is None
    assert "steps/s" in done.stderr and "mean return" in done.stderr


def test_run_folder_is_complete(trained):
    cwd, done = trained
    folder = cwd / json.loads(done.stdout)["run_dir"]
    assert folder.parent == cwd / "runs" and folder.name.startswith("CartPole-v1-ppo-5-")
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "checkpoint.npz", "learning_curve.png", "result.json"}
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["psi"], config["lambda_"], config["hidden"], config["seed"]) == ("q", 0.9, [8, 8], 5)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 8  # of 8 lanes x 64 rows, 4000 steps
    assert json.loads((folder / "result.json").read_text()) == json.loads(done.stdout)


def test_eval_plays_the_checkpoint_of_a_folder_or_file(trained):
    cwd, done = trained
    folder = json.loads(done.stdout)["run_dir"]
    told = fastpg_("eval", folder, "--episodes", "7", "--seed", "3", "--json", cwd=cwd)
    assert told.returncode == 0 and told.stdout.count("\n") == 1, told.stderr
    result = json.loads(told.stdout)
    assert (result["env"], result["algo"], result["episodes"]) == ("CartPole-v1", "ppo", 7)
    assert result["min_return"] <= result["mean_return"] <= result["max_return"]
    again = fastpg_("eval", f"{folder}/checkpoint.npz", "--episodes", "7", "--seed", "3", cwd=cwd)
    assert f"mean return {result['mean_return']:.1f} over 7 episodes" in again.stdout


def test_train_prints_for_people_too(tmp_path):
    args = "train fastpg/CartPole-v1 --algo reinforce --steps=3000 --runs elsewhere --eval-episodes 7"
    done = fastpg_(*args.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "elsewhere").iterdir()
    assert folder.name.startswith("fastpg-CartPole-v1-reinforce-0-")
    for words in (
        "psi baselined",
        "settings    CartPole-v1.reinforce",
        "trained",
        "mean return",
        str(folder.relative_to(tmp_path)),
    ):
        assert words in done.stdout
    assert "over 7 episodes" in done.stdout and "evaluating 7 episodes" in done.stderr


@contextlib.contextmanager
def training(*args, cwd):
    """A fastpg train that has something to save, to be sent a signal."""
    with subprocess.Popen(
        [*COMMAND, "train", *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have started us in the background, where SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        give_up = time.monotonic() + 60
        # The second line comes after the first update can be saved.
        while not any(path.read_bytes().count(b"\n") >= 2 for path in cwd.glob("runs/*/metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_kill_leave_a_checkpoint_that_eval_plays(number, code, tmp_path):
    with training("fastpg/CartPole-v1", "--steps", "100000000", "--json", cwd=tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.npz")
    assert process.returncode == code and out == "" and "Traceback" not in err
    folder, steps = checkpoint.parent.relative_to(tmp_path), json.loads(np.load(checkpoint)["about"].item())["steps"]
    assert f"{'interrupted' if code == 130 else 'terminated'}; checkpoint of step {steps:,} in {folder}" in err
    assert f"go on with fastpg train --resume {folder}" in err
    told = fastpg_("eval", str(checkpoint), "--episodes", "3", "--json", cwd=tmp_path)
    assert told.returncode == 0 and json.loads(told.stdout)["trained_steps"] > 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "usage: fastpg COMMAND"),
        (["fly"], "command is 'fly'; wanted one of train, eval, plot, export, bench, selftest, info"),
        (["train"], "ENV"),
        (["train", "Nope-v1"], "env is 'Nope-v1'"),
        (["train", "fastpg/Nope-v1"], "id is 'fastpg/Nope-v1'; built in: fastpg/CartPole-v1"),
        (["train", "envpool:Nope-v1"], "envpool"),
        (
            ["train", "CartPole-v1", "--algo", "sarsa"],
            "--algo is 'sarsa'; wanted one of ppo, a2c, trpo, reinforce, grpo",
        ),
        (["train", "CartPole-v1", "--algo"], "--algo is ''"),
        (["train", "CartPole-v1", "--psi", "best"], "invalid choice 'best'"),
        (["train", "CartPole-v1", "--gamma", "2"], "gamma is 2.0; wanted a number in [0, 1]"),
        (["train", "CartPole-v1", "--seed", "x"], "--seed"),
        (["train", "CartPole-v1", "--value-epochs", "3"], "--value-epochs"),  # REINFORCE has it, PPO has not
        (["train", "CartPole-v1", "--num-envs", "4"], "--num-envs is --lanes here"),
        (["train", "CartPole-v1", "--gae_lambda=0.9", "--lr", "1"], "--gae_lambda is --lambda here"),
        (["train", "CartPole-v1", "--runs", "/dev/null"], "/dev/null"),
        (["train", "CartPole-v1", "--runs", "/proc/none"], "choose another place with --runs"),
        (["train", "CartPole-v1", "--save-every", "0"], "save_every is 0"),
        (["train", "CartPole-v1", "--eval-episodes", "0"], "eval_episodes is 0; wanted 1 or more"),
        (
            ["train", "CartPole-v1", "--settings", "no.toml"],
            "settings is 'no.toml'; wanted tuned, none, or a TOML file",
        ),
        (["train", "CartPole-v1", "--env-kwargs", "gravity"], "--env-kwargs has 'gravity'; wanted NAME=VALUE"),
        (["train", "CartPole-v1", "--seeds", "3:1"], "--seeds is '3:1'; wanted START:STOP, as 0:10 for 0 to 9"),
        (["train", "CartPole-v1", "--seeds", "1,1"], "--seeds is '1,1'"),
        (["train", "CartPole-v1", "--seeds", "0:99999999999999"], "different numbers N,N,..., at most 10,000"),
        (["train", "CartPole-v1", "--stop-at", "nan"], "stop_at is nan; wanted a finite number"),
        (["train", "CartPole-v1", "--log-std", "inf"], "log_std is inf; wanted a finite number"),
        (["train", "CartPole-v1", "--seeds", "0:3", "--seed", "1"], "leave one of them out"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder: it has no config.json"),
        (["plot", "nowhere"], "nowhere is not a run folder"),
        (["plot"], "RUN..."),
        (["export", "nowhere", "--npz", "x.npz"], "no checkpoint at nowhere"),
        (
            ["eval", "nowhere"],
            "no checkpoint at nowhere; wanted the folder that fastpg train printed, or a checkpoint.npz",
        ),
        (["eval", sys.executable], "is not a fastpg checkpoint"),
        (["bench", "--jsn", "x"], "--jsn"),
        (["bench", "--json", "nowhere/x.json"], "there is no folder nowhere"),
    ],
)
def test_a_users_error_is_one_clear_line_and_exit_code_2(args, words, tmp_path):
    done = fastpg_(*args, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not args or done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", ["tyro", "gymnasium", "matplotlib", "tqdm"])
def test_a_missing_extra_is_named_with_its_remedy(extra, tmp_path):
    code = f"import sys; sys.modules[{extra!r}] = None; from fastpg.cli import main; sys.exit(main())"
    done = fastpg_("train", "CartPole-v1", cwd=tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 2
    assert done.stderr == f'fastpg: {extra} is not installed: pip install "fastpg[train]"\n'
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "eval", "plot", "export", "bench", "selftest", "info"])
def test_every_command_explains_itself(command, tmp_path):
    done = fastpg_(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"fastpg {command}" in done.stdout


@pytest.mark.parametrize("algo", cli.ALGOS)
def test_train_help_lists_each_field_of_the_config_with_its_sentence(algo, tmp_path):
    from dataclasses import fields
    from importlib import import_module

    done = fastpg_("train", "--algo", algo, "--help", cwd=tmp_path)
    text = " ".join(done.stdout.replace("│", " ").split())
    for field in fields(import_module(f"fastpg.train.{algo}").Config):
        assert f"--{field.name.replace('_', '-')}" in text.replace("lambda_", "lambda-")
    for sentence in (
        "of initial weights, environment and actions",
        "total_return,reward_to_go",
        "environments side by side",
    ):
        assert sentence in text


def test_the_page_of_options_is_that_of_the_configs():
    docs = Path(fastpg.__file__).parents[1] / "docs"
    text = runpy.run_path(str(docs / "options.py"))["text"]()
    assert (docs / "options.md").read_text() == text
    listed = set(re.findall(r"^\| `(\w+)`", text, re.M))
    assert listed == {name for algo in cli.ALGOS for name in asdict(import_module(f"fastpg.train.{algo}").Config())}
    assert cli.ELSEWHERE.keys() <= listed
    others = [other for names in cli.ELSEWHERE.values() for other in names.split()]
    assert len(set(others)) == len(others) and not listed & set(others)


def test_the_page_on_training_lists_every_field_of_the_metrics():
    page = (Path(fastpg.__file__).parents[1] / "docs" / "training.md").read_text().split("Fields of `metrics.jsonl`")[1]
    listed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", page, re.M))))
    logged = set()
    for algo in cli.ALGOS:
        module = import_module(f"fastpg.train.{algo}")
        env = make("fastpg/CartPole-v1", 8)
        run = Run(config := module.Config(steps=1, lanes=8), env)
        module.train(config, env, run)
        logged |= run.metrics[-1].keys()
    assert listed == logged


def test_what_stable_baselines_calls_an_option_is_known():
    common = pytest.importorskip("stable_baselines3")
    theirs = set(inspect.signature(common.PPO).parameters) - set(
        "policy env gamma use_sde sde_sample_freq rollout_buffer_class rollout_buffer_kwargs target_kl stats_window_size "
        "tensorboard_log policy_kwargs verbose seed device _init_setup_model".split()
    )
    assert theirs <= {other for names in cli.ELSEWHERE.values() for other in names.split()}


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_normalise_may_be_spelt_the_american_way(algo):
    value = ["minibatch"] if algo == "ppo" else []
    options = ["--normalize-advantage", *value, "--no-normalize-reward", "--normalize-observation"]
    config = cli._parse("train", ["Acrobot-v1", "--algo", algo, *options]).config
    assert config.normalise_advantage == (value[0] if value else True)
    assert config.normalise_observation and not config.normalise_reward  # tuned: True


def test_info_tells_version_and_machine(tmp_path):
    pytest.importorskip("fastpg._core")
    told = json.loads(fastpg_("info", "--json", cwd=tmp_path).stdout)
    assert told["fastpg"] == fastpg.__version__ and told["numpy"] == np.__version__
    assert told["threads"] >= 1 and told["instruction_set"] and told["blas"]
    assert told["fastpg"] in fastpg_("info", cwd=tmp_path).stdout
    assert fastpg_("--version", cwd=tmp_path).stdout == f"fastpg {fastpg.__version__}\n"


def test_selftest_passes_on_this_installation(tmp_path):
    pytest.importorskip("fastpg.testing")
    done = fastpg_("selftest", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no failures" in done.stdout


def test_selftest_fails_aloud_when_a_kernel_is_wrong(tmp_path):
    pytest.importorskip("fastpg.testing")
    code = (
        "import sys, fastpg.testing; fastpg.testing.selftest = lambda: ['gae: 3 differs'];"
        "from fastpg.cli import main; sys.exit(main())"
    )
    done = fastpg_("selftest", cwd=tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 1 and "FAILED gae: 3 differs" in done.stdout


def test_importing_the_command_line_imports_no_extra(tmp_path):
    code = (
        "import sys, fastpg.cli, fastpg.adapters.gymnasium, fastpg.adapters.tyro;"
        "import fastpg.adapters.matplotlib, fastpg.adapters.onnx, fastpg.adapters.tensorboard;"
        "import fastpg.train.ppo, fastpg.train.reinforce;"
        "print([name for name in ('gymnasium', 'matplotlib', 'onnx', 'tensorboardX', 'tqdm', 'tyro', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.stdout == "[]\n", done.stderr


def test_training_on_a_built_in_environment_imports_neither_gymnasium_nor_matplotlib_before_the_end(tmp_path):
    code = (
        "import sys; from fastpg.train import run; real = run.evaluate\n"
        "def evaluate(*args, **kwargs):\n"
        "    print([name for name in ('gymnasium', 'matplotlib') if name in sys.modules]); return real(*args, **kwargs)\n"
        "run.evaluate = evaluate; from fastpg.cli import main; sys.exit(main())"
    )
    args = "train fastpg/CartPole-v1 --steps 1000".split()
    done = fastpg_(*args, cwd=tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 0 and done.stdout.startswith("[]\n"), done.stdout + done.stderr


def test_eval_samples_actions_when_asked_and_the_same_ones_for_a_seed(trained):
    cwd, done = trained
    args = ["eval", json.loads(done.stdout)["run_dir"], "--episodes", "20", "--json"]
    best, sampled, again, other = (
        json.loads(fastpg_(*args, *more, cwd=cwd).stdout)
        for more in ([], ["--sample"], ["--sample"], ["--sample", "--seed", "1"])
    )
    assert sampled == again and sampled != best and sampled != other


class Endless:
    """Episodes of lane 0 never end, those of lane 1 after three steps; a reward of 1 a step."""

    id, lanes, observation_size, action_space, reward_threshold = "Endless-v0", 2, 1, Discrete(2), None

    def reset(self, *, seed=None):
        self.t, self.resets = np.zeros(2, int), getattr(self, "resets", 0) + 1
        return np.zeros((2, 1), np.float32), {}

    def step(self, action):
        self.t += 1
        ended = np.array([False, self.t[1] == 3])
        self.t[ended] = 0
        return np.zeros((2, 1), np.float32), np.ones(2), ended, ended & False, {}


def test_an_episode_that_never_ends_is_cut_and_told_of():
    env = Endless()
    agent = Agent(1, Discrete(2), (), np.random.default_rng(0))
    with pytest.warns(UserWarning, match="2 of 4 episodes of Endless-v0 did not end within 27,000 steps"):
        returns = evaluate(agent, env, 4)
    assert sorted(returns) == [3, 3, LONGEST, LONGEST] and env.resets == 2


def test_eval_films_episodes_of_the_built_in_environment_too(tmp_path):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    args = "train fastpg/CartPole-v1 --steps 300 --json".split()
    run = json.loads(fastpg_(*args, cwd=tmp_path).stdout)["run_dir"]
    told = fastpg_("eval", run, "--episodes", "2", "--video", "film", "--sample", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    films = sorted(path.name for path in (tmp_path / "film").iterdir())
    assert films == ["CartPole-v1-episode-0.mp4", "CartPole-v1-episode-1.mp4"]
    assert all(str(Path("film") / name) in told.stdout for name in films)


def test_seeds_import_what_their_parent_does_whatever_lies_in_the_folder(tmp_path):
    (tmp_path / "tyro.py").write_text("raise SystemExit('not the library of that name')\n")
    args = "train fastpg/CartPole-v1 --seeds 0:2 --steps 500 --hidden 8".split()
    done = fastpg_(*args, cwd=tmp_path, command=[sys.executable, "-P", "-m", "fastpg"])  # as the script fastpg does
    assert done.returncode == 0 and "over 2 seeds" in done.stdout, done.stdout


def test_seeds_train_side_by_side_with_a_summary(tmp_path):
    args = "train fastpg/CartPole-v1 --seeds 0:3 --steps 3000 --json --hidden 8 8"
    done = fastpg_(*args.split(), cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told["env"], told["algo"], told["psi"], told["seeds"]) == ("fastpg/CartPole-v1", "ppo", "gae", [0, 1, 2])
    assert told["failed"] == [] and [run["seed"] for run in told["runs"]] == [0, 1, 2]
    returns = [run["mean_return"] for run in told["runs"]]
    assert told["mean_return"] == pytest.approx(sum(returns) / 3)
    variance = sum((x - told["mean_return"]) ** 2 for x in returns) / 2
    assert told["standard_error"] == pytest.approx((variance / 3) ** 0.5)
    assert len({run["run_dir"] for run in told["runs"]}) == 3
    # Each is the run that its seed gives alone.
    alone = fastpg_(*"train fastpg/CartPole-v1 --seed 1 --steps 3000 --json --hidden 8 8".split(), cwd=tmp_path)
    one, two = (load(tmp_path / json.loads(line)["run_dir"])[0] for line in (alone.stdout, json.dumps(told["runs"][1])))
    assert one.policy.parameter.tobytes() == two.policy.parameter.tobytes()


def test_a_failing_seed_does_not_stop_the_others_and_the_exit_code_tells(tmp_path):
    # The process of seed 1 kills itself while Python starts.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if '--seed' in (args := sys.orig_argv) and args[args.index('--seed') + 1] == '1':\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(fastpg.__file__).parents[1])])
    done = subprocess.run(
        [*COMMAND, *"train fastpg/CartPole-v1 --seeds 0,1,2 --steps 1000".split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 1, done.stderr
    assert "seed 1     FAILED  ended with code -9" in done.stdout
    assert "over 2 seeds" in done.stdout and len(list(tmp_path.glob("runs/*/result.json"))) == 2


@pytest.mark.parametrize("args", ["--help", "info", "train --help"])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(args, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, *args.split()], stdout=closed, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_behind_stdout_is_told(tmp_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "info"], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (2, b"fastpg: output: No space left on device\n")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_heeded_on_a_terminal(no_color, tmp_path):
    terminal, other = os.openpty()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON_TYRO")}
    with subprocess.Popen(
        [*COMMAND, "info", "--help"], stdout=other, cwd=tmp_path, env=env | {"NO_COLOR": no_color, "TERM": "xterm"}
    ):
        os.close(other)
        told = b""
        with (
            open(terminal, "rb", buffering=0) as file,
            contextlib.suppress(OSError),
        ):  # EIO once the other end is closed
            while part := file.read(4096):
                told += part
    assert b"usage" in told.lower() and (b"\x1b[" in told) == (not no_color)


def test_progress_is_lines_in_a_file_and_a_bar_on_a_terminal(monkeypatch, capsys):
    bars = import_module("fastpg.adapters.tqdm")
    monkeypatch.setattr(bars, "EVERY", 0.0)
    row = {"steps": 1024, "steps_per_second": 2048, "mean_return": None}
    with bars.progress_bar(2000) as update:
        update(row)
        monkeypatch.setattr(bars, "EVERY", 100.0)
        update({**row, "steps": 1500, "mean_return": 9.0})  # too soon for a line
        update({**row, "steps": 2048, "mean_return": 9.5})
    assert capsys.readouterr().err == (
        "1,024 of 2,000 steps, 2,048 steps/s\n2,048 of 2,000 steps, 2,048 steps/s, mean return 9.5\n"
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bars.progress_bar(2000) as update:
        update({**row, "mean_return": 9.5})
    err = capsys.readouterr().err
    assert "\r" in err and "1.02k/2.00k" in err and "mean return 9.5" in err


def test_the_result_is_printed_before_the_curve_is_drawn(tmp_path):
    code = (
        "import sys, fastpg.adapters.matplotlib as m\n"
        "def draw(*args, **kwargs): raise OSError(28, 'No space left on device')\n"
        "m.learning_curve = draw; from fastpg.cli import main; sys.exit(main())"
    )
    args = "train fastpg/CartPole-v1 --steps 1000 --hidden 8 --json".split()
    done = fastpg_(*args, cwd=tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 2 and "No space left on device; make room there" in done.stderr
    (folder,) = tmp_path.glob("runs/*")
    assert json.loads(done.stdout) == json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    "how", [["plot", "--out", "x.png"], ["export", "--npz", "x.npz"], ["export", "--onnx", "x.onnx"]]
)
def test_a_file_that_cannot_be_written_is_named(how, trained, tmp_path):
    if "--onnx" in how:
        pytest.importorskip("onnx")
    cwd, done = trained
    command, option, name = how
    path = tmp_path / "nowhere" / name
    told = fastpg_(command, json.loads(done.stdout)["run_dir"], option, str(path), cwd=cwd)
    assert told.returncode == 2 and told.stderr == f"fastpg: {path}: No such file or directory\n"


@pytest.mark.parametrize("option", ["--npz", "--onnx"])
def test_a_folder_is_no_file_to_export_to(option, trained, tmp_path):
    if option == "--onnx":
        pytest.importorskip("onnx")
    cwd, done = trained
    told = fastpg_("export", str(cwd / json.loads(done.stdout)["run_dir"]), option, ".", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (2, "fastpg: .: Is a directory\n") and not list(tmp_path.iterdir())


def test_runs_of_neighbouring_seeds_are_judged_by_different_episodes(tmp_path, monkeypatch):
    lanes = []

    def judge(agent, env, episodes, seed):
        lanes.extend(range(seed, seed + env.lanes))
        return np.zeros(episodes)

    monkeypatch.setattr("fastpg.train.run.evaluate", judge)
    for seed in "012":
        args = ["train", "fastpg/CartPole-v1", "--steps", "256", "--seed", seed, "--runs", str(tmp_path)]
        assert cli.main(args) == 0
    assert len(lanes) == len(set(lanes)) == 60


def test_tuned_settings_are_defaults_that_options_override(tmp_path):
    table = tmp_path / "mine.toml"
    table.write_text('["CartPole-v1".ppo]\nlr = 0.5\nhidden = [4, 5]\nsteps = 600\n')
    args = ["train", "fastpg/CartPole-v1", "--json"]
    done = fastpg_(*args, "--settings", str(table), "--lr", "0.01", cwd=tmp_path)
    told = json.loads(done.stdout)
    config = json.loads((tmp_path / told["run_dir"] / "config.json").read_text())
    assert told["settings"] == config["settings"] == "CartPole-v1.ppo"
    assert (config["config"]["lr"], config["config"]["hidden"], config["config"]["steps"]) == (0.01, [4, 5], 600)
    done = fastpg_(*args, "--settings", "none", "--steps", "600", cwd=tmp_path)
    told = json.loads(done.stdout)
    config = json.loads((tmp_path / told["run_dir"] / "config.json").read_text())["config"]
    assert told["settings"] == "none" and config == json.loads(json.dumps(asdict(ppo.Config(steps=600))))
    for text, words in (
        ("lr = ", "is not TOML"),
        ("ppo = 3", 'mine.toml has no table ["fastpg/CartPole-v1".ppo]'),
        ('["CartPole-v1"]\nppo = 3', '["CartPole-v1".ppo] of mine.toml is 3; wanted a table of options'),
        ('["CartPole-v1".ppo]\nlr = "fast"', "[\"CartPole-v1\".ppo] of mine.toml: lr is 'fast'; wanted a number"),
        ('["CartPole-v1".ppo]\nwarp = 9', "has warp, which is no option of ppo"),
    ):
        table.write_text(text)
        done = fastpg_(*args, "--settings", "mine.toml", cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("algo", cli.ALGOS)
def test_an_option_of_another_type_is_refused_by_name(algo):
    config = import_module(f"fastpg.train.{algo}").Config
    wrong = {
        bool: (1, "yes", None),
        int: (True, 2.5, "1", [1]),
        float: (True, "1", [0.5], 1j),
        tuple: (64, "ab", (2.5,), (True,), (0,)),
    }
    for name, value in asdict(config()).items():
        for other in wrong.get(type(value), ()):
            with pytest.raises(ValueError, match=f"^{name} is {re.escape(repr(other))}; wanted "):
                config(**{name: other})
    with pytest.raises(ValueError, match="stop_at is True; wanted a number"):
        config(stop_at=True)
    config(seed=np.int64(3), gamma=np.float32(0.5), lambda_=1, stop_at=3, hidden=[np.int64(8)])


def test_numbers_of_numpy_in_a_config_are_written_as_numbers(tmp_path):
    config = ppo.Config(seed=np.int64(3), lr=np.float32(0.5), hidden=(np.int64(4),), lanes=8)
    Run(config, make("fastpg/CartPole-v1", 8), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())["config"]
    assert (told["seed"], told["lr"], told["hidden"]) == (3, 0.5, [4])


def test_env_kwargs_make_the_environment_and_stay_with_the_run(tmp_path):
    kwargs = ["--env-kwargs", "map_name=8x8", "max_episode_steps=5", "is_slippery=False"]
    done = fastpg_("train", "FrozenLake-v1", "--steps", "300", "--json", *kwargs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run_dir"]
    wanted = {"map_name": "8x8", "max_episode_steps": 5, "is_slippery": False}
    assert json.loads((tmp_path / run / "config.json").read_text())["env_kwargs"] == wanted
    told = fastpg_("eval", run, "--episodes", "3", cwd=tmp_path)  # 64 squares: a 4x4 lake would be another space
    assert told.returncode == 0, told.stderr
    told = fastpg_("train", "--resume", run, "--env-kwargs", "max_episode_steps=6", cwd=tmp_path)
    assert told.returncode == 2 and "is of a run with env_kwargs" in told.stderr
    told = fastpg_("train", "--resume", run, "--steps", "600", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    episodes = json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1])["episodes"]
    assert episodes >= 600 // 5 - 8  # each of at most 5 steps
    assert json.loads((tmp_path / run / "config.json").read_text())["env_kwargs"] == wanted


def test_hidden_without_a_number_is_a_linear_policy(tmp_path):
    done = fastpg_(*"train fastpg/CartPole-v1 --steps 600 --json --hidden".split(), cwd=tmp_path)
    agent, _ = load(tmp_path / json.loads(done.stdout)["run_dir"])
    assert [weight.shape for weight in agent.policy.weight] == [(4, 2)]
    told = " ".join(fastpg_("train", "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    assert "none, with no number, for linear ones" in told


def test_every_table_of_settings_fits_its_algorithm():
    for env, tables in tomllib.loads(settings.TUNED.read_text()).items():
        for algo in tables:
            used, options = settings.tuned(env, algo)
            assert used == f"{env}.{algo}" and algo in cli.ALGOS
            import_module(f"fastpg.train.{algo}").Config(**options)
    assert settings.tuned("envpool:CartPole-v1", "ppo") == settings.tuned("CartPole-v1", "ppo")
    assert settings.tuned("other/CartPole-v1", "ppo") == settings.tuned("Nope-v0", "ppo") == (None, {})


def record(folder, algo, seed, steps, returns, env="E-v0", **options):
    folder.mkdir()
    about = {
        "env": env,
        "algo": algo,
        "config": {"psi": "gae", "seed": seed, **options},
        "save_every": 1,
        "fastpg": "0",
        "numpy": "2",
    }
    (folder / "config.json").write_text(json.dumps(about))
    rows = [{"steps": s, "seconds": s / 10, "mean_return": r} for s, r in zip(steps, returns, strict=True)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_curves_are_mean_and_standard_error_over_seeds(tmp_path):
    folders = [
        record(tmp_path / "a", "ppo", 0, [10, 20, 40], [None, 2.0, 6.0]),
        record(tmp_path / "b", "ppo", 1, [10, 40], [1.0, 10.0]),
        record(tmp_path / "c", "a2c", 1, [10, 20], [5.0, 7.0]),
    ]
    ppo_, a2c = curves(folders)
    assert (ppo_.env, ppo_.label, ppo_.runs, a2c.label, a2c.runs) == ("E-v0", "ppo, psi gae", 2, "a2c, psi gae", 1)
    assert ppo_.x[0] == 20 and ppo_.x[-1] == 40  # what both have; in between: 2 + 4 u and 4 + 6 u, u = (x - 20) / 20
    u = (ppo_.x - 20) / 20
    np.testing.assert_allclose(ppo_.mean, 3 + 5 * u)
    np.testing.assert_allclose(ppo_.error, (2 + 2 * u) / 2)  # of two numbers: half their distance
    np.testing.assert_allclose(a2c.error, 0)
    by_time = curves(folders, "seconds")[1]
    assert (by_time.x[0], by_time.x[-1]) == (1.0, 2.0)
    once, twice = curves(folders[:2]), curves([*folders[:2], folders[0], tmp_path / "b" / ".." / "a"])
    assert twice[0].runs == 2 and (once[0].error == twice[0].error).all()
    with pytest.raises(ValueError, match="has no row with steps and loss; it has steps, seconds, mean_return"):
        curves(folders, y="loss")
    begun = record(tmp_path / "begun", "ppo", 3, [], [])  # killed before its first update, and now in runs/*
    with pytest.warns(
        UserWarning, match="begun/metrics.jsonl has no row with steps and mean_return; it is empty; it is left out"
    ):
        assert [curve.runs for curve in curves([*folders, begun])] == [2, 1]
    with pytest.raises(ValueError, match="have no steps in common"):
        curves([record(tmp_path / "d", "ppo", 2, [100], [1.0]), folders[0]])


def test_only_runs_that_differ_in_nothing_but_the_seed_are_averaged(tmp_path):
    folders = [
        record(tmp_path / f"{seed}-{lr}", "ppo", seed, [10, 20], [1.0, 2.0], lr=lr)
        for seed in (0, 1)
        for lr in (0.1, 0.2)
    ]
    assert [(curve.label, curve.runs) for curve in curves(folders)] == [
        ("ppo, psi gae, lr 0.1", 2),
        ("ppo, psi gae, lr 0.2", 2),
    ]
    assert [curve.label for curve in curves(folders[::2])] == ["ppo, psi gae"]
    about = json.loads((folders[0] / "config.json").read_text())
    (folders[0] / "config.json").write_text(json.dumps({**about, "env_kwargs": {"gravity": 5}}))
    assert [curve.label for curve in curves(folders[::2])] == ["ppo, psi gae, env gravity 5", "ppo, psi gae"]


def test_plot_draws_runs_into_a_picture(trained, tmp_path):
    cwd, done = trained
    run = json.loads(done.stdout)["run_dir"]
    for out, start in (("c.PNG", b"\x89PNG"), ("c.svg", b"<?xml")):
        told = fastpg_("plot", run, "--out", str(tmp_path / out), "--x", "seconds", cwd=cwd)
        assert told.returncode == 0 and "one standard error" in told.stdout, told.stderr
        assert (tmp_path / out).read_bytes().startswith(start)
    told = fastpg_("plot", run, "--out", str(tmp_path / "c.doc"), cwd=cwd)
    assert told.returncode == 2 and "c.doc; wanted a file that ends in one of" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"c.PNG", "c.svg"}


def loader():
    """The loader that docs/training.md shows."""
    page = (Path(fastpg.__file__).parents[1] / "docs" / "training.md").read_text()
    (block,) = re.findall(r"```python\n(import numpy as np\n.*?)```", page, re.S)
    loader = block.partition("def load")[2].partition("return act")[0]
    assert len(loader.strip().splitlines()) <= 10
    scope = {}
    exec(compile(block, "docs/training.md", "exec"), scope)
    return scope["load"]


BOX = Box((-1.0, -0.1), (0.2, 1.0))
AGENTS = {
    "discrete": (Discrete(3), {}),
    "several choices": (MultiDiscrete((2, 4, 3)), {}),
    "bits": (MultiBinary(3), {}),
    "box": (BOX, {}),
    "half a box": (Box((-1.0,), (float("inf"),)), {"hidden": ()}),
    "standard deviation of the state": (BOX, {"state_std": True}),
    "squashed": (BOX, {"distribution": "squashed_gaussian", "state_std": True}),
    "beta": (BOX, {"distribution": "beta", "activation": "relu"}),
    "shared trunk": (Discrete(4), {"shared_trunk": True}),
    "normalised": (BOX, {"normalise_observation": True, "shared_trunk": True}),
}


@pytest.fixture(params=AGENTS)
def agent(request):
    """An agent, and observations with the actions it takes in them."""
    space, options = AGENTS[request.param]
    agent = Agent(3, space, **{"hidden": (8, 8), **options}, rng=np.random.default_rng(0))
    for net in agent.nets.values():
        net.parameter[:] = np.random.default_rng(3).standard_normal(len(net.parameter))
    observation = 5 * np.random.default_rng(4).standard_normal((50, 3)).astype(np.float32)
    if agent.normaliser is not None:
        agent.normaliser.update(observation[:20] / 9 + 1)  # so that some of the 50 are beyond 10
        assert (abs(agent.see(observation)) == 10).any()
    return agent, observation, agent.head.to_env(agent.best(observation))


def test_the_npz_loader_of_the_docs_takes_the_actions_of_the_agent(agent, tmp_path):
    agent, observation, action = agent
    np.savez(tmp_path / "policy.npz", **export.policy_arrays(agent))
    act = loader()(tmp_path / "policy.npz")
    np.testing.assert_allclose(act(observation), action, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(act(observation[0]), action[0], rtol=1e-5, atol=1e-6)


def test_the_onnx_graph_takes_the_actions_of_the_agent(agent, tmp_path):
    graph_of = pytest.importorskip("onnx").load
    runtime = pytest.importorskip("onnxruntime")
    from fastpg.adapters import onnx

    agent, observation, action = agent
    onnx.export(export.policy_arrays(agent), tmp_path / "policy.onnx")
    session = runtime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    output, got = session.run(["output", "action"], {"observation": observation})
    z = agent.policy.forward(agent.see(observation))[:, : output.shape[1]]
    np.testing.assert_allclose(output, z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got, action, rtol=1e-4, atol=1e-5)
    assert session.run(["action"], {"observation": observation[:1]})[0].shape == action[:1].shape
    graph = graph_of(tmp_path / "policy.onnx").graph
    used = {name for node in graph.node for name in node.input}
    assert {constant.name for constant in graph.initializer} <= used  # the runtime warns of others, on every load


def test_export_writes_both_and_says_what_it_cannot(trained, tmp_path):
    cwd, done = trained
    run = json.loads(done.stdout)["run_dir"]
    told = fastpg_("export", run, "--npz", str(tmp_path / "p.npz"), cwd=cwd)
    assert told.returncode == 0, told.stderr
    agent, _ = load(cwd / run)
    observation = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    assert (loader()(tmp_path / "p.npz")(observation) == agent.best(observation)).all()
    told = fastpg_("export", run, cwd=cwd)
    assert told.returncode == 2 and "wanted --onnx FILE or --npz FILE" in told.stderr


def test_a_run_folder_is_held_by_one_process(trained, tmp_path):
    cwd, done = trained
    folder = shutil.copytree(cwd / json.loads(done.stdout)["run_dir"], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with cli.held(folder):
        told = fastpg_("train", "--resume", str(folder), cwd=tmp_path)
    assert told.returncode == 2 and told.stderr.startswith(
        f"fastpg: {folder} is being trained by another process; wait"
    )
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert fastpg_("train", "--resume", str(folder), cwd=tmp_path).returncode == 0


def test_a_process_that_training_forks_dies_of_sigterm_as_it_would_elsewhere():
    script = """
import os, signal, time
from fastpg import cli
ready, tell = os.pipe()
with cli.terminable():
    if not (child := os.fork()):
        os.write(tell, b"!")
        time.sleep(60)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (f"{-signal.SIGTERM}\n", "", -signal.SIGTERM)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_seeds_end_with_the_process_that_started_them(number, code, tmp_path):
    args = "fastpg/CartPole-v1 --seeds 0:9 --steps 1000000000 --hidden 8".split()
    with training(*args, cwd=tmp_path) as process:
        process.send_signal(number)  # to it alone, not to those it started
        out, err = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in err
    folders = list(tmp_path.glob("runs/*"))
    assert 9 > out.count("FAILED") >= len(folders) > 0
    for folder in folders:
        with cli.held(folder):  # nobody trains in it any more
            assert not (folder / "metrics.jsonl").exists() or (folder / "checkpoint.npz").exists()


@pytest.mark.parametrize("again", [[], ["--tensorboard"]])
def test_tensorboard_files_hold_each_step_once_after_a_resume_too(again, tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    args = "train fastpg/CartPole-v1 --lanes 8 --rows 32 --steps 1024 --hidden 8 --tensorboard --json".split()
    folder = tmp_path / json.loads(fastpg_(*args, cwd=tmp_path).stdout)["run_dir"]
    for steps in (None, "2048"):
        if steps is not None:
            fastpg_("train", "--resume", str(folder), "--steps", steps, *again, cwd=tmp_path)
        events = accumulator.EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert len(rows) == (4 if steps is None else 8)
        for name in ("policy_loss", "entropy", "episodes"):
            got = [(event.step, event.value) for event in events.Scalars(name)]
            assert got == [(row["steps"], np.float32(row[name])) for row in rows]


def test_foreign_libraries_appear_only_in_adapters():
    import ast

    root = Path(fastpg.nets.__file__).parent if hasattr(fastpg, "nets") else Path(fastpg.__file__).parent
    for path in [root / "cli.py", root / "nets.py", *root.glob("envs/*.py"), *root.glob("train/*.py")]:
        tree = ast.parse(path.read_text())
        names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {"gymnasium", "matplotlib", "tqdm", "tyro"} & {name.partition(".")[0] for name in names}, path
        if path.parent.name in ("train", "envs") or path.name == "nets.py":
            assert not any(name.startswith(("fastpg.adapters", "fastpg.cli")) for name in names), path


def test_bench_tells_each_line_as_soon_as_it_is_measured(monkeypatch, tmp_path):
    told = []

    def rows():
        for k, (library, kernel) in enumerate([("numpy", "gae"), ("fastpg", "gae"), ("fastpg", "kl")]):
            assert len(told) == max(k, 1)  # the head, then what came before; of NumPy's no line
            of = {"kernel": kernel, "shape": (8, 8), "dtype": "float32", "layout": "rows", "library": library}
            yield {**of, "median_seconds": 1e-6, "speedup_over_numpy": 2.0, "fraction_of_copy": 0.5}

    monkeypatch.setattr(testing, "_bench_rows", rows)
    table = testing.bench(str(tmp_path / "x.json"), told.append)
    assert table == "\n".join(told)
    assert [line.split()[0] for line in told] == ["kernel", "gae", "kl"]
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 3
