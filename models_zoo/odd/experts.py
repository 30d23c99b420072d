"""Mixtures of experts in every way of dispatch that can be written with shapes known beforehand, and one that cannot."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.odd.frame import Mlp, Sizes, mlp, weight

EXPERTS = 6


class Experts(nn.Module):
    """A gate over experts whose weights are stacked; how tokens meet experts is the matter of each subclass."""

    def __init__(self, s: Sizes, experts: int = EXPERTS) -> None:
        super().__init__()
        self.experts, self.gate = experts, nn.Linear(s.width, experts, bias=False)
        self.up, self.down = weight(experts, s.width, s.units, fan_in=s.width), weight(experts, s.units, s.width, fan_in=s.units)

    def every(self, x: Tensor) -> Tensor:
        """What each expert makes of each position: (batch, length, experts, width)."""
        return torch.einsum("bteu,eud->bted", F.gelu(torch.einsum("btd,edu->bteu", x, self.up)), self.down)


class Soft(Experts):
    """All experts, weighted by a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bte,bted->btd", self.gate(x).softmax(-1), self.every(x))


class Scattered(Experts):
    """The best two, by a mask that topk's indices are scattered into."""

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.gate(x).topk(2, -1)
        weights = torch.zeros_like(self.gate(x)).scatter(-1, index, best.softmax(-1))
        return torch.einsum("bte,bted->btd", weights, self.every(x))


class OneHot(Experts):
    """The best two, by one-hot vectors of their indices."""

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.gate(x).softmax(-1).topk(2, -1)
        hot = F.one_hot(index, self.experts).to(x.dtype)
        return torch.einsum("btke,btk,bted->btd", hot, best / best.sum(-1, keepdim=True), self.every(x))


class Gathered(Experts):
    """Every token fetches its experts' weights by index."""

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.gate(x).softmax(-1).topk(2, -1)
        units = torch.einsum("btd,btkdu->btku", x, self.up[index]).relu()
        return torch.einsum("btk,btku,btkud->btd", best, units, self.down[index])


class IndexAdd(Experts):
    """Each of the two choices is a row of its own; results come back by index_add_."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        best, index = self.gate(flat).softmax(-1).topk(2, -1)
        owner, chosen = torch.arange(flat.shape[0]).repeat_interleave(2), index.flatten()
        rows = torch.bmm(flat[owner][:, None], self.up[chosen]).squeeze(1)
        rows = torch.bmm(F.gelu(rows)[:, None], self.down[chosen]).squeeze(1) * best.flatten()[:, None]
        return torch.zeros_like(flat).index_add_(0, owner, rows).view_as(x)


class Sorted(Experts):
    """Choices sorted by expert, computed in that order, and put back by the inverse permutation."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        best, index = self.gate(flat).softmax(-1).topk(2, -1)
        order = index.flatten().argsort(stable=True)
        rows, chosen = flat[order // 2], index.flatten()[order]
        units = F.gelu(torch.einsum("nd,ndu->nu", rows, self.up[chosen]))
        rows = torch.einsum("nu,nud->nd", units, self.down[chosen])
        rows = rows[order.argsort()].view(*index.shape, -1)
        return (rows * best[..., None]).sum(1).view_as(x)


class Looped(Experts):
    """A Python loop over experts, each of which sees everything and keeps what is its own."""

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for at in range(self.experts):
            mine = (best * (index == at)).sum(-1, keepdim=True)
            out = out + mine * (F.gelu(x @ self.up[at]) @ self.down[at])
        return out


class Modules(nn.Module):
    """Experts as modules of a list, a sigmoid gate with a bias that only chooses, and one shared expert."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.experts, self.shared = nn.ModuleList(Mlp(s) for _ in range(EXPERTS)), Mlp(s)
        self.gate = nn.Linear(s.width, EXPERTS)
        self.register_buffer("bias", torch.linspace(-0.1, 0.1, EXPERTS))

    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).sigmoid()
        index = (scores + self.bias).topk(2, -1).indices
        best = scores.gather(-1, index)
        best = best / best.sum(-1, keepdim=True)
        out: Tensor = self.shared(x)
        for at, expert in enumerate(self.experts):
            out = out + expert(x) * torch.where(index == at, best, 0).sum(-1, keepdim=True)
        return out


class FromNonzero(Experts):
    """Each expert runs on the tokens that chose it: shapes depend on the data."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        best, index = self.gate(flat).softmax(-1).topk(2, -1)
        out = torch.zeros_like(flat)
        for at in range(self.experts):
            rows, column = torch.where(index == at)
            made = F.gelu(flat[rows] @ self.up[at]) @ self.down[at]
            out.index_add_(0, rows, made * best[rows, column, None])
        return out.view_as(x)


class ExpertChoice(Experts):
    """Experts choose their tokens: topk over positions, gather, scatter_add."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        best, index = self.gate(flat).softmax(-1).t().topk(7, -1)
        units = F.gelu(torch.einsum("ekd,edu->eku", flat[index], self.up))
        made = torch.einsum("eku,eud,ek->ekd", units, self.down, best)
        spread = index.flatten()[:, None].expand(-1, x.shape[-1])
        return torch.zeros_like(flat).scatter_add(0, spread, made.flatten(0, 1)).view_as(x)


class Counted(Experts):
    """Loads counted by histc, rows brought back by index_put_ with accumulation; loads and owners come from // and cumsum."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        best, index = self.gate(flat).softmax(-1).topk(2, -1)
        chosen, order = index.flatten().sort(stable=True)
        owner = torch.div(order, 2, rounding_mode="floor")
        load = torch.histc(chosen.float(), bins=self.experts, min=0, max=self.experts - 1)
        ends = load.cumsum(0)
        expert = (torch.arange(chosen.shape[0])[:, None] >= ends).sum(-1)
        rows = torch.einsum("nd,ndu->nu", flat[owner], self.up[expert]).relu()
        rows = torch.einsum("nu,nud->nd", rows, self.down[expert]) * best.flatten()[order][:, None]
        return torch.zeros_like(flat).index_put_((owner,), rows, accumulate=True).view_as(x)


class Capacity(Experts):
    """GShard: places in a queue of fixed length per expert by a running count, dispatch and combine by einsum."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        probabilities = self.gate(flat).softmax(-1)
        hot = F.one_hot(probabilities.argmax(-1), self.experts).to(x.dtype)
        place = (hot.cumsum(0) - 1) * hot
        hot = hot * (place < 29)
        dispatch = hot[..., None] * F.one_hot(place.sum(-1).long().clamp(0, 28), 29).to(x.dtype)[:, None]
        queues = torch.einsum("nec,nd->ecd", dispatch, flat)
        made = torch.bmm(F.gelu(torch.bmm(queues, self.up)), self.down)
        return torch.einsum("nec,ne,ecd->nd", dispatch, probabilities, made).view_as(x)


class SoftSlots(nn.Module):
    """Soft MoE: slots are mixtures of tokens, and tokens are mixtures of slots."""

    def __init__(self, s: Sizes, slots: int = 3) -> None:
        super().__init__()
        self.slots = weight(s.width, EXPERTS, slots, fan_in=s.width)
        self.up, self.down = weight(EXPERTS, s.width, s.units, fan_in=s.width), weight(EXPERTS, s.units, s.width, fan_in=s.units)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("btd,des->btes", x, self.slots)
        mixed = torch.einsum("btd,btes->besd", x, scores.softmax(1))
        units = F.gelu(torch.einsum("besd,edu->besu", mixed, self.up))
        made = torch.einsum("besu,eud->besd", units, self.down)
        return torch.einsum("besd,btes->btd", made, scores.flatten(2).softmax(-1).view_as(scores))


class Grouped(nn.Module):
    """DeepSeek's: experts in groups, the best groups by the sum of their two best, then the best experts inside."""

    def __init__(self, s: Sizes, groups: int = 4) -> None:
        super().__init__()
        self.groups, self.gate = groups, nn.Linear(s.width, 3 * groups)
        self.up = weight(3 * groups, s.width, 2 * s.units, fan_in=s.width)
        self.down = weight(3 * groups, s.units, s.width, fan_in=s.units)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).sigmoid()
        grouped = scores.unflatten(-1, (self.groups, 3))
        chosen = grouped.topk(2, -1).values.sum(-1).topk(2, -1).indices
        mask = torch.zeros(*x.shape[:2], self.groups).scatter(-1, chosen, 1.0)
        allowed = (grouped * mask[..., None]).flatten(-2)
        best, index = allowed.topk(3, -1)
        weights = torch.zeros_like(scores).scatter(-1, index, best / best.sum(-1, keepdim=True))
        gate, units = torch.einsum("btd,edu->bteu", x, self.up).chunk(2, -1)
        return torch.einsum("bte,bteu,eud->btd", weights, F.silu(gate) * units, self.down)


class Masked(Grouped):
    """DeepSeek's third: the experts of other groups are masked out by −inf."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).sigmoid()
        grouped = scores.unflatten(-1, (self.groups, 3))
        chosen = grouped.topk(2, -1).values.sum(-1).topk(2, -1).indices
        mask = torch.zeros(*x.shape[:2], self.groups).scatter(-1, chosen, 1.0)
        mask = mask[..., None].expand(*grouped.shape).flatten(-2)
        index = scores.masked_fill(~mask.bool(), -torch.inf).topk(4, -1).indices
        best = scores.gather(-1, index)
        weights = torch.zeros_like(scores).scatter(-1, index, best / best.sum(-1, keepdim=True))
        gate, units = torch.einsum("btd,edu->bteu", x, self.up).chunk(2, -1)
        return torch.einsum("bte,bteu,eud->btd", weights, F.silu(gate) * units, self.down)


class Chain(nn.Module):
    """Mixture of depths: only the best positions pass the MLP, the others go by."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.router, self.mlp = nn.Linear(s.width, 1), Mlp(s)

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.router(x).squeeze(-1).topk(7, 1)
        where = index[..., None].expand(-1, -1, x.shape[-1])
        made = self.mlp(x.gather(1, where)) * best.sigmoid()[..., None]
        return torch.zeros_like(x).scatter(1, where, made)


MODELS = (
    mlp("moe_soft", Soft),
    mlp("moe_scattered_mask", Scattered),
    mlp("moe_one_hot", OneHot),
    mlp("moe_gathered_weights", Gathered),
    mlp("moe_index_add", IndexAdd),
    mlp("moe_sorted", Sorted),
    mlp("moe_loop", Looped),
    mlp("moe_module_list", Modules),
    mlp("moe_nonzero", FromNonzero),
    mlp("moe_expert_choice", ExpertChoice),
    mlp("moe_counted", Counted),
    mlp("moe_capacity", Capacity),
    mlp("moe_soft_slots", SoftSlots),
    mlp("moe_groups", Grouped),
    mlp("moe_groups_masked", Masked),
    mlp("mixture_of_depths", Chain),
)
