"""Write a smaller child of every model, read it again in a process without graphclone, and compare it with the rewritten graph.

python -m models_zoo.roundtrip                        everything of transformers, timm and torchvision
python -m models_zoo.roundtrip --only 'hf/(llama|bert)/'
python -m models_zoo.roundtrip --children FOLDER      those that the conformance run has made, and the rest

It prints and writes ROUNDTRIP.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from models_zoo import field as zoo
from models_zoo.conformance.checks import examine
from models_zoo.conformance.forks import Ended, forked
from models_zoo.roundtrip.writer import Written, alone, written

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("hf", "timm", "torchvision")
BAR = 1e-5


@dataclass(frozen=True)
class Row:
    """`mark`: ✓ comes back and computes what the graph does, ✗ does not, – no child was made. `child`: in which sizes it was made."""

    name: str
    mark: str
    child: str | None
    difference: float | None = None
    why: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


def rows(names: Sequence[str], children: Path | None, jobs: int, seconds: int) -> list[Row]:
    """Writes all that are not in `children`, then reads all; and of those that do not come back, the parent alone."""
    with tempfile.TemporaryDirectory() if children is None else contextlib.nullcontext(children) as folder:
        root = Path(folder)
        made: dict[str, Written] = {}
        for name, result in forked(names, lambda name: written(name, root), jobs, seconds, 12):
            made[name] = Written(None, {"parent": result.why}) if isinstance(result, Ended) else result
            print(f"{len(made):4} of {len(names)} {name}: {_told(made[name])}", flush=True)
        answers = dict(_read(root, [name for name in names if made[name].child is not None], jobs))
        found = [_row(name, made[name], answers.get(name)) for name in names]
        parents = dict(_parents(root / "parents", [row.name for row in found if row.mark == "✗"], jobs, seconds))
    return [replace(row, why=f"{row.why}; {parents[row.name]}") if row.name in parents else row for row in found]


def _parents(root: Path, names: list[str], jobs: int, seconds: int) -> Iterator[tuple[str, str]]:
    """Of each whose child does not come back, whether the parent does that its own library saves: a control."""
    root.mkdir(exist_ok=True)
    refused = {
        name: result.why if isinstance(result, Ended) else result
        for name, result in forked(names, lambda name: alone(name, root), jobs, seconds, 12)
    }
    for name, answer in _read(root, [name for name in names if refused[name] is None], jobs):
        refused[name] = answer.get("why") or (f"it differs by {answer['difference']:.1e}" if answer["difference"] > BAR else None)
    for name, why in refused.items():
        yield name, f"nor does the parent itself: {why}" if why else "the parent itself comes back"


def _told(made: Written) -> str:
    return "; ".join([*(f"not {sizes}: {why}" for sizes, why in made.refused.items()), made.child or "no child"])


def _read(root: Path, names: list[str], jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    (root / "names.json").write_text(json.dumps(names))
    words = [sys.executable, "-m", "models_zoo.roundtrip.reader", str(root), "--jobs", str(jobs)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        for line in reader.stdout:
            answer = json.loads(line)
            print(f"read {answer['name']}: {answer.get('why') or format(answer['difference'], '.1e')}", flush=True)
            yield answer["name"], answer
    if reader.returncode:
        raise RuntimeError(f"the reading process ended with {reader.returncode}")


def _row(name: str, made: Written, answer: Mapping[str, Any] | None) -> Row:
    if made.child is None:
        return Row(name, "–", None, refused=made.refused)
    if answer is None or "why" in answer:
        return Row(
            name, "✗", made.child, why=answer["why"] if answer else "the reading process said nothing", refused=made.refused
        )
    off = float(answer["difference"])
    why = "" if off <= BAR else f"differs by {off:.1e}"
    return Row(name, "✗" if why else "✓", made.child, off, why, made.refused)


# -- the page -----------------------------------------------------------------------------------------------------------

INTRODUCTION = """# Round trip

A child of every model, written to disk, and read again in a process of its own that does not have graphclone: `from_pretrained` (no
missing, no unexpected key), `timm.create_model(…, checkpoint_path=…)`, torchvision's class.
Made by `python -m models_zoo.roundtrip{words}` in {minutes:.0f} minutes.

*come back*: the outputs are those of the rewritten graph of the same plan, to 1e-5 of their largest value. The child has half of all
sizes; where its class makes another kind of network of these, half the widths, half the depth, or at last the parent's own sizes.
What does not come back is followed by a control: whether the parent does, saved and loaded by its own library alone.
*run*: the models that can be built, tiny, and run; *captured*: those that a child can be made of ([CONFORMANCE.md](CONFORMANCE.md) says
why not of the others). The first share is of the captured, the second of all that run.
"""


def page(found: Sequence[Row], words: str, seconds: float) -> str:
    lines = [INTRODUCTION.format(words=words, minutes=seconds / 60)]
    lines += [
        "| source | run | captured | children | come back | of all that run | in which sizes | largest difference |",
        "|---" * 8 + "|",
    ]
    for source in SOURCES:
        asked = [row for row in found if row.name.startswith(f"{source}/")]
        group = [row for row in asked if row.child]
        good = [row for row in group if row.mark == "✓"]
        run = [row for row in asked if not row.refused.get("parent", "").startswith("Unbuildable")]
        captured = [row for row in run if "parent" not in row.refused]
        if captured:
            sizes = ", ".join(f"{count} {child}" for child, count in Counter(row.child for row in group).most_common())
            largest = max((row.difference or 0.0 for row in good), default=0.0)
            share = f"{len(good)} ({len(good) / len(captured):.1%})"
            cells = [source, len(run), len(captured), len(group), share, f"{len(good) / len(run):.1%}", sizes, f"{largest:.1e}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "## What does not come back", ""]
    lines += [f"- `{row.name}` ({row.child}): {row.why}" for row in found if row.mark == "✗"] or ["Nothing."]
    lines += ["", "## No child, or not one of half of everything", ""]
    lines += [f"- `{row.name}`: {_told(Written(row.child, dict(row.refused)))}" for row in found if row.refused] or ["Nothing."]
    return "\n".join([*lines, ""])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models_zoo.roundtrip", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", help="models whose name matches this regular expression")
    parser.add_argument(
        "--children", type=Path, metavar="FOLDER", help="where `python -m models_zoo.conformance --children FOLDER` has left them"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=180, help="the limit for one model")
    parser.add_argument("-o", "--output", type=Path, default=ROOT, help="the folder of ROUNDTRIP.md")
    return parser.parse_args()


def main() -> int:
    asked, start = arguments(), time.time()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = [name for name in zoo.names() if name.startswith(SOURCES) and re.search(asked.only or "", name)]
    if not names:
        print(f"no model's name matches {asked.only}", file=sys.stderr)
        return 2
    asked.output.mkdir(parents=True, exist_ok=True)
    import timm  # noqa: F401
    import transformers

    transformers.logging.set_verbosity_error()
    examine("odd/lambdas")  # what every fork would import and compile
    gc.collect()
    gc.freeze()
    try:
        found = rows(names, asked.children, asked.jobs, asked.seconds)
    except KeyboardInterrupt:
        print(
            "interrupted: no page is written; with --children FOLDER the same command keeps the children made so far",
            file=sys.stderr,
        )
        return 130
    text = page(found, f" --only '{asked.only}'" if asked.only else "", time.time() - start)
    (asked.output / "ROUNDTRIP.md").write_text(text)
    print(text.partition("\n## No child")[0])
    return int(any(row.mark == "✗" for row in found))


if __name__ == "__main__":
    sys.exit(main())
