"""CONFORMANCE.md: the totals, one row per model, and the reason for each ✗ and ○."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable
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
    "other sizes",
    "ONNX",
)
HEADS = dict(zip(COLUMNS, TITLES, strict=True))
INTRODUCTION = """# Conformance

Every model of the field, tiny and random, through everything that graphclone promises. Made by `python -m models_zoo.conformance`
({minutes:.0f} minutes; {versions}). ✓ passed · ✗ wrong, or crashed · ○ refused with a reason (a limitation) · – does not apply or
was not asked. *dead*: the share of the parameters' elements that the example inputs do not reach; *free*: the share of the others that
lie on at least one axis that can be cut.

- **parity**: the graph computes what the model does; **permute**: all free factors in another order at once, twice, change nothing;
  **mask**: dropping units is zeroing them in the parent; **grow**: repeating units and sharing out what reads them changes nothing;
  **rotate**: turning every stream, and the inside of every head, that may be turned changes nothing;
- **shrink**: half of every free factor inside the model runs; **½ depth**, **2× depth**: half and twice the blocks run; the outputs are
  of the parent's shapes, and finite;
- **into class**: a smaller instance of the model's own class, filled, computes what the rewritten graph does (two roads): half of all
  sizes or, where the class makes another kind of network of these, half of the widths or of the depth;
- **other sizes** (of `OPEN` in `models_zoo/conformance/sample.py`): captured with open batch and sequence sizes, the graph passes the
  oracles at other sizes; **ONNX** (of `SAMPLE` there): the half-width child in ONNX Runtime agrees with PyTorch.
"""


def page(rows: Rows, seconds: float, total: int, remark: str = "") -> str:
    """`remark`: what a reader has to know of these rows."""
    packages = ("torch", "transformers", "timm", "torchvision", "onnxruntime")
    versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in packages if _installed(each))
    parts = [INTRODUCTION.format(minutes=seconds / 60, versions=versions)]
    parts += [f"**Interrupted: {len(rows)} of {total} models so far.** The same command goes on from here.\n"] * (
        len(rows) < total
    )
    parts += [f"**{remark}**\n"] * bool(remark)
    parts.append(_totals(rows))
    sources = dict.fromkeys(name.partition("/")[0] for name in rows)
    parts += [_table(each, {name: row for name, row in rows.items() if name.startswith(f"{each}/")}) for each in sources]
    parts += [
        _notes(rows, "What is wrong or crashes", lambda column, cell: cell["mark"] == "✗" and column not in ("build", "capture")),
        _notes(
            rows,
            "What the zoo cannot build, or has no inputs for",
            lambda column, cell: cell["mark"] == "✗" and column == "build",
        ),
        _notes(rows, "What cannot be captured", lambda column, cell: cell["mark"] == "✗" and column == "capture"),
        _notes(rows, "What is refused", lambda _, cell: cell["mark"] == "○"),
        _notes(rows, "What passes in double precision only", lambda _, cell: cell["note"].startswith("in double precision")),
        _notes(rows, "What cannot be built offline", lambda column, cell: cell["mark"] == "–" and column == "build"),
        _inapplicable(rows),
        _frozen(rows),
    ]
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
        "| source | models | build and run | captured | no oracle failed | all ✓ or – | into its class | wrong | parameters free |",
        "|---|---|---|---|---|---|---|---|---|",
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
        whole = [row for row in passed if not any(mark(row, column) == "○" for column in ORACLES)]
        smaller = [row for row in captured if mark(row, "destination") != "–"]
        filled = [row for row in smaller if mark(row, "destination") == "✓"]
        wrong = [
            row for row in captured if any("differs" in cell["note"] for cell in row["cells"].values() if cell["mark"] == "✗")
        ]
        size = sum(row["parameters"] * (1 - row["dead"]) for row in captured)
        free = sum(row["parameters"] * (1 - row["dead"]) * row["free"] for row in captured)
        lines.append(
            f"| {source} | {len(group)} | {_share(built, possible)} | {_share(captured, built)} | {_share(passed, captured)} "
            f"| {_share(whole, captured)} | {_share(filled, smaller)} | {len(wrong)} | {100 * free / max(size, 1):.1f} % |"
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


def _notes(rows: Rows, title: str, wanted: Callable[[str, dict[str, Any]], bool]) -> str:
    found = [
        f"- `{name}` {HEADS[column]}: {cell['note']}"
        for name, row in rows.items()
        for column, cell in row["cells"].items()
        if wanted(column, cell)
    ]
    return "\n".join([f"## {title}", "", *(found or ["Nothing."]), ""])


def _inapplicable(rows: Rows) -> str:
    """For each reason why a check does not apply, how often and to whom."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        for column, cell in row["cells"].items():
            if cell["mark"] == "–" and column != "build":
                found.setdefault((HEADS[column], cell["note"]), []).append(name)
    lines = [f"- {column}, {note} ({len(names)}): {_some(names)}" for (column, note), names in sorted(found.items())]
    return "\n".join(["## What does not apply", "", *(lines or ["Nothing."]), ""])


def _some(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:8]) + (" …" if len(names) > 8 else "")


def _frozen(rows: Rows) -> str:
    """The commonest reasons for which parameters lie on no free axis."""
    reasons = Counter(line.partition(": ")[2].partition(" at ")[0] for row in rows.values() for line in row["frozen"])
    lines = [f"- {count} models: {reason}" for reason, count in reasons.most_common(25)]
    return "\n".join(["## Why parameters lie on no free axis", "", *(lines or ["All of them do."]), ""])
