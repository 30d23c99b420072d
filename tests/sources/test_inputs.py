from __future__ import annotations

import pytest
import torch
from torch import nn

from graphclone.errors import SourceError
from graphclone.sources import Parent, parse_input
from graphclone.sources.inputs import with_inputs


class Two(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


PARENT = Parent(Two(), "two:Two", (torch.zeros(2, 3),), {"right": torch.ones(2, 3)})


@pytest.mark.parametrize(
    "text",
    ["input_ids=int64[2,7]:0..256", "pixel_values=float32[2,3,32,32]", "float32[2,16]", "mask=bool[2,7]", "t=float32[]:-1..2.5"],
)
def test_an_input_prints_as_it_was_written(text: str) -> None:
    assert str(parse_input(text)) == text


def test_spaces_do_not_matter() -> None:
    assert parse_input(" ids = int64 [2, 7] : 0 .. 9 ") == parse_input("ids=int64[2,7]:0..9")


def test_integers_stay_below_the_end_of_their_span() -> None:
    tensor = parse_input("ids=int64[50,50]:3..7").tensor()
    assert tensor.dtype == torch.int64
    assert sorted(tensor.unique().tolist()) == [3, 4, 5, 6]


def test_floats_are_uniform_in_a_span_and_normal_without_one() -> None:
    uniform, normal = parse_input("x=float32[99,99]:-1..2").tensor(), parse_input("x=float32[99,99]").tensor()
    assert -1 <= uniform.min() < -0.9
    assert 1.9 < uniform.max() < 2
    assert normal.std() == pytest.approx(1, abs=0.05)


def test_the_same_input_has_the_same_values_and_two_names_have_two() -> None:
    one, other = parse_input("a=float32[5]"), parse_input("b=float32[5]")
    assert torch.equal(one.tensor(), one.tensor())
    assert not torch.equal(one.tensor(), other.tensor())


@pytest.mark.parametrize(
    "text", ["input_ids", "int64", "int64[2,", "a=int64[2]:3", "a=b=int64[2]", "int64[-2]", "x=int64[2]:1..x"]
)
def test_what_does_not_follow_the_notation_is_shown_beside_it(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_input(text)
    assert str(caught.value) == (
        f"cannot read the input '{text}'\n"
        "  because  an input is written [name=]dtype[size, size, …][:low..high], for example input_ids=int64[2,11]:0..256"
    )


def test_an_unknown_dtype_has_a_neighbour() -> None:
    with pytest.raises(SourceError, match=r"torch has no dtype 'flaot32'\n  try      did you mean 'float32'"):
        parse_input("x=flaot32[2]")


def test_an_empty_span_is_refused() -> None:
    with pytest.raises(SourceError, match=r"nothing lies in 5\.\.5: the end is excluded"):
        parse_input("x=int64[2]:5..5")


def test_a_named_input_replaces_the_one_in_its_place() -> None:
    changed = with_inputs(PARENT, ["left=float32[5,3]", "right=float32[5,3]"])
    assert [tuple(value.shape) for value in changed.args] == [(5, 3)]
    assert tuple(changed.kwargs["right"].shape) == (5, 3)
    assert changed.module(*changed.args, **changed.kwargs).shape == (5, 3)
    assert PARENT.args[0].shape == (2, 3)


def test_unnamed_inputs_replace_all_positional_ones() -> None:
    changed = with_inputs(Parent(Two(), "two:Two"), ["float32[5,3]", "float32[5,3]"])
    assert len(changed.args) == 2
    assert not torch.equal(*changed.args)


def test_an_input_that_forward_does_not_take_has_a_neighbour() -> None:
    with pytest.raises(SourceError) as caught:
        with_inputs(PARENT, ["rihgt=float32[2,3]"])
    assert str(caught.value) == (
        "'two:Two' takes no input 'rihgt'\n  because  its forward takes (left, right)\n  try      did you mean 'right'?"
    )
