"""What an input maker may ask about a model: its config, the names its forward takes, and sizes wherever they are nested."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models_zoo.entry import integers
from models_zoo.field.hf.shrink import CONTENT, nested

TEXTS, LENGTH, TARGET = 3, 11, 7  # text only
PICTURES = 2  # a batch of 3 would look like colours


@dataclass(frozen=True)
class Case:
    model: nn.Module
    config: Any
    accepts: dict[str, inspect.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> Case:
        accepts = {
            name: parameter
            for name, parameter in inspect.signature(model.forward).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        return cls(model, model.config, accepts)

    @property
    def type(self) -> str:
        return str(self.config.model_type)

    @property
    def required(self) -> list[str]:
        return [name for name, parameter in self.accepts.items() if parameter.default is parameter.empty]

    def size(self, *names: str, default: Any = None, under: Iterable[str] = ()) -> Any:
        """The first of these fields that is set, in the named sub-configs first, then in the whole tree."""
        parts = [part for key in under if (part := getattr(self.config, key, None)) is not None]
        for part in (*parts, *nested(self.config)):
            for name in names:
                value = getattr(part, name, None)
                if value is not None:
                    return value
        return default

    def vocabulary(self) -> int:
        sizes = [part.vocab_size for part in nested(self.config) if isinstance(getattr(part, "vocab_size", None), int)]
        return min(sizes, default=CONTENT.stop)

    def tokens(self, *shape: int, seed: int = 0) -> Tensor:
        """Ids that are no special token of the config."""
        below = min(CONTENT.stop, self.vocabulary())
        start = CONTENT.start if below > CONTENT.start + 3 else 0
        return integers(below - start, *shape, seed=seed) + start
