"""How soon does a child learn, by how it begins? Every rival, tuned by itself, on the same batches.

python -m benchmarks.convergence                              all arms on each task's own size (goes on where it was interrupted)
python -m benchmarks.convergence --task text --arm paper full
python -m benchmarks.convergence --size tiny deep             few arms on a smaller grid, children of other sizes
python -m benchmarks.convergence --task text vision --long    few arms, trained for longer (after the ordinary grid of these)
python -m benchmarks.convergence --task text --scale 4 --device cuda -o DIR    a larger parent, trained first into DIR/parents
python -m benchmarks.convergence --task vision --trained 100 400 -o DIR        worse parents, trained first into DIR/parents
python -m benchmarks.convergence --task vision --size same deeper              children no smaller than their parent
python -m benchmarks.convergence --begun                      train nothing: time anew how long the children of what has been run take
python -m benchmarks.convergence --page                       only the page, from what has been run

It writes benchmarks/convergence.json, CONVERGENCE.md and a plot of each task and size. The task `minilm` is there where its parent is
installed. Of a parent that is scaled up, children and the grid's rates are scaled with it (see `scaled.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.convergence.ablations import EVERY
from benchmarks.convergence.arms import ARMS
from benchmarks.convergence.grid import Results, grid_for
from benchmarks.convergence.page import write
from benchmarks.convergence.parents import parent_of
from benchmarks.convergence.pool import Child, begun, done
from benchmarks.convergence.races import RACES, SIZES, Variant, installed
from benchmarks.convergence.runs import DISTILLED, FEW, Run, offered

ROOT = Path(__file__).parent.parent


def main() -> int:
    asked = _arguments()
    asked.output.mkdir(parents=True, exist_ok=True)
    store = asked.output / "convergence.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    if asked.begun:
        _timed(asked, results)
        _kept(store, results)
    elif not asked.page:
        asked_for = itertools.product(asked.task, asked.size, asked.trained)
        variants = [Variant(task, size, asked.scale, asked.device, trained) for task, size, trained in asked_for]
        variants = [each for each in variants if each.size in RACES[each.task].sizes]
        try:
            made = {each: parent_of(each, asked.output / "parents", asked.short) for each in variants}
            folders = {each: folder for each, folder in made.items() if folder is not None}
            for run, result in done(lambda: _ready(asked, variants, results), asked.jobs, folders):
                results[run.key] = result
                _kept(store, results)
                print(f"{run.key}: {result.get('error') or result['loss'][-1]}", flush=True)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
    write(asked.output, results, asked.short)
    return 0


def _kept(store: Path, results: Results) -> None:
    lines = (f"{json.dumps(key)}: {json.dumps(results[key])}" for key in sorted(results))
    store.write_text("{\n" + ",\n".join(lines) + "\n}\n")  # one run a line


def _timed(asked: argparse.Namespace, results: dict[str, Any]) -> None:
    """How long children take to be made, into the runs of the same child. Those of a parent that had to be trained are left as they are."""
    runs = defaultdict[Child, list[str]](list)
    for key, result in results.items():
        told, arm, *_, seed = key.split(" | ")
        variant = Variant.read(told)
        if "made_in" in result and variant.task in asked.task and variant.scale is None and variant.trained is None:
            runs[variant, arm.removesuffix(DISTILLED), int(seed.removeprefix("seed "))].append(key)
    for (variant, arm, seed), seconds in begun(runs, asked.jobs):
        print(f"{variant} | {arm} | seed {seed}: begun in {seconds:.2f} s", flush=True)
        for key in runs[variant, arm, seed]:
            results[key] = {**results[key], "made_in": round(seconds, 2)}


def _ready(asked: argparse.Namespace, variants: Sequence[Variant], results: Results) -> Iterator[Run]:
    """What can be done now, in order."""
    for variant in variants:
        grid = grid_for(variant, asked.short)
        for arm in asked.arm or (FEW if asked.long else offered(variant)):
            if RACES[variant.task].labelled or not arm.endswith(DISTILLED):
                yield from grid.next(results, variant, arm)
                yield from grid.next_longer(results, variant, arm) if asked.long else ()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=installed(), help="without it all, or text where a scale is given")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=SIZES[:1])
    parser.add_argument("--arm", nargs="+", choices=(*EVERY, *(arm + DISTILLED for arm in ARMS)))
    parser.add_argument("--long", action="store_true", help="and a budget beyond the grid's longest")
    parser.add_argument("--scale", type=int, help="a parent so many times as large as the embedded one in every way (text only)")
    parser.add_argument(
        "--trained", type=int, nargs="+", help="parents that were trained for so many steps, trained first (text and vision)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, help="how many runs at once; without it one for each core, or one on cuda")
    parser.add_argument("--short", action="store_true", help="a few steps of everything: all is run, nothing is learnt")
    parser.add_argument("--begun", action="store_true", help="only how long children take to be made, of all that has been run")
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("-o", "--output", type=Path, default=ROOT)
    asked = parser.parse_args()
    asked.task = asked.task or (["text"] if asked.scale is not None else ["text", "vision"] if asked.trained else installed())
    if asked.scale is not None and (asked.task != ["text"] or asked.scale < 1):
        parser.error("--scale takes a whole number from 1, and --task text")
    if asked.trained and (min(asked.trained) < 1 or "minilm" in asked.task or asked.scale is not None):
        parser.error("--trained takes whole numbers from 1, without --scale, and --task text or vision")
    asked.trained = asked.trained or [None]
    asked.jobs = asked.jobs or (1 if asked.device == "cuda" else os.cpu_count())
    return asked


if __name__ == "__main__":
    sys.exit(main())
