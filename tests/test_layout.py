"""What a Layout says: names, kinds, terms and reasons."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphclone as gc
from graphclone.axes import show
from graphclone.errors import GraphcloneError, UnknownNameError
from models_zoo import tiny
from tests.zoo import subject


def printed(layout: gc.Layout, name: str) -> str:
    return " ".join(show(axis, lambda factor: factor.name.rsplit(".", 1)[-1]) for axis in layout.axes(name))


class FusedGQA(nn.Module):
    """Queries, keys and values of grouped-query attention in one projection: 6 heads, 2 groups, head_dim 5."""

    def __init__(self, width: int = 28, groups: int = 2, heads: int = 6, head_dim: int = 5) -> None:
        super().__init__()
        self.sizes = (heads, groups, groups)
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, sum(self.sizes) * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(self.sizes, 1)
        mixed = F.scaled_dot_product_attention(*parts, enable_gqa=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


def test_a_fused_projection_prints_as_it_is_built() -> None:
    layout = gc.analyze(gc.capture(FusedGQA().eval(), (torch.randn(3, 11, 28),)))
    assert printed(layout, "qkv.weight") == "(((kv_groups heads) + kv_groups + kv_groups) head_dim) output"
    assert [layout[name].size for name in ("kv_groups", "heads", "head_dim")] == [2, 3, 5]


def test_the_residual_stream_is_one_factor_named_residual() -> None:
    layout = subject("hf/llama").layout
    residual = layout["residual"]
    assert (residual.kind, residual.size, residual.frozen, residual.interface) == ("residual", 48, None, "")
    assert ("model.embed_tokens.weight", 1) in residual.slots
    assert ("lm_head.weight", 1) in residual.slots
    assert ("model.layers.3.mlp.down_proj.weight", 0) in residual.slots


def test_factors_are_named_after_the_module_that_owns_them() -> None:
    layout = subject("hf/llama").layout
    hidden = layout["layers.3.mlp.hidden"]
    assert hidden.name == "model.layers.3.mlp.hidden"
    assert {name for name, _ in hidden.slots} == {f"model.layers.3.mlp.{which}_proj.weight" for which in ("gate", "up", "down")}


def test_the_terms_of_a_projection_are_groups_heads_and_head_dim() -> None:
    layout = subject("hf/llama").layout
    assert printed(layout, "model.layers.0.self_attn.q_proj.weight") == "(kv_groups heads (head_dim + head_dim)) residual"
    assert printed(layout, "model.layers.0.self_attn.v_proj.weight") == "(kv_groups head_dim) residual"


def test_rotary_pairs_stay_together() -> None:
    """The half-split makes both halves of a head one factor, which inv_freq has too."""
    layout = subject("hf/llama").layout
    rotary = layout["model.head_dim"]
    assert 2 * rotary.size == 10
    assert any(name.endswith("inv_freq") for name, _ in rotary.slots)


def test_two_streams_of_different_width_have_two_names() -> None:
    layout = subject("hf/whisper").layout
    assert [factor.name for factor in layout.factors if factor.kind == "residual"] == [
        "model.encoder.layers.residual",
        "model.decoder.layers.residual",
    ]


def test_a_frozen_factor_says_why_and_at_which_line() -> None:
    layout = subject("hf/gpt2").layout
    assert "modeling_gpt2.py:" in str(layout["wpe.fixed"].frozen)


def test_what_lies_on_an_output_is_part_of_the_interface() -> None:
    layout = subject("hf/llama").layout
    assert layout["lm_head.output"].interface
    assert not layout["residual"].interface


def test_the_terms_of_a_tied_parameter_have_both_names() -> None:
    it = subject("hf/gpt2")
    assert it.trace.aliases == {"lm_head.weight": "transformer.wte.weight"}
    assert it.layout.axes("lm_head.weight") == it.layout.axes("transformer.wte.weight")


@pytest.mark.parametrize("name", tiny.names())
def test_every_name_is_there_once_and_every_slot_says_where(name: str) -> None:
    layout = subject(name).layout
    named = [factor.name for factor in layout.factors if factor.slots]
    assert len(set(named)) == len(named)
    for factor in layout.factors:
        for parameter, dim in factor.slots:
            assert factor in set(_leaves(layout.axes(parameter)[dim]))
        assert factor.frozen is None or len(str(factor.frozen)) > 5


def _leaves(axis: object) -> list[object]:
    return [leaf for part in axis.parts for leaf in _leaves(part)] if hasattr(axis, "parts") else [axis]


def test_a_layout_has_the_names_of_its_factors_and_is_of_a_trace_only() -> None:
    layout = subject("hf/llama").layout
    assert [layout[name] for name in layout] == list(layout.factors)
    with pytest.raises(GraphcloneError, match=r"cannot analyse a Linear\n  try      gc.analyze\(gc.capture\("):
        gc.analyze(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    layout = subject("hf/llama").layout
    with pytest.raises(UnknownNameError, match=r"no factor is called 'resdual'\n  try .*residual"):
        layout["resdual"]
    with pytest.raises(UnknownNameError, match=r"'nope'\n  try .*heads or hidden.* or residual"):
        layout["nope"]  # near to none: what can be cut
    with pytest.raises(UnknownNameError, match="could be any of 4 factors"):
        layout["mlp.hidden"]
    with pytest.raises(UnknownNameError, match=r"reads no parameter 'model.layers.0.mlp.up.weight'\n  try .*up_proj.weight"):
        layout.axes("model.layers.0.mlp.up.weight")


def test_analysis_needs_no_weights() -> None:
    with torch.device("meta"):
        model = FusedGQA()
        layout = gc.analyze(gc.capture(model, (torch.empty(3, 11, 28),)))
    assert layout["heads"].size == 3
    assert all(tensor.is_meta for tensor in layout.trace.state.values())


def test_analysis_is_the_same_every_time() -> None:
    it = subject("timm/swin")
    again = gc.analyze(it.trace)
    assert [(f.name, f.kind, f.size, f.slots, str(f.frozen)) for f in again.factors] == [
        (f.name, f.kind, f.size, f.slots, str(f.frozen)) for f in it.layout.factors
    ]


def test_no_factor_is_called_like_an_axis_of_an_input() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(28, 9), nn.Linear(9, 14), nn.Linear(14, 5)

        def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
            return self.c(self.b(self.a(hidden).relu()).relu()), hidden.mean(1)

    layout = gc.analyze(gc.capture(Net(), (torch.randn(3, 7, 11, 28),)))
    names = [factor.name for factor in layout.factors]
    assert "hidden.2" in names
    assert len(set(names)) == len(names)
    assert layout["hidden.2"].kind == "activation"
