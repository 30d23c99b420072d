"""Ask every model of the field, and write CONFORMANCE.md and conformance.json.

python -m models_zoo.conformance                      everything (resumes where it was interrupted)
python -m models_zoo.conformance --only 'hf/(llama|bert)/'
python -m models_zoo.conformance --sample             the fixed sample that the tests run
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models_zoo import field as zoo
from models_zoo.conformance.checks import ORACLES, Cell, Row, examine
from models_zoo.conformance.forks import Ended, forked
from models_zoo.conformance.page import mark, page
from models_zoo.conformance.sample import BROAD, OPEN, SAMPLE

ROOT = Path(__file__).parent.parent.parent
Rows = dict[str, dict[str, Any]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models_zoo.conformance", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", metavar="PATTERN", help="models whose name matches this regular expression; prints, writes nothing"
    )
    parser.add_argument("--sample", action="store_true", help="the fixed sample that the tests run; prints, writes nothing")
    parser.add_argument(
        "--every-head", action="store_true", help="every task head of each type of transformers, not the richest one"
    )
    parser.add_argument("--onnx", choices=("sample", "all", "none"), default="sample", help="whose child to run in ONNX Runtime")
    parser.add_argument(
        "--children", type=Path, metavar="FOLDER", help="leave the filled children there, for models_zoo.roundtrip"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=240, help="the limit for one model")
    parser.add_argument("--gigabytes", type=int, default=12, help="the limit for one model (of address space)")
    parser.add_argument("--fresh", action="store_true", help="begin anew, even where an earlier run was interrupted")
    parser.add_argument("--again", action="store_true", help="of a complete run, ask those once more that had a ✗")
    parser.add_argument(
        "--oracle",
        nargs="+",
        choices=ORACLES,
        default=ORACLES,
        help="of a complete run, ask only these where they have not been asked, and put them into it",
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT, help="the folder of CONFORMANCE.md and conformance.json")
    return parser.parse_args()


def ask(names: list[str], asked: argparse.Namespace, rows: Rows, save: Any) -> None:
    """Add a row for every name that has none yet."""
    with_onnx = set(names if asked.onnx == "all" else SAMPLE if asked.onnx == "sample" else ())
    todo = [name for name in names if name not in rows]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False) as bar:  # no thread of its own: this process forks
        task = bar.add_task("conformance", total=len(names), completed=len(names) - len(todo))
        bar.refresh()
        work = forked(
            todo,
            lambda name: examine(
                name, ["dynamic"] * (name in OPEN) + ["onnx"] * (name in with_onnx), asked.children, asked.oracle
            ),
            asked.jobs,
            asked.seconds,
            asked.gigabytes,
        )
        for name, result in work:
            row = Row(name, {"build": Cell("✗", result.why)}) if isinstance(result, Ended) else result
            rows[name] = row.as_dict()
            for column, cell in row.cells.items():
                if cell.mark == "✗":
                    bar.console.print(f"✗ {name} {column}: {cell.note}", markup=False, highlight=False, soft_wrap=True)
            bar.update(task, advance=1, description=name[:60])
            bar.refresh()
            save(rows, False)


def warm_up(onnx: bool, many: bool) -> None:
    """Import, compile and remember, once and before the forks, what many of them would: torch keeps how an op acts on tensors of a shape.
    (The exporter's own start is half a minute.)"""
    import timm  # noqa: F401
    import transformers

    transformers.logging.set_verbosity_error()
    for name in ("odd/lambdas", "hf/llama/LlamaForCausalLM"):
        examine(name, ["onnx"] * onnx)
    for name in BROAD if many else ():  # a minute, which a few hundred models repay
        examine(name)
    gc.collect()
    gc.freeze()  # so that the forks share it


def main() -> int:
    asked = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = list(SAMPLE) if asked.sample else zoo.names(asked.every_head)
    names = [name for name in names if not asked.only or re.search(asked.only, name)]
    if not names:
        print(f"no model's name matches {asked.only}", file=sys.stderr)
        return 2
    store, writes = asked.output / "conformance.json", not (asked.only or asked.sample)
    if writes:
        asked.output.mkdir(parents=True, exist_ok=True)
    old = json.loads(store.read_text()) if writes and store.exists() and not asked.fresh else {}
    rows: Rows = old["rows"] if old and (asked.again or not old["complete"]) else {}
    some = len(asked.oracle) < len(ORACLES)
    known: Rows = old["rows"] if some and old and old["complete"] else {}
    if some and writes and not known:
        print(f"{store} is no complete run, into which some oracles could be put", file=sys.stderr)
        return 2
    if known:
        rows = {
            name: row for name, row in known.items() if mark(row, "parity") != "✓" or set(asked.oracle) <= row["cells"].keys()
        }
    if asked.again:
        rows = {name: row for name, row in rows.items() if not failed(row)}
    before, start = old.get("seconds", 0.0) if rows or known else 0.0, time.time()
    warm_up(onnx=asked.onnx != "none", many=len(set(names) - rows.keys()) > 300)

    def save(rows: Rows, complete: bool) -> None:
        if writes:
            if known:  # which stays complete
                complete, rows = True, {name: merged(row, rows.get(name, row), asked.oracle) for name, row in known.items()}
            kept = {"complete": complete, "seconds": before + time.time() - start, "rows": rows}
            text = json.dumps(kept, indent=1 if complete else None, ensure_ascii=False)  # indented it takes thrice as long
            (aside := store.with_suffix(".new")).write_text(text + "\n")
            aside.replace(store)

    try:
        ask(names, asked, rows, save)
    except KeyboardInterrupt:
        if writes:
            so_far = {**known, **{name: merged(known.get(name), row, asked.oracle) for name, row in rows.items()}}
            (asked.output / "CONFORMANCE.md").write_text(page(so_far, before + time.time() - start, len(names)))
        print(f"interrupted; the same command goes on from here ({len(rows)} of {len(names)} done)", file=sys.stderr)
        return 130
    rows = {name: merged(known.get(name), rows[name], asked.oracle) for name in names}
    save(rows, True)
    text = page(rows, before + time.time() - start, len(names))
    if writes:
        (asked.output / "CONFORMANCE.md").write_text(text)
    print(text.partition("\n## Models")[0] if writes else text)
    return int(any(map(failed, rows.values())))


def merged(known: dict[str, Any] | None, row: dict[str, Any], oracles: list[str]) -> dict[str, Any]:
    """The row; or what is known, with what some oracles say now."""
    if known is None:
        return row
    wrong = [cell for cell in row["cells"].values() if cell["mark"] == "✗"]
    judged = mark(known, "parity") == "✓"
    found = {each: row["cells"].get(each) or (wrong[0] if judged and wrong else None) for each in oracles}
    return {**known, "cells": {**known["cells"], **{name: cell for name, cell in found.items() if cell is not None}}}


def failed(row: dict[str, Any]) -> bool:
    return any(cell["mark"] == "✗" for cell in row["cells"].values())


if __name__ == "__main__":
    sys.exit(main())
