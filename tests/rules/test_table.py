"""Equations, families, norms and attention: what each op says about axes. The notation is explained in `notation.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.rules.notation import Line, check, run

aten = torch.ops.aten

test_linear_maps = check(
    [
        ("linear", "b s i, o i -> b s o"),
        ("linear", "b s i, o i, o -> b s o"),
        ("mm", "n k, k m -> n m"),
        ("bmm", "b n k, b k m -> b n m"),
        ("mv", "n k, k -> n"),
        ("dot", "k, k ->"),
        ("vdot", "k, k ->"),
        ("outer", "n, m -> n m"),
        ("ger", "n, m -> n m"),
        ("addmm", "m, n k, k m -> n m"),
        ("addmm", "n m, n k, k m -> n m"),
        ("addmv", "n, n k, k -> n"),
        ("addbmm", "n m, b n k, b k m -> n m"),
        ("baddbmm", "n m, b n k, b k m -> b n m"),
        ("bilinear", "b s i, b s j, o i j, o -> b s o"),
        ("matmul", "k, k ->"),
        ("matmul", "n k, k -> n"),
        ("matmul", "k, k m -> m"),
        ("matmul", "b h n k, h k m -> b h n m"),
        ("matmul", "b n k, k m -> b n m"),
        ("embedding", "v d, b s@v -> b s d"),
        ("embedding", "[v] d, b s@?v -> b s d"),
    ]
)

test_einsum = check(
    [
        ("einsum", "b i, o i -> b o", lambda x, w: aten.einsum("bi,oi->bo", [x, w])),
        ("einsum", "b i, i o -> b o", lambda x, w: aten.einsum("bi,io", [x, w])),
        ("einsum", "n n -> n", lambda x: aten.einsum("ii->i", [x])),
        ("einsum", "n n ->", lambda x: aten.einsum("ii", [x])),
        ("einsum", "n n m, n m -> m", lambda x, y: aten.einsum("iij,ij->j", [x, y])),
        ("einsum", "a b c d, c d e -> a b e", lambda x, y: aten.einsum("...cd,cde->...e", [x, y])),
        ("einsum", "b q d, b k d -> b q k", lambda x, y: aten.einsum("b q d, b k d -> b q k", [x, y])),
        ("einsum", "a b -> b a", lambda x: aten.einsum("...ij->...ji", [x])),
    ]
)

test_elementwise = check(
    [
        ("pointwise", "b c, c -> b c", aten.add),
        ("pointwise", "b c, 1 c -> b c", aten.mul),
        ("pointwise", "b 1, 1 c -> b c", aten.maximum),
        ("hardswish", "b c -> b c"),
        ("complex", "b c, c -> b c"),
        ("pointwise", "a b -> a b", aten.gelu),
        ("where", "a b@bool, b, a 1 -> a b", aten.where),
        ("masked_fill", "a b, b@bool -> a b", lambda x, mask: aten.masked_fill(x, mask, 0.0)),
        ("pointwise", "n@[v] -> n", lambda index: aten.mul(index, 2)),
        ("pointwise", "n@[v], n@[w] -> n", aten.add),
        ("clone", "n@v -> n@v"),
        ("contiguous", "a b -> a b", lambda x: aten.contiguous(x.t()).t()),
        ("to", "n@v -> n@v", lambda index: aten.to(index, torch.int32)),
        ("to", "n@[v] -> n", lambda index: aten.to(index, torch.bool)),
        ("dropout", "a b -> a b", lambda x: aten.dropout(x, 0.0, False)),
        ("type_as", "a b, c -> a b"),
        ("polar", "a b, b -> a b"),
        ("frexp", "a b -> a b, a b"),
        ("isclose", "a b, b -> a b"),
    ]
)

test_the_same_tensor_by_other_names = check(
    [
        (name, "n@v -> n@v")
        for name in ["alias", "cpu", "detach", "detach_copy", "lift", "lift_fresh_copy", "_to_copy", "positive"]
    ]
    + [(name, "a b -> a b") for name in ["lift_fresh", "_conj_physical", "real", "resolve_neg"]]
    + [("feature_dropout", "a b -> a b", dict(p=0.0, train=False))]
    + [(name, "a@[v], a@[w] -> a") for name in ("__and__", "__or__", "__xor__")]
    + [
        (name, "a b, b -> a b")
        for name in ("subtract", "multiply", "divide", "true_divide", "greater", "less_equal", "not_equal")
    ]
)

test_in_order = check(
    [
        ("cumsum", "a [b] -> a [b]", dict(dim=1)),
        ("cumprod", "[a] b -> [a] b", dict(dim=0)),
        ("logcumsumexp", "a [b] -> a [b]", dict(dim=-1)),
        ("flip", "[a] b [c] -> [a] b [c]", dict(dims=(0, 2))),
        ("roll", "a [b] -> a [b]", dict(shifts=[1], dims=[1])),
        ("roll", "[a] [b] -> [a] [b]", dict(shifts=[1])),
        ("tril", "a [b] [c] -> a [b] [c]"),
        ("triu", "[b] [c] -> [b] [c]"),
        ("fft_fft", "a [b] -> a [b]"),
        ("fft_rfft2", "a [b] [c] -> a [b] [d]", lambda x: aten.fft_rfft2(x)),
        ("diff", "a [b] -> a [x]", lambda x: aten.diff(x, 1, 1)),
        ("renorm", "a b -> a b", lambda x: aten.renorm(x, 2, 0, 1.0)),
        ("bucketize", "a b, [n] -> a b", lambda x, edges: aten.bucketize(x, edges.sort().values)),
        ("searchsorted", "a [n], a b -> a b", lambda edges, x: aten.searchsorted(edges, x)),
        ("histc", "a b -> [n]", lambda x, n: aten.histc(x, n.n)),
    ]
)

test_reductions = check(
    [
        ("sum", "a b -> a", dict(dim=[1])),
        ("sum", "a b -> a 1", dict(dim=[1], keepdim=True)),
        ("sum", "a b ->"),
        ("nansum", "a b c -> b", dict(dim=[0, 2])),
        ("mean", "a b -> b", dict(dim=[0])),
        ("amax", "a b -> a", dict(dim=[1])),
        ("logsumexp", "a b -> a", dict(dim=[1])),
        ("var", "a b -> a", dict(dim=[1])),
        ("var_mean", "a b -> a, a", dict(dim=[1])),
        ("aminmax", "a b -> a, a", dict(dim=1)),
        ("any", "a b -> a", dict(dim=1)),
        ("linalg_vector_norm", "a b -> a", dict(dim=[1])),
        ("count_nonzero", "a b -> b", dict(dim=[0])),
        ("max.dim", "a b -> a, a@b", dict(dim=1)),
        ("min.dim", "a b -> b, b@a", dict(dim=0)),
        ("max.dim", "a [b]@?v -> a, a@[b]", dict(dim=1)),
        ("argmax", "a b -> a@b", dict(dim=1)),
        ("argmin", "[a] [b] ->", dict()),
        ("softmax", "a b -> a b", dict(dim=1)),
        ("log_softmax", "a b -> a b", dict(dim=0)),
        ("_softmax", "a b -> a b", dict(dim=0, half_to_float=False)),
        ("_log_softmax", "a b -> a b", dict(dim=0, half_to_float=False)),
        ("_safe_softmax", "a b -> a b", dict(dim=0)),
        ("topk", "a b -> a [k], a [k]@b", dict(k=2, dim=1)),
        ("norm", "a b -> b", lambda x: aten.norm(x, 2, [0])),
        ("kthvalue", "a b -> a, a@b", dict(k=2, dim=1)),
        ("sort", "a [b] -> a [b], a [b]@[b]", dict(dim=1)),
        ("argsort", "a [b] -> a [b]@[b]", dict(dim=1)),
        ("msort", "[a] b -> [a] b"),
        ("_is_all_true", "a b@bool ->"),
        ("_is_any_true", "a b@bool ->"),
        ("frobenius_norm", "a b -> b", dict(dim=[0])),
        ("max.default", "a b ->"),
        ("min.default", "a b ->"),
        ("median.default", "a b ->"),
        ("nanmedian.default", "a b ->"),
        ("median.dim", "a b -> a, a@b", dict(dim=1)),
        ("nanmedian.dim", "a b -> a, a@b", dict(dim=1)),
    ]
)

test_new_tensors = check(
    [
        ("zeros", "-> a b", lambda n: aten.zeros([n.a, n.b])),
        ("full", "-> a b", lambda n: aten.full([n.a, n.b], 2.0)),
        ("scalar_tensor", "->", lambda: aten.scalar_tensor(1.0)),
        ("eye", "-> [a] [b]", lambda n: aten.eye(n.a, n.b)),
        ("linspace", "-> [a]", lambda n: aten.linspace(0, 1, n.a)),
        ("new_ones", "a b -> c d", lambda x, n: aten.new_ones(x, [n.c, n.d])),
        ("zeros_like", "a b -> a b"),
        ("rand_like", "[a] [b] -> [a] [b]"),
        ("rand", "-> [a]", lambda n: aten.rand([n.a])),
        ("randperm", "-> [a]", lambda n: aten.randperm(n.a)),
        ("hann_window", "-> [a]", lambda n: aten.hann_window(n.a)),
        ("arange", "-> a@a", lambda n: aten.arange(n.a)),
        ("arange", "-> [a]", lambda n: aten.arange(1, n.a + 1)),
        ("arange", "-> [a]", lambda n: aten.arange(0, 2 * n.a, 2)),
    ]
)

test_norms = check(
    [
        ("layer_norm", "b s d, d, d -> b s d", lambda x, w, b, n: aten.layer_norm(x, [n.d], w, b)),
        ("layer_norm", "b s d, s d -> b s d", lambda x, w, n: aten.layer_norm(x, [n.s, n.d], w)),
        ("native_layer_norm", "b d, d, d -> b d, b 1, b 1", lambda x, w, b, n: aten.native_layer_norm(x, [n.d], w, b, 1e-5)),
        ("rms_norm", "b d, d -> b d", lambda x, w, n: aten.rms_norm(x, [n.d], w)),
        (
            "batch_norm",
            "b c h w, c, c, c, c -> b c h w",
            lambda x, w, b, m, v: aten.batch_norm(x, w, b, m, v.abs(), False, 0.1, 1e-5, False),
        ),
        (
            "instance_norm",
            "b c h w, c -> b c h w",
            lambda x, w: aten.instance_norm(x, w, None, None, None, True, 0.1, 1e-5, False),
        ),
        ("group_norm", "b (g c) h, (g c) -> b (g c) h", lambda x, w, n: aten.group_norm(x, n.g, w)),
        (
            "_native_batch_norm_legit_no_training",
            "b c s, c, c, c, c -> b c s, 0, 0",
            lambda x, w, b, m, v: aten._native_batch_norm_legit_no_training(x, w, b, m, v.abs(), 0.1, 1e-5),
        ),
        (
            "_native_batch_norm_legit",
            "b c s, c, c -> b c s, c, c",
            lambda x, w, b: aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 1e-5),
        ),
        (
            "_native_batch_norm_legit_functional",
            "b c s, c, c, c, c -> b c s, c, c, c, c",
            lambda x, w, b, m, v: aten._native_batch_norm_legit_functional(x, w, b, m, v.abs(), True, 0.1, 1e-5),
        ),
        (
            "batch_norm",
            "b c s, c, c -> b c s",
            lambda x, w, b: aten.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
        ),
        ("cosine_similarity", "a b c, a b c -> a c", dict(dim=1)),
        ("cosine_similarity", "a b, b -> a", dict(dim=1)),
        ("_weight_norm", "a b, a 1 -> a b", lambda v, g: aten._weight_norm(v, g, 0)),
        ("glu", "a (b + b) -> a b", dict(dim=1)),
    ]
)

test_attention = check(
    [
        ("scaled_dot_product_attention", "b h t e, b h s e, b h s v -> b h t v"),
        ("scaled_dot_product_attention", "b h t e, b 1 s e, b 1 s v -> b h t v"),
        ("scaled_dot_product_attention", "b h t e, b h s e, b h s v, t s -> b h t v"),
        ("scaled_dot_product_attention", "b h t e, b h s e, b h s v, b 1 1 s@bool -> b h t v"),
        ("scaled_dot_product_attention", "b h [t] e, b h [s] e, b h [s] v -> b h [t] v", dict(is_causal=True)),
        ("scaled_dot_product_attention", "b (h g) t e, b h s e, b h s v -> b (h g) t v", dict(enable_gqa=True)),
    ]
)


@pytest.mark.parametrize(
    ("name", "line", "call", "expected"),
    [
        ("softmax", "a b -> a b", dict(dim=1), "b"),
        ("mean", "a b -> a", dict(dim=[1]), "b"),
        ("sum", "a b -> a", dict(dim=[1]), ""),
        ("topk", "a b -> a [k], a [k]@b", dict(k=2, dim=1), "b"),
        ("layer_norm", "b s d -> b s d", lambda x, n: aten.layer_norm(x, [n.d]), "d"),
        ("cosine_similarity", "a b, a b -> a", dict(dim=1), "b"),
        (
            "_native_batch_norm_legit",
            "b c s -> b c s, c, c",
            lambda x: aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5),
            "b s",
        ),
        ("group_norm", "b (g c) h -> b (g c) h", lambda x, n: aten.group_norm(x, n.g), "c h"),
        ("renorm", "a b c -> a b c", lambda x: aten.renorm(x, 2, 1, 1.0), "a c"),
        ("scaled_dot_product_attention", "b t e, b s e, b s v -> b t v", dict(scale=1.0), "s"),
        ("scaled_dot_product_attention", "b t e, b s e, b s v -> b t v", dict(), "s e"),
        ("linear", "b i, o i -> b o", None, ""),
    ],
)
def test_what_depends_on_an_axis_as_a_whole_is_normalised(name: str, line: str, call: object, expected: str) -> None:
    _, _, facts = run(name, line, call)  # type: ignore[arg-type]
    assert [axis.size for axis in facts.normalised] == [vars(Line(line).sizes)[letter] for letter in expected.split()]


def test_torch_nn_functional_reaches_the_same_rules() -> None:
    for call in (F.silu, F.relu, torch.sigmoid, torch.erf, torch.rsqrt, F.softplus, F.mish, F.hardtanh, F.leaky_relu):
        expected, found, _ = run("pointwise", "a b -> a b", lambda x, call=call: call(x.abs()))
        assert found == expected


def _recurrent(name: str, layers: int = 1, two_ways: bool = False) -> Any:
    def call(x: Tensor, *rest: Tensor) -> Any:
        states = list(rest[:2]) if name == "lstm" else rest[0]
        params = list(rest[2 if name == "lstm" else 1 :])
        return getattr(aten, name).input(
            x, states, params, len(params) == 4 * layers * (1 + two_ways), layers, 0.0, False, two_ways, True
        )

    return call


test_recurrent = check(
    [
        (
            "lstm.input",
            "b [s] i, 1 b h, 1 b h, (h + h + h + h) i, (h + h + h + h) h, (h + h + h + h), (h + h + h + h)"
            " -> b [s] h, 1 b h, 1 b h",
            _recurrent("lstm"),
        ),
        ("gru.input", "b [s] i, 1 b h, (h + h + h) i, (h + h + h) h -> b [s] h, 1 b h", _recurrent("gru")),
        (
            "lstm_cell",
            "b i, b h, b h, (h + h + h + h) i, (h + h + h + h) h, (h + h + h + h), (h + h + h + h) -> b h, b h",
            lambda x, h, c, *params: aten.lstm_cell(x, [h, c], *params),
        ),
        ("gru_cell", "b i, b h, (h + h + h) i, (h + h + h) h -> b h"),
        ("rnn_tanh_cell", "b i, b h, h i, h h, h, h -> b h"),
        ("rnn_relu_cell", "b i, b h, h i, h h -> b h"),
        (
            "rnn_tanh.input",
            "b [s] i, [l] b h, h i, h h, h i, h h -> b [s] (h + h), [k] b h | l=2 k=2",
            _recurrent("rnn_tanh", two_ways=True),
        ),
        (
            "rnn_relu.input",
            "b [s] i, [l] b h, h i, h h, h h, h h -> b [s] h, [k] b h | l=2 k=2",
            _recurrent("rnn_relu", layers=2),
        ),
    ]
)
