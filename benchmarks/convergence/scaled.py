"""A larger child, for a larger parent: hidden size, heads, MLP and depth N times as large, heads of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GROWS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


def scaled(sizes: Mapping[str, Any], scale: int) -> dict[str, Any]:
    """The fields that grow, N times; others as they are."""
    return {name: value * scale if name in _GROWS else value for name, value in sizes.items()}
