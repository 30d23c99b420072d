"""What graphclone and torch-pruning 1.6.1 make of the same tiny models, half of the width asked of both.

    python -m benchmarks.coverage [--models PATTERN …] [--timm] [--jobs 2] [--limit 60] [--again] [--output FOLDER]

Writes `coverage.json` (every attempt) and `COVERAGE.md` (one row per model). What is in `coverage.json` is not run again, unless
`--again` is given. A name that is in no table here is looked for in the model zoo (`--models hf/mistral3`).

torch-pruning is used twice. **Plain**: `MetaPruner(model, inputs, pruning_ratio=0.5, ignored_layers=output layers)`, and the model's
defaults left alone, the KV cache among them. **Best**: the recipes in its own examples, in all variants that they show, and some help
beyond them (listed in `side_by_side/theirs.py`), until one is full; the best outcome counts. graphclone is used once, by its public
API; where it refuses a model for its KV cache, the cache is switched off, as its message says.

Each attempt runs in a process of its own, with a limit of processor time (an attempt that ends takes 0.5 to 5 s). The words are the
same for both tools:

- **full**: residual stream, MLP, query heads and key/value heads are all narrowed, everywhere (of what the model has: see
  `side_by_side/roles.py`), the child runs, and the checks below find nothing.
- **partial**: the child runs and the checks find nothing, but some of these are not narrowed.
- **no-op**: nothing is pruned.
- **wrong**: the child runs, but a check fails.
- **fails**: an exception, in pruning or in the child's forward.
- **hangs**: over the limit.

The checks ask the tool about its own claim. *Permutation*: units that may go one by one may also change places; so the tool's own groups
are permuted, all at once, and the outputs have to stay. *Zeroed parent*: removing units that no norm carries is the same as setting them
to zero in the parent. For torch-pruning both are done on its groups, at the granularity at which it removes units
(`side_by_side/reorder.py`); for graphclone they are its oracles (`gc.verify`), beside identity and growth.

"Narrowed" says nothing about which units are kept, and nothing here about how well a child trains.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import resource
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error")

from benchmarks.side_by_side.judge import USES
from benchmarks.side_by_side.subjects import names as known
from benchmarks.side_by_side.theirs import BEST
from benchmarks.side_by_side.verdict import WORDS, Outcome

COLUMNS = ("graphclone", "plain", "best")
TITLES = {"graphclone": "graphclone", "plain": "torch-pruning, plain use", "best": "torch-pruning, best use"}
MEMORY = 8 << 30
PATIENCE = 20  # on a busy machine, a second of processor time may take this many
Row = dict[str, Any]


# -- one attempt -----------------------------------------------------------------------------------------------------


def _attempt(channel: Connection, name: str, use: str, limit: int) -> None:
    from benchmarks.side_by_side.run import attempt

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    channel.send(attempt(name, use).json())


def attempt(name: str, use: str, limit: int) -> Row:
    """In a process of its own, forked from one that has imported everything. Over the limit, the kernel ends it with SIGXCPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.side_by_side.preload"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_attempt, args=(there, name, use, limit), daemon=True)
    process.start()
    there.close()
    try:
        if here.poll(PATIENCE * limit):
            found: Row = here.recv()
            return found
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGXCPU:
            return Outcome("fails", f"the process died ({process.exitcode})", str(USES.get(use, use))).json()
    finally:
        process.kill()
        process.join()
    return Outcome("hangs", f"over {limit} s", str(USES.get(use, use)), seconds=limit).json()


def measure(name: str, limit: int) -> Row:
    """All three columns of a model."""
    row: Row = {use: attempt(name, use, limit) for use in ("graphclone", "plain")}
    row["attempts"] = []
    for use in BEST:
        row["attempts"].append(attempt(name, use.name, limit))
        if row["attempts"][-1]["word"] == "full":
            break
    row["best"] = min(row["attempts"], key=_rank)
    return row


def _rank(outcome: Row) -> tuple[int, int]:
    return WORDS.index(outcome["word"]), sum(state != "all" for state in outcome["roles"].values())


# -- all of them -----------------------------------------------------------------------------------------------------


def run(names: Iterable[str], jobs: int, limit: int, path: Path, console: Console) -> dict[str, Row]:
    """Measure what `path` does not hold yet, and write it after each model."""
    names = list(names)
    rows: dict[str, Row] = json.loads(path.read_text())["models"] if path.exists() else {}
    left: queue.SimpleQueue[str] = queue.SimpleQueue()
    missing = [name for name in names if name not in rows]
    for name in missing:
        left.put(name)
    lock = threading.Lock()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not missing) as progress:
        overall = progress.add_task("models", total=len(missing))

        def work() -> None:
            while True:
                try:
                    name = left.get_nowait()
                except queue.Empty:
                    return
                row = measure(name, limit)
                with lock:
                    rows[name] = row
                    write(rows, limit, path)
                    progress.advance(overall)
                    words = ", ".join(f"{column} {row[column]['word']}" for column in COLUMNS)
                    progress.console.print(f"{name:14} {words}", highlight=False)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return rows


def write(rows: dict[str, Row], limit: int, path: Path) -> None:
    tools = ("torch-pruning", "torch", "transformers", "timm")
    setting = {**{tool: version(tool) for tool in tools}, "cores": os.cpu_count(), "limit_s": limit, "date": str(date.today())}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps({"setting": setting, "models": rows}, indent=1) + "\n")
    scratch.replace(path)


# -- the table -------------------------------------------------------------------------------------------------------


def totals(rows: dict[str, Row]) -> dict[str, Counter[str]]:
    return {column: Counter(row[column]["word"] for row in rows.values()) for column in COLUMNS}


def cell(outcome: Row, best: bool = False) -> str:
    notes = [outcome["setting"]] if best and outcome["word"] in ("full", "partial", "wrong") else []
    notes += [outcome["reason"]] if outcome["reason"] else []
    notes += ["KV cache off"] if outcome["setting"] == "KV cache off" else []
    text = "; ".join(notes).replace("|", "\\|").replace("<", "&lt;")
    return f"**{outcome['word']}**" + (f": {text}" if text else "")


def markdown(data: Row) -> str:
    rows, setting = data["models"], data["setting"]
    counts = totals(rows)
    queries = [name for name, row in rows.items() if row["best"]["word"] == "partial" and _only_queries(row["best"])]
    lines = [
        "# graphclone and torch-pruning, side by side",
        "",
        f"{len(rows)} tiny models, half of the width asked of both tools. What the words mean, what both uses are and how they are "
        "checked: `benchmarks/coverage.py`. Made by `python -m benchmarks.coverage`.",
        "",
        f"torch-pruning {setting['torch-pruning']}, torch {setting['torch']}, transformers {setting['transformers']}, "
        f"timm {setting['timm']}; {setting['cores']} cores, no GPU; at most {setting['limit_s']} s of processor time per attempt; "
        f"{setting['date']}.",
        "",
        f"| | {' | '.join(WORDS)} |",
        f"|---|{'---|' * len(WORDS)}",
        *(f"| {TITLES[column]} | {' | '.join(str(counts[column][word]) for word in WORDS)} |" for column in COLUMNS),
        "",
    ]
    if queries:
        lines += [
            f"Of torch-pruning's partial ones in best use, {len(queries)} lack nothing but the key/value heads, which it keeps by design "
            f"where query heads share them: {', '.join(queries)}.",
            "",
        ]
    if any("no attribute 'grad_fn'" in row["plain"]["reason"] for row in rows.values()):
        lines += ["*'tuple' object has no attribute 'grad_fn'*: torch-pruning meets the KV cache among the model's outputs.", ""]
    lines += ["| model | graphclone | torch-pruning, plain use | torch-pruning, best use |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {cell(row['graphclone'])} | {cell(row['plain'])} | {cell(row['best'], best=True)} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def _only_queries(outcome: Row) -> bool:
    return [role for role, state in outcome["roles"].items() if state != "all"] == ["keys and values"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["*"], metavar="PATTERN", help="names or patterns")
    parser.add_argument("--timm", action="store_true", help="some timm models as well")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=int, default=60, metavar="SECONDS", help="of processor time, for each attempt")
    parser.add_argument("--again", action="store_true", help="measure these models even if the file has them")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    options = parser.parse_args(arguments)
    os.environ["PYTHONWARNINGS"] = (
        "ignore"  # tqdm leaves a semaphore in the process that all are forked from, which is told at exit
    )
    console, path = Console(), options.output / "coverage.json"
    chosen = list(dict.fromkeys(name for pattern in options.models for name in known(pattern, options.timm)))
    if options.again and path.exists():
        data = json.loads(path.read_text())
        write({name: row for name, row in data["models"].items() if name not in chosen}, options.limit, path)
    run(chosen, options.jobs, options.limit, path, console)
    data = json.loads(path.read_text())
    order = {name: place for place, name in enumerate(known(timm=True))}
    data["models"] = dict(sorted(data["models"].items(), key=lambda item: order.get(item[0], len(order))))
    path.write_text(json.dumps(data, indent=1) + "\n")
    (options.output / "COVERAGE.md").write_text(markdown(data))
    table = Table("", *WORDS, box=None)
    for column, counted in totals(data["models"]).items():
        table.add_row(TITLES[column], *(str(counted[word]) for word in WORDS))
    console.print(table)


if __name__ == "__main__":
    main()
