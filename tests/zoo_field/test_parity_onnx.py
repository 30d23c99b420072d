"""The run over the field in ONNX Runtime: on a model whose batch is open, on one whose is not, and what its page says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models_zoo import field as zoo
from models_zoo import parity_onnx
from models_zoo.parity_onnx import Row, chosen, examine, interrupted, page


def batches(row: Row) -> set[str]:
    return {shapes.partition("×")[0] for shapes in row.shapes}


def test_the_half_width_child_agrees_at_several_batch_sizes() -> None:
    row = examine("odd/lambdas")
    assert (row.mark, row.note) == ("✓", "")
    assert 0 < row.share <= 1e-4
    assert len(batches(row)) >= 2
    assert "batch" in row.open


class RowByRow(nn.Module):
    """A loop over the batch, which is written out for the example's."""

    def __init__(self, wild: bool = False) -> None:
        super().__init__()
        self.up, self.down, self.wild = nn.Linear(5, 12), nn.Linear(12, 5), wild

    def forward(self, x: Tensor) -> Tensor:
        found = torch.stack([self.down(self.up(row).relu()) for row in x])
        return found + torch.rand_like(found) if self.wild else found


def tiny(wild: bool) -> zoo.Tiny:
    return zoo.Tiny("odd/row_by_row", lambda: RowByRow(wild).eval(), lambda: ((torch.randn(3, 5),), {}))


def test_where_no_batch_can_be_open_a_file_is_made_for_each_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "find", lambda name: tiny(False))
    row = examine("odd/row_by_row")
    assert (row.mark, batches(row)) == ("✓", {"3", "4"})
    assert row.note == "its batch is not open"


def test_a_difference_is_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "find", lambda name: tiny(True))
    row = examine("odd/row_by_row")
    assert row.mark == "✗"
    assert "between ONNX Runtime and PyTorch" in row.note


def test_what_cannot_be_built_has_no_child() -> None:
    assert examine("odd/of_no_such_name").mark == "–"


def test_a_spread_is_even_and_has_both_ends() -> None:
    names = [f"hf/{index}" for index in range(100)]
    assert chosen(names, None, 5) == ["hf/0", "hf/25", "hf/50", "hf/74", "hf/99"]
    assert chosen(names, "/9.$", 100) == names[90:]


def test_the_page_counts_and_tells_each_failure() -> None:
    rows = [
        Row("hf/good", "✓", share=2e-6, open="batch, sequence", shapes=("2×3", "5×7")),
        Row("hf/single", "✓", share=1e-6, shapes=("2×3", "2×3")),
        Row("hf/bad", "✗", "differs by 3.0e-01 of the largest output"),
        Row("odd/none", "–", "no child: needs a file"),
    ]
    text = page(rows, 1000, " --spread 3", 60)
    assert "4 of the field's 1000 models" in text
    assert "| hf | 3 | 2 (66.7 %) | 1 | 1 | 1 | 2.0e-06 |" in text
    assert "- `hf/bad`: differs by 3.0e-01" in text
    assert "- `odd/none`: no child: needs a file" in text
    assert parity_onnx.BAR == 1e-4


def test_an_interrupted_run_goes_on_and_a_complete_one_begins_anew(tmp_path: Path) -> None:
    store, row = tmp_path / "onnx.json", Row("odd/lambdas", "✓", shapes=("2×3",), remarks=("a",))
    assert interrupted(store, ["odd/lambdas", "odd/alibi"]) == ({}, 0.0)
    store.write_text(json.dumps({"asked": 2, "seconds": 7.0, "rows": [asdict(row)]}))
    assert interrupted(store, ["odd/lambdas", "odd/alibi"]) == ({"odd/lambdas": row}, 7.0)
    assert interrupted(store, ["odd/lambdas"]) == ({}, 0.0)
    assert interrupted(store, ["odd/alibi", "odd/retention"]) == ({}, 0.0)
