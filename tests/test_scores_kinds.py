"""Every plug-in of a score against the same said in plain torch, and what blocks are worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.errors import GraphcloneError, SizeError, UnknownNameError, WeightsError
from graphclone.passes import DropBlocks, whole
from graphclone.passes.drop_blocks import dearest, even, first
from graphclone.scores import PLACES, STREAM, UNITS, angular, block_influence, greedy, score_gradients
from tests.test_destination import IDS, Model
from tests.test_scores import BATCHES, hooked


@pytest.fixture(scope="module")
def parent() -> Model:
    torch.manual_seed(1)
    return Model().eval()


@pytest.fixture(scope="module")
def layout(parent: Model) -> gc.Layout:
    return gc.analyze(gc.capture(parent, (IDS,)))


STREAMS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean_abs": lambda x: x.abs().mean(0),
    "variance": lambda x: (x - x.mean(0)).pow(2).mean(0),
    "rms": lambda x: x.pow(2).mean(0).sqrt(),
    "max": lambda x: x.abs().max(0).values,
}


@pytest.mark.parametrize("kind", STREAM)
def test_a_stream_is_scored_by_each_statistic_of_its_values(parent: Model, kind: str) -> None:
    found = gc.score_activations(parent, BATCHES[:1], stream=kind).units["residual"]
    values = hooked(parent, BATCHES[:1])["stream"]
    expected = torch.stack([STREAMS[kind](each.flatten(0, 1).double()) for each in values]).mean(0)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.double), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", UNITS)
def test_mlp_units_are_scored_by_each_statistic(parent: Model, kind: str) -> None:
    found = gc.score_activations(parent, BATCHES[:1], units=kind).units["blocks.2.hidden"]
    (x,) = hooked(parent, BATCHES[:1])["down"]
    x, outgoing = x.flatten(0, 1).double(), parent.blocks[2].down.weight.detach().double().norm(dim=0)  # type: ignore[union-attr]
    ways = {"contribution": lambda x: x.abs().mean(0) * outgoing, "wanda": lambda x: x.pow(2).mean(0).sqrt() * outgoing}
    expected = {**STREAMS, **ways}[kind](x)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.double), expected, rtol=1e-4, atol=1e-7)


def test_places_are_merged_as_they_say() -> None:
    loud, quiet = torch.tensor([30.0, 10.0, 20.0]), torch.tensor([0.1, 0.3, 0.2])
    found = {name: merge([loud, quiet]).tolist() for name, merge in PLACES.items()}
    assert found["mean"] == pytest.approx([15.05, 5.15, 10.1])
    assert found["even_mean"] == pytest.approx([(30 / 60 + 0.1 / 0.6) / 2, (10 / 60 + 0.3 / 0.6) / 2, 1 / 3])
    assert found["rank_mean"] == pytest.approx([1, 1, 1])
    assert found["max"] == pytest.approx([30, 10, 20])


def _loss(outputs: Tensor, batch: Tensor) -> Tensor:
    return outputs[:, :-1].flatten(0, 1).logsumexp(-1).mean() - outputs[:, :-1].gather(-1, batch[:, 1:, None]).mean()


def test_taylor_and_fisher_sum_over_all_that_a_unit_touches(parent: Model, layout: gc.Layout) -> None:
    _loss(parent(IDS), IDS).backward()
    block = parent.blocks[1]
    each = [(block.up.weight, 0), (block.up.bias, 0), (block.down.weight, 1)]  # type: ignore[union-attr]
    products = [(weight * weight.grad).movedim(dim, 0).flatten(1) if weight.dim() > 1 else (weight * weight.grad)[:, None]
                for weight, dim in each]  # fmt: skip
    parent.zero_grad()
    taylor = score_gradients(layout, parent, [IDS], _loss).units["blocks.1.hidden"]
    fisher = score_gradients(layout, parent, [IDS], _loss, kind="fisher").units["blocks.1.hidden"]
    expected = [sum(f(p.double()).sum(1) for p in products) for f in (lambda p: p, torch.square)]
    torch.testing.assert_close(torch.tensor(taylor).double(), expected[0].abs().detach(), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(torch.tensor(fisher).double(), expected[1].detach(), rtol=1e-3, atol=1e-12)
    assert all(parameter.grad is None for parameter in parent.parameters())


def test_taylor_foretells_what_a_small_change_of_a_unit_does(parent: Model, layout: gc.Layout) -> None:
    """|Σ w·g| of a unit is the change of the loss, to first order, as its weights shrink."""
    said = score_gradients(layout, parent, [IDS], _loss).units["blocks.0.hidden"]
    before, part, unit = _loss(parent(IDS), IDS).item(), 1e-2, int(torch.tensor(said).argmax())
    twin = Model().eval()
    twin.load_state_dict(parent.state_dict())
    with torch.no_grad():
        for tensor in (twin.blocks[0].up.weight[unit], twin.blocks[0].up.bias[unit], twin.blocks[0].down.weight[:, unit]):  # type: ignore[union-attr, index]
            tensor *= 1 - part
    assert abs(_loss(twin(IDS), IDS).item() - before) == pytest.approx(part * said[unit], rel=0.1)


@pytest.mark.parametrize("words", [{"stream": "loudness"}, {"units": "loudness"}, {"places": "loudness"}])
def test_an_unknown_way_to_score_is_told(parent: Model, words: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match="loudness"):
        gc.score_activations(parent, BATCHES, **words)


def test_gradients_need_batches_and_a_kind(parent: Model, layout: gc.Layout) -> None:
    with pytest.raises(UnknownNameError, match="loudness"):
        score_gradients(layout, parent, [IDS], _loss, kind="loudness")
    with pytest.raises(GraphcloneError, match="no batches"):
        score_gradients(layout, parent, [], _loss)
    with pytest.raises(GraphcloneError, match="no scalar"):
        score_gradients(layout, parent, [IDS], lambda outputs, _: outputs)
    with torch.no_grad():
        assert score_gradients(layout, parent, [IDS], _loss).units
    with pytest.raises(GraphcloneError, match="no gradients"):
        score_gradients(layout, Model().requires_grad_(False), [IDS], _loss)


def test_block_influence_is_one_minus_the_cosine_of_what_goes_in_and_out(parent: Model) -> None:
    found = block_influence(Calibration.of(parent, BATCHES)).blocks["blocks"]
    stream = hooked(parent, BATCHES)["stream"]
    passes = [stream[i * 5 : i * 5 + 5] for i in range(3)]
    said = [[1 - torch.cosine_similarity(a, b, dim=-1).mean() for a, b in itertools.pairwise(each)] for each in passes]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(said).mean(0), rtol=1e-4, atol=1e-5)


def test_the_run_of_blocks_of_the_least_angle_goes(parent: Model) -> None:
    found = angular(Calibration.of(parent, BATCHES), 2).blocks["blocks"]
    stream = hooked(parent, BATCHES)["stream"]
    angles = [
        sum(
            torch.cosine_similarity(stream[p * 5 + i], stream[p * 5 + i + 2], dim=-1).clamp(-1, 1).acos().mean() / math.pi
            for p in range(3)
        )
        for i in range(3)
    ]
    least = int(torch.tensor(angles).argmin())
    assert [index for index, worth in enumerate(found) if worth == 0] == [least, least + 1]
    assert angular(Calibration.of(parent, BATCHES[:1]), {}).blocks["blocks"] == (1.0, 1.0, 1.0, 1.0)
    assert angular(Calibration.of(parent, BATCHES[:1]), 7).blocks["blocks"] == (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(UnknownNameError, match="no stack is called 'nope'"):
        angular(Calibration.of(parent, BATCHES[:1]), {"nope": 2})
    with pytest.raises(SizeError, match="cannot have 0 blocks"):
        angular(Calibration.of(parent, BATCHES[:1]), 0)


def test_greedy_tries_every_removal_anew(layout: gc.Layout) -> None:
    """A loss in which blocks 1 and 2 do the same: either can go, not both."""
    tried = []

    def loss(kept: tuple[int, ...]) -> float:
        tried.append(kept)
        return 10.0 * (1 not in kept and 2 not in kept) + 3.0 * (0 not in kept) + 1.0 * (3 not in kept)

    (stack,) = layout.blocks
    worth = greedy(stack, loss, down_to=2).blocks["blocks"]
    assert sorted(range(4), key=lambda index: worth[index])[:2] == [2, 3]
    assert len(tried) == 4 + 3
    with pytest.raises(WeightsError, match="no number"):
        greedy(stack, lambda kept: math.nan)


def test_blocks_of_the_highest_scores_stay_in_order(layout: gc.Layout) -> None:
    scores = gc.Scores(blocks={"blocks": (0.1, 0.9, 0.2, 0.8)})
    assert DropBlocks(2, scores=scores)(whole(layout), layout).stacks["blocks"] == (1, 3)
    assert gc.plan(layout, depth=3, scores=scores).stacks["blocks"] == (1, 2, 3)
    assert DropBlocks(2, choose=first)(whole(layout), layout).stacks["blocks"] == (0, 1)
    assert DropBlocks(2, choose=even)(whole(layout), layout).stacks["blocks"] == (0, 2)
    with pytest.raises(SizeError, match="no ranking of its 4 blocks"):
        gc.plan(layout, depth=3, scores=gc.Scores(blocks={"blocks": (1.0, 2.0)}))


def test_kinds_are_kept_and_the_most_is_worth() -> None:
    kinds = [0, 1, 0, 1, 0, 1]
    assert dearest(kinds, [0, 1], [5, 1, 1, 1, 4, 9]) == [0, 5]
    assert dearest(kinds, [0, 1, 0], [5, 1, 1, 8, 4, 9]) == [0, 3, 4]
    best = max(
        (chosen for chosen in itertools.combinations(range(6), 3) if [kinds[i] for i in chosen] == [1, 0, 1]),
        key=lambda chosen: sum([3, 1, 4, 1, 5, 9][i] for i in chosen),
    )
    assert tuple(dearest(kinds, [1, 0, 1], [3, 1, 4, 1, 5, 9])) == best
