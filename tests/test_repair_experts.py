"""Maps of a stack, one matrix for each expert, are refitted each on its own rows."""

from __future__ import annotations

import pytest
import torch
import transformers  # noqa: F401  (it declares the product in groups)
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.recipe import Recipe
from graphclone.repair import beside, refitted
from graphclone.verify import two_roads


class Grouped(nn.Module):
    """Rows up to each boundary are one expert's."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Parameter(torch.randn(3, 6, 10)), nn.Parameter(torch.randn(3, *((4, 10) if swapped else (10, 4))))
        self.swapped = swapped

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        product = torch.ops.transformers.grouped_mm_fallback
        units = torch.relu(product(x, self.up, ends))
        found: Tensor = product(units, self.down.transpose(1, 2) if self.swapped else self.down, ends)
        return found


@pytest.mark.parametrize("swapped", [False, True])
def test_each_experts_matrix_is_its_own_least_squares_solution(swapped: bool) -> None:
    model = Grouped(swapped).eval()
    drawn = torch.Generator().manual_seed(1)
    batches = [(torch.randn(400, 6, generator=drawn), torch.tensor([250, 250, 400], dtype=torch.int32)) for _ in range(4)]
    calibration = Calibration.of(model, batches)
    layout = calibration.parts[0][0]
    (name,) = (factor.name for factor in layout.factors if factor.kind == "hidden")
    plan = gc.plan(layout, width={name: 5}, scores=gc.Scores({name: tuple(float(unit < 5) for unit in range(10))}))
    found = refitted(beside(calibration, plan, layout))["down"]
    found = found.transpose(1, 2) if swapped else found
    before = model.down.transpose(1, 2) if swapped else model.down
    assert found.shape == (3, 5, 4)
    for expert, rows in ((0, slice(0, 250)), (2, slice(250, 400))):
        x = torch.cat([torch.relu(batch[rows] @ model.up[expert]) for batch, _ in batches]).detach().double()
        y = (x @ before[expert].double()).detach()
        best = torch.linalg.lstsq(x[:, :5], y).solution
        missed, least = ((x[:, :5] @ each - y).square().mean() for each in (found[expert].double(), best))
        assert missed < 1.05 * least
    scale = plan.tensors["down"].scale
    torch.testing.assert_close(found[1], before[1, :5].detach() * scale, msg="nothing came to the second: it is as it was")


def _mixtral(**sizes: int) -> MixtralForCausalLM:
    torch.manual_seed(0)
    every = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_local_experts": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = MixtralConfig(vocab_size=64, head_dim=8, use_cache=False, initializer_range=0.3, **{**every, **sizes})
    model = MixtralForCausalLM(config).eval()
    model.set_experts_implementation("grouped_mm")
    return model


def _batches(seeds: range) -> list[dict[str, Tensor]]:
    return [{"input_ids": torch.randint(2, 64, (8, 33), generator=torch.Generator().manual_seed(seed))} for seed in seeds]


def test_a_child_of_experts_is_nearer_for_it() -> None:
    """Half of what each expert has inside, and all experts; queries, keys and values as they were."""
    parent, data, unseen = _mixtral(), _batches(range(8)), _batches(range(20, 24))
    missed = {}
    for refit in (True, False):
        child, report = gc.subclone(
            parent, _mixtral(intermediate_size=20), kwargs=data[0], data=data, recipe=Recipe(refit=refit, rotate=False)
        )
        assert sum(name.endswith("experts.down_proj") for name in report.plan.fitted) == 2 * refit
        assert two_roads(report.plan, parent, child, ((), data[0])).passed
        with torch.no_grad():
            missed[refit] = sum(float((parent(**each).logits - child.eval()(**each).logits).square().mean()) for each in unseen)
    assert missed[True] < 0.9 * missed[False]


def test_where_experts_are_dropped_others_are_chosen_and_none_is_refitted() -> None:
    data = _batches(range(4))
    small = _mixtral(intermediate_size=20, num_local_experts=3)
    _, report = gc.subclone(_mixtral(), small, kwargs=data[0], data=data, recipe=Recipe(rotate=False))
    assert not [name for name in report.plan.fitted if "experts" in name]
