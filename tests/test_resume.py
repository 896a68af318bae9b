"""Runs that are killed, damaged, out of disk or resumed with something else: real processes, killed for real."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fastpg
from fastpg import cli
from fastpg.envs import make
from fastpg.envs.spaces import Discrete
from fastpg.train import checkpoint, ppo, reinforce
from fastpg.train.agent import Agent
from fastpg.train.run import Run, evaluate, load

for extra in ("gymnasium", "matplotlib", "tqdm", "tyro"):
    pytest.importorskip(extra)

# Checkpoints every few updates of each loop, so that there are many moments between, before and after them.
OPTIONS = "--settings none --hidden 8 8 --save-every 1500 --seed 3 --json".split()
STEPS = {"fastpg/CartPole-v1": 40_000, "CartPole-v1": 20_000}
START = "import sys; from fastpg.cli import main; sys.exit(main(sys.argv[1:]))"


def command(*args, code=START):
    return [sys.executable, "-c", code, "train", *map(str, args)]


def train(*args, cwd, code=START, **kwargs):
    return subprocess.run(command(*args, code=code), cwd=cwd, capture_output=True, text=True, timeout=120, **kwargs)


def state(folder):
    """The arrays and the random stream of a run's newest checkpoint."""
    arrays, about = checkpoint.read(folder / "checkpoint.npz")
    return arrays, about["rng"], about["steps"]


def assert_same(one, other):
    (a, rng_a, steps_a), (b, rng_b, steps_b) = state(one), state(other)
    assert steps_a == steps_b and rng_a == rng_b and a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    for row in rows[0] + rows[1]:
        del row["seconds"], row["steps_per_second"]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run that nobody interrupted, by environment and algorithm."""
    made = {}

    def get(env, algo):
        if (env, algo) not in made:
            cwd = tmp_path_factory.mktemp("whole")
            done = train(env, "--algo", algo, "--steps", STEPS[env], *OPTIONS, cwd=cwd)
            assert done.returncode == 0, done.stderr
            made[env, algo] = cwd / json.loads(done.stdout)["run_dir"]
        return made[env, algo]

    return get


def steps_so_far(folder):
    """Of the last full line of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["steps"] if lines else 0


@pytest.mark.parametrize("env", STEPS)
@pytest.mark.parametrize("algo", cli.ALGOS)
def test_a_run_killed_at_random_moments_and_resumed_equals_one_never_interrupted(env, algo, uninterrupted, tmp_path):
    whole = uninterrupted(env, algo)
    pick = random.Random(f"{env} {algo}")
    args = [env, "--algo", algo, "--steps", STEPS[env], *OPTIONS]
    kills = 0
    for at in (0.15, 0.4, 0.7):
        with subprocess.Popen(command(*args), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            give_up = time.monotonic() + 100
            while process.poll() is None and time.monotonic() < give_up:
                folders = list(tmp_path.glob("runs/*"))
                if folders and steps_so_far(folders[0]) >= at * STEPS[env]:
                    time.sleep(pick.random() * 0.03)
                    process.kill()
                    break
                time.sleep(0.002)
            _, err = process.communicate(timeout=60)
            assert process.returncode in (-signal.SIGKILL, 0), err
            kills += process.returncode == -signal.SIGKILL
        (folder,) = tmp_path.glob("runs/*")
        args = ["--resume", folder, "--json"]
    done = train(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kills >= 2
    assert_same(folder, whole)
    result = json.loads(done.stdout)
    expected = json.loads((whole / "result.json").read_text())
    same = ("env", "algo", "psi", "seed", "steps", "mean_return", "solved_at_step", "settings")
    assert [result[name] for name in same] == [expected[name] for name in same]
    assert not list(folder.glob(".*")), "half-written files are left"


KILL = """
import os, signal, sys
from fastpg.cli import main
from fastpg.train import checkpoint
calls, real = 0, os.{function}
def {function}(*args):
    global calls
    calls += {counts}
    if calls == {at} and {before}: os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
    if calls == {at}: os.kill(os.getpid(), signal.SIGKILL)
os.{function} = {function}
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("function", "counts", "at"),
    [
        ("fsync", "1", 1),  # config.json
        ("fsync", "1", 2),  # the first checkpoint
        ("fsync", "1", 5),
        ("replace", "1", 1),
        ("replace", "1", 2),
        ("replace", "str(args[1]).endswith('previous.npz')", 1),  # between the two renames
        ("replace", "str(args[1]).endswith('previous.npz')", 4),
        ("replace", "str(args[1]).endswith('checkpoint.npz')", 4),
    ],
)
def test_a_run_killed_while_it_writes_loses_nothing(function, counts, at, before, uninterrupted, tmp_path):
    env, algo = "CartPole-v1", "ppo"
    code = KILL.format(function=function, counts=counts, at=at, before=before)
    done = train(env, "--algo", algo, "--steps", STEPS[env], *OPTIONS, cwd=tmp_path, code=code)
    assert done.returncode == -signal.SIGKILL
    (folder,) = tmp_path.glob("runs/*")
    if not (folder / "config.json").exists():  # nothing was begun
        done = train("--resume", folder, cwd=tmp_path)
        assert done.returncode == 2 and "is not a run folder: it has no config.json" in done.stderr
        return
    done = train("--resume", folder, "--json", cwd=tmp_path)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert_same(folder, uninterrupted(env, algo))
    assert not list(folder.glob(".*"))


def test_resuming_twice_and_resuming_what_is_finished_change_nothing(uninterrupted, tmp_path):
    whole = uninterrupted("CartPole-v1", "ppo")
    folder = shutil.copytree(whole, tmp_path / "copy")
    done = train("--resume", folder, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(folder, whole)
    first, again = json.loads((whole / "result.json").read_text()), json.loads(done.stdout)
    assert first["mean_return"] == again["mean_return"] and again["run_dir"] == str(folder)


def test_a_larger_number_of_steps_trains_on(uninterrupted, tmp_path):
    whole = uninterrupted("CartPole-v1", "ppo")
    folder = shutil.copytree(whole, tmp_path / "copy")
    done = train("--resume", folder, "--steps", STEPS["CartPole-v1"] + 3000, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert STEPS["CartPole-v1"] + 3000 <= json.loads(done.stdout)["steps"]
    assert json.loads((folder / "config.json").read_text())["config"]["steps"] == STEPS["CartPole-v1"] + 3000
    old, new = ((f / "metrics.jsonl").read_text().splitlines() for f in (whole, folder))
    assert new[: len(old)] == old and len(new) > len(old)
    again = train("--resume", folder, "--json", cwd=tmp_path)  # the larger number is kept
    assert json.loads(again.stdout)["steps"] == json.loads(done.stdout)["steps"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(damage, uninterrupted, tmp_path):
    whole = uninterrupted("CartPole-v1", "reinforce")
    folder = shutil.copytree(whole, tmp_path / "copy")
    path = folder / "checkpoint.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes({"cut": content[:-1000], "flip": content, "empty": b"", "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    previous = checkpoint.read(folder / "previous.npz")[1]["steps"]
    done = train("--resume", folder, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    named = f"fastpg: warning: {path} is not a fastpg checkpoint, or it is damaged: its checksum does not match"
    assert (f"{named}; using {folder / 'previous.npz'}, of step {previous:,}" in done.stderr) == (damage != "gone")
    assert_same(folder, whole)


@pytest.mark.parametrize("bit", range(0, 8))
def test_one_flipped_bit_anywhere_is_noticed(bit, tmp_path):
    agent = Agent(2, Discrete(2), (2,), np.random.default_rng(0))
    path = tmp_path / "checkpoint.npz"
    checkpoint.write(path, agent.state(), {"n": 1})
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="checkpoint.npz is not a fastpg checkpoint, or it is damaged"):
            checkpoint.read(path)


def test_two_damaged_checkpoints_are_an_error_that_names_both(uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted("CartPole-v1", "ppo"), tmp_path / "copy")
    for name in ("checkpoint.npz", "previous.npz"):
        (folder / name).write_bytes(b"PK")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = train("--resume", folder, cwd=tmp_path)
    assert done.returncode == 2 and "no checkpoint of" in done.stderr and "train anew" in done.stderr
    assert "checkpoint.npz is not" in done.stderr and "previous.npz is not" in done.stderr
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_loading_a_checkpoint_executes_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    checkpoint.write(tmp_path / "checkpoint.npz", {"a": np.array([Bomb()], object)}, {"n": 1})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        checkpoint.read(tmp_path / "checkpoint.npz")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--lr", "0.5"], "of a run with lr 0.001, this one has 0.5"),
        (["--save-every", "77"], "of a run with save_every 1500, this one has 77"),
        (["fastpg/CartPole-v1"], "of a run with env 'CartPole-v1', this one has 'fastpg/CartPole-v1'"),
        (["--algo", "reinforce"], "is a run of ppo, but --algo is 'reinforce'"),
        (["--seed", "4"], "of a run with seed 3, this one has 4"),
        (["--seeds", "0:2"], "takes neither --seeds nor --runs"),
        (["--gamma", "2"], "gamma is 2.0"),
    ],
)
def test_only_steps_and_stop_at_may_change(args, words, uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted("CartPole-v1", "ppo"), tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = train("--resume", folder, *args, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def rewritten(folder, change):
    """Lets `change` edit the lines of metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(change(lines)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:5], b"hello\n", *lines[5:]], "line 6 of {} is damaged: Expecting value"),
        (lambda lines: [*lines[:5], b"{}\n", *lines[5:]], "line 6 of {} is damaged: 'steps'"),
        (lambda lines: [*lines[:5], b'{"steps": "x"}\n', *lines[5:]], "line 6 of {} is damaged"),
        (lambda lines: [*lines[:5], *lines[3:]], "line 6 of {} is damaged: step 4096 comes after step 5120"),
    ],
)
def test_a_damaged_line_of_metrics_is_named_and_nothing_after_it_dropped(change, words, uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted("CartPole-v1", "ppo"), tmp_path / "copy")
    rewritten(folder, change)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for command in (["train", "--resume", folder], ["plot", folder, "--out", tmp_path / "curve.png"]):
        args = [sys.executable, "-m", "fastpg", *map(str, command)]
        done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and words.format(folder / "metrics.jsonl") in done.stderr, done.stderr
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_metrics_with_the_line_ends_of_windows_are_read(uninterrupted, tmp_path):
    whole = uninterrupted("CartPole-v1", "ppo")
    folder = shutil.copytree(whole, tmp_path / "copy")
    rewritten(folder, lambda lines: [line.replace(b"\n", b"\r\n") for line in lines])
    assert train("--resume", folder, cwd=tmp_path).returncode == 0
    assert_same(folder, whole)


def test_lost_metrics_are_a_warning_and_move_no_checkpoint(tmp_path):
    _, config = small("ppo", 200)
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    half.mkdir()
    ppo.train(config, Counter(), Run(config, Counter(), whole, save_every=60))

    def stop(row):
        if row["steps"] == 120:  # a checkpoint was written just now
            raise KeyboardInterrupt

    env, again = Counter(), Counter()
    with pytest.raises(KeyboardInterrupt):
        ppo.train(config, env, Run(config, env, half, stop, save_every=60))
    (half / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="metrics.jsonl lacks rows before step 120, from which training goes on"):
        run = Run(config, again, half, save_every=60, resume=True)
    again.t = 60
    ppo.train(config, again, run)
    assert [t for t, _ in again.resets] == [60, 90] and folder_state(half) == folder_state(whole)


def edited(folder, **changes):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, **changes}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "is not a run folder: it has no config.json"),
        (lambda folder: (folder / "config.json").unlink(), "is not a run folder: it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json is damaged: it has no"),
        (
            lambda folder: edited(folder, env="Acrobot-v1"),
            "is of a run with env 'CartPole-v1', this one has 'Acrobot-v1'",
        ),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json is damaged: it has no"),
        (lambda folder: edited(folder, config=[1]), "config.json is damaged: its config is [1]"),
        (lambda folder: edited(folder, save_every="x"), "config.json is damaged: its save_every is 'x'"),
        (lambda folder: edited(folder, env=3), "config.json is damaged: its env is 3"),
        (lambda folder: edited(folder, config={"lr": "x"}), "lr is 'x'; wanted a number"),
        (lambda folder: edited(folder, algo="sarsa"), "algo is 'sarsa'; wanted one of ppo"),
        (lambda folder: edited(folder, config={"warp": 9}, fastpg="9.9"), "(begun with fastpg 9.9) has warp"),
    ],
)
def test_a_folder_that_is_not_this_run_is_refused(damage, words, uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted("CartPole-v1", "ppo"), tmp_path / "copy")
    damage(folder)
    done = train("--resume", folder, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_another_version_in_the_checkpoint_is_a_warning(uninterrupted, tmp_path):
    whole = uninterrupted("CartPole-v1", "ppo")
    folder = shutil.copytree(whole, tmp_path / "copy")
    arrays, about = checkpoint.read(folder / "checkpoint.npz")
    checkpoint.write(folder / "checkpoint.npz", arrays, {**about, "fastpg": "0.0.1"})
    done = train("--resume", folder, "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert f"was written with fastpg 0.0.1, this is {fastpg.__version__}: training goes on, but" in done.stderr
    # An array it does not know, or of another shape, is an error that names both versions.
    for change in ({"agent.policy": np.zeros(3, np.float32)}, {"policy_adam.m": arrays["run.return"]}):
        checkpoint.write(folder / "checkpoint.npz", arrays | change, {**about, "fastpg": "0.0.1"})
        edited(folder, fastpg="0.0.1")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        done = train("--resume", folder, "--json", cwd=tmp_path)
        assert (
            done.returncode == 2 and f"written by fastpg 0.0.1, this is {fastpg.__version__}: use that" in done.stderr
        )
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def folder_state(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent, about = load(folder)
    return agent.policy.parameter.tobytes(), about["steps"]


@pytest.mark.parametrize("what", ["write", "fsync"])
def test_a_full_disk_keeps_the_checkpoint_and_says_what_to_do(what, tmp_path, monkeypatch):
    config, env = ppo.Config(steps=4096, rows=32, hidden=(8,)), make("fastpg/CartPole-v1", 8)
    full = {"at": 1500}
    run = Run(config, env, tmp_path, save_every=1000)

    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_up(row):  # between two checkpoints the disk becomes full
        if row["steps"] > full["at"]:
            if what == "fsync":
                monkeypatch.setattr(os, "fsync", no_space)
            else:
                monkeypatch.setattr("builtins.open", no_space)

    run.listeners.append(fill_up)
    with pytest.raises(OSError, match=r"No space left on device; make room .* step 1,024 in .* --resume"):
        ppo.train(config, env, run)
    monkeypatch.undo()
    assert folder_state(tmp_path)[1] == 1024 and not list(tmp_path.glob(".*"))
    ppo.train(config, env, Run(config, env, tmp_path, save_every=1000, resume=True))
    whole = tmp_path / "whole"
    whole.mkdir()
    ppo.train(config, env, Run(config, env, whole, save_every=1000))
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("most", [9_000, 20_000])
def test_a_file_size_limit_is_an_error_that_loses_nothing(most, uninterrupted, tmp_path):
    whole = uninterrupted("CartPole-v1", "ppo")
    args = ["CartPole-v1", "--steps", STEPS["CartPole-v1"], *OPTIONS]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
    done = train(*args, cwd=tmp_path, preexec_fn=limit)
    (folder,) = tmp_path.glob("runs/*")
    assert done.returncode == 2 and "File too large; make room there" in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("fastpg: cannot write to")
    assert not list(folder.glob(".*"))
    if most < 10_000:  # no checkpoint fits
        assert not (folder / "checkpoint.npz").exists() and "(no checkpoint yet)" in done.stderr
    else:  # metrics.jsonl outgrows it; what was learned until then is kept
        assert folder_state(folder)[1] == steps_so_far(folder) > 0
    done = train("--resume", folder, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if most < 10_000:
        assert_same(folder, whole)
    assert state(folder)[2] == state(whole)[2]


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_read_only_run_folder_is_left_as_it_is(uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted("CartPole-v1", "ppo"), tmp_path / "copy")
    edit = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    for path in (tmp_path, *tmp_path.parents):
        if edit and not path.stat().st_mode & 0o005:
            pytest.skip("another user cannot read the folder of this test")
    folder.chmod(0o555)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = train("--resume", folder, "--steps", 90_000, cwd=tmp_path, **edit)
    assert (
        done.returncode == 2
        and f"cannot write to {folder}: Permission denied; make room there, or make it" in done.stderr
    )
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o755)


class Counter:
    """Two lanes, observations that count steps, episodes of five; may go wrong at the step asked for."""

    id, lanes, observation_size, action_space, reward_threshold = "Counter-v0", 2, 2, Discrete(2), None

    def __init__(self, wrong=lambda t, observation: None):
        self.t, self.wrong, self.resets = 0, wrong, []

    def observe(self):
        return np.full((2, 2), self.t % 7, np.float32)

    def reset(self, *, seed=None):
        self.resets.append((self.t, seed))
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        observation = self.observe()
        reward = action + 1.0
        self.wrong(self.t, (observation, reward))
        ended = np.full(2, self.t % 5 == 0)
        return observation, reward, ended, ~ended & False, {"final_obs": observation}

    def close(self):
        pass


def small(algo, steps):
    """A short run of two lanes, an update every ten rows or so."""
    page = import_module(f"fastpg.train.{algo}")
    has = {field.name for field in dataclasses.fields(page.Config)}
    options = {"rows": 10, "longest": 20, "group": 2, "minibatches": 2, "minibatch": 20, "epochs": 2}
    given = {name: value for name, value in options.items() if name in has}
    return page, page.Config(steps=steps, lanes=2, hidden=(4,), **given)


def test_an_environment_that_cannot_be_restored_is_reset_at_checkpoints_with_or_without_a_folder(tmp_path):
    _, config = small("ppo", 200)
    env, other = Counter(), Counter()
    one = ppo.train(config, env, Run(config, env, tmp_path, save_every=60))
    two = ppo.train(config, other, Run(config, other, save_every=60))
    assert [t for t, _ in env.resets] == [0, 30, 60, 90] and env.resets == other.resets
    assert len({seed for _, seed in env.resets}) == 4
    assert one.policy.parameter.tobytes() == two.policy.parameter.tobytes()


class Restorable(Counter):
    """The same, with state() and restore()."""

    def state(self):
        return {"t": np.array(self.t)}

    def restore(self, saved):
        self.t = int(saved["t"])


@pytest.mark.parametrize("algo", cli.ALGOS)
def test_an_environment_that_can_be_restored_goes_on_where_it_was(algo, tmp_path):
    page, config = small(algo, 300)
    env = Restorable()
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    half.mkdir()
    page.train(config, env, Run(config, env, whole, save_every=60))
    assert [t for t, seed in env.resets if isinstance(seed, int)] == [0]  # GRPO's own have a seed for each lane

    def stop(row):
        if row["steps"] >= 150:
            raise KeyboardInterrupt  # and even then the last finished update is kept

    env = Restorable()
    with pytest.raises(KeyboardInterrupt):
        page.train(config, env, Run(config, env, half, stop, save_every=60))
    again = Restorable()
    run = Run(config, again, half, save_every=60, resume=True)
    assert run.steps >= 150 and run.steps == run.saved_steps
    page.train(config, again, run)
    assert not any(isinstance(seed, int) for _, seed in again.resets)
    assert_same(whole, half)


def at(step, change):
    def wrong(t, step_of):
        if t == step:
            change(*step_of)

    return wrong


def nan_observation(observation, reward):
    observation[...] = np.nan


def nan_reward(observation, reward):
    reward[...] = np.nan


@pytest.mark.parametrize("algo", cli.ALGOS)
@pytest.mark.parametrize("change", [nan_observation, nan_reward])
def test_nan_from_the_environment_stops_training_with_the_last_finished_update_kept(algo, change, tmp_path):
    page, config = small(algo, 400)
    env = Counter(at(75, change))
    words = (
        "holds NaN" if change is nan_observation else "Counter-v0, lane 0: the reward is nan .* mend the environment"
    )
    with pytest.raises((FloatingPointError, ValueError), match=words), np.errstate(all="ignore"):
        page.train(config, env, Run(config, env, tmp_path))
    parameter, steps = folder_state(tmp_path)
    assert 60 < steps < 150 and np.isfinite(np.frombuffer(parameter, np.float32)).all()


BROKEN = """
import sys, gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
class Broken(CartPoleEnv):
    total = 0
    def step(self, action):
        Broken.total += 1
        if Broken.total == 6000:
            raise ZeroDivisionError("the pole has no mass")
        observation, *rest = super().step(action)
        return observation, *rest
gymnasium.register("Broken-v0", lambda **_: Broken(), max_episode_steps=500)
from fastpg.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_environment_that_raises_is_named_and_the_run_can_go_on(tmp_path):
    done = train("Broken-v0", "--steps", 9000, *OPTIONS, cwd=tmp_path, code=BROKEN)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and done.stdout == ""
    assert (
        last.startswith("fastpg: ")
        and "the pole has no mass (ZeroDivisionError in <string>, line 9): mend that" in last
    )
    assert "(checkpoint of step 5," in last
    (folder,) = tmp_path.glob("runs/*")
    assert f"--resume {folder.relative_to(tmp_path)}" in last
    mended = BROKEN.replace("6000", "-1")
    done = train("--resume", folder, "--json", cwd=tmp_path, code=mended)
    assert done.returncode == 0 and json.loads(done.stdout)["steps"] >= 9000, done.stderr


def test_a_checkpoint_gives_back_every_parameter(tmp_path):
    config, env = reinforce.Config(steps=2000, hidden=(7, 6)), make("fastpg/CartPole-v1", 8)
    agent = reinforce.train(config, env, Run(config, env, tmp_path))
    for path in (tmp_path, tmp_path / "checkpoint.npz"):
        again, about = load(path)
        assert (about["env"], about["algo"]) == ("fastpg/CartPole-v1", "reinforce")
        for name, array in agent.state().items():
            assert again.state()[name].tobytes() == array.tobytes()
        assert (evaluate(again, env, 5) == evaluate(agent, env, 5)).all()
    with np.load(tmp_path / "checkpoint.npz", allow_pickle=False) as file:  # plain NumPy reads it
        assert np.array_equal(file["agent.policy"], agent.policy.parameter)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(tmp_path)
    checkpoint.write(tmp_path / "good.npz", {"a": np.ones(3)}, {"n": 1})
    whole = (tmp_path / "good.npz").read_bytes()
    np.savez(tmp_path / "strange.npz", a=np.ones(3))
    for name, content in (("empty", b""), ("text", b"hello"), ("half", whole[: len(whole) // 2])):
        (tmp_path / f"{name}.npz").write_bytes(content)
    for name in ("empty", "text", "half", "strange"):
        with pytest.raises(ValueError, match="is not a fastpg checkpoint"):
            load(tmp_path / f"{name}.npz")


def test_a_checkpoint_is_replaced_never_rewritten_and_the_one_before_stays(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.write(path, {"a": np.ones(3)}, {"n": 1})
    Path(tmp_path / "open").hardlink_to(path)  # as a reader that has it open
    checkpoint.write(path, {"a": np.ones(3)}, {"n": 2})
    assert [checkpoint.read(tmp_path / name)[1]["n"] for name in ("open", "checkpoint.npz", "previous.npz")] == [
        1,
        2,
        1,
    ]


def test_a_checkpoint_is_written_at_the_end_and_every_save_every_steps_only(tmp_path, monkeypatch):
    written = []
    real = checkpoint.write
    monkeypatch.setattr("fastpg.train.run.write", lambda path, *of: written.append(of[1]["steps"]) or real(path, *of))
    _, config = small("ppo", 200)
    ppo.train(config, Counter(), Run(config, Counter(), tmp_path))
    assert written == [200]
    written.clear()
    ppo.train(config, Counter(), Run(config, Counter(), tmp_path, save_every=50))
    assert written == [60, 100, 160, 200]


@pytest.mark.parametrize("chance", [0.0, 0.01, 0.3, 1.0])
def test_counting_rows_at_once_equals_counting_step_by_step(chance):
    rng = np.random.default_rng(0)
    config, env = ppo.Config(), Counter()
    env.lanes, env.reward_threshold = 3, 0.1
    run = Run(config, env)
    recent, lane, episodes, steps, solved = [], np.zeros(3), 0, 0, None
    lengths, age = [], np.zeros(3)
    for T in (1, 7, 200, 50):
        reward, ended = rng.standard_normal((T, 3)).astype(np.float32), rng.random((T, 3)) < chance
        run.count(reward, ended)
        for t in range(T):
            steps += 3
            for n in range(3):
                lane[n] += reward[t, n]
                age[n] += 1
                if ended[t, n]:
                    recent, episodes, lane[n] = [*recent, lane[n]][-100:], episodes + 1, 0.0
                    lengths, age[n] = [*lengths, age[n]][-100:], 0
                    if solved is None and len(recent) == 100 and sum(recent) / 100 >= 0.1:
                        solved = steps
        assert (run.steps, run.episodes, run.solved_at_step) == (steps, episodes, solved)
        assert run.mean_return == (pytest.approx(sum(recent) / len(recent)) if recent else None)
        np.testing.assert_allclose(run._return, lane, atol=1e-12)
        run.log()
        assert run.metrics[-1]["mean_length"] == (sum(lengths) / len(lengths) if lengths else None)
        assert (run._length == age).all()
    assert chance < 0.3 or solved


def test_after_a_restart_returns_and_lengths_begin_anew():
    config = ppo.Config(lanes=2)
    run = Run(config, make("fastpg/CartPole-v1", 2))
    run.count(np.ones((5, 2), np.float32), np.zeros((5, 2), bool))
    run.restart()
    run.count(np.ones((3, 2), np.float32), np.array([[False] * 2] * 2 + [[True, False]]))
    run.log()
    assert (run.metrics[-1]["mean_return"], run.metrics[-1]["mean_length"]) == (3, 3)
