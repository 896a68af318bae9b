"""Writes docs/presets.md from the dataclasses of fastpg.presets: python docs/presets.py."""

import dataclasses
from pathlib import Path

from fastpg.presets import PRESETS, Preset

TARGET = Path(__file__).with_suffix(".md")
HEAD = """# Presets

The conventions of the field's libraries, as `fastpg.PRESETS[name]` holds them; a dash where a library has none of that kind, "no bound"
where it has none. Written by `docs/presets.py` from the dataclasses in `fastpg/presets.py`; edit those.

`fastpg.compare_presets(batch, "trl", "verl")` prints how two of them differ on one batch, term by term.
"""
TABLES = {
    "Losses": ("objective", "options", "aggregate", "denominator", "log_ratio_bound"),
    "KL to the reference": ("kl", "kl_gradient", "kl_bound", "kl_clip"),
    "Advantages": ("group", "gamma", "lambda_", "time_limit", "whiten"),
}


def cell(preset: Preset, column: str) -> str:
    if column == "options":
        return ", ".join(f"{name} {value}" for name, value in preset.options.items()) or "-"
    if column == "denominator":
        if preset.per_length:
            return f"{'sequences' if preset.per_length == 'rows' else 'sequences with a token'} x length"
        if preset.aggregate.startswith("seq"):
            return "sequences" if preset.empty_rows else "sequences with a token"
        return "tokens"
    if column == "whiten":
        return "-" if preset.whiten_ddof is None else f"ddof {preset.whiten_ddof}, std + {preset.whiten_eps:g}"
    value = getattr(preset, column)
    if value is None:
        return "no bound" if column in ("log_ratio_bound", "kl_bound", "kl_clip") else "-"
    return str(value)


def shown(preset: Preset, table: str) -> bool:
    if table == "KL to the reference":
        return preset.kl is not None
    return table == "Losses" or preset.group is not None or preset.gamma is not None


def text() -> str:
    parts = [HEAD]
    for table, columns in TABLES.items():
        rows = [
            ("preset", *columns),
            *((p.name, *(cell(p, c) for c in columns)) for p in PRESETS.values() if shown(p, table)),
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
        lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
        parts.append(f"## {table}\n\n" + "\n".join(lines) + "\n")
    sources = "\n".join(f"- `{p.name}`: {p.source}" for p in PRESETS.values())
    unread = sorted(
        {f.name for f in dataclasses.fields(Preset)} - {c for t in TABLES.values() for c in t} - READ_ELSEWHERE
    )
    assert not unread, f"no column shows {unread}"
    return "\n".join([*parts, f"## Sources\n\n{sources}\n"])


# Shown in a column under another name, or, the gradient at a bound, one for all: that of PyTorch's clamp.
READ_ELSEWHERE = {"name", "source", "empty_rows", "per_length", "whiten_ddof", "whiten_eps", "kl_bound_gradient"}

if __name__ == "__main__":
    TARGET.write_text(text())
