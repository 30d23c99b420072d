"""What `--set name=value` and `--arg name=value` mean: values are Python or JSON literals, and text where they are neither."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping

from graphclone.errors import SourceError


def literal(text: str) -> object:
    """The value that `text` spells: `96`, `1e-5`, `[2, 2]`, `None`, `true`; any other text stands for itself.

    >>> literal("[2, 2]"), literal("true"), literal("gelu")
    ([2, 2], True, 'gelu')
    """
    for read in (ast.literal_eval, json.loads):
        try:
            value: object = read(text)
            return value
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def literals(values: Mapping[str, object]) -> dict[str, object]:
    """The same mapping with every string read by `literal`."""
    return {name: literal(value) if isinstance(value, str) else value for name, value in values.items()}


def assignments(texts: Iterable[str]) -> dict[str, object]:
    """`["hidden_size=96", "act=gelu"]` as `{"hidden_size": 96, "act": "gelu"}`.

    Raises:
        SourceError: an item has no `=`, no name before it, or the name of an earlier one.
    """
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise SourceError(f"cannot read '{text}'", because="a setting is written name=value", attempt="hidden_size=96")
        if name in found:
            raise SourceError(f"cannot set '{name}' twice", because=f"it is {found[name]!r} already when '{text}' comes")
        found[name] = literal(value)
    return found
