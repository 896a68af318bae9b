"""What the README and the examples show a newcomer runs, and its commands exist."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_python_block_of_the_readme_runs_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    scope = {}
    for k, block in enumerate(blocks):
        source = block.replace("@njit(cache=True)", "@njit")  # a block has no file to cache beside
        exec(compile(source, f"README block {k}", "exec"), scope)
    assert scope["score"].shape == (1024, 4)
    args = (scope[name] for name in ("reward", "value", "next_value", "terminated", "truncated"))
    assert (scope["advantage_of"](*args) == scope["advantage"]).all()


def test_the_python_of_the_page_on_training_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "training.md").read_text()
    section = page.split("## In Python")[1].split("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("gymnasium")
    scope = {}
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], scope)
    assert scope["returns"].shape == (100,) and scope["returns"].mean() > 100 and scope["about"]["steps"] >= 20_000
    for path in re.findall(r"\]\(\.\./([\w/.]+)\)", section):
        assert (ROOT / path).is_file()


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for command in re.findall(r"make ([a-z-]+)", README):
        assert command in targets


def test_the_table_of_speeds_was_written_by_the_script():
    table = README.split("<!-- speeds:begin -->")[1].split("<!-- speeds:end -->")[0]
    assert "| `gae`" in table and "NumPy" in table


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
