"""The house rules: arrows point down, foreign libraries stay in adapters, the import is light, csrc stands without Python."""

import ast
import subprocess
import sys
from pathlib import Path

import fastpg

PACKAGE = Path(fastpg.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))

# What a module may import from fastpg, by the first part of its name below fastpg; "" is the package itself.
FLOORS = {
    "_check": {"_core"},
    "returns": {"_check"},
    "_moments": {"_check", "_core"},
    "baselines": {"_check", "_moments"},
    "normalization": {"_check", "_moments", "returns"},
    "_tokens": {"_check"},
    "groups": {"_core", "_check", "_tokens", "returns"},
    "shaping": {"_check", "_tokens"},
    "values": {"_check", "_tokens"},
    "policy": {"_check", "policy"},
    "natural": {"_check"},
    "objectives": {"_check", "_core"},
    "presets": {"_check", "_tokens", "groups", "objectives", "returns"},
    "threads": {"_core"},
    "steps": {"_numba"},
    "_loops": set(),
    "_scan": {"_check", "_loops", "steps"},
    "_numba": {"", "_core", "policy", "returns", "steps"},
    "reference": set(),
    "testing": {"", "_core", "reference"},
    "nets": {"_core"},
    "envs": {"_numba", "envs", "steps"},
    "train": {"", "_core", "_numba", "natural", "policy", "returns", "nets", "envs", "train"},
    "adapters": {"", "_core", "adapters", "envs", "train"},
    "cli": {"", "_core", "adapters", "train", "envs", "nets", "testing"},
    "__main__": {"cli"},
    "": {
        *("_scan", "baselines", "groups", "natural", "normalization", "objectives", "policy", "presets", "returns"),
        *("shaping", "steps", "threads", "values"),
    },
}
CORE = {"numpy", "scipy", "numba", "llvmlite"}


def imports(path):
    """The modules that a file names in its import statements, in full."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module in ("fastpg", "fastpg.train", "fastpg.adapters"):
                for alias in node.names:
                    inner = PACKAGE.joinpath(*node.module.split(".")[1:], alias.name)
                    known = inner.with_suffix(".py").exists() or inner.is_dir() or alias.name == "_core"
                    yield f"{node.module}.{alias.name}" if known else node.module
            else:
                yield node.module


def place(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def test_arrows_point_down_and_skip_no_floor():
    wrong = []
    for path in MODULES:
        for name in imports(path):
            if name == "fastpg" or name.startswith("fastpg."):
                floor = name.split(".")[1] if "." in name else ""
                if floor not in FLOORS[place(path)] and floor != place(path):
                    wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_foreign_libraries_appear_only_in_adapters():
    wrong = []
    for path in MODULES:
        for name in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in CORE or top == "fastpg" or place(path) == "adapters":
                continue
            wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_training_loops_never_import_each_other():
    loops = {p.stem for p in (PACKAGE / "train").glob("*.py") if "\nclass Config" in p.read_text()}
    assert len(loops) == 5
    for path in (PACKAGE / "train").glob("*.py"):
        assert not {name.split(".")[-1] for name in imports(path) if name.startswith("fastpg.train.")} & loops, path


def test_importing_fastpg_imports_neither_numba_nor_any_extra():
    code = "import sys, fastpg; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"numba", "llvmlite", "gymnasium", "matplotlib", "tqdm", "tyro", "torch", "scipy"}


def test_every_public_name_is_documented_with_an_example():
    policies = [getattr(fastpg, name) for name in fastpg.policy.__all__]
    modules = [
        *(fastpg.returns, fastpg.baselines, fastpg.normalization, fastpg.groups, fastpg.shaping, fastpg.values),
        *(fastpg.objectives, fastpg.presets, fastpg.natural, *policies),
    ]
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                assert ">>>" in (thing.__doc__ or ""), f"{module.__name__}.{name}"


def test_fastpg_isa_picks_an_instruction_set_and_refuses_an_unknown_one():
    code = "from fastpg import _core; print(_core.isa())"
    for isa in ("base", *fastpg._check._core.isas()):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"FASTPG_ISA": isa})
        assert run.stdout.strip() == isa
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"FASTPG_ISA": "mmx"})
    assert run.returncode != 0
    assert "FASTPG_ISA: instruction set 'mmx' is not available; this machine runs base" in run.stderr
