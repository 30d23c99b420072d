"""Plan → weights and graphs. Every target reads the same plan, so each checks the others."""

from graphclone.execute.destination import fill
from graphclone.execute.graph import execute, select
from graphclone.execute.memory import child_state, weights

__all__ = ["child_state", "execute", "fill", "select", "weights"]
