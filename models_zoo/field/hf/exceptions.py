"""What the generic walk cannot guess, per model type of the config at hand, nested ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A value for the parent and another for its smaller destination."""

    parent: Any
    child: Any

    def of(self, half: bool) -> Any:
        return self.child if half else self.parent


# `...` leaves a field to the config's own rule.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "gemma3": dict(mm_tokens_per_image=4),
    "shieldgemma2": dict(mm_tokens_per_image=4),
    "swin": dict(window_size=3),
    "swinv2": dict(window_size=3),
    "maskformer-swin": dict(window_size=3),
    "donut-swin": dict(window_size=3),
    "swin2sr": dict(window_size=3),
    "qwen2_vl_vision": dict(hidden_size=Pair(128, 64)),
}


def exceptions(model_type: str) -> dict[str, Any]:
    return _EXCEPTIONS.get(model_type, {})
