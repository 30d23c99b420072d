"""Scores against what plain hooks measure on the parent itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from tests.test_destination import IDS, Model
from tests.zoo import subject


@pytest.fixture(scope="module")
def parent() -> Model:
    torch.manual_seed(1)
    return Model().eval()


def hooked(model: Model, batches: list[Tensor]) -> dict[str, list[Tensor]]:
    """Inputs of the modules named below, and the values between blocks."""
    seen: dict[str, list[Tensor]] = {"down": [], "out": [], "stream": []}
    handles = [model.blocks[2].down.register_forward_pre_hook(lambda m, a: seen["down"].append(a[0]))]  # type: ignore[union-attr, operator]
    handles += [model.blocks[2].out.register_forward_pre_hook(lambda m, a: seen["out"].append(a[0]))]  # type: ignore[union-attr, operator]
    for block in model.blocks:
        handles.append(block.register_forward_pre_hook(lambda m, a: seen["stream"].append(a[0])))
    handles.append(model.head.register_forward_pre_hook(lambda m, a: seen["stream"].append(a[0])))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return seen


BATCHES = [torch.randint(0, 61, IDS.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def test_the_stream_is_ranked_once_by_its_mean_activation(parent: Model) -> None:
    values = torch.stack([value.abs().mean((0, 1)) for value in hooked(parent, BATCHES)["stream"]])
    scores = gc.score_activations(parent, BATCHES).units["residual"]
    assert len(values) == 3 * 5
    torch.testing.assert_close(_ranked(scores), _ranked(values.mean(0)))


def _ranked(values: object) -> Tensor:
    return torch.as_tensor(values).double().argsort()


def test_an_mlp_unit_is_worth_its_activation_times_its_outgoing_weights(parent: Model) -> None:
    units = torch.cat([value.flatten(0, 1) for value in hooked(parent, BATCHES)["down"]])
    expected = units.abs().mean(0) * parent.blocks[2].down.weight.norm(dim=0)  # type: ignore[union-attr, operator]
    found = torch.tensor(gc.score_activations(parent, BATCHES).units["blocks.2.hidden"])
    torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-4, atol=1e-6)


def test_a_head_is_worth_the_norm_of_what_it_adds_to_the_stream(parent: Model) -> None:
    mixed = torch.cat([value.flatten(0, 1) for value in hooked(parent, BATCHES)["out"]]).unflatten(-1, (6, 10))
    weight = parent.blocks[2].out.weight.unflatten(1, (6, 10))  # type: ignore[union-attr, operator]
    expected = torch.einsum("nhd,ohd->nho", mixed, weight).norm(dim=-1).mean(0)
    found = torch.tensor(gc.score_activations(parent, BATCHES).units["blocks.2.heads"])
    torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-4, atol=1e-6)


def test_without_data_a_unit_is_worth_the_norm_of_all_its_weights(parent: Model) -> None:
    layout = gc.analyze(gc.capture(parent, (IDS,)))
    block = parent.blocks[1]
    expected = (
        block.up.weight.square().sum(1) + block.up.bias.square() + block.down.weight.square().sum(0)  # type: ignore[union-attr, operator]
    ).sqrt()
    found = torch.tensor(gc.score_weights(layout).units["blocks.1.hidden"])
    torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["hf/t5", "hf/whisper", "hf/mamba", "timm/swin", "raw/einsum_gpt", "raw/stacked_gpt"])
def test_every_free_factor_inside_gets_a_score_from_weights(name: str) -> None:
    layout = subject(name).layout
    free = {f.name for f in layout.factors if f.frozen is None and any(n in layout.trace.parameters for n, _ in f.slots)}
    scores = gc.score_weights(layout).units
    assert set(scores) == free
    assert all(len(values) == layout[factor].size and min(values) >= 0 for factor, values in scores.items())


def test_scores_are_the_same_every_time(parent: Model) -> None:
    assert gc.score_activations(parent, BATCHES) == gc.score_activations(parent, BATCHES)


def test_batches_may_be_mappings_tuples_or_tensors(parent: Model) -> None:
    expected = gc.score_activations(parent, BATCHES)
    assert gc.score_activations(parent, [{"ids": batch} for batch in BATCHES]) == expected
    assert gc.score_activations(parent, [(batch,) for batch in BATCHES]) == expected


def test_a_last_smaller_batch_counts_too(parent: Model) -> None:
    found = gc.score_activations(parent, [*BATCHES, BATCHES[0][:2]])
    assert found.units.keys() == gc.score_activations(parent, BATCHES).units.keys()
    assert found != gc.score_activations(parent, BATCHES)
    assert gc.score_activations(parent, [BATCHES[0][:2], *BATCHES]).units["residual"] == pytest.approx(found.units["residual"])


def test_no_batches_at_all_are_an_error() -> None:
    with pytest.raises(gc.GraphcloneError, match="no calibration"):
        gc.score_activations(nn.Linear(3, 3), [])
