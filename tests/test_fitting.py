"""Sizes of a destination are told by its values, never guessed: a single head or key-value group does not vanish."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

import graphclone as gc
from graphclone.axes import Factor, concat, product
from graphclone.errors import DestinationError
from graphclone.fitting import fit, matched
from graphclone.verify import two_roads


class Attention(nn.Module):
    def __init__(self, heads: int, groups: int, size: int, expand: bool = False, slopes: bool = False) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.expand = heads, groups, size, expand
        self.q, self.k, self.v = nn.Linear(28, heads * size), nn.Linear(28, groups * size), nn.Linear(28, groups * size)
        self.out = nn.Linear(heads * size, 28)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, heads + 1) if slopes else torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.heads, self.size).transpose(1, 2)
        k, v = (each(x).view(batch, length, self.groups, self.size).transpose(1, 2) for each in (self.k, self.v))
        times = self.heads // self.groups
        if self.expand:
            k, v = (each[:, :, None].expand(-1, -1, times, -1, -1).reshape(batch, self.heads, length, -1) for each in (k, v))
        elif times > 1:
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        weights = q @ k.mT * self.size**-0.5 + self.slopes[:, None, None] * torch.arange(length)
        return self.out((weights.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1))


X = torch.randn(3, 11, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("parent", "child", "kept"),
    [
        ((4, 4, 8), (1, 1, 8), {"heads": 1}),
        ((4, 4, 8), (1, 1, 4), {"heads": 1, "head_dim": 4}),
        ((4, 4, 8), (2, 2, 1), {"heads": 2, "head_dim": 1}),
        ((6, 2, 8), (3, 1, 8), {"kv_groups": 1}),
        ((6, 2, 8), (4, 2, 8), {"heads": 2}),
        ((6, 2, 8), (2, 1, 4), {"kv_groups": 1, "heads": 2, "head_dim": 4}),
    ],
)
@pytest.mark.parametrize("options", [{}, {"slopes": True}, {"expand": True}])
def test_heads_and_groups_keep_their_size_whatever_is_left_of_the_others(
    parent: tuple[int, int, int], child: tuple[int, int, int], kept: dict[str, int], options: dict[str, bool]
) -> None:
    model = Attention(*parent, **options).eval()
    filled, report = gc.subclone(model, Attention(*child, **options).eval(), (X,))
    assert {name: report.plan.size(name) for name in kept} == kept
    assert set(report.plan.keep) - {"head_dim.2"} == set(kept)
    assert not any("head_dim" in text or "reshape" in text for text in report.plan.remarks)
    assert two_roads(report.plan, model, filled, ((X,), {})).passed


def encoder(width: int, heads: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, heads, 30, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(28, width), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()


def gpt2(width: int, heads: int) -> nn.Module:
    config = GPT2Config(vocab_size=61, n_positions=16, n_embd=width, n_layer=2, n_head=heads, attn_implementation="eager")
    return GPT2LMHeadModel(config).eval()


def bert(width: int, heads: int) -> nn.Module:
    sizes = dict(vocab_size=61, num_hidden_layers=2, intermediate_size=40, max_position_embeddings=16)
    return BertModel(BertConfig(hidden_size=width, num_attention_heads=heads, **sizes)).eval()


def vit(width: int, heads: int) -> nn.Module:
    model = timm.models.vision_transformer.VisionTransformer
    return model(img_size=16, patch_size=8, embed_dim=width, depth=2, num_heads=heads, num_classes=5).eval()


IDS = {"input_ids": torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    ("make", "args", "kwargs"),
    [
        (encoder, (X,), {}),
        (gpt2, (), {**IDS, "use_cache": False}),
        (bert, (), IDS),
        (vit, (torch.randn(2, 3, 16, 16),), {}),
    ],
)
def test_a_single_head_is_one_of_the_parents_whole_heads(make: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    parent = make(32, 4)
    child, report = gc.subclone(parent, make(8, 1), args, kwargs)
    assert {len(kept) for name, kept in report.plan.keep.items() if name.endswith(".heads")} == {1}
    assert not any("head_dim" in name for name in report.plan.keep)
    assert two_roads(report.plan, parent, child, (args, kwargs)).passed
    with pytest.raises(DestinationError, match="wider than the parent"):
        gc.subclone(parent, make(16, 1), args, kwargs)  # one head of 16


def test_what_nothing_tells_is_refused_and_not_guessed() -> None:
    heads, size = Factor(4, "heads"), Factor(8, "head_dim")
    both = product(heads, size)
    with pytest.raises(DestinationError, match=r"nothing tells how many of these are 'heads' \(4\) and 'head_dim' \(8\)"):
        fit([(both, 8, "q.weight:0")], everywhere=False)
    assert fit([(both, 8, "q.weight:0"), (heads, 1, "reshape")], everywhere=False) == {"heads": 1}
    assert fit([(both, 32, "q.weight:0")], everywhere=True) == {}


def test_sizes_that_do_not_come_out_say_what_is_known() -> None:
    heads, size = Factor(4, "heads"), Factor(8, "head_dim")
    with pytest.raises(DestinationError, match=r"q:0 has 9 positions .* the parent's \(heads head_dim\) \(32\)") as caught:
        fit([(heads, 2, "reshape"), (product(heads, size), 9, "q:0")], everywhere=True)
    assert "'heads' is 2 there (reshape)" in str(caught.value)


def test_terms_of_the_same_form_are_matched_part_by_part() -> None:
    q, k, frozen = Factor(4, "q"), Factor(2, "k"), Factor(2, frozen="why")
    assert list(matched(concat(q, k), concat(Factor(3), Factor(1 + 1)), "w")) == [(q, 3, "w"), (k, 2, "w")]
    other = product(Factor(3), frozen)
    assert list(matched(product(q, k), other, "w")) == [(product(q, k), 6, "w")]
