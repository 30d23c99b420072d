"""Outputs: early exits, losses beside logits, nested dicts, named tuples, dataclasses; and inputs of the same kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.entry import Inputs, integers, reals
from models_zoo.odd.frame import (
    BATCH,
    CLASSES,
    FEATURES,
    LENGTH,
    VOCABULARY,
    Block,
    LanguageModel,
    Sizes,
    Stream,
    features,
    pair,
    tokens,
)


class EarlyExits(nn.Module):
    """A head after every second block; all logits come out."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.blocks = nn.Linear(FEATURES, s.width), nn.ModuleList(Block(s) for _ in range(s.depth))
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(s.width), nn.Linear(s.width, CLASSES)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, outputs, every = self.enter(x), [], len(self.blocks) // 2
        for at, block in enumerate(self.blocks):
            x = block(x)
            if (at + 1) % every == 0:
                outputs.append(self.heads[at // every](x.mean(1)))
        return tuple(outputs)


class NestedDict(nn.Module):
    """Three heads on one stream, in a dict of dicts and lists."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.stream = nn.Linear(FEATURES, s.width), Stream(s, Block)
        self.heads = nn.ModuleDict(
            {"class": nn.Linear(s.width, CLASSES), "box": nn.Linear(s.width, 4), "score": nn.Linear(s.width, 1)}
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.stream(self.enter(x))
        tokens = {name: head(x) for name, head in self.heads.items()}
        return {"tokens": tokens, "pooled": [self.heads["class"](x.mean(1)), {"most": tokens["score"].amax(1)}]}


class Balanced(LanguageModel):
    """Cross-entropy, a z-loss and a load-balancing loss beside the logits; labels come by keyword."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s, Block)
        self.gate = nn.Linear(s.width, 6)

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        x = self.stream(self.tokens(ids) + self.positions[: ids.shape[1]])
        logits = self.head(x)
        routed = self.gate(x).softmax(-1)
        balance = 6 * (routed.mean((0, 1)) * F.one_hot(routed.argmax(-1), 6).float().mean((0, 1))).sum()
        found = {"logits": logits, "balance": balance, "z": logits.logsumexp(-1).square().mean()}
        if labels is not None:
            found["loss"] = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return found


class Answer(NamedTuple):
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Hidden(LanguageModel):
    """A named tuple with every hidden state."""

    def forward(self, ids: Tensor) -> Answer:  # type: ignore[override]
        x = self.tokens(ids)
        states = [x]
        for block in self.stream.blocks:
            x = block(x)
            states.append(x)
        return Answer(self.head(self.stream.norm(x)), tuple(states))


@dataclass
class Record:
    logits: Tensor
    pooled: Tensor | None = None


torch.export.register_dataclass(Record, serialized_type_name="models_zoo.odd.ends.Record")


class Recorded(LanguageModel):
    """A dataclass, registered with torch.export, with a field left None."""

    def forward(self, ids: Tensor) -> Record:  # type: ignore[override]
        return Record(super().forward(ids))


class Nested(nn.Module):
    """A dict and a list of tensors as inputs; a cache goes in and comes out longer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.embed = s.heads, nn.Embedding(VOCABULARY, s.width)
        self.qkv = nn.ModuleList(nn.Linear(s.width, 3 * s.inner) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(s.inner, s.width) for _ in range(2))
        self.head = nn.Linear(s.width, VOCABULARY)

    def forward(self, batch: dict[str, Tensor], cache: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        x, after = self.embed(batch["ids"]) * batch["scale"][:, None, None], []
        for qkv, out, (keys, values) in zip(self.qkv, self.out, cache, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            after.append((keys, values))
            x = x + out(F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).flatten(2))
        return self.head(x), after


class Contrastive(nn.Module):
    """Two towers of different width, a similarity over the batch, a learned temperature."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        other = Sizes(s.width // 2 + 8, s.heads // 2, s.head_dim, s.units // 2 + 4, s.depth // 2)
        self.enter, self.image = nn.Linear(FEATURES, s.width), Stream(s, Block)
        self.embed, self.text = nn.Embedding(VOCABULARY, other.width), Stream(other, Block)
        self.left, self.right = nn.Linear(s.width, 14, bias=False), nn.Linear(other.width, 14, bias=False)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        left = F.normalize(self.left(self.image(self.enter(x)).mean(1)), dim=-1)
        right = F.normalize(self.right(self.text(self.embed(ids))[:, -1]), dim=-1)
        scores = self.temperature.exp() * left @ right.t()
        return scores, scores.t().softmax(-1)


class Variational(nn.Module):
    """An encoder gives mean and log-variance (no sampling in eval); the loss of both comes out."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.stream, self.both = nn.Linear(FEATURES, s.width), Stream(s, Block), nn.Linear(s.width, 2 * 14)
        self.leave = nn.Sequential(nn.Linear(14, s.units), nn.GELU(), nn.Linear(s.units, FEATURES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.both(self.stream(self.enter(x))).chunk(2, -1)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1).mean()
        return self.leave(latent), divergence + F.mse_loss(self.leave(latent), x)


class MultiToken(LanguageModel):
    """Several heads for tokens further ahead, stacked, over one tied table."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s, Block)
        self.head.weight = self.tokens.weight
        self.ahead = nn.ModuleList(nn.Linear(2 * s.width, s.width) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(self.tokens(ids) + self.positions[: ids.shape[1]])
        outputs = [self.head(x)]
        for at, layer in enumerate(self.ahead, 1):
            x = layer(torch.cat([x, self.tokens(ids.roll(-at, 1))], -1))
            outputs.append(self.head(x))
        return torch.stack(outputs, 2)


def labelled() -> Inputs:
    labels = integers(VOCABULARY, BATCH, LENGTH, seed=1)
    labels[:, -3:] = -100
    return (integers(VOCABULARY, BATCH, LENGTH),), {"labels": labels}


def cached() -> Inputs:
    caches = [(reals(BATCH, 8, 7, 10, seed=at), reals(BATCH, 8, 7, 10, seed=at + 1)) for at in (1, 3)]
    return ({"ids": integers(VOCABULARY, BATCH, LENGTH), "scale": reals(BATCH)}, caches), {}


def two_towers() -> Inputs:
    return (reals(BATCH, LENGTH, FEATURES), integers(VOCABULARY, BATCH, 23)), {}


MODELS = (
    pair("early_exits", EarlyExits, features),
    pair("nested_outputs", NestedDict, features),
    pair("losses_beside_logits", Balanced, labelled),
    pair("hidden_states_out", lambda s: Hidden(s, Block), tokens, alone=True),
    pair("dataclass_out", lambda s: Recorded(s, Block)),
    pair("cache_in_and_out", Nested, cached, alone=True),
    pair("contrastive_towers", Contrastive, two_towers),
    pair("variational", Variational, features),
    pair("multi_token_heads", MultiToken),
)
