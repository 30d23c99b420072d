"""CONFORMANCE.md: the totals, one row per model, and the reason for each ✗ and ○."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from typing import Any

from models_zoo.conformance.checks import COLUMNS

Rows = dict[str, dict[str, Any]]
ORACLES = ("parity", "permutation", "masked", "growth", "rotation", "shrink", "shallower", "deeper")
TITLES = (
    "build",
    "capture",
    "parity",
    "permute",
    "mask",
    "grow",
    "rotate",
    "shrink",
    "½ depth",
    "2× depth",
    "into class",
    "ONNX",
)
HEADS = dict(zip(COLUMNS, TITLES, strict=True))
INTRODUCTION = """# Conformance

Every model of the field, tiny and random, through everything that graphclone promises. Made by `python -m models_zoo.conformance`
({minutes:.0f} minutes; {versions}). ✓ passed · ✗ wrong, or crashed · ○ refused with a reason (a limitation) · – does not apply or
was not asked. *free*: the share of the parameters' elements that lie on at least one axis that can be cut; *dead*: the share that the
example inputs do not reach.

- **parity**: the graph computes what the model does; **permute**: all free factors in another order at once, twice, change nothing;
  **mask**: dropping units is zeroing them in the parent; **grow**: repeating units and sharing out what reads them changes nothing;
  **rotate**: turning every stream, and the inside of every head, that may be turned changes nothing;
- **shrink**: half of every free factor inside the model runs; **½ depth**, **2× depth**: half and twice the blocks run;
- **into class**: a smaller instance of the model's own class, filled, computes what the rewritten graph does (two roads): half of all
  sizes or, where the class makes another kind of network of these, half of the widths or of the depth;
- **ONNX**: the half-width child in ONNX Runtime agrees with PyTorch (for the sample in `models_zoo/conformance/sample.py`).
"""


def page(rows: Rows, seconds: float, total: int) -> str:
    packages = ("torch", "transformers", "timm", "torchvision", "onnxruntime")
    versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in packages if _installed(each))
    parts = [INTRODUCTION.format(minutes=seconds / 60, versions=versions)]
    parts += [f"**Interrupted: {len(rows)} of {total} models so far.** The same command goes on from here.\n"] * (
        len(rows) < total
    )
    parts.append(_totals(rows))
    sources = dict.fromkeys(name.partition("/")[0] for name in rows)
    parts += [_table(each, {name: row for name, row in rows.items() if name.startswith(f"{each}/")}) for each in sources]
    parts += [_notes(rows, "✗", "What is wrong or crashes"), _notes(rows, "○", "What is refused"), _unbuilt(rows), _frozen(rows)]
    return "\n".join(parts)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def mark(row: dict[str, Any], column: str) -> str:
    return str(row["cells"].get(column, {"mark": "–"})["mark"])


def _totals(rows: Rows) -> str:
    lines = [
        "## Totals",
        "",
        "| source | models | build and run | captured | all oracles | wrong | parameters free |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = {
        source: [r for n, r in rows.items() if n.startswith(f"{source}/")]
        for source in dict.fromkeys(n.partition("/")[0] for n in rows)
    }
    for source, group in [*groups.items(), ("**all**", list(rows.values()))]:
        possible = [row for row in group if mark(row, "build") != "–"]
        built = [row for row in possible if mark(row, "build") == "✓"]
        captured = [row for row in built if mark(row, "parity") != "–"]
        passed = [row for row in captured if not any(mark(row, column) == "✗" for column in ORACLES)]
        wrong = [
            row for row in captured if any("differs" in cell["note"] for cell in row["cells"].values() if cell["mark"] == "✗")
        ]
        size = sum(row["parameters"] * (1 - row["dead"]) for row in captured)
        free = sum(row["parameters"] * (1 - row["dead"]) * row["free"] for row in captured)
        lines.append(
            f"| {source} | {len(group)} | {_share(built, possible)} | {_share(captured, built)} | {_share(passed, captured)} "
            f"| {len(wrong)} | {100 * free / max(size, 1):.1f} % |"
        )
    judged = [row for row in rows.values() if mark(row, "parity") == "✓"]
    for column in ORACLES:
        if waiting := sum(column not in row["cells"] for row in judged):
            lines += ["", f"*{HEADS[column]}* has not been asked of {waiting} of the {len(judged)}, which count without it."]
    return "\n".join([*lines, ""])


def _share(part: list[Any], whole: list[Any]) -> str:
    return f"{len(part)} of {len(whole)} ({100 * len(part) / max(len(whole), 1):.1f} %)"


def _table(source: str, rows: Rows) -> str:
    lines = [
        f"## Models: {source}",
        "",
        f"| model | {' | '.join(HEADS.values())} | free | dead | blocks |",
        "|---" * (len(HEADS) + 4) + "|",
    ]
    for name, row in rows.items():
        marks = " | ".join(mark(row, column) for column in COLUMNS)
        shares = f"{100 * row['free']:.0f} % | {100 * row['dead']:.0f} %" if row["nodes"] else "– | –"
        lines.append(f"| {name.partition('/')[2]} | {marks} | {shares} | {row['blocks'].replace('|', '/')} |")
    return "\n".join([*lines, ""])


def _notes(rows: Rows, mark: str, title: str) -> str:
    found = [
        f"- `{name}` {HEADS[column]}: {cell['note']}"
        for name, row in rows.items()
        for column, cell in row["cells"].items()
        if cell["mark"] == mark
    ]
    return "\n".join([f"## {title}", "", *(found or ["Nothing."]), ""])


def _unbuilt(rows: Rows) -> str:
    found = [f"- `{name}`: {row['cells']['build']['note']}" for name, row in rows.items() if mark(row, "build") == "–"]
    return "\n".join(["## What cannot be built offline", "", *(found or ["Nothing."]), ""])


def _frozen(rows: Rows) -> str:
    """The commonest reasons for which parameters lie on no free axis."""
    reasons = Counter(line.partition(": ")[2].partition(" at ")[0] for row in rows.values() for line in row["frozen"])
    lines = [f"- {count} models: {reason}" for reason, count in reasons.most_common(25)]
    return "\n".join(["## Why parameters lie on no free axis", "", *(lines or ["All of them do."]), ""])
