"""Rotation of a stream: not only which units it has and in which order, but along which axes it is read at all."""

from graphclone.rotation.meetings import Meetings, meetings
from graphclone.rotation.principal import Principal, StreamMoment, principal_axes
from graphclone.rotation.rotate import rotated

__all__ = ["Meetings", "Principal", "StreamMoment", "meetings", "principal_axes", "rotated"]
