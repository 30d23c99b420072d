"""The ONNX file of a model, run in ONNX Runtime itself: its names, its open axes, its precision, and what it tells of its maker."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import graphclone as gc
from graphclone.errors import OutputError
from graphclone.export.folder import new_files
from graphclone.export.onnx import Wanted, export_onnx
from graphclone.export.onnx.compared import Difference, Disagreement, tolerated

TOKENS = torch.randint(97, (2, 11), generator=torch.Generator().manual_seed(0))


def dims(values: list[onnx.ValueInfoProto]) -> dict[str, list[str | int]]:
    """Names and sizes of a graph's inputs or outputs; an open size has a name."""
    return {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=40,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_embd=24, n_layer=2, n_head=6, n_positions=32, initializer_range=0.3)
    ).eval()


def gemma2() -> Gemma2ForCausalLM:
    """Its first layer looks four tokens back: less than the texts are long."""
    torch.manual_seed(0)
    heads = dict(num_attention_heads=6, num_key_value_heads=2, head_dim=4, query_pre_attn_scalar=4, sliding_window=4)
    config = Gemma2Config(
        vocab_size=97, hidden_size=24, num_hidden_layers=2, intermediate_size=40, initializer_range=0.3, **heads
    )
    return Gemma2ForCausalLM(config).eval()


class Mixer(nn.Module):
    """Two images and a number in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Tensor | None]:
        mixed = self.dropout(self.linear(left) + self.linear(right) * scale)
        return {"mixed": mixed, "nothing": None, "positive": mixed > 0, "again": mixed, "left": left}


def test_a_language_model_is_open_in_batch_and_sequence(tmp_path: Path) -> None:
    model = llama()
    model.config.use_cache = True
    done = export_onnx(model, (), {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}, tmp_path / "llama.onnx")
    assert 0 < done.difference < 1e-4
    assert [each.shapes for each in done.differences] == ["2×11, 2×11", "5×17, 5×17", "3×10, 3×10"]
    assert (done.open, done.remarks) == ("batch, sequence", ())
    graph = onnx.load(tmp_path / "llama.onnx").graph
    assert dims(graph.input) == {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]}
    assert dims(graph.output) == {"logits": ["batch", "sequence", 97]}
    assert model.config.use_cache is True
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parameters_keep_their_names_and_values(tmp_path: Path) -> None:
    model = llama()
    export_onnx(model, (), {"input_ids": TOKENS}, tmp_path / "llama.onnx")
    held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "llama.onnx").graph.initializer}
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(held[name], parameter.detach().numpy())


def test_the_file_tells_where_it_comes_from_and_nothing_of_this_machine(tmp_path: Path) -> None:
    told = {"graphclone_version": "1.2.3", "graphclone_parent": "byte-llama"}
    export_onnx(llama(), (), {"input_ids": TOKENS}, tmp_path / "llama.onnx", Wanted(provenance=told))
    model = onnx.load(tmp_path / "llama.onnx")
    assert {each.key: each.value for each in model.metadata_props} == told
    assert not any(each.metadata_props or each.doc_string for each in model.graph.node)
    written = (tmp_path / "llama.onnx").read_bytes()
    for path in (
        sys.prefix,
        torch.__file__.rpartition("/")[0],
        str(Path(__file__).parent.parent.parent),
        str(tmp_path),
        "/home/",
    ):
        assert path.encode() not in written
    assert b".py" not in written


def test_names_are_those_of_the_model_and_numbers_are_built_in(tmp_path: Path) -> None:
    model = Mixer()
    export_onnx(model, (torch.randn(2, 5),), {"right": torch.randn(2, 5), "scale": 0.5}, tmp_path / "mixer.onnx")
    graph = onnx.load(tmp_path / "mixer.onnx").graph
    assert dims(graph.input) == {"left": ["batch", 5], "right": ["batch", 5]}
    assert list(dims(graph.output)) == ["mixed", "positive", "again", "output_left"]
    assert model.training


def test_a_batch_of_one_is_left_open_too(tmp_path: Path) -> None:
    done = export_onnx(Mixer(), (torch.randn(1, 5), torch.randn(1, 5)), {}, tmp_path / "mixer.onnx")
    assert done.open == "batch"
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    assert InferenceSession(tmp_path / "mixer.onnx").run(["mixed"], {"left": x, "right": x})[0].shape == (7, 3)
    assert InferenceSession(tmp_path / "mixer.onnx").run(["mixed"], {"left": x[:1], "right": x[:1]})[0].shape == (1, 3)


def test_what_stays_fixed_is_told_with_the_line_that_needs_it(tmp_path: Path) -> None:
    class Steps(nn.Module):
        """A loop over the sequence, which is written out for the example's."""

        def forward(self, ids: Tensor) -> Tensor:
            total = ids[:, 0].float()
            for step in range(1, ids.shape[1]):
                total = total * 0.5 + ids[:, step]
            return total

    done = export_onnx(Steps(), (TOKENS,), {}, tmp_path / "steps.onnx")
    assert done.open == "batch"
    (remark,) = done.remarks
    assert remark.startswith("ids[1] stays 11: ")
    assert "test_onnx.py:" in remark
    assert dims(onnx.load(tmp_path / "steps.onnx").graph.input) == {"ids": ["batch", 11]}


def test_a_model_of_one_size_is_exported_at_that_size_with_a_remark(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 15).flip(1)

    done = export_onnx(Fixed(), (torch.randn(2, 3, 5),), {}, tmp_path / "fixed.onnx")
    assert (done.difference, len(done.differences), done.open) == (0, 3, "")
    assert dims(onnx.load(tmp_path / "fixed.onnx").graph.input) == {"x": [2, 3, 5]}
    assert any(remark.startswith("x[0] stays 2") for remark in done.remarks)


def test_a_model_that_cannot_be_exported(tmp_path: Path) -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return x if (self.scale * x).sum() > 0 else -x

    with pytest.raises(OutputError) as caught:
        export_onnx(Choosy(), (torch.ones(1, 3),), {}, tmp_path / "choosy.onnx")
    assert str(caught.value).startswith(
        "cannot export Choosy as ONNX\n  because  with batch and sequence left open: Could not guard on"
    )


def test_outputs_that_differ_are_not_trusted(tmp_path: Path) -> None:
    class Wild(nn.Module):
        """Random, so no two runs agree."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.rand_like(x) + x

    with pytest.raises(OutputError, match=r"output differs by .* between ONNX Runtime and PyTorch"):
        export_onnx(Wild(), (torch.ones(2, 3),), {}, tmp_path / "wild.onnx")


def test_equal_infinities_do_not_differ_and_a_lost_one_does() -> None:
    masked = np.array([-np.inf, 1.0], np.float32)
    assert tolerated("scores", masked, masked, "fp32") == (0.0, 1.0)
    with pytest.raises(Disagreement):
        tolerated("scores", masked, np.array([0.0, 1.0], np.float32), "fp32")


@pytest.mark.parametrize("opset", [18, 21])
def test_an_opset_is_the_one_that_was_asked_for(opset: int, tmp_path: Path) -> None:
    assert export_onnx(llama(), (), {"input_ids": TOKENS}, tmp_path / "llama.onnx", Wanted(opset=opset)).difference < 1e-4
    assert {each.domain: each.version for each in onnx.load(tmp_path / "llama.onnx").opset_import}[""] == opset


def test_an_opset_that_the_exporter_does_not_reach_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        export_onnx(llama(), (), {"input_ids": TOKENS}, tmp_path / "llama.onnx", Wanted(opset=9))
    assert "opset 9" in str(caught.value)
    assert "--opset" in str(caught.value)


def test_an_opset_that_would_give_an_invalid_file_is_refused(tmp_path: Path) -> None:
    """Converted to 17 by the exporter itself, gpt2 was a file that onnx's checker refuses."""
    with pytest.raises(OutputError, match="cannot export in opset 17\n  because  the exporter could not convert its operators"):
        export_onnx(gpt2(), (), {"input_ids": TOKENS}, tmp_path / "gpt2.onnx", Wanted(opset=17))
    assert not (tmp_path / "gpt2.onnx").exists()


def test_a_lower_precision_is_in_the_opset_that_was_asked_for(tmp_path: Path) -> None:
    export_onnx(gpt2(), (), {"input_ids": TOKENS}, tmp_path / "gpt2.onnx", Wanted(opset=19, precision="int8"))
    proto = onnx.load(tmp_path / "gpt2.onnx")
    onnx.checker.check_model(proto)
    assert {each.domain: each.version for each in proto.opset_import} == {"": 19}


def test_tensors_lie_in_a_file_of_their_own_only_where_one_cannot_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_onnx(llama(), (), {"input_ids": TOKENS}, tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx.data").exists()
    monkeypatch.setattr("graphclone.export.onnx.written.SINGLE_FILE", 1000)
    for precision in ("fp32", "fp16", "int8"):
        with new_files(tmp_path / precision / "large.onnx") as path:
            export_onnx(llama(), (), {"input_ids": TOKENS}, path, Wanted(precision=precision))
        assert {each.name for each in (tmp_path / precision).iterdir()} == {"large.onnx", "large.onnx.data"}
        running = InferenceSession(tmp_path / precision / "large.onnx")
        assert running.run(None, {"input_ids": TOKENS.numpy()})[0].shape == (2, 11, 97)
    monkeypatch.setattr("graphclone.export.onnx.written.SINGLE_FILE", 20_000)  # less than 35 kB, more than their quarter
    with new_files(tmp_path / "quarter" / "large.onnx") as path:
        export_onnx(llama(), (), {"input_ids": TOKENS}, path, Wanted(precision="int8"))
    assert {each.name for each in (tmp_path / "quarter").iterdir()} == {"large.onnx"}


@pytest.mark.parametrize(("precision", "kind"), [("fp16", onnx.TensorProto.FLOAT16), ("int8", onnx.TensorProto.INT8)])
def test_a_lower_precision_is_measured_and_the_file_smaller(precision: str, kind: int, tmp_path: Path) -> None:
    model = llama()
    full = export_onnx(model, (), {"input_ids": TOKENS}, tmp_path / "fp32.onnx")
    low = export_onnx(model, (), {"input_ids": TOKENS}, tmp_path / "low.onnx", Wanted(precision=precision))
    assert full.difference < low.difference
    assert len(low.differences) == 3
    assert any(f"of its weights are {precision}" in remark for remark in low.remarks)
    proto = onnx.load(tmp_path / "low.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert sum(each.data_type == kind for each in proto.graph.initializer) >= 14
    assert (tmp_path / "low.onnx").stat().st_size < (tmp_path / "fp32.onnx").stat().st_size
    (logits,) = InferenceSession(tmp_path / "low.onnx").run(None, {"input_ids": TOKENS.numpy()})
    assert logits.dtype == np.float32


class Coarse(nn.Module):
    """A linear layer over features of very different sizes, which eight bits for all of them round away."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factor = factor
        self.linear = nn.Linear(16, 4)
        with torch.no_grad():
            self.linear.weight[:, :8] *= 1e-4

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([self.factor * x, x], -1))


def test_rounding_of_weights_closes_no_axis(tmp_path: Path) -> None:
    model, x = Coarse(60.0), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    full = export_onnx(model, (x,), {}, tmp_path / "fp32.onnx")
    low = export_onnx(model, (x,), {}, tmp_path / "int8.onnx", Wanted(precision="int8"))
    assert low.open == full.open
    assert max(each.share for each in low.differences) > 0.1
    assert any("int8 weights change its outputs by" in remark for remark in low.remarks)
    assert not any("cannot be exported with" in remark for remark in low.remarks)


def test_what_a_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    x = torch.full((2, 5, 8), 3.0)
    with pytest.raises(OutputError, match="the model does not bear fp16 weights\n  because  output output differs by"):
        export_onnx(Coarse(1e6), (x,), {}, tmp_path / "fp16.onnx", Wanted(precision="fp16"))


def test_what_has_no_weight_to_quantise_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing of this model can be written in int8"):
        export_onnx(nn.LayerNorm(5), (torch.randn(2, 5),), {}, tmp_path / "norm.onnx", Wanted(precision="int8"))


def test_a_text_generator_decodes_step_by_step_with_its_past(tmp_path: Path) -> None:
    model = llama()
    done = export_onnx(model, (), {"input_ids": TOKENS}, tmp_path / "past.onnx", Wanted(past=True))
    assert done.difference < 1e-4
    assert len(done.differences) == 3
    running = InferenceSession(tmp_path / "past.onnx")
    names = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert [each.name for each in running.get_inputs()] == [
        "input_ids",
        "attention_mask",
        *(f"past_key_values.{name}" for name in names),
    ]
    assert [each.name for each in running.get_outputs()] == ["logits", *(f"present.{name}" for name in names)]
    past = {f"past_key_values.{name}": np.zeros((2, 2, 0, 4), np.float32) for name in names}
    with torch.no_grad():
        expected = model(input_ids=TOKENS, use_cache=False).logits.numpy()
    for step in range(TOKENS.shape[1]):
        given = {"input_ids": TOKENS[:, step : step + 1].numpy(), "attention_mask": np.ones((2, step + 1), np.int64)}
        logits, *present = running.run(None, given | past)
        past = dict(zip(past, present, strict=True))
        np.testing.assert_allclose(logits[:, 0], expected[:, step], atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("make", [gpt2, gemma2])
def test_learnt_positions_and_a_sliding_window_are_decoded_too(
    make: Callable[[], nn.Module], precision: str, tmp_path: Path
) -> None:
    wanted = Wanted(past=True, precision=precision)
    done = export_onnx(make(), (), {"input_ids": TOKENS}, tmp_path / "past.onnx", wanted)
    assert 0 < done.difference < (1e-4 if precision == "fp32" else 0.2)
    assert len(done.differences) == 3


def mamba() -> nn.Module:
    return MambaForCausalLM(
        MambaConfig(vocab_size=97, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=3)
    ).eval()


def qwen3_next() -> nn.Module:
    config = Qwen3NextConfig(
        vocab_size=97, hidden_size=16, layer_types=["linear_attention", "full_attention"], num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=4,
        linear_value_head_dim=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8,
    )  # fmt: skip
    return Qwen3NextForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("make", "state", "keys"),
    [(mamba, [32, 4], []), (qwen3_next, [4, 4, 4], ["past_key_values.1.key", "past_key_values.1.value"])],
)
def test_states_that_are_carried_on_are_decoded_a_token_at_a_time(
    make: Callable[[], nn.Module], state: list[int], keys: list[str], tmp_path: Path
) -> None:
    done = export_onnx(make(), (), {"input_ids": TOKENS}, tmp_path / "past.onnx", Wanted(past=True))
    assert done.difference < 1e-4
    assert len(done.differences) == 3
    places = {each.name: each.shape for each in InferenceSession(tmp_path / "past.onnx").get_inputs()}
    assert places["input_ids"] == ["batch", 1]
    assert places["past_key_values.0.recurrent_state"] == ["batch", *state]
    assert [name for name in places if name.endswith((".key", ".value"))] == keys
    assert ("attention_mask" in places) == bool(keys)


def t5() -> nn.Module:
    config = T5Config(vocab_size=97, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval()


def test_a_text_generator_with_an_encoder_is_two_files_and_decodes_a_padded_source(tmp_path: Path) -> None:
    model = t5()
    done = export_onnx(model, (), {"input_ids": TOKENS, "decoder_input_ids": TOKENS}, tmp_path / "t5.onnx", Wanted(past=True))
    assert done.difference < 1e-4
    assert len(done.differences) == 3
    assert done.open == "batch, sequence, past_sequence, encoder_sequence"
    assert "its encoder lies beside it, in t5.encoder.onnx; open axes there: batch, sequence" in done.remarks
    encoder, decoder = (InferenceSession(tmp_path / name) for name in ("t5.encoder.onnx", "t5.onnx"))
    mask = torch.ones_like(TOKENS)
    mask[1, -2:] = 0
    with torch.no_grad():
        expected = model.generate(input_ids=TOKENS, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False)  # type: ignore[operator]
    read = encoder.run(None, {"input_ids": TOKENS.numpy(), "attention_mask": mask.numpy()})
    names = [each.name for each in encoder.get_outputs()]
    past = {name.replace("present", "past_key_values"): each for name, each in zip(names[1:], read[1:], strict=True)}
    past |= {name.replace("encoder", "decoder"): np.zeros((2, 2, 0, 4), np.float32) for name in past}
    ids = np.zeros((2, 1), np.int64)
    for _ in range(6):
        given = {"input_ids": ids[:, -1:], "encoder_attention_mask": mask.numpy()}
        logits, *present = decoder.run(None, given | past)
        told = [each.name.replace("present", "past_key_values") for each in decoder.get_outputs()[1:]]
        past |= dict(zip(told, present, strict=True))
        logits[:, :, 1] = -np.inf  # the end, which a minimum length keeps away
        ids = np.concatenate([ids, logits[:, -1:].argmax(-1)], axis=1)
    np.testing.assert_array_equal(ids, expected.numpy())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_speech_is_read_by_an_encoder_of_one_length(precision: str, tmp_path: Path) -> None:
    config = WhisperConfig(
        vocab_size=97, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8, max_source_positions=20, max_target_positions=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    given = {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": TOKENS}
    done = export_onnx(model, (), given, tmp_path / "speech.onnx", Wanted(past=True, precision=precision))
    assert 0 < done.difference < (1e-4 if precision == "fp32" else 0.2)
    assert "its encoder lies beside it, in speech.encoder.onnx; open axes there: batch" in done.remarks
    assert [each.name for each in InferenceSession(tmp_path / "speech.encoder.onnx").get_inputs()] == ["input_features"]


def test_a_model_without_keys_and_values_has_no_past(tmp_path: Path) -> None:
    prophet = ProphetNetForConditionalGeneration(
        ProphetNetConfig(
            vocab_size=97, hidden_size=8, encoder_ffn_dim=12, num_encoder_layers=1, num_encoder_attention_heads=2, decoder_ffn_dim=12,
            num_decoder_layers=1, num_decoder_attention_heads=2, max_position_embeddings=64,
        )
    )  # fmt: skip
    given = {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    with pytest.raises(OutputError, match="it cannot be run in two halves, by keys and values: At the moment"):
        export_onnx(prophet.eval(), (), given, tmp_path / "past.onnx", Wanted(past=True))
    with pytest.raises(OutputError, match="a module of another kind, has none"):
        export_onnx(Mixer(), (torch.randn(2, 5), torch.randn(2, 5)), {}, tmp_path / "past.onnx", Wanted(past=True))
    assert not list(tmp_path.iterdir())


def test_latencies_are_measured_when_asked_for(tmp_path: Path) -> None:
    given = (torch.randn(2, 5), torch.randn(2, 5))
    done = export_onnx(Mixer().eval(), given, {}, tmp_path / "mixer.onnx", Wanted(bench=True))
    assert [each.runtime for each in done.latencies] == ["PyTorch", "ONNX Runtime"]
    assert all(0 < each.fastest <= each.median and each.runs >= 10 for each in done.latencies)


def test_a_small_output_is_not_measured_by_a_large_one_and_a_filled_mask_is_no_value() -> None:
    gap, size = tolerated("x", np.array([1.0, -3.4e38]), np.array([1.0005, -3.4e38]), "fp32")
    assert (round(gap, 4), size) == (0.0005, 1.0)
    with pytest.raises(Disagreement):
        tolerated("x", np.array([1.0, -3.4e38]), np.array([1.1, -3.4e38]), "fp32")
    assert Difference("", 5e-4, 100.0).share < Difference("", 1e-4, 0.1).share


class Lengths(nn.Module):
    """So many rows for each line of a table, and the lines that a mask picks: neither number can be traced without its values."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        first, second, third = torch.repeat_interleave(table[:, 1], table[:, 0]).unbind()
        wide, tall = table[table[:, 1] > 4].unbind()
        return x * first + x.roll(1) * second * third + wide.sum() + tall[0]


@pytest.mark.parametrize("cut", [True, False], ids=["a child", "a model"])
def test_what_values_decide_stays_and_the_file_refuses_others(tmp_path: Path, cut: bool) -> None:
    x, table = torch.randn(2, 6), torch.tensor([[1, 5], [0, 3], [2, 7]])
    model: nn.Module = Lengths()
    if cut:
        model = gc.select(trace := gc.capture(model, (x, table)), gc.analyze(trace), {})
    done = export_onnx(model, (x, table), {}, tmp_path / "lengths.onnx")
    assert done.difference < 1e-5
    assert len(done.differences) == 3
    assert any("the file refuses inputs whose values decide another computation" in remark for remark in done.remarks)
    session = InferenceSession(str(tmp_path / "lengths.onnx"))
    assert [each.name for each in session.get_outputs()] == ["output"]
    alike = torch.tensor([[0, 8], [2, 1], [1, 9]])  # as many rows, and as many that the mask picks
    [found] = session.run(None, {"x": x.numpy(), "table": alike.numpy()})
    assert np.allclose(found, Lengths()(x, alike).numpy(), atol=1e-4)
    for other, told in (([[1, 5], [1, 3], [2, 7]], 3), ([[1, 1], [0, 3], [2, 7]], 2)):
        with pytest.raises(Exception, match=rf"refused: the model was traced with inputs for which it computes {told}"):
            session.run(None, {"x": x.numpy(), "table": np.array(other)})


class Table(nn.Module):
    """A table as long as an input says, read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor, size: Tensor) -> Tensor:
        return torch.relu(self.linear(x)) + torch.arange(int(size[0])).sum()


class Deciding(nn.Module):
    """A decision of some kind about what becomes of x."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.linear = what, nn.Linear(4, 4)
        self.register_buffer("table", torch.tensor([[1, 1], [2, 2], [0, 0], [-1, -1]]))

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        x = self.linear(x)
        match self.what:
            case "looked up":
                return x * 2 if self.table[i[0]].sum() > 0 else x
            case "counted":
                return x * 2 if len(torch.nonzero(i)) > 1 else x
            case "places":
                return x * sum(int(place) + 1 for place in torch.where(i > 0)[0])
            case "signed":
                return x * math.copysign(1.0, i[0].item())
            case _:
                return x * 2 if i.sum() > 3 else x


@pytest.mark.parametrize(
    ("what", "example", "others", "batch"),
    [
        ("looked up", [2], [[0], [1]], 2),
        ("counted", [0, 1, 1], [[0, 1, 0], [0, 0, 0]], 2),
        ("places", [0, 1, 1], [[1, 1, 0]], 2),
        ("signed", [0.0], [[-0.0]], 2),
        ("alone", [2], [[4]], 1),
    ],
)
def test_no_file_runs_where_values_decide_otherwise(
    what: str, example: list[float], others: list[list[float]], batch: int, tmp_path: Path
) -> None:
    model, x = Deciding(what).eval(), torch.randn(batch, 4)
    export_onnx(model, (x, torch.tensor(example)), {}, tmp_path / "deciding.onnx")
    session = InferenceSession(str(tmp_path / "deciding.onnx"))
    [found] = session.run(None, {"x": x.numpy(), "i": torch.tensor(example).numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x, torch.tensor(example)).numpy(), atol=1e-5)
    for other in others:
        with pytest.raises(Exception, match=r"refused: "):
            session.run(None, {"x": x.numpy(), "i": torch.tensor(other).numpy()})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_real_numbers_that_decide_are_not_rounded(precision: str, tmp_path: Path) -> None:
    given = (torch.randn(2, 4), torch.tensor([2.0]))
    with pytest.raises(OutputError, match="real numbers decide what it computes"):
        export_onnx(Deciding("real").eval(), given, {}, tmp_path / "real.onnx", Wanted(precision=precision))


def test_a_model_that_writes_into_its_inputs_is_compared_on_what_was_given(tmp_path: Path) -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            return x + i.add_(1)

    given = torch.zeros(2, 3), torch.arange(3)
    assert export_onnx(Writing(), given, {}, tmp_path / "writing.onnx").difference == 0
    assert given[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_with_smaller_weights_refuses_too(tmp_path: Path, precision: str) -> None:
    given = (torch.randn(2, 16), torch.tensor([3]))
    export_onnx(Table(), given, {}, tmp_path / "table.onnx", Wanted(precision=precision))
    session = InferenceSession(str(tmp_path / "table.onnx"))
    session.run(None, {"x": given[0].numpy(), "size": np.array([3])})
    with pytest.raises(Exception, match=r"refused: .* it computes 3 at test_onnx\.py:\d+"):
        session.run(None, {"x": given[0].numpy(), "size": np.array([4])})
