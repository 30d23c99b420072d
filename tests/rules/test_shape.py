"""Ops that only rearrange. The notation is explained in `notation.py`."""

from __future__ import annotations

import pytest
import torch

from tests.rules.notation import check

aten = torch.ops.aten

test_views = check(
    [
        ("view", "(h d) -> h d", lambda x, n: aten.view(x, [n.h, n.d])),
        ("view", "h d -> (h d)", lambda x: aten.view(x, [-1])),
        ("reshape", "b (h d) s -> b h d s", lambda x, n: aten.reshape(x, [n.b, n.h, n.d, -1])),
        ("reshape", "a b c -> (a b) c", lambda x, n: aten.reshape(x, [-1, n.c])),
        ("reshape", "(a b) c -> a (b c)", lambda x, n: aten.reshape(x, [n.a, n.b * n.c])),
        ("reshape", "a b -> a 1 b 1", lambda x, n: aten.reshape(x, [n.a, 1, n.b, 1])),
        ("reshape", "[a] [b] -> [c] [d]", lambda x, n: aten.reshape(x, [n.b, n.a])),
        ("reshape", "n@v -> n 1@v", lambda x: aten.reshape(x, [-1, 1])),
        ("_unsafe_view", "h d -> (h d)", lambda x: aten._unsafe_view(x, [-1])),
        ("_reshape_copy", "h d -> (h d)", lambda x: aten._reshape_copy(x, [-1])),
        ("flatten", "a b c -> a (b c)", lambda x: aten.flatten(x, 1)),
        ("unflatten", "a (b c) -> a b c", lambda x, n: aten.unflatten(x, 1, [n.b, n.c])),
        ("squeeze", "a 1 b -> a b", dict(dim=1)),
        ("unsqueeze", "a b -> a 1 b", dict(dim=1)),
        ("view_as", "(a b), a b -> a b"),
        ("reshape_as", "(a b), a b -> a b"),
        ("ravel", "a b -> (a b)"),
        ("view", "[a] [b] -> [c] [d]", lambda x: aten.view(x, torch.int16)),
    ]
)

test_permutations = check(
    [
        ("permute", "a b c -> c a b", lambda x: aten.permute(x, [2, 0, 1])),
        ("permute", "a b@v -> b a@v", lambda x: aten.permute(x, [1, 0])),
        ("transpose", "a b c -> a c b", lambda x: aten.transpose(x, -1, -2)),
        ("swapaxes", "a b c -> c b a", lambda x: aten.swapaxes(x, 0, 2)),
        ("t", "a b -> b a"),
        ("mT", "a b c -> a c b"),
        ("numpy_T", "a b c -> c b a"),
        ("adjoint", "a b c -> a c b"),
        ("movedim", "a b c d -> b c a d", lambda x: aten.movedim(x, 0, 2)),
        ("movedim", "a b c d -> d b c a", lambda x: aten.movedim(x, [0, 3], [3, 0])),
    ]
)

test_copies = check(
    [
        ("expand", "a 1 -> a n", lambda x, n: aten.expand(x, [n.a, n.n])),
        ("expand", "a -> n a", lambda x, n: aten.expand(x, [n.n, -1])),
        ("expand", "1@v -> n@v", lambda x, n: aten.expand(x, [n.n])),
        ("expand_as", "a 1, a b -> a b"),
        ("broadcast_to", "a 1 -> a n", lambda x, n: aten.broadcast_to(x, [n.a, n.n])),
        ("broadcast_tensors", "a 1, b -> a b, a b", lambda x, y: aten.broadcast_tensors([x, y])),
        ("meshgrid", "a@v, b -> a b@v, a b", lambda x, y: aten.meshgrid([x.float(), y], indexing="ij")),
        ("repeat", "a b -> (n a) b", lambda x, n: aten.repeat(x, [n.n, 1])),
        ("repeat", "a b -> n a b", lambda x, n: aten.repeat(x, [n.n, 1, 1])),
        ("tile", "a b -> a (n b)", lambda x, n: aten.tile(x, [n.n])),
        ("repeat_interleave.self_int", "a b -> a (b n)", lambda x, n: aten.repeat_interleave(x, n.n, 1)),
        ("repeat_interleave.self_int", "a b -> (a b n)", lambda x, n: aten.repeat_interleave(x, n.n)),
    ]
)

test_segments = check(
    [
        ("cat", "a x, b x -> (a + b) x", lambda x, y: aten.cat([x, y])),
        ("cat", "x a, x b, x c -> x (a + b + c)", lambda *xs: aten.cat(xs, -1)),
        ("cat", "x a -> x (a + a)", lambda x: aten.cat([x, x], 1)),
        ("stack", "a b, a b -> a (1 + 1) b", lambda x, y: aten.stack([x, y], 1)),
        ("split_with_sizes", "(q + k) x -> q x, k x", lambda x, n: aten.split_with_sizes(x, [n.q, n.k])),
        ("split_with_sizes", "(a + b) x -> a x, b x", lambda x, n: aten.split(x, n.a * 2)),  # capture writes the sizes
        ("tensor_split", "(a + b) x -> a x, b x", lambda x, n: aten.tensor_split(x, [n.a])),
        ("tensor_split", "([a] + [b]) x -> [a] x, [b] x", lambda x: aten.tensor_split(x, 2)),
        ("unbind", "(1 + 1 + 1) a -> a, a, a", lambda x: aten.unbind(x)),
        ("select", "(a + 1 + b) x -> x", lambda x, n: aten.select(x, 0, n.a)),
        ("select", "(a + 1) x -> x", lambda x: aten.select(x, 0, -1)),
        ("unsafe_split_with_sizes", "(q + k) x -> q x, k x", lambda x, n: aten.unsafe_split_with_sizes(x, [n.q, n.k])),
        ("select_copy", "(a + 1 + b) x -> x", lambda x, n: aten.select_copy(x, 0, n.a)),
        ("slice_copy", "(a + b) x -> b x", lambda x, n: aten.slice_copy(x, 0, n.a)),
        ("slice", "(a + b) x -> b x", lambda x, n: aten.slice(x, 0, n.a)),
        ("slice", "(a + b + c) x -> b x", lambda x, n: aten.slice(x, 0, n.a, n.a + n.b)),
        ("slice", "(a (1 + 1)) x -> a x", lambda x: aten.slice(x, 0, 1, None, 2)),
        ("slice", "[a] x -> [b] x", lambda x: aten.slice(x, 0, 0, None, 2)),
        ("narrow", "(a + b + c) x -> b x", lambda x, n: aten.narrow(x, 0, n.a, n.b)),
        ("slice", "(a + b)@v -> b@v", lambda x, n: aten.slice(x, 0, n.a)),
        ("slice_scatter", "(a + b) x, b x -> (a + b) x", lambda x, y, n: aten.slice_scatter(x, y, 0, n.a)),
        ("select_scatter", "(a + 1 + b) x, x -> (a + 1 + b) x", lambda x, y, n: aten.select_scatter(x, y, 0, n.a)),
    ]
)

test_paddings = check(
    [
        ("pad", "a b -> a (l + b + r)", lambda x, n: aten.pad(x, [n.l, n.r])),
        ("constant_pad_nd", "a b -> (l + a) b", lambda x, n: aten.constant_pad_nd(x, [0, 0, n.l, 0])),
        ("pad", "([a] + b) -> b", lambda x, n: aten.pad(x, [-n.a, 0])),
        ("pad", "a b [c] -> a b [d]", lambda x: aten.pad(x, [1, 1], "reflect")),
        ("pad", "a b [c] -> a b [d]", lambda x: aten.pad(x, [1, 1], "replicate")),
        ("pad", "a b [c] -> a b [d]", lambda x: aten.pad(x, [1, 1], "circular")),
    ]
)

test_others = check(
    [
        ("diagonal", "n n a -> a n"),
        ("diagonal", "[n] [m] a -> a [k]"),
        ("diagonal", "[n] [m] a -> a [k]", dict(offset=1)),
        ("view_as_complex", "a (1 + 1) -> a", lambda x: aten.view_as_complex(x)),
        ("view_as_real", "a -> a (1 + 1)", lambda x: aten.view_as_real(x + 0j)),
    ]
)


@pytest.mark.parametrize("name", ["split", "chunk"])
def test_a_size_that_the_op_works_out_itself_is_written_by_capture(name: str) -> None:
    from tests.rules.refuter import calls, record

    x = torch.randn(6)
    (call, *_) = calls(record(lambda: getattr(aten, name)(x, 2)))
    assert call.target is aten.split_with_sizes.default
