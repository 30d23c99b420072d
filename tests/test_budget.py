from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, LlamaConfig, LlamaForCausalLM

import graphclone as gc
from graphclone import sizes
from graphclone.budget import options
from graphclone.errors import SizeError
from graphclone.layout import Layout

SIZES = dict(
    vocab_size=97, hidden_size=192, num_hidden_layers=6, num_attention_heads=12, num_key_value_heads=6, intermediate_size=400
)


@pytest.fixture(scope="module")
def layout() -> Layout:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SIZES, use_cache=False)).eval()
        return gc.analyze(gc.capture(model, kwargs={"input_ids": torch.zeros(2, 11, dtype=torch.long)}))


def test_every_option_has_about_the_number_and_is_a_plan_of_just_as_many(layout: Layout) -> None:
    found = options(layout, 500_000)
    assert len(found) > 2
    for option in found:
        plan = gc.plan(layout, width=option.width, depth=option.depth)
        assert sizes.parameters(plan, layout) == option.parameters
        assert abs(option.parameters - 500_000) < 50_000


def test_heads_stay_whole_in_size_and_ratio_and_shrink_with_the_stream(layout: Layout) -> None:
    for option in options(layout, 500_000):
        plan = gc.plan(layout, width=option.width, depth=option.depth)
        groups = plan.size("model.layers.0.self_attn.kv_groups")
        assert plan.size("residual") == 32 * groups
        assert plan.size("model.layers.0.self_attn.heads") == 2
        assert plan.size("model.layers.0.self_attn.head_dim") == layout["model.layers.0.self_attn.head_dim"].size
        assert plan.size("model.layers.0.mlp.hidden") % 8 == 0


def test_the_first_option_shrinks_width_and_depth_most_alike(layout: Layout) -> None:
    ratios = [max(width / depth, depth / width) for width, depth in (option.shares for option in options(layout, 500_000))]
    assert ratios == sorted(ratios)
    assert ratios[0] < 1.5


@pytest.mark.parametrize("number", [10**9, 100])
def test_what_no_child_can_have_is_refused(layout: Layout, number: int) -> None:
    with pytest.raises(SizeError, match="no child of about"):
        options(layout, number)


def test_units_that_are_as_many_as_the_streams_stay_as_many() -> None:
    """A pooler's, for which a class takes the width of the stream."""
    config = BertConfig(
        vocab_size=97,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=400,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        model = BertForSequenceClassification(config).eval()
        pooled = gc.analyze(gc.capture(model, kwargs={"input_ids": torch.zeros(2, 11, dtype=torch.long)}))
    (pooler,) = {factor.name for factor in pooled.factors if factor.kind == "hidden" and factor.size == 192}
    for option in options(pooled, 500_000):
        assert option.width.get(pooler, 192) == option.width.get("residual", 192)


def test_a_stream_that_a_model_gives_is_narrowed_and_what_is_made_of_it() -> None:
    sizes = dict(vocab_size=97, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128)
    with torch.device("meta"):
        model = BertModel(BertConfig(**sizes)).eval()
        layout = gc.analyze(gc.capture(model, kwargs={"input_ids": torch.zeros(2, 11, dtype=torch.long)}))
    half = next(each for each in options(layout, 60_000) if each.shares[0] == 0.5)
    assert (half.width["residual"], half.width["pooler.dense.output"]) == (32, 32)


def test_a_stream_that_a_model_is_given_stays() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 4).eval()
    layout = gc.analyze(gc.capture(model, (torch.randn(2, 7, 64),)))
    assert layout["residual"].interface == "input"
    assert not [each for each in options(layout, 70_000) if "residual" in each.width]


def test_a_stream_without_heads_is_a_multiple_of_eight() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.write = nn.Linear(5, 64), nn.Linear(64, 3)
            self.up = nn.ModuleList(nn.Linear(64, 96) for _ in range(4))
            self.down = nn.ModuleList(nn.Linear(96, 64) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.read(x)
            for up, down in zip(self.up, self.down, strict=True):
                x = x + down(up(x).relu())
            return self.write(x)

    layout = gc.analyze(gc.capture(Mixer().eval(), (torch.randn(7, 5),)))
    widths = {option.width.get("residual", 64) for option in options(layout, 20_000)}
    assert len(widths) > 2
    assert not [width for width in widths if width % 8]
