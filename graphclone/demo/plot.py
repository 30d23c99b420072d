"""The picture of a race."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from graphclone.demo.curves import Curve, SpeedUp

CLONE, TWIN, GOAL = "#1f6fb4", "#d9730d", "#666666"


def plot(path: Path, clone: Curve, twin: Curve, found: SpeedUp, *, parent_loss: float, loss: str, title: str) -> None:
    """Both held-out curves, the loss at which the twin ends, and where the clone came to it. `loss` is the unit of the losses."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")  # no pyplot: nothing global, no display needed
    axes = figure.add_subplot()
    axes.plot(twin.steps, twin.losses, color=TWIN, lw=2, label=f"random twin, ends at {twin.end.loss:.3f}")
    axes.plot(clone.steps, clone.losses, color=CLONE, lw=2, label=f"clone, ends at {clone.end.loss:.3f}")
    axes.axhline(found.goal, color=GOAL, ls="--", lw=1, label=f"the twin's final loss, {found.goal:.3f}")
    axes.axhline(parent_loss, color=GOAL, ls=":", lw=1, label=f"the parent's loss, {parent_loss:.3f}")
    if found.clone_step:
        axes.plot([found.clone_step], [found.goal], "o", color=CLONE, ms=7)
    axes.set_title(f"{title}\n{found}", loc="left", fontsize=10)
    axes.set_xlabel("training steps")
    axes.set_ylabel(f"held-out loss ({loss})")
    axes.set_xlim(0, twin.steps[-1])
    axes.set_ylim(0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=130)
