"""What the demo races on: an embedded parent, a smaller destination, and the data that both twins learn from.

The learning rate of a race is the one that is best for the random twin, of those that `python -m graphclone.demo.grid TASK` tries:
the twin's held-out loss after 400 steps is

    peak learning rate           1e-3    1.4e-3  2e-3    2.8e-3  4e-3    8e-3    1.6e-2
    text, seed 0                 1.843   1.800   1.755   1.758   1.870   1.886   2.138
    text, seed 1                         1.826   1.783   1.757   1.766
    text, seed 2                                 1.768   1.744   1.744
    vision, mean of seeds 0–2    0.343   0.297   0.240   0.254   0.274   0.329   0.504

How much sooner the clone gets there depends on how long the race is: on the digits, which a random twin of this size has learnt
after 400 steps, some 1.4 to 2.1 times, in a race of 200 steps 3.1 to 4.3 times (the same learning rate, seeds 0–2).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graphclone.demo.data import Images, digits, shifted, spread, standard_library, windows
from graphclone.errors import UnknownNameError

PARENTS = Path(__file__).parent / "parents"
_ONNX = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Batch:
    """`inputs`, as a model's forward takes them, and the class of each row of its logits."""

    inputs: dict[str, Tensor]
    targets: Tensor


@dataclass(frozen=True)
class Data:
    """What a task learns from.

    - `train(seed)`: endless batches, the same for the same seed;
    - `held_out`: what every evaluation runs over; `few`: some of it, as example inputs;
    - `described`: which data it is, for a reader.
    """

    train: Callable[[int], Iterator[Batch]]
    held_out: Sequence[Batch]
    few: Batch
    described: str


@dataclass(frozen=True)
class Task:
    """One demo.

    - `parent`: its HF folder; `child`: the fields of its config that the child has otherwise; `loader`: who reads both back;
    - `extras`, `libraries`: what has to be installed;
    - `data(n)`: the data, with n held-out batches;
    - `loss`: what the loss is measured in; `right`: what its share is that the model gets right;
    - `lr`: peak learning rate of both twins, the one that is best for the random one (see `TASKS`);
    - `steps`, `every`: how long they train, and how often they are evaluated; `held_out`: on how many batches;
    - `batch`: examples in a training batch; `calibration`: how many such batches the parent's units are ranked on.
    """

    parent: Path
    child: Mapping[str, object]
    loader: str
    extras: Sequence[str]
    libraries: Sequence[str]
    data: Callable[[int], Data]
    loss: str
    right: str
    lr: float
    steps: int
    batch: int
    every: int = 10
    held_out: int = 4
    calibration: int = 4

    def short(self) -> Task:
        """The same in a few steps: all is run and written, nothing is learnt."""
        return replace(self, steps=4, every=2, held_out=1, calibration=1)


def task_named(name: str) -> Task:
    """**Raises** `UnknownNameError`."""
    if name not in TASKS:
        raise UnknownNameError(f"no task is called '{name}'", attempt=" or ".join(TASKS))
    return TASKS[name]


def text(held_out: int, length: int = 128) -> Data:
    """The standard library's bytes: predict each from those before it."""
    split = standard_library()

    def batch(lines: Tensor) -> Batch:
        return Batch({"input_ids": lines[:, :-1]}, lines[:, 1:])

    def train(seed: int) -> Iterator[Batch]:
        return map(batch, windows(split.train, TASKS["text"].batch, length + 1, seed))

    fixed = spread(split.held_out, 16 * held_out, length + 1)
    described = (
        f"the standard library of Python {platform.python_version()}: {len(split.train) / 1e6:.1f} MB to train on,"
        f" {len(split.held_out) / 1e6:.2f} MB held out (whole files); the loss is over {fixed[:, 1:].numel():,} bytes of these"
    )
    return Data(train, list(map(batch, torch.split(fixed, 16))), batch(fixed[:2, :32]), described)


def vision(held_out: int) -> Data:
    """scikit-learn's digits: which of ten an 8 × 8 image shows."""
    split = digits()

    def batch(images: Images) -> Batch:
        return Batch({"pixel_values": images.pixel_values}, images.labels)

    def train(seed: int) -> Iterator[Batch]:
        return map(batch, shifted(split.train, TASKS["vision"].batch, seed))

    def batches(images: Images, size: int) -> Iterator[Batch]:
        pieces = zip(torch.split(images.pixel_values, size), torch.split(images.labels, size), strict=True)
        return (batch(Images(pixels, labels)) for pixels, labels in pieces)

    fixed = list(batches(split.held_out, 90))[:held_out]
    described = (
        f"scikit-learn's digits: {len(split.train.labels):,} images to train on (shifted and noisy),"
        f" {len(split.held_out.labels)} held out; the loss is over {sum(len(each.targets) for each in fixed)} of these"
    )
    return Data(train, fixed, next(batches(split.held_out, 3)), described)


TASKS = {
    "text": Task(
        parent=PARENTS / "byte-llama",
        child={
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "intermediate_size": 256,
        },
        loader="AutoModelForCausalLM",
        extras=("hf", "onnx"),
        libraries=("transformers", *_ONNX),
        data=text,
        loss="nats per byte",
        right="bytes",
        lr=2.8e-3,
        steps=400,
        batch=16,
    ),
    "vision": Task(
        parent=PARENTS / "digits-vit",
        child={"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96},
        loader="AutoModelForImageClassification",
        extras=("hf", "onnx", "vision"),
        libraries=("transformers", *_ONNX, "sklearn"),
        data=vision,
        loss="nats per digit",
        right="digits",
        lr=2e-3,
        steps=400,
        batch=64,
    ),
}
