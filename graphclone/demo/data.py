"""Real data that every machine has: the text of Python's own standard library, and scikit-learn's digits."""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graphclone.errors import SourceError

# Not prose or program text that one learns from: tests, vendored wheels, and tables of character codes.
_LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "ensurepip",
    "__pycache__",
    "encodings",
    "pydoc_data",
}

_LEAST = 20_000  # bytes on either side; the whole library has some 10 million


@dataclass(frozen=True)
class Split:
    """Training and held-out data of one task; for text both are 1-D `uint8` streams of bytes."""

    train: Tensor
    held_out: Tensor


def standard_library(root: Path | None = None) -> Split:
    """The bytes of the standard library's `.py` files; every twentieth *file*, chosen by its path, is held out.

    A file's side depends on its relative path alone, so a parent trained on one Python version and a child
    trained on another agree on what is held out.

    **Raises** `SourceError` where this Python has no source files.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    sides: dict[bool, list[bytes]] = {True: [], False: []}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not _LEFT_OUT & set(name.parts):
            sides[zlib.crc32(name.as_posix().encode()) % 20 == 0].append(path.read_bytes())
    if min(sum(map(len, files)) for files in sides.values()) < _LEAST:
        raise SourceError(
            "cannot read the text that the demo learns from",
            because=f"there is hardly any Python source in '{root}': this Python came without the standard library's .py files",
            attempt="a Python with its full standard library, or the demo's vision task",
        )
    train, held_out = (torch.frombuffer(bytearray(b"\0".join(sides[side])), dtype=torch.uint8) for side in (False, True))
    return Split(train, held_out)


def windows(stream: Tensor, batch: int, length: int, seed: int) -> Iterator[Tensor]:
    """Endless random windows of a byte stream: int64, shape (batch, length)."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(stream) - length, (batch,), generator=generator)
        yield torch.stack([stream[start : start + length] for start in starts]).long()


def spread(stream: Tensor, count: int, length: int) -> Tensor:
    """Windows at even distances over the whole of a byte stream, the same each time: int64, shape (count, length)."""
    starts = torch.linspace(0, len(stream) - length, count, dtype=torch.float64).long()
    return torch.stack([stream[start : start + length] for start in starts]).long()


@dataclass(frozen=True)
class Images:
    """`pixel_values`: float32 (n, 1, 8, 8) in [0, 1]; `labels`: int64 (n,)."""

    pixel_values: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageSplit:
    """Training and held-out images."""

    train: Images
    held_out: Images


def digits() -> ImageSplit:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 grey pixels; of each class every fifth, in file order, is held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise SourceError(
            "cannot load the digits", because="they come with scikit-learn", attempt="pip install 'graphclone[vision]'"
        ) from missing
    pixels, labels = load_digits(return_X_y=True)
    pixel_values = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    classes = torch.as_tensor(labels, dtype=torch.int64)
    by_class = torch.argsort(classes, stable=True)
    held_out = torch.zeros(len(classes), dtype=torch.bool)
    held_out[by_class[::5]] = True
    train, rest = (Images(pixel_values[side], classes[side]) for side in (~held_out, held_out))
    return ImageSplit(train, rest)


def shifted(images: Images, size: int, seed: int) -> Iterator[Images]:
    """Endless random batches, each image shifted by at most one pixel either way, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    padded = torch.nn.functional.pad(images.pixel_values, (1, 1, 1, 1))
    shifts = torch.stack([padded[..., y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    while True:
        picked = torch.randint(len(images.labels), (size,), generator=generator)
        moved = shifts[torch.randint(9, (size,), generator=generator), picked]
        noise = 0.05 * torch.randn(moved.shape, generator=generator)
        yield Images((moved + noise).clamp(0, 1), images.labels[picked])
