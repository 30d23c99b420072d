"""What is going on, and for how long already: a heading and a spinner for each stage, two bars for the race."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graphclone.demo.curves import Score
from graphclone.demo.race import Watch


class Stages:
    """Numbered headings; `seconds` says how long each stage took."""

    def __init__(self, console: Console, count: int) -> None:
        self.console, self.count = console, count
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, doing: str = "") -> Iterator[None]:
        """`doing` stands beside a spinner; without it the stage shows its own progress (a terminal holds one live display)."""
        start = time.perf_counter()
        self.console.print(f"\n[bold]{len(self.seconds) + 1}/{self.count}  {name}[/]")
        with self.console.status(f"{doing} …") if doing else contextlib.nullcontext():
            yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


class Bars(Watch):
    """One bar per model with its training and held-out loss; where there is no terminal, a line now and then."""

    def __init__(self, console: Console, names: list[str], steps: int) -> None:
        self.console, self.steps, self.names = console, steps, names
        self.held_out: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("   {task.description:<6}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("training loss {task.fields[loss]}  held out {task.fields[held_out]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.bars = {name: self.progress.add_task(name, total=steps, loss="  –  ", held_out="  –  ") for name in names}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def step(self, name: str, step: int, loss: float) -> None:
        self.progress.update(self.bars[name], completed=step, loss=f"{loss:.3f}")

    def score(self, name: str, step: int, score: Score) -> None:
        self.held_out[name] = score.loss
        self.progress.update(self.bars[name], held_out=f"{score.loss:.3f}")
        due = step % max(self.steps // 10, 1) == 0
        if not self.console.is_terminal and name == self.names[-1] and due:
            losses = ", ".join(f"{each} {self.held_out[each]:.3f}" for each in self.names)
            self.console.print(f"   step {step} of {self.steps}, held-out loss: {losses}")
