"""Runs of a race that are done, kept beside the folder that it writes until that is complete: the same command goes on with the others."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """Held-out losses by step, of a child of so many `parameters`."""

    parameters: int
    losses: Mapping[int, float]


@dataclass(frozen=True)
class Kept:
    """A file of runs, one in each line with all that determined it, by which it is found again."""

    path: Path

    @classmethod
    def beside(cls, folder: Path) -> Kept:
        folder = Path(os.path.abspath(folder.expanduser()))
        return cls(folder.with_name(f"{folder.name}.partial.jsonl"))

    def read(self) -> dict[str, Run]:
        """What is there, by `key`."""
        return {key(line["of"]): Run(line["parameters"], dict(line["losses"])) for line in self._lines()}

    def add(self, of: Mapping[str, Any], run: Run) -> None:
        line = json.dumps({"of": of, "parameters": run.parameters, "losses": list(run.losses.items())})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}")  # on a line of its own, whatever became of the one before

    def forget(self, done: Iterable[Mapping[str, Any]]) -> None:
        """These runs are where they belong; those of another race stay."""
        keys = {key(of) for of in done}
        others = [line for line in self._lines() if key(line["of"]) not in keys]
        if others:
            self.path.write_text("\n".join(map(json.dumps, others)) + "\n", encoding="utf-8")
        else:
            self.path.unlink(missing_ok=True)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What was written to its end."""
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else ():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def key(of: Mapping[str, Any]) -> str:
    return json.dumps(of, sort_keys=True)
