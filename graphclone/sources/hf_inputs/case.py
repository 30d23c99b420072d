"""What an input maker may ask about a model: its config, the names its forward takes, and sizes wherever they are nested."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TEXTS, LENGTH, TARGET = 3, 11, 7  # text only
CONTENT = range(7, 40)  # where tokens are looked for first: below and above them vocabularies have special ones
_SPECIAL = re.compile(
    r".*(token|tokens)_(id|ids|index)|(bos|eos|pad|mask|sep|cls|boi|eoi|boa|eoa|image|audio|video)_(id|idx|index)"
)
PICTURES = 2  # a batch of 3 would look like colours


@dataclass(frozen=True)
class Case:
    model: Any
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
        special = {number for part in nested(self.config) for name, value in vars(part).items() if _SPECIAL.fullmatch(name)
                   for number in (value if isinstance(value, list) else [value])}  # fmt: skip
        below = min(CONTENT.stop, self.vocabulary())
        usual = range(CONTENT.start if below > CONTENT.start + 3 else 0, below)
        allowed = [each for each in usual if each not in special] or list(usual)
        return torch.tensor(allowed)[integers(len(allowed), *shape, seed=seed)]


def nested(config: Any) -> Iterator[Any]:
    """The config and all those below it."""
    from transformers import PreTrainedConfig  # seconds, and who only wants names need not wait

    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from nested(value)


def integers(below: int, *shape: int, seed: int = 0) -> Tensor:
    """Random int64 in [0, below)."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def reals(*shape: int, seed: int = 0) -> Tensor:
    """Random float32, standard normal."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
