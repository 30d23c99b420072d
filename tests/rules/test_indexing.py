"""Ops that read or write at positions held in a tensor. The notation is explained in `notation.py`."""

from __future__ import annotations

import torch

from tests.rules.notation import check

aten = torch.ops.aten

test_reading = check(
    [
        ("index_select", "a v, n@v -> a n", lambda x, i: aten.index_select(x, 1, i)),
        ("index_select", "a [v], n@?v -> a n", lambda x, i: aten.index_select(x, 1, i)),
        ("gather", "v a, n a@v -> n a", lambda x, i: aten.gather(x, 0, i)),
        ("gather", "[v] a, n a@?v -> n a", lambda x, i: aten.gather(x, 0, i)),
        ("gather", "v (a + [b]), n a@v -> n a", lambda x, i: aten.gather(x, 0, i)),
        ("gather", "v a@w, n a@v -> n a@w", lambda x, i: aten.gather(x, 0, i)),
        ("take_along_dim", "v a, n 1@v -> n a", lambda x, i: aten.take_along_dim(x, i, 0)),
        (
            "embedding_bag",
            "v d, [n]@v, [w] -> [b] d, 0, [e], [f] | w=7 b=4 e=4 f=4",
            lambda w, i, x, n: aten.embedding_bag(w, i, aten.arange(0, n.n, 2), False, 0, False, x),
        ),
        (
            "embedding_bag",
            "v d, [n]@v -> [b] d, [m], [e], [f] d@v | b=4 m=7 e=4 f=4",
            lambda w, i, n: aten.embedding_bag(w, i, aten.arange(0, n.n, 2), False, 2),
        ),
        ("index", "v a, n m@v -> n m a", lambda x, i: aten.index(x, [i])),
        ("index", "a v, n m@v -> a n m", lambda x, i: aten.index(x, [None, i])),
        ("index", "v a, n m@v -> a n m", lambda x, i: aten.index(x.t(), [None, i])),
        ("_unsafe_index", "v a, n@v -> n a", lambda x, i: aten._unsafe_index(x, [i])),
        ("index", "v w a, n@v, n@w -> n a", lambda x, i, j: aten.index(x, [i, j])),
        ("index", "v a w, n@v, n@w -> n a", lambda x, i, j: aten.index(x, [i, None, j])),
        ("index", "v w, n 1@v, m@w -> n m", lambda x, i, j: aten.index(x, [i, j])),
        ("index", "[v] a, n@?v -> n a", lambda x, i: aten.index(x, [i])),
        ("index", "v a@w, n@v -> n a@w", lambda x, i: aten.index(x, [i])),
        ("index", "[a] b, [c]@bool -> [n] b | a=4 c=4", lambda x, mask: aten.index(x, [mask])),
        ("index", "a [b] [c] d, [b2] [c2]@bool -> a [n] d | b=2 c=3 b2=2 c2=3", lambda x, mask: aten.index(x, [None, mask])),
    ]
)

test_writing = check(
    [
        ("scatter", "v a, n a@v -> v a", lambda x, i: aten.scatter(x, 0, i, 1.0)),
        ("scatter", "v a, [n] a@v, [n] a -> v a", lambda x, i, y: aten.scatter(x, 0, i, y)),
        ("scatter_add", "v a, n a@v, n a -> v a", lambda x, i, y: aten.scatter_add(x, 0, i, y)),
        ("scatter_add", "[v] a, n a@?v, n a -> [v] a", lambda x, i, y: aten.scatter_add(x, 0, i, y)),
        ("index_add", "v a, n@v, n a -> v a", lambda x, i, y: aten.index_add(x, 0, i, y)),
        ("index_copy", "v a, [n]@v, [n] a -> v a", lambda x, i, y: aten.index_copy(x, 0, i, y)),
        ("index_fill", "v a, n@v -> v a", lambda x, i: aten.index_fill(x, 0, i, 1.0)),
        ("index_put", "v a, n@v, n a -> v a", lambda x, i, y: aten.index_put(x, [i], y, True)),
        ("index_put", "v a, [n]@v, [n] a -> v a", lambda x, i, y: aten.index_put(x, [i], y)),
        ("index_put", "v a, [n]@v, 1 a -> v a", lambda x, i, y: aten.index_put(x, [i], y)),
        ("_unsafe_index_put", "v a, n@v, n a -> v a", lambda x, i, y: aten._unsafe_index_put(x, [i], y, True)),
        ("index_put", "[a] b, [c]@bool, b -> [a] b | a=4 c=4", lambda x, mask, y: aten.index_put(x, [mask], y)),
        ("masked_scatter", "[a] b, [c] 1@bool, [n] b -> [a] b | a=4 c=4 n=4", aten.masked_scatter),
        (
            "masked_scatter",
            "[a] b, [c] 1@bool, [n] b -> [a] b | a=4 c=4 n=4 b=5",
            lambda x, mask, y: aten.masked_scatter(x, mask.expand(4, 5), y),
        ),
        ("masked_scatter", "[a] [b], [c]@bool, [n] [d] -> [a] [b] | a=4 c=5 b=5 n=4 d=5", aten.masked_scatter),
        ("one_hot", "n@v -> n v", lambda i, n: aten.one_hot(i, n.v)),
        ("one_hot", "n@?v -> n [v]", lambda i, n: aten.one_hot(i, n.v)),
        ("one_hot", "[n]@?v -> [m] [c] | n=11 v=3 m=11 c=3", lambda i: aten.one_hot(i)),
    ]
)
