"""The wording that several sources share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, known: Iterable[str]) -> str:
    """Up to three names like `name`, for the last line of an error: "did you mean 'hidden_size'?"; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(match) for match in found)}?" if found else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c and 9 more`: a list that keeps an error readable."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
