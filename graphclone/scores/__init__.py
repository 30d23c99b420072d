"""Importance of units and of blocks. The only thing that needs data, and kept apart from everything else: an input to the passes."""

from graphclone.scores.activations import score_activations, score_calibrated
from graphclone.scores.blocks import angular, block_influence, greedy
from graphclone.scores.gradients import score_gradients
from graphclone.scores.kinds import GRADIENTS, PLACES, STREAM, UNITS
from graphclone.scores.scores import Scores
from graphclone.scores.weights import score_weights

__all__ = [
    "GRADIENTS",
    "PLACES",
    "STREAM",
    "UNITS",
    "Scores",
    "angular",
    "block_influence",
    "greedy",
    "score_activations",
    "score_calibrated",
    "score_gradients",
    "score_weights",
]
