"""Hand-written odd ones: kinds of model that no library names, one file per theme."""

from __future__ import annotations

from models_zoo.entry import Tiny, Unbuildable
from models_zoo.odd import attention, ends, experts, memory, recurrent, streams, vision, weights, writes

_THEMES = (attention, streams, weights, recurrent, experts, vision, memory, writes, ends)
_BY_NAME = {tiny.name: tiny for theme in _THEMES for tiny in theme.MODELS}


def names() -> list[str]:
    """`odd/<what is odd about it>`."""
    return list(_BY_NAME)


def find(name: str) -> Tiny:
    if name not in _BY_NAME:
        raise Unbuildable(f"no odd model {name!r}")
    return _BY_NAME[name]
