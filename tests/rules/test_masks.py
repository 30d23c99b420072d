"""The best inside of the best groups: free, since what the mask leaves is enough; and the child has to leave enough as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import SizeError
from models_zoo import field

TOKENS = torch.randn(3, 7, 10)


class Routed(nn.Module):
    """Twelve experts in four groups: `best` of those in the two best groups."""

    def __init__(self, best: int, masked: float = -torch.inf, positive: bool = False) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(10, 12),
            nn.Parameter(torch.randn(12, 10, 18)),
            nn.Parameter(torch.randn(12, 18, 10)),
        )
        self.best, self.masked, self.positive = best, masked, positive

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).softmax(-1) if self.positive else self.gate(x)
        groups = scores.unflatten(-1, (4, 3)).topk(2, -1).values.sum(-1).topk(2, -1).indices
        mask = torch.zeros(3, 7, 4).scatter(-1, groups, 1.0)[..., None].expand(3, 7, 4, 3).flatten(-2)
        index = torch.where(mask.bool(), scores, self.masked).topk(self.best, -1).indices
        weights = torch.zeros_like(scores).scatter(-1, index, scores.gather(-1, index))
        return torch.einsum("bte,bteu,eud->btd", weights, torch.einsum("btd,edu->bteu", x, self.up).relu(), self.down)


def free(model: nn.Module) -> dict[str, int]:
    layout = gc.analyze(gc.capture(model.eval(), (TOKENS,)))
    return {factor.kind: factor.size for factor in layout.factors if factor.frozen is None and "expert" in factor.kind}


@pytest.mark.parametrize("best", [1, 4, 6])
def test_groups_and_experts_are_free_while_enough_are_left(best: int) -> None:
    model = Routed(best).eval()
    assert free(model) == {"expert_groups": 4, "experts": 3}
    report = gc.verify(model, (TOKENS,))
    assert report.passed, report


@pytest.mark.parametrize("masked", [0.0, -1.0])
def test_a_number_below_all_probabilities_masks_as_well(masked: float) -> None:
    model = Routed(4, masked, positive=True).eval()
    assert free(model) == {"expert_groups": 4, "experts": 3}
    report = gc.verify(model, (TOKENS,))
    assert report.passed, report


@pytest.mark.parametrize("model", [Routed(7), Routed(4, masked=0.0), Routed(4, masked=-10.0), Routed(4, 0.01, positive=True)])
def test_they_are_frozen_where_the_masked_ones_could_win(model: nn.Module) -> None:
    assert free(model) == {}
    assert gc.verify(model.eval(), (TOKENS,)).passed


class Floored(Routed):
    """What is not picked comes from a buffer, all of whose values are alike."""

    def __init__(self) -> None:
        super().__init__(4)
        self.register_buffer("floor", torch.full((3, 7, 12), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        index = torch.where(scores > 0.3, scores, self.floor).topk(6, -1).indices
        weights = torch.zeros_like(scores).scatter(-1, index, scores.gather(-1, index))
        return torch.einsum("bte,bteu,eud->btd", weights, torch.einsum("btd,edu->bteu", x, self.up).relu(), self.down)


def test_a_buffer_may_be_all_alike() -> None:
    assert free(Floored()) == {}
    assert gc.verify(Floored().eval(), (TOKENS,)).passed


def test_a_child_has_as_many_in_each_group_as_are_chosen() -> None:
    model = Routed(4).eval()
    layout = gc.analyze(gc.capture(model, (TOKENS,)))
    child = gc.execute(gc.plan(layout, width={"experts": 2, "expert_groups": 3}), model)
    assert child(TOKENS).shape == TOKENS.shape
    with pytest.raises(SizeError, match="at least 2"):
        gc.plan(layout, width={"experts": 1})
    with pytest.raises(SizeError, match="at least 2"):
        gc.plan(layout, width={"expert_groups": 1})


@pytest.mark.parametrize(
    "name", ["hf/deepseek_v3/DeepseekV3ForCausalLM", "hf/glm4_moe/Glm4MoeForCausalLM", "hf/aria/AriaForConditionalGeneration"]
)
def test_experts_and_their_hidden_units_are_free_and_called_so(name: str) -> None:
    """Chosen in groups, in one group, and behind a stream into which pictures were scattered."""
    tiny = field.find(name)
    layout = gc.analyze(gc.capture(tiny.build(), *tiny.inputs()))
    banks = [factor for factor in layout.factors if any(".experts." in name for name, _ in factor.slots)]
    kinds = {factor.kind for factor in banks}
    assert {"residual", "experts", "hidden"} <= kinds <= {"residual", "experts", "expert_groups", "hidden"}
    assert all(factor.frozen is None for factor in banks)
