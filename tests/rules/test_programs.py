"""Small programs of several ops: where the closed world, domains, products and concatenations meet. (See `notation.py`.)"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.rules.notation import check

aten = torch.ops.aten  # torch.arange itself hides what it makes from the recorder


def _rotary(x: Tensor, cos: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1)


def _rotary_in_pairs(x: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even - odd, even + odd], -1).flatten(-2)


def _attention(x: Tensor, qkv: Tensor, out: Tensor, n) -> Tensor:
    q, k, v = F.linear(x, qkv).split(n.h * n.d, -1)
    q, k, v = (each.view(n.b, n.s, n.h, n.d).transpose(1, 2) for each in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    return F.linear((scores @ v).transpose(1, 2).reshape(n.b, n.s, -1), out)


def _attention_by_heads(x: Tensor, qkv: Tensor, n) -> Tensor:
    q, k, v = F.linear(x, qkv).view(n.b, n.s, n.h, 3 * n.d).split(n.d, -1)
    return torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1) @ v.transpose(1, 2)


def _grouped_queries(q: Tensor, k: Tensor, n) -> Tensor:
    k = k[:, :, None].expand(n.b, n.kv, n.g, n.s, n.d).reshape(n.b, n.kv * n.g, n.s, n.d)
    return q @ k.transpose(-1, -2)


def _experts(x: Tensor, router: Tensor, up: Tensor, n) -> Tensor:
    values, chosen = F.linear(x, router).softmax(-1).topk(2, -1)
    weights = aten.zeros([n.t, n.e]).scatter_add(1, chosen, values)
    return torch.einsum("te,eio,ti->to", weights, up, x)


def _experts_by_one_hot(x: Tensor, router: Tensor, up: Tensor, n) -> Tensor:
    _, chosen = F.linear(x, router).topk(2, -1)
    mask = F.one_hot(chosen, n.e).sum(1).to(x.dtype)
    return torch.einsum("te,eio,ti->to", mask, up, x)


def _expert_weights_by_index(x: Tensor, router: Tensor, up: Tensor) -> Tensor:
    best = F.linear(x, router).argmax(-1)
    return torch.einsum("ti,tio->to", x, up[best])


test_attention = check(
    [
        (
            "fused by parts",
            "b s r, ((h d) + (h d) + (h v)) r, r2 (h v) -> b s r2 | d=4 v=4",
            _attention,
        ),
        ("fused by heads", "b s r, (h (d + d + v)) r -> b h s v | d=4 v=4", _attention_by_heads),
        ("grouped queries", "b (kv g) q d, b kv s d -> b (kv g) q s", _grouped_queries),
        ("rotary by halves", "b (p + p), (p + p) -> b (p + p)", _rotary),
        ("rotary by pairs", "b (p (1 + 1)) -> b (p (1 + 1)) | p=5", _rotary_in_pairs),
    ]
)

test_experts = check(
    [
        ("scattered weights", "t i, e i, e i o -> t o", _experts),
        ("one-hot weights", "t i, e i, e i o -> t o", _experts_by_one_hot),
        ("indexed weights", "t i, e i, e i o -> t o", _expert_weights_by_index),
    ]
)

test_positions = check(
    [
        ("argmax then gather", "a b -> a 1", lambda x: x.gather(1, x.argmax(1, keepdim=True))),
        ("argsort then gather", "a [b], a [b] -> a [b]", lambda x, y: y.gather(1, x.argsort(1))),
        ("topk then index", "t e, e d -> t [k] d", lambda x, w: w[x.topk(2, 1).indices]),
        ("arange then embedding", "s d -> s d", lambda w, n: F.embedding(aten.arange(n.s), w)),
        ("a slice of positions", "(a + b) d -> a d", lambda w, n: F.embedding(aten.arange(n.a + n.b)[: n.a], w)),
        ("shifted positions", "[v] d -> [s] d | v=7", lambda w, n: F.embedding(aten.arange(n.v - 2) + 2, w)),
        ("i * n + j", "[v] d -> [a] [b] d | v=15", lambda w: F.embedding(aten.arange(3)[:, None] * 5 + aten.arange(5), w)),
        ("one_hot then matmul", "n@v, v d -> n d", lambda i, w, n: F.one_hot(i, n.v).float() @ w),
        ("positions compared", "n@[v], m@[w] -> n m", lambda i, j: i[:, None] == j),
        ("causal mask", "[t] [s] -> [t] [s]", lambda x, n: x.masked_fill(aten.arange(n.s) > aten.arange(n.t)[:, None], 0.0)),
        ("repeated writes", "v a, n a@v, n a -> v a", lambda x, i, y: x.scatter_add(0, i, y).relu()),
    ]
)

test_rearrangements = check(
    [
        ("cumsum over a product", "[a] [b] c -> [a] [b] c", lambda x, n: x.flatten(0, 1).cumsum(0).unflatten(0, [n.a, n.b])),
        ("flip of a view", "a ([b] c) -> a ([b] c)", lambda x, n: x.view(n.a, n.b, n.c).flip(1).flatten(1)),
        (
            "view across a concatenation",
            "(a x) r, (b x) r -> (a + b) x r",
            lambda p, q, n: torch.cat([p, q]).view(n.a + n.b, n.x, n.r),
        ),
        (
            "split of a product inside a row",
            "((a + 1) (x + y)) r -> ((a (x + y)) + x) r, y r",
            lambda p, n: p.view(n.a + 1, n.x + n.y, n.r).flatten(0, 1).split([n.a * (n.x + n.y) + n.x, n.y]),
        ),
        (
            "patches",
            "b c (y p) (x q) -> b y x c p q",
            lambda x, n: x.view(n.b, n.c, n.y, n.p, n.x, n.q).permute(0, 2, 4, 1, 3, 5),
        ),
        ("expand then reshape", "a d -> (a n) d", lambda x, n: x[:, None].expand(-1, n.n, -1).reshape(n.a * n.n, n.d)),
        ("repeat then view", "a d -> n a d", lambda x, n: x.repeat(n.n, 1).view(n.n, n.a, n.d)),
        ("repeat meets interleave", "[a] -> ([n] [a])", lambda x: x.repeat(2) + x.repeat_interleave(2)),
        ("pad then slice", "a b -> a b", lambda x, n: F.pad(x, [2, 3])[:, 2 : 2 + n.b]),
        ("pad, then meets itself", "[a] -> (1 + [a])", lambda x: F.pad(x, [1, 0]) + F.pad(x, [0, 1])),
        ("token shift", "b ([s] + 1) c -> b ([s] + 1) c", lambda x: x - F.pad(x, [0, 0, 1, -1])),
        ("diagonal of an outer product", "n, n -> n", lambda x, y: torch.outer(x, y).diagonal()),
        ("tril of a product", "[n] k, [m] k -> [n] [m]", lambda x, y: (x @ y.t()).tril()),
        ("as_strided", "[a] [b] -> [c] | a=3 b=5", lambda x: x.as_strided([3], [5]) * 1),
        ("a loop over rows", "(1 + 1 + 1) a -> a", lambda x: sum(x.unbind())),
        ("gate by halves", "b i, (o + o) i -> b o", lambda x, w, n: (lambda u, g: u * g.sigmoid())(*F.linear(x, w).chunk(2, -1))),
    ]
)

test_channels = check(
    [
        (
            "depthwise, then pointwise",
            "b c [s], c 1 [k], o c 1 -> b o [t] | k=2",
            lambda x, d, p, n: F.conv1d(F.conv1d(x, d, groups=n.c), p),
        ),
        (
            "convolution in two groupings",
            "n (a b) [s], (a b) 1 [k] -> n (a b) [t] | k=2",
            lambda x, w, n: F.group_norm(F.conv1d(x, w, groups=n.a * n.b), n.a),
        ),
        (
            "pixel shuffle",
            "b (c [r]) [h] [w] -> b c [y] [x] | r=4",
            lambda x: F.pixel_shuffle(x, 2).relu(),
        ),
        (
            "space to channels",
            "b c [h] [w], o (c [k]) -> b [t] o | h=5 w=7 k=9",
            lambda x, w: F.linear(F.unfold(x, 3).transpose(1, 2), w),
        ),
        (
            "patches by convolution",
            "b c [h] [w], d c [k] [l] -> b ([y] [x]) d | h=6 w=6 k=3 l=3",
            lambda x, w: F.conv2d(x, w, stride=3).flatten(2).transpose(1, 2),
        ),
        (
            "global pooling",
            "b c [h] [w], o c -> b o",
            lambda x, w: F.linear(F.adaptive_avg_pool2d(x.flip(2, 3), 1).flatten(1), w),
        ),
    ]
)
