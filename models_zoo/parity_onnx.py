"""Does ONNX Runtime compute what PyTorch does? The half-width child of every model of the field, at two batch sizes and more.

python -m models_zoo.parity_onnx                      everything (goes on where it was interrupted)
python -m models_zoo.parity_onnx --only 'hf/(llama|bert)/'
python -m models_zoo.parity_onnx --spread 60          60 models, evenly from the list

It prints and writes ONNX.md and onnx.json.
"""

from __future__ import annotations

import argparse
import gc as garbage
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphclone as gc
from graphclone.export.onnx import Exported, export_onnx
from models_zoo import field as zoo
from models_zoo.conformance.checks import _half, batch_and_sequence, reason
from models_zoo.conformance.forks import Ended, forked
from models_zoo.entry import Inputs

ROOT = Path(__file__).parent.parent
BAR = 1e-4  # as a share of the largest output, where that is above 1


@dataclass(frozen=True)
class Row:
    """`mark`: ✓ agrees within the bar, ✗ does not or cannot be exported, – there is no child to export. `difference` is absolute,
    `share` beside the largest output; `open`, the axes that the file leaves open; `shapes`, what it was tried at."""

    name: str
    mark: str
    note: str = ""
    difference: float = 0.0
    share: float = 0.0
    open: str = ""
    shapes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0


def examine(name: str) -> Row:
    start = time.time()
    try:
        tiny = zoo.find(name)
        model, inputs = tiny.build(), tiny.inputs()
        children = list(_children(model, inputs))
    except Exception as error:  # building and capturing have a page of their own: CONFORMANCE.md
        return Row(name, "–", f"no child: {reason(error)}", seconds=time.time() - start)
    notes, done = [], list[Exported]()
    for child, (args, kwargs), note in children:
        notes += [note] * bool(note)
        try:
            done.append(_exported(child, args, kwargs))
        except Exception as error:
            told = _rounding(child, args, kwargs) if "differs by" in reason(error) else []
            return Row(name, "✗", "; ".join([*notes, reason(error), *told]), seconds=time.time() - start)
    differences = [each for exported in done for each in exported.differences]
    share = max(each.share for each in differences)
    return Row(
        name,
        "✓" if share <= BAR else "✗",
        "; ".join(
            [*notes, *([f"differs by {share:.1e} of the largest output", *_rounding(child, args, kwargs)] if share > BAR else [])]
        ),
        max(each.largest for each in differences),
        share,
        done[0].open,
        tuple(each.shapes for each in differences),
        tuple(dict.fromkeys(remark for exported in done for remark in exported.remarks)),
        time.time() - start,
    )


def _exported(child: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exported:
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(child, args, kwargs, Path(folder) / "child.onnx")


@torch.no_grad()
def _rounding(child: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """How much PyTorch's own outputs move, as shares of the largest, where the last bits of the inputs are others."""

    def rounded(tensor: Tensor) -> Tensor:
        return (
            tensor * (1 + torch.finfo(tensor.dtype).eps / 2 * torch.randn_like(tensor)) if tensor.is_floating_point() else tensor
        )

    def outputs(given: Any) -> list[Tensor]:
        torch.manual_seed(0)
        found = pytree.tree_leaves(child(*given[0], **given[1]))
        return [each for each in found if isinstance(each, Tensor) and each.is_floating_point()]

    given = (args, dict(kwargs))
    pairs = zip(outputs(given), outputs(pytree.tree_map_only(Tensor, rounded, given)), strict=True)
    moved = max((float((a - b).abs().max() / a.abs().max().clamp(min=1)) for a, b in pairs), default=0.0)
    return [f"(with the last bits of its inputs otherwise, PyTorch itself differs by {moved:.1e})"] if moved else []


def _children(model: nn.Module, inputs: Inputs) -> Iterator[tuple[nn.Module, Inputs, str]]:
    """The half-width child with open sizes; where its batch cannot be open, one child for each of two batch sizes."""
    try:
        trace = gc.capture(model, *inputs, dynamic=batch_and_sequence(inputs))
        if trace.open is not None and any(0 in dims for dims in trace.open.dims):
            yield gc.execute(_half(gc.analyze(trace)), model, trace=trace), inputs, ""
            return
        why = "its batch is not open"
    except Exception as error:  # a capture of one size may still do
        why = f"no open sizes: {reason(error)}"
    first = _fixed(model, inputs)
    for whole in (True, False):
        more = _one_more(inputs, whole)
        try:
            second = _fixed(model, more)
        except Exception as error:  # some models take one batch size only
            failure = reason(error)
        else:
            yield first, inputs, why
            yield second, more, ""
            return
    yield first, inputs, f"{why}; one batch size: {failure}"


def _fixed(model: nn.Module, inputs: Inputs) -> nn.Module:
    trace = gc.capture(model, *inputs)
    return gc.execute(_half(gc.analyze(trace)), model, trace=trace)


def _one_more(inputs: Inputs, whole: bool) -> Inputs:
    """One example more: the first, again. Not only `whole` tensors have examples in their rows: so many patches are of each image."""
    tensors = [each for each in pytree.tree_leaves(inputs) if isinstance(each, Tensor) and each.dim()]
    batch = min((each.shape[0] for each in tensors), default=0) or 1

    def more(each: Tensor) -> Tensor:
        rows, rest = divmod(each.shape[0], batch) if each.dim() else (0, 0)
        return each if rest or (whole and rows > 1) else torch.cat([each, each[:rows]]) if rows else each

    changed: Inputs = pytree.tree_map_only(Tensor, more, inputs)
    return changed


# -- the page -----------------------------------------------------------------------------------------------------------

INTRODUCTION = """# ONNX

The half-width child of {count} of the field's {total} models, exported with `graphclone.export.onnx` and run in ONNX Runtime beside
PyTorch. Made by `python -m models_zoo.parity_onnx{asked}` in {minutes:.0f} minutes. ✓: each output differs by at most 1e-4 of its largest
value (or of 1, where that is larger) at every shape tried. Where no batch can be left open, two files are made, for two batch sizes;
*one batch size* counts those that were tried at one nevertheless. –: there is no child to export (the model cannot be built offline, or
captured: see CONFORMANCE.md).
"""


def page(rows: Sequence[Row], total: int, asked: str, seconds: float) -> str:
    lines = [INTRODUCTION.format(count=len(rows), total=total, asked=asked, minutes=seconds / 60)]
    lines += [
        "| source | children | agree | batch open | sequence open | one batch size | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = {source: [row for row in rows if row.name.startswith(f"{source}/")] for source in zoo.SOURCES}
    for source, group in [*groups.items(), ("**all**", list(rows))]:
        children = [row for row in group if row.mark != "–"]
        good = [row for row in children if row.mark == "✓"]
        opened = [sum(axis in row.open for row in good) for axis in ("batch", "sequence")]
        if children:
            share = f"{len(good)} ({100 * len(good) / len(children):.1f} %)"
            largest = max((row.share for row in good), default=0.0)
            lines.append(
                f"| {source} | {len(children)} | {share} | {opened[0]} | {opened[1]} | {sum(map(_one_batch, good))} | {largest:.1e} |"
            )
    lines += ["", "## What differs or cannot be exported", ""]
    lines += [f"- `{row.name}`: {row.note}" for row in rows if row.mark == "✗"] or ["Nothing."]
    lines += ["", "## What stays fixed, and why", ""]
    remarks = Counter(_without_name(remark) for row in rows for remark in row.remarks)
    lines += [f"- {times} ×: {remark}" for remark, times in remarks.most_common(25)] or ["Nothing."]
    lines += ["", "## No child", "", *([f"- `{row.name}`: {row.note}" for row in rows if row.mark == "–"] or ["Nothing."])]
    return "\n".join([*lines, ""])


def _one_batch(row: Row) -> bool:
    return len({shapes.partition("×")[0] for shapes in row.shapes}) < 2


def _without_name(remark: str) -> str:
    return re.sub(r"^(\w+)(\[\d+\]) stays \d+: (.*?) needs .*", r"\1\2: \3", remark)[:200]


# -- the run ------------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models_zoo.parity_onnx", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", help="models whose name matches this regular expression")
    parser.add_argument("--spread", metavar="N", type=int, help="so many models, evenly from the list")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=300, help="the limit for one model")
    parser.add_argument("--fresh", action="store_true", help="begin anew, even where an earlier run was interrupted")
    parser.add_argument("--gigabytes", type=int, default=12, help="the limit for one model (of address space)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT, help="the folder of ONNX.md and onnx.json")
    return parser.parse_args()


def chosen(names: Sequence[str], only: str | None, spread: int | None) -> list[str]:
    matching = [name for name in names if not only or re.search(only, name)]
    if spread is None or spread >= len(matching):
        return matching
    return [matching[round(index * (len(matching) - 1) / max(spread - 1, 1))] for index in range(spread)]


def interrupted(store: Path, names: Sequence[str]) -> tuple[dict[str, Row], float]:
    """The rows of a run over the same names that did not come to its end, and the seconds that it took."""
    if not store.exists():
        return {}, 0.0
    data = json.loads(store.read_text())
    found = {
        row["name"]: Row(**{**row, "shapes": tuple(row["shapes"]), "remarks": tuple(row["remarks"])}) for row in data["rows"]
    }
    same = data["asked"] == len(names) > len(found) and set(found) <= set(names)
    return (found, data["seconds"]) if same else ({}, 0.0)


def main() -> int:
    asked, start = arguments(), time.time()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    every = zoo.names()
    names = chosen(every, asked.only, asked.spread)
    if not names:
        print(f"no model's name matches {asked.only}", file=sys.stderr)
        return 2
    asked.output.mkdir(parents=True, exist_ok=True)
    import timm  # noqa: F401
    import transformers

    transformers.logging.set_verbosity_error()
    examine("odd/lambdas")  # what every fork would import and compile
    garbage.collect()
    garbage.freeze()
    rows, before = {}, 0.0
    if not asked.fresh:
        rows, before = interrupted(asked.output / "onnx.json", names)
    words = [f"--only '{asked.only}'"] * bool(asked.only) + [f"--spread {asked.spread}"] * bool(asked.spread)

    def save() -> str:
        """After each model, so that an interrupted run has a page too."""
        done, seconds = [rows[name] for name in names if name in rows], before + time.time() - start
        text = page(done, len(every), "".join(f" {word}" for word in words), seconds)
        data = {"asked": len(names), "seconds": seconds, "rows": [asdict(row) for row in done]}
        (asked.output / "onnx.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        (asked.output / "ONNX.md").write_text(text)
        return text

    text = save()
    try:
        for name, result in forked(
            [name for name in names if name not in rows], examine, asked.jobs, asked.seconds, asked.gigabytes
        ):
            rows[name] = Row(name, "✗", result.why) if isinstance(result, Ended) else result
            row = rows[name]
            print(f"{len(rows):4} of {len(names)} {row.mark} {name} {row.share:.1e} {row.seconds:.0f} s  {row.note}", flush=True)
            text = save()
    except KeyboardInterrupt:
        print("interrupted; the page has what was done, and the same command goes on from there", file=sys.stderr)
    print(text.partition("\n## ")[0])
    return int(any(row.mark == "✗" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
