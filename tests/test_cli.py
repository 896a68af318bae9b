"""The command line, run as its users run it: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastpg

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
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 16  # of 8 lanes x 32 rows, 4000 steps
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
    args = "train fastpg/CartPole-v1 --algo reinforce --steps=3000 --runs elsewhere"
    done = fastpg_(*args.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "elsewhere").iterdir()
    assert folder.name.startswith("fastpg-CartPole-v1-reinforce-0-")
    for words in ("psi baselined", "trained", "mean return", str(folder.relative_to(tmp_path))):
        assert words in done.stdout


def test_ctrl_c_leaves_a_checkpoint_that_eval_plays(tmp_path):
    command = [*COMMAND, "train", "fastpg/CartPole-v1", "--steps", "100000000", "--json"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have started us in the background, where SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.npz")
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    assert f"interrupted; checkpoint in {checkpoint.relative_to(tmp_path)}" in err
    told = fastpg_("eval", str(checkpoint), "--episodes", "3", "--json", cwd=tmp_path)
    assert told.returncode == 0 and json.loads(told.stdout)["trained_steps"] > 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "usage: fastpg COMMAND"),
        (["fly"], "command is 'fly'; wanted one of train, eval, bench, selftest, info"),
        (["train"], "ENV"),
        (["train", "Nope-v1"], "env is 'Nope-v1'"),
        (["train", "fastpg/Nope-v1"], "id is 'fastpg/Nope-v1'; built in: fastpg/CartPole-v1"),
        (["train", "envpool:Nope-v1"], "envpool"),
        (["train", "CartPole-v1", "--algo", "sarsa"], "--algo is 'sarsa'; wanted one of ppo, reinforce"),
        (["train", "CartPole-v1", "--algo"], "--algo is ''"),
        (["train", "CartPole-v1", "--psi", "best"], "invalid choice 'best'"),
        (["train", "CartPole-v1", "--gamma", "2"], "gamma is 2.0; wanted a number in [0, 1]"),
        (["train", "CartPole-v1", "--seed", "x"], "--seed"),
        (["train", "CartPole-v1", "--value-epochs", "3"], "--value-epochs"),  # REINFORCE has it, PPO has not
        (["train", "CartPole-v1", "--runs", "/dev/null"], "/dev/null"),
        (["eval", "nowhere"], "no checkpoint at nowhere"),
        (["eval", sys.executable], "is not a fastpg checkpoint"),
        (["bench", "--jsn", "x"], "--jsn"),
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


@pytest.mark.parametrize("command", ["train", "eval", "bench", "selftest", "info"])
def test_every_command_explains_itself(command, tmp_path):
    done = fastpg_(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"fastpg {command}" in done.stdout


@pytest.mark.parametrize("algo", ["ppo", "reinforce"])
def test_train_help_lists_each_field_of_the_config_with_its_sentence(algo, tmp_path):
    from dataclasses import fields
    from importlib import import_module

    done = fastpg_("train", "--algo", algo, "--help", cwd=tmp_path)
    text = " ".join(done.stdout.replace("│", " ").split())
    for field in fields(import_module(f"fastpg.train.{algo}").Config):
        assert f"--{field.name.replace('_', '-')}" in text.replace("lambda_", "lambda-")
    for sentence in ("of initial weights, environment and actions", "gae,td_residual", "environments side by side"):
        assert sentence in text


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
        "import fastpg.train.ppo, fastpg.train.reinforce;"
        "print([name for name in ('gymnasium', 'matplotlib', 'tqdm', 'tyro', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.stdout == "[]\n", done.stderr


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
