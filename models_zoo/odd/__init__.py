"""Hand-written odd ones: kinds of model that no library names, one file per theme."""

from __future__ import annotations

from models_zoo.entry import Tiny, Unbuildable

_BY_NAME: dict[str, Tiny] = {}


def names() -> list[str]:
    return list(_BY_NAME)


def find(name: str) -> Tiny:
    if name not in _BY_NAME:
        raise Unbuildable(f"no odd model {name!r}")
    return _BY_NAME[name]
