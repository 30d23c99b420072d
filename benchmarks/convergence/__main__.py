"""How soon does a child learn, by how it begins? Every rival, tuned by itself, on the same batches.

python -m benchmarks.convergence                              everything (goes on where it was interrupted)
python -m benchmarks.convergence --task text --arm paper full
python -m benchmarks.convergence --page                       only the page, from what has been run

It writes benchmarks/convergence.json, CONVERGENCE.md and a plot of each task.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.convergence.arms import ABLATIONS, ARMS, EVERY
from benchmarks.convergence.grid import GRIDS, short
from benchmarks.convergence.page import write
from benchmarks.convergence.pool import done
from benchmarks.convergence.runs import DISTILLED

ROOT = Path(__file__).parent.parent
_DISTILLED = tuple(arm + DISTILLED for arm in ("random", "paper", "full"))


def main() -> int:
    asked = _arguments()
    store = asked.output / "convergence.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    grids = {task: short(GRIDS[task]) if asked.short else GRIDS[task] for task in asked.task}
    if not asked.page:
        try:
            for run, result in done(grids, asked.arm, results, asked.jobs):
                results[run.key] = result
                lines = (f"{json.dumps(key)}: {json.dumps(results[key])}" for key in sorted(results))
                store.write_text("{\n" + ",\n".join(lines) + "\n}\n")  # one run a line
                print(f"{run.key}: {result.get('error') or result['loss'][-1]}", flush=True)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
    write(asked.output, grids, results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=tuple(GRIDS), default=tuple(GRIDS))
    parser.add_argument("--arm", nargs="+", choices=(*EVERY, *_DISTILLED), default=(*ARMS, *ABLATIONS, *_DISTILLED))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--short", action="store_true", help="a few steps of everything: all is run, nothing is learnt")
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("-o", "--output", type=Path, default=ROOT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
