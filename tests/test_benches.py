"""What the scripts of benches/ conclude from what they measured."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parent.parent / "benches"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHES))
    return importlib.import_module


def test_instruction_counts_may_grow_by_five_percent_and_no_more(script, capsys):
    compare = script("instructions").compare
    before = {"avx2": {"gae float32 rows 1x1": 1000, "mode float32 rows 1x1": 1000}}
    assert not compare(before, {"avx2": {"gae float32 rows 1x1": 1050, "mode float32 rows 1x1": 500}})
    capsys.readouterr()
    assert compare(before, {"avx2": {"gae float32 rows 1x1": 1051, "mode float32 rows 1x1": 500}})
    said = capsys.readouterr().out
    assert "GREW    +5.1 %       1000 ->      1051  avx2 gae float32 rows 1x1" in said
    assert "1 grown by more than 5 %" in said


def test_kernels_without_a_record_are_named_and_do_not_fail(script, capsys):
    compare = script("instructions").compare
    assert not compare(
        {"base": {"old f32 rows 1x1": 10}}, {"base": {"new f32 rows 1x1": 20}, "avx2": {"new f32 rows 1x1": 5}}
    )
    said = capsys.readouterr().out
    assert "2 new, not in the record: new" in said
    assert "1 gone: old" in said


def test_a_ratio_counts_only_where_every_round_agrees(script):
    verdict = script("compare").verdict
    assert verdict([1.2, 1.1, 1.3]) == "faster"
    assert verdict([0.8, 0.7, 0.9]) == "SLOWER"
    assert verdict([1.2, 0.9, 1.3]) == "same"
    assert verdict([1.02, 1.01, 1.04]) == "same"


def test_bench_compare_refuses_a_commit_that_is_not_there():
    inside = subprocess.run(["git", "rev-parse"], cwd=BENCHES, capture_output=True)
    if inside.returncode:
        pytest.skip("not a clone")
    run = subprocess.run([sys.executable, BENCHES / "compare.py", "no-such-branch"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "BASE is 'no-such-branch', which names no commit of this repository; see git log"


def _measured(commit):
    info = {"kernel": "gae", "shape": [128, 8], "layout": "time-major", "dtype": "float32", "bytes": 18432}
    about = {"commit": commit, "date": "2026-11-25", "cpu": "Some(R) Processor 7 @ 2.6GHz"}
    speeds = {"fastpg": 2e-6, "fastpg-1": 4e-6}
    return {
        "machine_info": {"fastpg": about},
        "benchmarks": [
            {"extra_info": info | {"library": library}, "stats": {"median": seconds}}
            for library, seconds in speeds.items()
        ],
    }


def test_kept_medians_are_named_by_date_commit_and_processor(script, tmp_path):
    script("table").keep(_measured("0123456789"), tmp_path)
    kept = json.loads((tmp_path / "2026-11-25-0123456789-some-processor-7-2-6ghz.json").read_text())
    assert kept["about"]["commit"] == "0123456789"
    assert [row["us"] for row in kept["medians"]] == [{"fastpg": 2.0, "fastpg-1": 4.0}]


@pytest.mark.parametrize("commit", ["0123456789+", None])
def test_medians_of_unknown_code_are_not_kept(script, tmp_path, commit):
    with pytest.raises(SystemExit, match="measured at commit"):
        script("table").keep(_measured(commit), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fraction_of_copy_is_taken_at_the_same_number_of_threads(script):
    table = script("table")
    row = table.row(
        ("gae", "128 x 8", "float32"), next(iter(table.read(_measured("x")).values())), {1: 9.216e9, 2: 18.432e9}
    )
    assert row[-3:] == ["0.50", "4.00", "0.50"]  # 18,432 bytes in 2 us and in 4 us


def test_results_run_where_it_is_fastest_unless_that_twin_has_settings_of_its_own(script):
    id_of = script("results").id_of
    tables = {"CartPole-v1.ppo": (), "fastpg/CartPole-v1.ppo": (), "CartPole-v1.a2c": (), "LunarLander-v3.ppo": ()}
    assert id_of("CartPole-v1", "a2c", tables) == "fastpg/CartPole-v1"
    assert id_of("CartPole-v1", "ppo", tables) == "CartPole-v1"
    assert id_of("fastpg/CartPole-v1", "ppo", tables) == "fastpg/CartPole-v1"
    assert id_of("LunarLander-v3", "ppo", tables) == "envpool:LunarLander-v3"
    assert id_of("BipedalWalker-v3", "ppo", tables) == "BipedalWalker-v3"


def test_results_of_twins_stand_in_one_table_with_what_others_publish(script):
    results = script("results")
    runs = [{"mean_return": mean, "seconds": 2.0, "steps": 1000, "solved_at_step": 500} for mean in (490.0, 500.0)]
    kept = {id: results.summary(id, "ppo", "fastpg", runs, id) for id in ("CartPole-v1", "fastpg/CartPole-v1")}
    kept["Pendulum"] = results.summary("Pendulum-v1", "ppo", "fastpg", runs, "fastpg/Pendulum-v1")
    page = results.page(kept)
    assert page.count("\n## ") == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    numbers = ["2", "495.0", "5.0", "490.0", "1,000", "2.0", "500"]
    assert rows[2] == ["**fastpg**, CartPole-v1", *numbers, "2/2"]
    assert rows[3] == ["**fastpg**, fastpg/CartPole-v1", *numbers, "2/2"]
    assert rows[4][0].startswith("[SB3 zoo]") and rows[4][2] == "500.0 +- 0.0"
    assert ["**fastpg**, fastpg/Pendulum-v1", *numbers, "-"] in rows  # it has no threshold


def test_a_page_keeps_all_but_what_stands_between_the_marks_of_that_name(script, tmp_path):
    into_page, path = script("table").into_page, tmp_path / "page.md"
    path.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\nkept\n<!-- y:end -->\n")
    into_page(path, "new \\1", "x")
    assert (
        path.read_text() == "a\n<!-- x:begin -->\nnew \\1\n<!-- x:end -->\nb\n<!-- y:begin -->\nkept\n<!-- y:end -->\n"
    )
    with pytest.raises(SystemExit, match="0 parts between the lines <!-- z:begin -->"):
        into_page(path, "new", "z")


def test_the_profile_of_training_accounts_for_all_of_its_time(script):
    profile = script("training_profile")
    spent, seconds = profile.shares(4, 3)
    assert sum(spent.values()) == pytest.approx(seconds)
    assert all(time > 0 for time in spent.values())
    # By hand: 4 x 64, 64 x 64 and 64 x 2 or 64 x 1 weights, a product and a sum each; 4 epochs of 3, but no gradient of observations.
    forward = 2 * (2 * (4 * 64 + 64 * 64) + 64 * 2 + 64 * 1)
    assert profile.flops_a_step() == forward + 4 * (3 * forward - 2 * 2 * 4 * 64)


def test_memory_of_training_grows_with_the_steps_of_an_update_and_no_faster(script):
    profile = script("training_profile")
    few, many, most = (profile.memory(lanes) for lanes in (64, 256, 512))
    assert most - many == pytest.approx((many - few) * 256 / 192, rel=0.25)
    assert (most - few) / (448 * 128) < 200
