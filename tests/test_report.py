"""Tables are for readers: every name and reason whole, nothing of a name taken for markup, one row for what is alike."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console, RenderableType

import graphclone as gc
from graphclone import report, sizes
from graphclone.report.alike import block_patterns, pattern
from graphclone.report.plan import _positions as positions
from tests.zoo import clone, subject

NAMES = ["hf/llama", "hf/t5", "hf/swin", "raw/stacked_gpt", "timm/convnext"]


def text(shown: RenderableType, width: int = 10_000) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_factor_of_the_parameters_is_in_one_table_or_the_other(name: str) -> None:
    layout = subject(name).layout
    shown = text(report.free_table(layout, everything=True)) + text(report.frozen_table(layout, everything=True))
    words = set(shown.split())
    assert [factor.name for factor in layout.factors if factor.slots and factor.name not in words] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_what_is_alike_is_a_pattern_that_width_takes(name: str) -> None:
    layout = subject(name).layout
    for row in report.alike(layout, [factor for factor in layout.factors if factor.slots]):
        assert len({(factor.size, factor.kind, str(factor.frozen)) for factor in row.members}) == 1
        if "…" not in row.name:
            assert set(row.members) <= set(layout.match(row.name))


@pytest.mark.parametrize("name", NAMES)
def test_all_parameters_are_told_alike_or_apart_exactly_once(name: str) -> None:
    layout = subject(name).layout
    patterns = block_patterns(layout)
    lines = text(report.axes_table(layout, "*") or "").splitlines()[1:]
    counts = [int(line.split("×")[1].split()[0]) if "×" in line else 1 for line in lines]
    assert sum(counts) == len(layout.parameters)
    assert len(lines) <= len({patterns.get(each, each) for each in layout.parameters}) + len(layout.blocks)


def test_frozen_positions_keep_their_brackets() -> None:
    shown = text(report.axes_table(subject("raw/stacked_gpt").layout, "tokens") or "")
    assert "[output] residual" in shown or "[fixed] residual" in shown


def test_names_of_other_lengths_have_no_pattern() -> None:
    assert pattern(["layers.0.mlp", "layers.1.mlp"]) == "layers.*.mlp"
    assert pattern(["first.mlp", "layers.1.mlp"]) == "first.mlp … layers.1.mlp"


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ((0, 1, 2, 3), "0–3"),
        ((0, 1, 5), "0, 1, 5"),
        ((3, 2, 1), "3, 2, 1"),
        ((), ""),
        (tuple(range(0, 40, 2)), "0, 2, 4, 6, 8, 10, 12, 14, 16, … 38"),
    ],
)
def test_positions_are_shown_as_runs(kept: tuple[int, ...], shown: str) -> None:
    assert positions(kept) == shown


@pytest.mark.parametrize("name", ["hf/llama", "hf/t5", "raw/einsum_gpt"])
def test_parameters_are_counted_as_torch_counts_them(name: str) -> None:
    parent, layout = subject(name), subject(name).layout
    made = gc.plan(layout, width={factor.name: 0.5 for factor in layout.match("residual")}, depth=2)
    child = gc.execute(made, parent.model, trace=parent.trace)
    assert report.parameters(layout) == sum(p.numel() for p in parent.model.parameters())
    assert sizes.parameters(made, layout) == sum(p.numel() for p in child.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_free_share_is_a_share(name: str) -> None:
    share = report.free_share(subject(name).layout)
    assert 0 < share <= 1


@pytest.mark.parametrize("name", ["hf/llama", "raw/einsum_gpt"])
def test_where_the_childs_tensors_come_from_adds_up(name: str) -> None:
    _, made = clone(name)
    lines = text(report.origin_table(made.filled.filled, made.plan, subject(name).layout)).splitlines()
    assert sum(int(line.split()[-1]) for line in lines[1:]) == len(made.filled.filled)


def test_a_block_that_comes_twice_is_counted_once_each_time() -> None:
    layout = subject("hf/llama").layout
    made = gc.plan(layout, depth=2 * len(layout.blocks[0]))
    filled = {name: piece.source for name, piece in made.tensors.items()}
    lines = text(report.origin_table(filled, made, layout)).splitlines()
    assert sum(int(line.split()[-1]) for line in lines[1:]) == len(filled)


def test_a_plan_that_changes_nothing_says_so() -> None:
    layout = subject("hf/llama").layout
    assert "all as in the parent" in text(report.plan_table(gc.plan(layout), layout))


def test_scales_are_told_with_their_reason() -> None:
    layout = subject("hf/llama").layout
    (note,) = report.plan_notes(gc.plan(layout, width={"residual": 0.25}))
    assert "multiplied by sqrt(d / d′) = 2" in note


def test_why_names_the_op_and_the_line() -> None:
    layout = subject("hf/llama").layout
    (row,) = report.alike(layout, layout.match("embed_tokens.*"))
    shown = text(report.why(layout, row))
    assert "frozen: " in shown
    assert "aten.embedding at modeling_llama.py:" in shown


def test_a_layout_as_data_is_fit_for_json() -> None:
    data = json.loads(json.dumps(report.layout_data(subject("hf/t5").layout)))
    assert data["parameters"] == report.parameters(subject("hf/t5").layout)
    assert math.isclose(data["free_share"], report.free_share(subject("hf/t5").layout))


def test_a_narrow_page_folds_the_last_column_and_spares_the_names() -> None:
    layout = subject("hf/llama").layout
    names = [row.name for row in report.alike(layout, [f for f in layout.factors if f.slots and f.frozen is None])]
    for width in (60, 80, 120):
        shown = text(report.free_table(layout), width)
        assert [name for name in names if name not in shown] == []
        assert max(map(len, shown.splitlines())) <= width
    assert "places" not in text(report.free_table(layout), 60)
    assert "places" in text(report.free_table(layout), 120)


def test_what_stands_in_a_cell_is_no_markup() -> None:
    sheet = report.Sheet("name[dim]", ">n")
    sheet.add_row("[bold]x[/]", "1")
    assert "name[dim]" in text(sheet)
    assert "[bold]x[/]" in text(sheet)
