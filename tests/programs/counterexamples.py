"""Every program that was once judged wrongly, as a little forward function.

@counterexample("x 3 5", "w 4 5")       an input and a parameter, with their shapes
@counterexample("i 3 < 7", …)           an input of integers below 7
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.programs.program import Program, captured

Forward = Callable[..., Any]
COUNTEREXAMPLES: list[tuple[Forward, tuple[str, ...]]] = []


def counterexample(*operands: str) -> Callable[[Forward], Forward]:
    """Register a forward function of these operands: x…, i… are inputs, others are parameters."""

    def register(forward: Forward) -> Forward:
        COUNTEREXAMPLES.append((forward, operands))
        return forward

    return register


def program(forward: Forward, operands: tuple[str, ...], seed: int = 0) -> Program:
    """The forward function, captured on operands of these shapes."""
    numbers = np.random.default_rng(seed)

    def tensor(text: str) -> Tensor:
        shape, _, bound = text.partition("<")
        sizes = [int(size) for size in shape.split()[1:]]
        return torch.from_numpy(np.asarray(numbers.integers(int(bound), size=sizes) if bound else numbers.normal(size=sizes)))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([tensor(text) for text in operands if text[0] not in "xi"])

        def forward(self, *inputs: Tensor) -> Any:
            given, weights = iter(inputs), iter(self.weights)
            return forward(*(next(given) if text[0] in "xi" else next(weights) for text in operands))

    return captured(Model().eval(), tuple(tensor(text) for text in operands if text[0] in "xi"))


# -- positions that are given away -----------------------------------------------------------------------------------


@counterexample("x 3 5", "w 4 5")
def positions_are_returned(x: Tensor, w: Tensor) -> Tensor:
    return F.linear(x, w).argmax(-1)


@counterexample("w 4")
def arange_is_returned(w: Tensor) -> tuple[Tensor, Tensor]:
    return w.exp(), torch.arange(4)


# -- of equal values the first one wins ------------------------------------------------------------------------------


@counterexample("x 13 3", "w 5 3", "table 5 2")
def relu_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    return F.embedding((F.linear(x, w) - 1).relu().argmax(-1), table)


@counterexample("x 13 3", "w 5 3", "table 5 2")
def rounded_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    return F.embedding(F.linear(x, w).round().argmax(-1), table)


@counterexample("x 13 3", "w 5 3", "table 5 2")
def clamped_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    return F.embedding(F.linear(x, w).clamp(-0.5, 0.5).argmin(-1), table)


@counterexample("x 13 3", "w 5 3", "table 5 2")
def compared_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    return table[(F.linear(x, w) > 0).double().max(-1).indices]


@counterexample("x 13 3", "w 5 3", "table 5 2")
def masked_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    return table[score.masked_fill(score > -2, 0.0).topk(2, -1).indices].sum(1)


@counterexample("x 13 3", "w 8 3", "table 8 2")
def too_few_are_left(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    """Two groups of two are left, and five are asked for: the fifth is masked out, as four others are."""
    score = F.linear(x, w)
    chosen = score.unflatten(-1, (4, 2)).amax(-1).topk(2, -1).indices
    mask = torch.zeros(13, 4, dtype=x.dtype).scatter(1, chosen, 1.0)[..., None].expand(-1, -1, 2).reshape(13, 8)
    return table[score.masked_fill(mask == 0, -torch.inf).topk(5, -1).indices].sum(1)


@counterexample("x 13 3", "w 8 3", "table 8 2")
def masked_the_other_way_round(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    chosen = score.unflatten(-1, (4, 2)).amax(-1).topk(3, -1).indices
    mask = torch.zeros(13, 4, dtype=x.dtype).scatter(1, chosen, 1.0)[..., None].expand(-1, -1, 2).reshape(13, 8)
    return table[score.masked_fill(mask.bool(), -torch.inf).topk(4, -1).indices].sum(1)


@counterexample("x 13 3", "w 8 3", "table 8 2")
def some_are_chosen_twice(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    chosen = score.unflatten(-1, (4, 2)).amax(-1).topk(3, -1).indices // 2
    mask = torch.zeros(13, 4, dtype=x.dtype).scatter(1, chosen, 1.0)[..., None].expand(-1, -1, 2).reshape(13, 8)
    return table[score.masked_fill(~mask.bool(), -torch.inf).topk(5, -1).indices].sum(1)


@counterexample("x 13 3", "w 5 3", "table 5 2")
def what_was_picked_meets_its_source(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    return table[(torch.where(score > 0, score, score.exp()) - score).argmin(-1)]


@counterexample("x 13 3", "w 5 3", "table 5 2")
def what_was_scattered_meets_its_source(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    mixed = score.masked_scatter(torch.zeros(13, 5, dtype=torch.bool), score.exp())
    return table[(mixed / score).topk(2, -1).indices].sum(1)


@counterexample("x 13 5", "y 13 1", "table 5 2")
def one_of_the_picked_is_the_same_everywhere(x: Tensor, y: Tensor, table: Tensor) -> Tensor:
    return table[torch.where(x < 0.3, y.abs() + 3, x).topk(2, -1).indices].sum(1)


@counterexample("x 13 5", "table 5 2")
def what_is_picked_may_come_twice(x: Tensor, table: Tensor) -> Tensor:
    return table[torch.where(x < x.mean(), x.flip(-1), x).argmax(-1)] + table[torch.where(x < 0, x.flip(-1), x).argmin(-1)]


@counterexample("x 13 3", "w 5 3", "table 5 2")
def the_best_meets_its_source(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    return (
        table[(score - score.topk(3, -1).values[:, 2:]).abs().argmin(-1)]
        + table[(score / score.amax(-1, keepdim=True)).argmax(-1)]
    )


@counterexample("x 13 3", "w 5 3", "table 13 2")
def the_only_one_is_all_of_its_sum(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    best = F.linear(x, w).exp().topk(1, -1).values
    return table[(best / best.sum(-1, keepdim=True)).squeeze(-1).topk(2).indices]


@counterexample("x 13 3", "w 5 3", "table 5 2")
def signs_tie_when_multiplied(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w) - 3
    return table[(score * (score > 0)).argmax(-1)]


@counterexample("x 13 3", "w 5 3", "table 5 2")
def one_hot_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    best = F.one_hot(F.linear(x, w).argmax(-1), 5)
    return table[best.double().argmin(-1)]


@counterexample("x 13 1", "table 5 2")
def copies_tie(x: Tensor, table: Tensor) -> Tensor:
    return table[x.expand(13, 5).argmax(-1)]


@counterexample("x 13 3", "table 5 2")
def padding_ties(x: Tensor, table: Tensor) -> Tensor:
    return table[F.pad(x, [2, 0]).argmax(-1)]


@counterexample("v 4", "table 16 2")
def symmetric_sums_tie(v: Tensor, table: Tensor) -> Tensor:
    pairs = (v[:, None] + v).flatten()
    return table[pairs.topk(3).indices]


@counterexample("x 13 3", "w 5 3", "table 5 2")
def straight_through_ties(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    score = F.linear(x, w)
    return table[(score + (score.sign() - score).detach()).argmax(-1)]


@counterexample("x 13 5", "table 5 2")
def copies_as_wide_as_another_tie(x: Tensor, table: Tensor) -> Tensor:
    return table[x.mean(-1, keepdim=True).expand_as(x).topk(2).indices]


@counterexample("x 13 5", "table 5 2")
def copies_in_the_shape_of_another_tie(x: Tensor, table: Tensor) -> Tensor:
    return table[x.mean(-1, keepdim=True).expand(13, 5).view_as(x).topk(2).indices]


@counterexample("x 13 5", "table 5 2")
def some_rows_of_a_concatenation_tie(x: Tensor, table: Tensor) -> Tensor:
    return table[torch.cat([x, x.mean(-1, keepdim=True).expand(13, 5)]).topk(2).indices]


@counterexample("x 13 5", "table 5 2")
def one_of_a_stack_ties(x: Tensor, table: Tensor) -> Tensor:
    return table[torch.stack([x, x.mean(-1, keepdim=True).expand(13, 5)]).argmax(-1)]


@counterexample("x 13 5", "table 5 2")
def rows_put_into_others_tie(x: Tensor, table: Tensor) -> Tensor:
    return table[torch.slice_scatter(x, x.mean(-1, keepdim=True).expand(13, 5)[:4], 0, 2, 6).topk(2).indices]
