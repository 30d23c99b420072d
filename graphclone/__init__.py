"""graphclone: a smaller (or deeper) transformer out of a trained one, for any architecture, with no per-architecture code."""

from graphclone.capture import Trace, capture
from graphclone.distill import distill_pairs
from graphclone.errors import GraphcloneError
from graphclone.execute import execute, select
from graphclone.export.source import save_clone as save
from graphclone.layout import Layout, analyze
from graphclone.plan import Plan
from graphclone.scores import Scores, score_activations, score_weights
from graphclone.subclone import plan, subclone
from graphclone.verify import verify

__version__ = "0.1.0"

__all__ = [
    "GraphcloneError",
    "Layout",
    "Plan",
    "Scores",
    "Trace",
    "analyze",
    "capture",
    "distill_pairs",
    "execute",
    "plan",
    "save",
    "score_activations",
    "score_weights",
    "select",
    "subclone",
    "verify",
]
