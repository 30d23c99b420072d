"""What the demo prints of its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from graphclone.demo.curves import Curve, Score, SpeedUp
from graphclone.demo.task import Task
from graphclone.verify import Report


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def scored(it: Task, score: Score) -> str:
    """`1.046 nats per byte, 70.1 % of bytes right`"""
    return f"{score.loss:.3f} {it.loss}, {score.right:.1%} of {it.right} right"


def oracles(report: Report) -> RenderableType:
    """One line per oracle, green or red."""
    lines = [Text(str(verdict), style="green" if verdict.passed else "bold red") for verdict in report.verdicts]
    return indented(Group(*lines))


def side_by_side(curves: Mapping[str, Curve], found: SpeedUp, it: Task, rows: int = 13) -> RenderableType:
    """Both curves at about a dozen of their steps; the clone's losses are green from where it is at the twin's final one."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", highlight=False)
    table.add_column("step", justify="right")
    for name in curves:
        table.add_column(name, justify="right")
        table.add_column(it.right, justify="right", header_style="dim")
    steps = next(iter(curves.values())).steps
    for at in _spread(len(steps), rows):
        cells = [Text(f"{steps[at]}")]
        for name, curve in curves.items():
            score = curve.scores[at]
            there = name == "clone" and found.clone_step is not None and steps[at] >= found.clone_step
            cells += [Text(f"{score.loss:.3f}", style="green" if there else ""), Text(f"{score.right:.1%}", style="dim")]
        table.add_row(*cells)
    return indented(Group(Text(f"held-out loss in {it.loss}, and the share of {it.right} right", style="dim"), table))


def indented(what: RenderableType) -> Padding:
    """As far to the right as the lines below a stage's heading."""
    return Padding(what, (0, 0, 0, 3), expand=False)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the positions 0 to count - 1 at even distances, and the last one."""
    stride = max(math.ceil((count - 1) / (most - 1)), 1)
    return [*range(0, count - 1, stride), count - 1]
