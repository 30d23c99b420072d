"""Cases on which other tools were seen to fail, and which the zoo does not have.

Those that it has: partial rotary, norms of queries and keys, Conv1D, fused and interleaved projections, relative-position tables, tied
heads (`tests/test_oracles.py`), expert banks by einsum (`tests/test_odd_models.py`).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from benchmarks.side_by_side.ours import halves
from benchmarks.side_by_side.roles import narrowed, shapes
from benchmarks.side_by_side.subjects import find, settle
from graphclone.verify import outputs

TOKENS, WIDTH = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(0)), 28


def halved(model: nn.Module, args: tuple[object, ...] = (), kwargs: dict[str, Tensor] | None = None) -> nn.Module:
    """Half of everything free; the oracles hold, and the child returns what its parent returns, as far as shapes tell."""
    assert (verdicts := gc.verify(model, args, kwargs)).passed, verdicts
    trace = gc.capture(model, args, kwargs)
    layout = gc.analyze(trace)
    child = gc.execute(gc.plan(layout, width=halves(layout)), model, trace=trace)
    inputs = (args, dict(kwargs or {}))
    assert outputs(child, inputs)[0].shape == outputs(model, inputs)[0].shape
    return child


def test_a_kv_cache_that_is_on_is_no_hindrance() -> None:
    subject = find("llama")
    model = subject.build()
    assert model.config.use_cache  # type: ignore[union-attr]
    args, kwargs = subject.inputs()
    trace = gc.capture(model, args, kwargs)
    assert any("Cache" in remark for remark in trace.remarks)  # which comes back as None
    layout = gc.analyze(trace)
    child = gc.execute(gc.plan(layout, width={"residual": 0.5}), model, trace=trace)
    assert child(*args, **kwargs).logits.shape == model(*args, **kwargs).logits.shape
    assert gc.verify(model, args, kwargs).passed


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "llama-2x", "gemma2-2x"])
def test_shared_key_and_value_heads_are_halved_with_their_queries(name: str, attention: str) -> None:
    """Two halves of rotary dims, twice as many queries as keys, heads × head_dim equal to the width: all sizes coincide."""
    subject = find(name)
    model = settle(subject.build(), cache=False, attention=attention)
    args, kwargs = subject.inputs()
    child = halved(model, args, kwargs)
    assert set(narrowed(shapes(model), shapes(child)).values()) == {"all"}


def test_a_head_over_the_class_token_and_the_mean_is_cut_in_both_halves() -> None:
    subject = find("dinov2")
    model = subject.build()
    child = halved(model, *subject.inputs())
    assert model.get_parameter("classifier.weight").shape == (9, 128)
    assert child.get_parameter("classifier.weight").shape == (9, 64)


def test_an_expert_bank_is_whole_or_halved_but_never_torn() -> None:
    subject = find("mixtral")
    model = settle(subject.build(), cache=False)
    child = halved(model, *subject.inputs())
    for layer in (0, 1):
        at = f"model.layers.{layer}.mlp"
        experts, both, width = model.get_parameter(f"{at}.experts.gate_up_proj").shape
        assert child.get_parameter(f"{at}.experts.gate_up_proj").shape == (experts, both // 2, width // 2)
        assert child.get_parameter(f"{at}.experts.down_proj").shape == (experts, width // 2, both // 4)
        assert child.get_parameter(f"{at}.gate.weight").shape == (experts, width // 2)
    layout = gc.analyze(gc.capture(model, *subject.inputs()))
    fewer = gc.plan(layout, width={factor.name: factor.size // 2 for factor in layout.factors if factor.kind == "experts"})
    small = gc.execute(fewer, model, trace=layout.trace)
    assert small.get_parameter("model.layers.0.mlp.experts.gate_up_proj").shape == (experts // 2, both, width)
    assert small.get_parameter("model.layers.0.mlp.gate.weight").shape == (experts // 2, width)


def test_parameters_that_need_no_gradient_move_with_the_others() -> None:
    subject = find("bert")
    model, (args, kwargs) = subject.build(), subject.inputs()
    trained = shapes(halved(model, args, kwargs))
    assert shapes(halved(model.requires_grad_(False), args, kwargs)) == trained


class Buffered(nn.Module):
    """Channel-sized buffers: statistics of a batch norm, a mask of channels, and a shift that is saved nowhere."""

    mask: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(WIDTH, 20), nn.BatchNorm1d(20), nn.Linear(20, WIDTH)
        self.norm.running_mean, self.norm.running_var = torch.randn(20), torch.rand(20) + 0.5
        self.register_buffer("mask", torch.rand(20) > 0.3)
        self.register_buffer("shift", torch.randn(1, 20, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.up(x).mT) + self.shift
        out: Tensor = self.down(torch.where(self.mask[:, None], hidden, 0).mT)
        return x + out


def test_channel_sized_buffers_are_cut_with_their_channels() -> None:
    torch.manual_seed(0)
    model = Buffered().eval()
    child = halved(model, (torch.randn(3, 11, WIDTH),))
    sizes = {name: tuple(buffer.shape) for name, buffer in child.named_buffers() if buffer.dim()}
    assert sizes == {"norm.running_mean": (10,), "norm.running_var": (10,), "mask": (10,), "shift": (1, 10, 1)}


class Scaled(nn.Module):
    """Embeddings times the root of the width, computed in forward; the output divided by it, from an attribute."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.table, self.norm, self.factor = nn.Embedding(61, width), nn.LayerNorm(width), width**-0.5
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width)) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x * torch.tensor(x.shape[-1] ** 0.5)
        for mlp in self.mlp:
            x = x + mlp(x)
        out: Tensor = self.norm(x) * self.factor
        return out @ self.table.weight.t()


def scaled_bart(width: int) -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in dict(layers=2, attention_heads=4, ffn_dim=40).items()
    }
    config = BartConfig(
        vocab_size=61, d_model=width, scale_embedding=True, use_cache=False, max_position_embeddings=37,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **sides,
    )  # fmt: skip
    model: nn.Module = BartForConditionalGeneration(config)
    return model.eval()


@pytest.mark.parametrize("kind", ["raw", "bart"])
def test_a_scale_of_the_width_is_the_same_on_both_roads(kind: str) -> None:
    """A destination computes the root of its own width; the rewritten graph has to compute the same."""
    torch.manual_seed(0)
    build = Scaled if kind == "raw" else scaled_bart
    kwargs = {"ids": TOKENS} if kind == "raw" else {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :7]}
    parent = build(48).eval()
    child, report = gc.subclone(parent, build(24).eval(), kwargs=kwargs)
    assert not report.filled.fresh
    verdicts = gc.verify(parent, kwargs=kwargs, plan=report.plan, child=child)
    assert verdicts.passed, verdicts
    assert verdicts.verdicts[-1].oracle == "two roads"


class Padded(nn.Module):
    """The decomposition of its op writes into a fresh tensor, which no rule tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        return self.second(nn.utils.rnn.pad_sequence([hidden[0], hidden[1, :2]], batch_first=True))


def test_a_decomposition_that_writes_is_written_out_further_or_frozen() -> None:
    assert gc.verify(Padded().eval(), (torch.randn(2, 4, 6),)).passed


class Spoken(nn.Module):
    """Its output is as long as a draw says, which capture's own draw does not: another length is no other order."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = (torch.rand(5) * 9).sum().ceil().long()
        return torch.arange(frames).unsqueeze(1) * 0.1 + self.down(self.up(x).relu())


@pytest.mark.parametrize("seed", range(4))
def test_a_length_that_is_drawn_may_differ_from_that_of_the_capture(seed: int) -> None:
    torch.manual_seed(seed)
    report = gc.verify(Spoken().eval(), (torch.randn(1, 6),))
    assert report.passed, report
