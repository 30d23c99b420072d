"""Recipes: a child that is rotated and refitted is one of its class, and begins nearer to its parent than a selected one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.errors import GraphcloneError, PlanError, UnknownNameError
from graphclone.execute import fill
from graphclone.recipe import RECIPES, Recipe, begin
from graphclone.repair import beside, matched, refitted
from graphclone.verify import outputs, two_roads
from tests.test_rotation import IDS, RMS, Block, Model

BATCHES = [torch.randint(0, 17, (16, 7), generator=torch.Generator().manual_seed(seed)) for seed in range(8)]


class Sized(Model):
    """The same in other sizes."""

    def __init__(self, width: int = 12, depth: int = 4, hidden: int = 20, norm: type[nn.Module] = RMS) -> None:
        super().__init__(norm, bias=True)
        torch.manual_seed(width)
        blocks = []
        for _ in range(depth):
            block = Block(self._norm(norm, width), True)
            block.up, block.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
            blocks.append(block)
        self.embed, self.place = nn.Embedding(17, width), nn.Parameter(torch.randn(1, 7, width))
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), self._norm(norm, width), nn.Linear(width, 5)

    @staticmethod
    def _norm(norm: type[nn.Module], width: int) -> nn.Module:
        if norm is nn.LayerNorm:
            return nn.LayerNorm(width)
        made = RMS()
        made.gain = nn.Parameter(torch.zeros(width))
        return made

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) * 3.0 + self.place
        for block in self.blocks:
            x = block(x)
        return self.tail(x)


@pytest.fixture(scope="module", params=[RMS, nn.LayerNorm])
def parent(request: pytest.FixtureRequest) -> Sized:
    return Sized(norm=request.param).eval()


def _child(parent: Sized, recipe: str | Recipe, width: int = 8, depth: int = 3) -> tuple[Sized, gc.Plan]:
    small = Sized(width, depth, 14, type(parent.norm) if isinstance(parent.norm, nn.LayerNorm) else RMS).eval()
    child, report = gc.subclone(parent, small, (IDS,), data=BATCHES, recipe=recipe)
    return child, report.plan


def _distance(parent: Sized, child: nn.Module) -> float:
    ids = torch.randint(0, 17, (64, 7), generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return float((parent(ids) - child(ids)).square().mean())


def test_a_full_beginning_is_nearer_to_the_parent_than_the_papers(parent: Sized) -> None:
    paper, full = (_distance(parent, _child(parent, recipe)[0]) for recipe in ("paper", "full"))
    assert full < 0.7 * paper


def test_rotation_alone_and_refit_alone_bring_it_nearer(parent: Sized) -> None:
    paper = _distance(parent, _child(parent, "paper")[0])
    for recipe in (Recipe(influence=False, refit=False), Recipe(influence=False, rotate=False)):
        assert _distance(parent, _child(parent, recipe)[0]) < paper


def test_the_last_map_before_dropped_blocks_can_add_what_these_did(parent: Sized) -> None:
    alone, spans = (_distance(parent, _child(parent, Recipe(spans=each), 12, 2)[0]) for each in (False, True))
    assert spans < 0.3 * alone


def test_both_roads_agree_on_a_fitted_child(parent: Sized) -> None:
    child, plan = _child(parent, "full")
    assert plan.fitted
    assert two_roads(plan, parent, child, ((IDS,), {}), gc.capture(parent, (IDS,))).passed


def test_a_child_of_the_parents_own_size_computes_what_the_parent_does(parent: Sized) -> None:
    same = Sized(12, 4, 20, type(parent.norm) if isinstance(parent.norm, nn.LayerNorm) else RMS).eval()
    child, report = gc.subclone(parent, same, (IDS,), data=BATCHES, recipe="full")
    torch.testing.assert_close(outputs(child, ((IDS,), {}))[0], outputs(parent, ((IDS,), {}))[0])
    assert not report.plan.fitted


def test_fitted_tensors_are_in_no_plan(parent: Sized) -> None:
    child, plan = _child(parent, "full")
    read = gc.Plan.loads(plan.dumps())
    assert read == plan
    trace = gc.capture(parent, (IDS,))
    with pytest.raises(PlanError, match="is no selection of the parent's units"):
        gc.execute(read, parent, trace=trace)
    with pytest.raises(PlanError, match="is no selection of the parent's units"):
        fill(read, trace.state.__getitem__, child)
    fitted = {name: child.state_dict()[name] for name in read.fitted}
    graph = gc.execute(read, parent, trace=trace, fitted=fitted)
    torch.testing.assert_close(outputs(graph, ((IDS,), {}))[0], outputs(child, ((IDS,), {}))[0])


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 4)
        self.up.weight.data[5:] = self.up.weight.data[:5] + 0.1 * torch.randn(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def _halved() -> tuple[Calibration, gc.Plan, Tensor, Tensor]:
    """Its first five units are kept: the plan, and all units' values and what the parent makes of them, less the bias."""
    model = Two().eval()
    batches = [torch.randn(200, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    calibration = Calibration.of(model, batches)
    layout = calibration.parts[0][0]
    (name,) = (factor.name for factor in layout.factors if factor.kind == "hidden")
    plan = gc.plan(layout, width={name: 5}, scores=gc.Scores({name: tuple(float(unit < 5) for unit in range(10))}))
    x = torch.cat([torch.relu(model.up(batch)) for batch in batches]).detach().double()
    return calibration, plan, x, (x @ model.down.weight.double().T).detach()


def test_a_refit_is_the_least_squares_solution() -> None:
    """One map that reads half of its inputs, fitted by hand."""
    calibration, plan, x, y = _halved()
    found = refitted(beside(calibration, plan, calibration.parts[0][0]))["down.weight"].double()
    best = torch.linalg.lstsq(x[:, :5], y).solution.T
    assert (x[:, :5] @ found.T - y).square().mean() < 1.05 * (x[:, :5] @ best.T - y).square().mean()


def test_an_unknown_recipe_is_told() -> None:
    with pytest.raises(UnknownNameError, match="no recipe is called 'best'") as told:
        gc.subclone(Sized().eval(), Sized(8, 3, 14).eval(), (IDS,), data=BATCHES, recipe="best")
    assert all(name in str(told.value) for name in RECIPES)


def test_a_stream_that_cannot_be_rotated_is_selected_from_and_told() -> None:
    class Curved(Sized):
        def tail(self, x: Tensor) -> Tensor:
            return super().tail(torch.tanh(x))

    parent = Curved().eval()
    layout = gc.analyze(gc.capture(parent, (IDS,)))
    begun = begin(
        layout,
        Calibration.of(parent, BATCHES),
        Recipe(),
        lambda each, scores: gc.plan(each, width={"residual": 8}, scores=scores),
    )
    assert any("is selected from, not rotated" in remark and "tanh" in remark for remark in begun.plan.remarks)


def test_the_axes_of_a_rotated_stream_say_what_the_childs_hidden_states_stand_for() -> None:
    """At full depth and nearly full width, what the child's first block is given is what its parent's is given, along the axes."""
    torch.manual_seed(0)
    parent = Sized().eval()
    child, report = gc.subclone(parent, Sized(width=11), (BATCHES[0],), data=BATCHES, recipe=Recipe(refit=False))
    assert report.plan.rotated == ("residual",)
    with pytest.raises(PlanError, match="rotated"):
        gc.distill_pairs(report.plan)
    pair = gc.distill_pairs(report.plan, report.axes)[0]
    taught, selected = pair.taught(parent.embed(BATCHES[0]) + parent.place), parent.embed(BATCHES[0])[..., pair.units]
    begun = child.embed(BATCHES[0]) + child.place
    torch.testing.assert_close(begun, taught)
    assert (begun - selected).norm() > 0.5 * begun.norm()


def test_a_matched_map_gives_results_as_large_as_the_parents() -> None:
    calibration, plan, x, y = _halved()
    found = matched(beside(calibration, plan, calibration.parts[0][0]))["down.weight"].double()
    weight = Two().down.weight[:, :5].detach().double()
    torch.testing.assert_close(found / weight, torch.full_like(weight, float((found / weight)[0, 0])), rtol=1e-5, atol=0)
    assert (x[:, :5] @ found.T).square().mean().item() == pytest.approx(y.square().mean().item(), rel=1e-5)


def test_statistics_can_stand_in_for_the_scale(parent: Sized) -> None:
    recipe, norm = Recipe(rotate=False, refit=False, match=True), nn.LayerNorm if isinstance(parent.norm, nn.LayerNorm) else RMS
    small = [Sized(8, 3, 14, norm).eval() for _ in range(2)]
    child, report = gc.subclone(parent, small[0], (BATCHES[0],), data=BATCHES, recipe=recipe, scale=False)
    rooted, _ = gc.subclone(parent, small[1], (BATCHES[0],), data=BATCHES, recipe=recipe)
    assert report.plan.fitted
    torch.testing.assert_close(
        outputs(child, ((IDS,), {}))[0], outputs(rooted, ((IDS,), {}))[0]
    )  # whatever it was multiplied by before
    assert two_roads(report.plan, parent, child, ((BATCHES[0],), {})).passed


def test_maps_are_fitted_alike_when_memory_holds_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Sized().eval()
    together, _ = _child(parent, "full")
    monkeypatch.setattr("graphclone.repair._MEMORY", 1)
    one_by_one, _ = _child(parent, "full")
    for (name, a), b in zip(together.state_dict().items(), one_by_one.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_one_batch_is_not_enough_to_refit_and_the_plan_says_so() -> None:
    parent = Sized().eval()
    rotated, _ = gc.subclone(parent, Sized(8, 3, 14).eval(), (IDS,), data=BATCHES[:1], recipe=Recipe(refit=False))
    full, report = gc.subclone(parent, Sized(8, 3, 14).eval(), (IDS,), data=BATCHES[:1], recipe="full")
    assert any("nothing can be held out" in remark for remark in report.plan.remarks)
    for a, b in zip(rotated.state_dict().values(), full.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_page_of_recipes_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    code = re.findall(r"```python\n(.*?)```", (root / "docs" / "recipes.md").read_text(), re.DOTALL)
    ran: dict[str, Any] = {}
    for each in code:
        exec(each, ran)
    assert ran["losses"]["full"] < ran["losses"]["paper"]
    assert ran["estimate"](ran["fast"]) <= ran["budget"]


@pytest.mark.parametrize("words", [{"match": True}, {"spans": True, "refit": False}])
def test_a_recipe_that_contradicts_itself_is_told(words: dict[str, bool]) -> None:
    with pytest.raises(GraphcloneError, match="refit"):
        Recipe(**words)  # type: ignore[arg-type]


def test_a_norm_in_single_precision_does_not_keep_a_model_in_double_from_being_rotated() -> None:
    def llama(width: int) -> LlamaForCausalLM:
        torch.manual_seed(0)
        sizes: dict[str, int] = dict(hidden_size=width, num_attention_heads=width // 8, intermediate_size=2 * width)
        return (
            LlamaForCausalLM(LlamaConfig(vocab_size=17, num_hidden_layers=2, head_dim=8, use_cache=False, **sizes))
            .eval()
            .double()
        )

    _, report = gc.subclone(llama(32), llama(16), (IDS,), data=BATCHES)
    assert report.plan.rotated == ("residual",)
