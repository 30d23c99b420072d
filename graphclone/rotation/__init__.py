"""Rotation of a stream: not only which units it has and in which order, but along which axes it is read at all."""

from graphclone.rotation.meetings import Meetings, meetings
from graphclone.rotation.principal import Principal, StreamMoment, principal_axes, principal_axes_of_heads
from graphclone.rotation.rotate import mean_free, rotated, turned_at_random

__all__ = [
    "Meetings",
    "Principal",
    "StreamMoment",
    "mean_free",
    "meetings",
    "principal_axes",
    "principal_axes_of_heads",
    "rotated",
    "turned_at_random",
]
