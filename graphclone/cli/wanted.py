"""What the command line asks of a child, and what of it can be refused before any work is done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphclone.cli.options import Asked
from graphclone.errors import OutputError, SizeError, SourceError
from graphclone.recipe import DEFAULT, PAPER, recipe_named

SCORES = ("activations", "weights", "uniform")
Size = int | float  # a number of units or blocks, or a share of them


@dataclass(frozen=True)
class Wanted:
    """The options of `graphclone clone`, as they were written."""

    output: Path | None
    set: list[str]
    width: list[str]
    depth: list[str]
    scores: str | None
    data: Path | None
    batch: int
    scale: bool
    plan_only: bool
    overwrite: bool
    seed: int
    dynamic: bool
    graph: bool
    like: Path | None
    params: str | None
    pt2: bool = False
    recipe: str | None = None
    shard: str | None = None

    @property
    def begins(self) -> str:
        """The recipe's name: the one asked for; else the default where there is data, and a child to hold what is computed from it."""
        return self.recipe or (DEFAULT if self.data is not None and not self.plan_only else "paper")

    def parameters(self) -> int | None:
        """`60M` is 60 million."""
        return _number(self.params) if self.params is not None else None

    def widths(self) -> dict[str, Size]:
        return _sizes(self.width, "--width", "residual=0.5")

    def depths(self) -> Size | Mapping[str, Size] | None:
        """One size for every stack, or one for each of some."""
        if any("=" in text for text in self.depth):
            return _sizes(self.depth, "--depth", "layers=4")
        if len(self.depth) > 1:
            raise SizeError("--depth is given twice", attempt="--depth STACK=N for each stack")
        return _size(self.depth[0], "--depth") if self.depth else None


def check(asked: Asked, wanted: Wanted) -> None:
    """**Raises** `SizeError`, `SourceError`, `OutputError`, `UnknownNameError`: what contradicts itself, is not there, or would be written
    over the parent."""
    ways = {
        "--set" if wanted.like is None else "--like": wanted.set or wanted.like,
        " and ".join(["--width"] * bool(wanted.width) + ["--depth"] * bool(wanted.depth)): wanted.width or wanted.depth,
        "--params": wanted.params,
    }
    given = [way for way, words in ways.items() if words]
    if len(given) > 1:
        raise SizeError(
            f"{' and '.join(given)} were given together",
            because="--set builds the child from the parent's class, and all sizes follow from it; --like takes them from another config, "
            "of which --set may change some; --width and --depth say them one by one, and --params chooses them",
            attempt="one or the other",
        )
    if not given:
        raise SizeError(
            "nothing says how large the child is",
            attempt=f"--params 60M, --set hidden_size=96, or --width residual=0.5; `graphclone inspect {asked.spec}` lists names",
        )
    if (wanted.dynamic or wanted.graph) and (wanted.set or wanted.like):
        raise SizeError(
            f"--{'pt2' if wanted.pt2 else 'dynamic' if wanted.dynamic else 'graph'} is of no use to {given[0]}",
            because="a child of the parent's own class takes whatever sizes the class takes; only a rewritten graph has fixed ones",
            attempt=f"--width and --depth, or {given[0]} alone",
        )
    wanted.widths()
    wanted.depths()
    wanted.parameters()
    if wanted.shard is not None and not re.fullmatch(r"[1-9]\d*[KMGT]B", wanted.shard):
        raise SizeError(
            f"cannot read --max-shard-size '{wanted.shard}'", because="it is a number of KB, MB, GB or TB, such as 5GB"
        )
    if wanted.scores not in (None, *SCORES):
        raise SizeError(f"there is no way '{wanted.scores}' to rank units", attempt=f"--scores {', '.join(SCORES)}")
    if wanted.scores == "activations" and wanted.data is None:
        raise SizeError("--scores activations needs calibration data", attempt="--data FILE.safetensors, or --scores weights")
    if wanted.data is not None and wanted.scores in ("weights", "uniform"):
        raise SizeError(f"--data is of no use to --scores {wanted.scores}", attempt="--scores activations, or no --data")
    if recipe_named(wanted.begins) != PAPER and wanted.data is None:
        raise SizeError(f"--recipe {wanted.recipe} needs calibration data", attempt="--data FILE.safetensors, or no --recipe")
    if wanted.data is not None and not wanted.data.is_file():  # of what is in it, its parent has to be there to tell
        raise SourceError(f"cannot read '{wanted.data}'", because="there is no such file")
    if wanted.batch < 1:
        raise SizeError(f"cannot read --batch {wanted.batch}", because="a batch has at least one example")
    _check_output(asked, wanted)


def _check_output(asked: Asked, wanted: Wanted) -> None:
    if wanted.output is None:
        if not wanted.plan_only:
            raise OutputError("nothing says where to write the child", attempt="-o FOLDER, or --plan-only")
        return
    target, source = wanted.output.expanduser().resolve(), Path(asked.spec).expanduser()
    if source.exists() and (source.resolve().is_relative_to(target) or target.is_relative_to(source.resolve())):
        raise OutputError(
            f"will not write '{wanted.output}'", because=f"the parent '{asked.spec}' lies there", attempt="another folder"
        )


def _sizes(texts: list[str], option: str, example: str) -> dict[str, Size]:
    found: dict[str, Size] = {}
    for text in texts:
        name, equals, size = (part.strip() for part in text.rpartition("="))
        if not equals or not name:
            raise SizeError(f"cannot read {option} '{text}'", because="it is written NAME=N", attempt=f"{option} {example}")
        if name in found:
            raise SizeError(f"{option} {name} is given twice", because=f"it is {found[name]} already when '{text}' comes")
        found[name] = _size(size, option)
    return found


def _number(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmb]?)", text.strip().lower().replace(",", "").replace("_", ""))
    if match is None or not float(match[1]):
        raise SizeError(f"cannot read --params '{text}'", because="it is no number", attempt="a number such as 60M, 1.2B or 500k")
    return round(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[match[2]])


def _size(text: str, option: str) -> Size:
    """`96` units, or the share `0.5` of the parent's; `1` is one unit, `1.0` all of them."""
    for read in (int, float):
        try:
            size: Size = read(text)
        except ValueError:
            continue
        if isinstance(size, float) and not 0 < size <= 1:
            raise SizeError(f"cannot read {option} '{text}'", because="a share lies between 0 and 1", attempt="96, or 0.5")
        if size < 1 and isinstance(size, int):
            raise SizeError(f"cannot read {option} '{text}'", because="at least one is left", attempt="96, or 0.5")
        return size
    raise SizeError(f"cannot read {option} '{text}'", because="a size is a whole number, or a share such as 0.5")
