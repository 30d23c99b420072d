"""The data of the demo: what is held out is never trained on, and is the same on every machine."""

from __future__ import annotations

import itertools
import sysconfig
import zlib
from pathlib import Path

import pytest
import torch

from graphclone.demo.data import digits, shifted, spread, standard_library, windows
from graphclone.errors import SourceError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small library; each file says its own name over and over."""
    for index in range(120):
        path = tmp_path / f"package_{index % 7}" / f"module_{index}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<{path.relative_to(tmp_path).as_posix()}>" * 500)
    return tmp_path


def names(stream: torch.Tensor) -> set[str]:
    return {piece.partition(">")[0] for piece in bytes(stream.tolist()).decode().split("<") if ">" in piece}


def test_no_file_is_on_both_sides_and_none_is_lost(library: Path) -> None:
    split = standard_library(library)
    assert not names(split.train) & names(split.held_out)
    assert len(names(split.train) | names(split.held_out)) == 120


def test_a_file_stays_on_its_side_when_others_come_and_go(library: Path) -> None:
    before = standard_library(library)
    for index in range(0, 120, 3):
        (library / f"package_{index % 7}" / f"module_{index}.py").unlink()
    (library / "new.py").write_text("<new.py>" * 500)
    after = standard_library(library)
    assert not names(after.held_out) & names(before.train)
    assert not names(after.train) & names(before.held_out)


def test_tests_and_vendored_packages_are_left_out(library: Path) -> None:
    for folder in ("test", "site-packages", "encodings"):
        (library / folder).mkdir()
        (library / folder / "left_out.py").write_text(f"<{folder}/left_out.py>")
    split = standard_library(library)
    assert not any("left_out" in name for name in names(split.train) | names(split.held_out))


def test_about_a_twentieth_of_this_python_is_held_out() -> None:
    split = standard_library()
    assert 0.02 < len(split.held_out) / len(split.train) < 0.1
    assert len(split.train) > 3_000_000


def test_no_held_out_file_of_this_python_is_in_the_training_stream() -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    train = bytes(standard_library().train.numpy())
    for name in ("argparse.py", "ast.py", "csv.py", "heapq.py", "random.py", "textwrap.py", "typing.py", "zipfile.py"):
        if (root / name).is_file():
            held_out = zlib.crc32(name.encode()) % 20 == 0
            assert ((root / name).read_bytes() in train) is not held_out, name


def test_a_python_without_its_sources_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"hardly any Python source in .*\n  try .*vision"):
        standard_library(tmp_path)


def test_batches_are_the_same_for_the_same_seed_only() -> None:
    stream = torch.arange(5000, dtype=torch.int32)
    first, again, other = (next(windows(stream, 4, 11, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 11)
    assert torch.equal(first.diff(dim=1), torch.ones(4, 10, dtype=torch.int64))


def test_held_out_windows_run_from_the_first_byte_to_the_last() -> None:
    lines = spread(torch.arange(1000), 7, 13)
    assert lines.shape == (7, 13)
    assert (lines[0, 0], lines[-1, -1]) == (0, 999)


def test_no_digit_is_on_both_sides_and_every_class_is_on_each() -> None:
    split = digits()
    assert len(split.train.labels) + len(split.held_out.labels) == 1797
    seen = {image.numpy().tobytes() for image in split.train.pixel_values}
    assert not any(image.numpy().tobytes() in seen for image in split.held_out.pixel_values)
    for side in (split.train, split.held_out):
        assert side.labels.unique().tolist() == list(range(10))
        assert 0 <= side.pixel_values.min() < side.pixel_values.max() <= 1


def test_shifted_digits_keep_their_labels_and_their_ink() -> None:
    images = digits().train
    for batch in itertools.islice(shifted(images, 32, seed=3), 2):
        assert batch.pixel_values.shape == (32, 1, 8, 8)
        assert len(batch.labels) == 32
        assert 0 <= batch.pixel_values.min() <= batch.pixel_values.max() <= 1
