"""Mixtures of experts of transformers, tiny: which factors of their banks of weights are free, however the experts are computed.

    python -m benchmarks.experts [--only PATTERN]

Writes docs/experts.md, unless only some are asked. Transformers computes stacked experts with `grouped_mm` where nobody says otherwise
(tokens sorted by their expert), and with `batched_mm` on request (each token with a copy of its experts' weights).
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from rich.progress import track
from torch import nn

import graphclone as gc
from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.sources.hf_inputs.case import nested
from models_zoo import field
from models_zoo.conformance.forks import Ended, forked
from models_zoo.entry import Unbuildable
from models_zoo.field.hf.registry import default_config
from models_zoo.field.hf.roles import role
from models_zoo.field.hf.zoo import set_experts

PAGE = Path(__file__).parent.parent / "docs" / "experts.md"
IMPLEMENTATIONS = ("grouped_mm", "batched_mm")
ROLES = ("experts", "hidden", "residual")
Found = dict[str, str]  # role → "free", or why not; "–" where no matrices are stacked
Row = dict[str, Found | str]  # implementation → what was found, or why nothing was


def names() -> list[str]:
    """The types whose default config has experts."""
    return [name for name in field.names() if name.startswith("hf/") and _counts(_config(name))]


def _config(name: str) -> Any:
    try:
        return default_config(name.split("/")[1])
    except Exception:  # a default that its own config class does not accept, or a library that is not there
        return None


def _counts(config: Any) -> set[int]:
    """How many experts a config has, in whatever field."""
    if config is None:
        return set()
    fields = ((name, value) for part in nested(config) for name, value in vars(part).items() if role(name) == "experts")
    return {number for _, value in fields for number in (value if isinstance(value, list) else [value]) if _several(number)}


def _several(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 1


def ask(name: str) -> Row:
    """Both implementations of one type."""
    entry = field.find(name)
    row: Row = {}
    for how in IMPLEMENTATIONS:
        try:
            model, (args, kwargs) = entry.build(), entry.inputs()
            if not set_experts(model, how):
                how = "its own"
            row[how] = roles(model, gc.analyze(gc.capture(model, args, kwargs)))
        except (Unbuildable, gc.GraphcloneError) as error:
            row[how] = str(error).splitlines()[0]
        if how == "its own":
            break
    return row


def roles(model: nn.Module, layout: gc.Layout) -> Found:
    """Of the factors of all banks: one that is frozen, or that all are free."""
    factors = list(_banks(model, layout))
    return {wanted: _state([factor for kind, factor in factors if kind == wanted]) if factors else "–" for wanted in ROLES}


def _banks(model: Any, layout: gc.Layout) -> Iterator[tuple[str, Factor]]:
    """Every factor of a stack of experts' matrices, and its role: what the other parameters have too is residual."""
    counts = _counts(model.config)
    banks = {
        name: axes
        for name in layout.parameters
        if len(axes := layout.axes(name)) == 3 and axes[0].size in counts and "conv" not in name
    }
    for axes in banks.values():
        yield from (("experts", factor) for factor in algebra.factors(axes[0]))
        for factor in (each for axis in axes[1:] for each in algebra.factors(axis)):
            yield "residual" if any("norm" in name or "embed" in name for name, _ in factor.slots) else "hidden", factor


def _state(factors: Sequence[Factor]) -> str:
    if not factors:
        return "read one by one"  # an axis that is cut into single positions has no factor
    return next((str(factor.frozen) for factor in factors if factor.frozen is not None), "free")


def page(rows: Mapping[str, Row]) -> str:
    states = {name: {how: found for how, found in row.items() if isinstance(found, dict)} for name, row in rows.items()}
    all_free = [
        name for name, found in states.items() if found and all(set(each.values()) == {"free"} for each in found.values())
    ]
    apart = [name for name, found in states.items() if found and all(set(each.values()) == {"–"} for each in found.values())]
    asked = Counter(how for found in states.values() for how in found)
    lines = [
        "# Mixtures of experts",
        "",
        "`python -m benchmarks.experts` writes this page: which factors are free of the stacked weights of experts, the *experts* "
        "themselves, their *hidden* units and the *residual* stream that they read and write, of a tiny model of every type of "
        "transformers whose config has experts. `grouped_mm` is how transformers computes experts where nobody says otherwise, and so "
        "how a folder is loaded; `batched_mm` is what CONFORMANCE.md was made with (`--arg experts_implementation=batched_mm`); some "
        "types have a way of their own.",
        "",
        f"{len(rows)} types, {', '.join(f'{count} asked with {how}' for how, count in asked.items())}. "
        f"All three are free however it is asked in {len(all_free)} of them; {len(apart)} have no stack of experts' matrices.",
        "",
        "| type | computed with | experts | hidden | residual |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if name not in all_free and name not in apart:
            for how, found in row.items():
                cells = [found[each] for each in ROLES] if isinstance(found, dict) else [found, "", ""]
                lines.append(f"| {name.split('/')[1]} | {how} | {' | '.join(each.replace('|', '∣') for each in cells)} |")
    listed = {"All free": all_free, "No stack of matrices": apart}
    for title, some in listed.items():
        lines += ["", f"{title}: {', '.join(name.split('/')[1] for name in some) or 'none'}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", default="", help="types whose name matches; prints, writes nothing")
    parser.add_argument("--seconds", type=int, default=300, help="the limit for one type")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    todo = [name for name in names() if re.search(asked.only, name)]
    rows: dict[str, Row] = {}
    for name, row in track(forked(todo, ask, 1, asked.seconds, 12), total=len(todo)):
        rows[name] = {"any": row.why} if isinstance(row, Ended) else row
    text = page({name: rows[name] for name in todo})
    print(text)
    if not asked.only:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
