"""The algebra's laws. The strongest is the last section: whatever a program of unify, cut, split, product and concat has said about
positions stays true when every free factor keeps any of its positions, in any order."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphclone import axes as algebra
from graphclone.axes import (
    EMPTY,
    UNIT,
    Axis,
    Concat,
    Factor,
    Product,
    concat,
    cut,
    cuts,
    factor,
    find,
    parse,
    product,
    select,
    show,
    unify,
)
from graphclone.errors import SizeError

SIZES = st.sampled_from([2, 2, 3, 3, 4, 5, 6, 7, 8, 12])
MOST = 240  # positions of an axis in these tests


@st.composite
def terms(draw: st.DrawFn, depth: int = 3) -> Axis:
    """A random axis; now and then a factor stands in it twice."""
    pool: list[Axis] = [factor(draw(SIZES)) for _ in range(4)]

    def term(depth: int) -> Axis:
        kind = draw(st.sampled_from("f*+" if depth else "f"))
        if kind == "f":
            return draw(st.sampled_from([*pool, UNIT]))
        parts = [term(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        made = product(*parts) if kind == "*" else concat(*parts)
        return made if 0 < made.size <= MOST else parts[0]

    return term(depth)


def positions(axis: Axis, keep: algebra.Keep) -> np.ndarray:
    return np.array(select(find(axis), keep), dtype=int)


def keep_some(seed: int, *axes: Axis) -> dict[Factor, list[int]]:
    """For each free factor of the axes: at least one of its positions, in any order."""
    rng, keep = random.Random(seed), {}
    for axis in axes:
        for each in algebra.factors(axis):
            if each.frozen is None and each not in keep:
                keep[each] = rng.sample(range(each.size), rng.randint(1, each.size))
    return keep


def named(*names: str, sizes: tuple[int, ...]) -> list[Factor]:
    return [Factor(size, name) for name, size in zip(names, sizes, strict=True)]


def free(axis: Axis) -> set[Factor]:
    return {each for each in algebra.factors(axis) if each.frozen is None}


def same_shape(a: str, b: str) -> bool:
    """Two printed lists of axes that differ in the names of factors only."""
    word = re.compile(r"[^\s()+\[\]]+")
    left, right = word.findall(a), word.findall(b)
    renamed = dict(zip(left, right, strict=False))
    return word.sub("_", a) == word.sub("_", b) and len(left) == len(right) and [renamed[w] for w in left] == right


def by_birth(*axes: Axis) -> str:
    return " ".join(show(axis, lambda each: f"f{each.birth}") for axis in axes)


def spread(axis: Axis) -> Axis:
    """One way to write an axis, whatever refined it: rows side by side wherever they differ, frozen positions one by one."""
    axis = find(axis)
    if isinstance(axis, Factor):
        return axis if axis.frozen is None else Concat((UNIT,) * axis.size)
    if isinstance(axis, Concat):
        return concat(*map(spread, axis.parts))
    if not axis.parts:
        return axis
    outer, inner = spread(axis.parts[0]), spread(product(*axis.parts[1:]))
    return concat(*(spread(product(row, inner)) for row in outer.parts)) if isinstance(outer, Concat) else product(outer, inner)


# -- normal form -----------------------------------------------------------------------------------------------------


def test_constructors_flatten_drop_and_unwrap() -> None:
    a, b, c = named("a", "b", "c", sizes=(2, 3, 5))
    assert product(a, product(b, UNIT), c) == product(product(a, b), c) == Product((a, b, c))
    assert concat(a, concat(b, EMPTY), c) == concat(concat(a, b), c) == Concat((a, b, c))
    assert product(a) is concat(a) is product(UNIT, a) is concat(EMPTY, a) is a
    assert product() is UNIT
    assert concat() is EMPTY
    assert product(a, EMPTY) is EMPTY
    assert (factor(1), factor(0)) == (UNIT, EMPTY)
    assert concat(UNIT, UNIT).size == 2


def test_a_product_is_not_distributed_over_a_concatenation() -> None:
    a, b, c = named("a", "b", "c", sizes=(2, 3, 5))
    assert show(product(concat(a, b), c)) == "((a + b) c)"


@given(terms())
def test_terms_are_in_normal_form_after_find(axis: Axis) -> None:
    def normal(axis: Axis) -> bool:
        if isinstance(axis, Factor):
            return axis.bound is None and axis.size > 1
        kinds = [type(part) for part in axis.parts]
        small = any(part.size == 0 or (part.size == 1 and isinstance(axis, Product)) for part in axis.parts)
        return type(axis) not in kinds and len(kinds) != 1 and not small and all(map(normal, axis.parts))

    assert normal(find(axis))
    cut(axis, axis.size // 2)
    cut(axis, axis.size // 3)
    assert normal(find(axis))


# -- the notation ----------------------------------------------------------------------------------------------------


@given(terms())
def test_parse_reads_what_show_writes(axis: Axis) -> None:
    names = {f"f{each.birth}": each for each in algebra.factors(axis)}
    assert parse(by_birth(axis), names.__getitem__) == find(axis)


@pytest.mark.parametrize(
    "text", ["a", "(h d)", "(q + k + v)", "((heads + kv + kv) head_dim)", "((a b) + c + 1)", "1", "0", "(1 + 1)"]
)
def test_show_writes_what_parse_reads(text: str) -> None:
    names = {word: Factor(2, word) for word in re.findall(r"[a-z_]+", text)}
    assert show(parse(text, names.__getitem__)) == text


def test_brackets_are_frozen_factors() -> None:
    a, b = named("a", "b", sizes=(2, 3))
    algebra.freeze(b, "a reason")
    assert show(product(a, b)) == "(a [b])"
    assert parse("(a [b])", {"a": a, "b": b}.__getitem__) == product(a, b)


@pytest.mark.parametrize("text", ["(a b", "a b", "(a + b))", "", "[a", "[a b]", "()", "(a +)", ")", "(a b + a)"])
def test_what_is_not_an_axis_is_an_error(text: str) -> None:
    with pytest.raises(SizeError, match="is not an axis"):
        parse(text, lambda name: Factor(3, name))


# -- select ----------------------------------------------------------------------------------------------------------


def brute(axis: Axis, keep: algebra.Keep) -> np.ndarray:
    """The kept positions of a term by numpy: arange for a factor, reshape for a product, concatenate for a concatenation."""
    axis = find(axis)
    if isinstance(axis, Factor):
        return np.arange(axis.size)[list(keep.get(axis, range(axis.size)))]
    if isinstance(axis, Product):
        grid = np.arange(axis.size).reshape([part.size for part in axis.parts] or [1])
        return grid[np.ix_(*(brute(part, keep) for part in axis.parts))].reshape(-1) if axis.parts else grid
    ends = np.cumsum([0, *(part.size for part in axis.parts)])
    pieces = [start + brute(part, keep) for start, part in zip(ends, axis.parts, strict=False)]
    return np.concatenate([np.zeros(0, int), *pieces])


@given(terms(), st.integers(0, 99))
def test_select_commutes_with_the_structure_of_the_term(axis: Axis, seed: int) -> None:
    keep = keep_some(seed, axis)
    assert positions(axis, keep).tolist() == brute(axis, keep).tolist()
    assert algebra.size(find(axis), keep) == len(brute(axis, keep))
    assert list(select(find(axis), {})) == list(range(axis.size))


# -- unify -----------------------------------------------------------------------------------------------------------


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Axis, Axis]:
    """Two axes of one size, sometimes with factors in common."""
    a = draw(terms())
    rest = draw(st.sampled_from(["other", "turned", "shifted", "digits"]))
    if rest == "turned" and not isinstance(a, Factor) and a.parts:
        parts = draw(st.permutations(a.parts))
        return a, product(*parts) if isinstance(a, Product) else concat(*parts)
    if rest == "shifted" and a.size > 2:
        before, after = cut(a, draw(st.integers(1, a.size - 1)))
        return a, concat(after, before)
    if rest == "digits":
        divisors = [n for n in range(1, a.size + 1) if a.size % n == 0]
        inner = draw(st.sampled_from(divisors))
        return a, product(factor(a.size // inner), factor(inner))
    b = draw(terms())
    if b.size > a.size:
        a, b = b, a
    return a, concat(b, factor(a.size - b.size))


def copies(*axes: Axis) -> tuple[Axis, ...]:
    """The same terms over fresh factors (one per factor)."""
    fresh: dict[Factor, Axis] = {}

    def copy(axis: Axis) -> Axis:
        axis = find(axis)
        if isinstance(axis, Factor):
            if axis not in fresh:
                fresh[axis] = Factor(axis.size, axis.name, axis.frozen)
            return fresh[axis]
        parts = [copy(part) for part in axis.parts]
        return product(*parts) if isinstance(axis, Product) else concat(*parts)

    return tuple(map(copy, axes))


@given(pairs())
def test_unify_is_commutative(pair: tuple[Axis, Axis]) -> None:
    (a, b), (c, d) = copies(*pair), copies(*pair)
    unify(a, b, "x")
    unify(d, c, "x")
    assert same_shape(by_birth(*map(spread, (a, b))), by_birth(*map(spread, (c, d))))


@given(pairs())
def test_unify_is_idempotent(pair: tuple[Axis, Axis]) -> None:
    """Above all, nothing freezes the second time: every block of a model says the same things again."""
    unify(*pair, "x")
    once = by_birth(*map(spread, pair))
    unify(*pair, "x")
    unify(*reversed(pair), "x")
    assert by_birth(*map(spread, pair)) == once


@given(pairs())
def test_unify_never_changes_a_size(pair: tuple[Axis, Axis]) -> None:
    parts = [part for axis in pair for part in (axis, *algebra.factors(axis))]
    before = [part.size for part in parts]
    unify(*pair, "x")
    assert [find(part).size for part in parts] == before


@given(pairs(), st.integers(0, 99))
def test_unified_axes_select_the_same_positions(pair: tuple[Axis, Axis], seed: int) -> None:
    unify(*pair, "x")
    keep = keep_some(seed, *pair)
    assert positions(pair[0], keep).tolist() == positions(pair[1], keep).tolist()


@given(pairs())
def test_unified_axes_print_alike(pair: tuple[Axis, Axis]) -> None:
    """Once they are written in one way: × is not distributed over +, and tangled digits stay as they were."""
    unify(*pair, "x")
    assert by_birth(spread(pair[0])) == by_birth(spread(pair[1]))


def test_sizes_that_differ_are_an_error_that_repeats_the_axes() -> None:
    (a, b, c) = named("a", "b", "c", sizes=(2, 3, 5))
    with pytest.raises(SizeError, match=re.escape("(a b) (6) and c (5)")):
        unify(product(a, b), c, "x")


def test_a_bare_factor_takes_on_the_structure_of_the_other() -> None:
    h, d, x = named("h", "d", "x", sizes=(3, 4, 12))
    unify(x, product(h, d), "x")
    assert show(x) == "(h d)"
    q, k, y = named("q", "k", "y", sizes=(3, 4, 7))
    unify(concat(q, k), y, "x")
    assert show(y) == "(q + k)"


def test_products_meet_in_their_common_refinement() -> None:
    a, b, c, d = (factor(n) for n in (6, 4, 3, 8))
    unify(product(a, b), product(c, d), "x")
    assert show(product(a, b)) == show(product(c, d)) == "(3 2 4)"


def test_only_the_tangled_digit_is_frozen() -> None:
    a, b, c, d = (factor(n) for n in (6, 4, 4, 6))
    unify(product(a, b), product(c, d), "6x4 meets 4x6")
    assert show(product(a, b)) == "(2 [3] [2] 2)"
    assert show(product(c, d)) == "(2 [2] [3] 2)"
    assert {each.frozen for each in algebra.factors(product(a, b))} == {None, "6x4 meets 4x6"}


def test_coprime_digits_are_tangled() -> None:
    a, b = named("a", "b", sizes=(2, 3))
    unify(product(a, b), product(b, a), "x")
    assert not free(product(a, b))


def test_concatenations_are_cut_at_the_union_of_their_boundaries() -> None:
    a, b, c, d = (factor(n) for n in (3, 7, 8, 2))
    unify(concat(a, b), concat(c, d), "x")
    assert show(concat(a, b)) == show(concat(c, d)) == "(3 + 5 + 2)"


def test_a_product_meets_a_concatenation_at_whole_rows() -> None:
    h, d, q, k = named("h", "d", "q", "k", sizes=(5, 4, 8, 12))
    unify(product(h, d), concat(q, k), "x")
    assert show(concat(q, k)) == "((2 d) + (3 d))"
    assert show(product(h, d)) == "((2 + 3) d)"


def test_a_product_meets_a_concatenation_inside_a_row() -> None:
    h, d, q, k = named("h", "d", "q", "k", sizes=(5, 4, 9, 11))
    unify(product(h, d), concat(q, k), "x")
    assert show(product(h, d)) == "((2 + 1 + 2) (1 + 3))"
    assert show(concat(q, k)) == "((2 (1 + 3)) + 1 + 3 + (2 (1 + 3)))"


def test_rotary_pairs_stay_together() -> None:
    """`cat([-x[d/2:], x[:d/2]]) + x`: the halves meet each other, turned."""
    h, d = named("h", "d", sizes=(3, 8))
    first, second = cut(d, 4)
    unify(product(h, concat(second, first)), product(h, d), "x")
    assert show(product(h, d), lambda each: each.name or "p") == "(h (p + p))"
    assert len(free(d)) == 1


def test_rotary_on_a_part_of_the_dims() -> None:
    d = factor(12)
    rotated, rest = cut(d, 8)
    first, second = cut(rotated, 4)
    unify(concat(second, first, rest), d, "x")
    one, two, three = find(d).parts  # type: ignore[union-attr]
    assert one is two
    assert [one.size, three.size] == [4, 4]
    assert one is not three


def test_even_and_odd_positions_stay_together() -> None:
    d = factor(12)
    pairs, parity = algebra.split(d, 2)
    cuts(parity, [1, 1])
    unify(product(concat(UNIT, UNIT), pairs), factor(12), "x")
    assert show(d) == "(6 (1 + 1))"


def test_a_factor_that_meets_itself_shifted_is_frozen() -> None:
    n = factor(1000)
    before, _ = cut(n, 999)
    unify(concat(UNIT, before), n, "token shift")
    assert not free(n)
    assert {each.frozen for each in algebra.factors(n)} == {"token shift"}


@pytest.mark.parametrize("sizes", [(400, 500), (3, 100_000), (100_000, 3)])
def test_rows_that_meet_themselves_shifted_are_frozen_at_once(sizes: tuple[int, int]) -> None:
    n = product(*map(factor, sizes))
    before, _ = cut(n, n.size - 1)
    unify(concat(UNIT, before), n, "token shift")
    keep = keep_some(0, n)
    assert positions(concat(UNIT, before), keep).tolist() == positions(n, keep).tolist()
    assert len(list(algebra.factors(n))) < 20


def test_shifted_by_whole_rows_keeps_what_is_inside_a_row() -> None:
    n, row = factor(6), factor(4, "row")
    axis = product(n, row)
    before, after = cut(axis, 4)
    unify(concat(after, before), axis, "x")
    assert free(axis) == {row}


def test_pieces_put_together_again_are_the_axis() -> None:
    h, d = named("h", "d", sizes=(6, 4))
    axis = product(h, d)
    pieces = cuts(axis, [9, 3, 12])
    unify(concat(*pieces), axis, "x")
    assert not any(each.frozen for each in algebra.factors(axis))
    assert algebra.size(find(axis), {}) == 24


# -- cut and split ---------------------------------------------------------------------------------------------------


@given(terms(), st.integers(-1, MOST), st.integers(0, 99))
def test_the_two_sides_of_a_cut_are_the_axis(axis: Axis, at: int, seed: int) -> None:
    before, after = cut(axis, at)
    assert (before.size, after.size) == (min(max(at, 0), axis.size), axis.size - min(max(at, 0), axis.size))
    keep = keep_some(seed, axis)
    assert positions(axis, keep).tolist() == positions(concat(find(before), find(after)), keep).tolist()


@given(terms(), st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 99))
def test_pieces_keep_positions(axis: Axis, sizes: list[int], seed: int) -> None:
    used, left = [], axis.size
    for size in sizes:
        used.append(min(size, left))
        left -= used[-1]
    pieces = cuts(axis, [*used, left])
    assert [piece.size for piece in pieces] == [*used, left]
    keep = keep_some(seed, axis)
    assert positions(axis, keep).tolist() == positions(concat(*pieces), keep).tolist()


@given(terms(), st.data(), st.integers(0, 99))
def test_split_digits_are_the_axis(axis: Axis, data: st.DataObject, seed: int) -> None:
    inner = data.draw(st.sampled_from([n for n in range(1, axis.size + 1) if axis.size % n == 0]))
    digits = algebra.split(axis, inner)
    assert [digit.size for digit in digits] == [axis.size // inner, inner]
    keep = keep_some(seed, axis, *digits)
    assert positions(axis, keep).tolist() == positions(product(*digits), keep).tolist()


def test_a_split_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(SizeError, match=re.escape("cannot split c (10) into rows of 4")):
        algebra.split(Factor(10, "c"), 4)


# -- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refine",
    [
        lambda axis: cut(axis, 5),
        lambda axis: algebra.split(axis, 4),
        lambda axis: unify(axis, product(factor(3), factor(4)), "not this"),
        lambda axis: unify(concat(factor(3), factor(9)), axis, "not this"),
        lambda axis: unify(axis, factor(12), "not this"),
        lambda axis: unify(factor(12), axis, "not this"),
    ],
)
def test_frozen_factors_stay_frozen_and_keep_their_reason(refine: Callable[[Axis], object]) -> None:
    old = factor(12, frozen="the first reason")
    refine(old)
    algebra.freeze(old, "a later reason")
    assert {each.frozen for each in algebra.factors(old)} == {"the first reason"}


@given(pairs(), st.integers(0, 99))
def test_unify_thaws_nothing(pair: tuple[Axis, Axis], seed: int) -> None:
    everything = [each for axis in pair for each in algebra.factors(axis)]
    chosen = random.Random(seed).sample(everything, len(everything) // 2)
    for each in chosen:
        algebra.freeze(each, "a reason")
    unify(*pair, "x")
    assert all(each.frozen is not None for old in chosen for each in algebra.factors(old))


# -- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["up", "down", "random", "halves"])
def test_long_chains_of_unified_factors(order: str) -> None:
    many = [Factor(7) for _ in range(20_000)]
    links = list(range(len(many) - 1))
    if order == "down":
        links.reverse()
    elif order == "random":
        random.Random(0).shuffle(links)
    elif order == "halves":
        links.sort(key=lambda n: ((n + 1) & -(n + 1), n))
    for n in links:
        unify(many[n], many[n + 1], "x")
    assert len({find(each) for each in many}) == 1


def test_many_pieces() -> None:
    axis = factor(5_000)
    assert len(cuts(axis, [1] * 5_000)) == 5_000
    assert find(axis).size == 5_000


def test_slices_of_slices() -> None:
    """`x = x[1:]`, again and again, with nobody looking at the first x."""
    axis = rest = factor(3_000)
    for _ in range(2_500):
        _, rest = cut(rest, 1)
    assert find(axis).size == 3_000
    assert find(axis).parts[-1] is rest  # type: ignore[union-attr]


def test_digits_of_digits() -> None:
    axis = rest = factor(2**40)
    for _ in range(39):
        _, rest = algebra.split(rest, rest.size // 2)
    assert len(find(axis).parts) == 40  # type: ignore[union-attr]


# -- soundness -------------------------------------------------------------------------------------------------------


class Claims:
    """Runs a program on a pool of axes and remembers what it said about positions."""

    def __init__(self, sizes: list[int]) -> None:
        self.pool: list[Axis] = [factor(size) for size in sizes]
        self.claims: list[tuple[str, Axis, Axis]] = []

    def run(self, verb: str, i: int, j: int, number: int) -> None:
        a, b = self.pool[i % len(self.pool)], self.pool[j % len(self.pool)]
        if verb == "unify":
            others = [each for each in self.pool if each.size == a.size and each is not a]
            if others:
                self.unify(a, others[j % len(others)])
        elif verb == "rows":  # two reshapes of one axis
            divisors = [n for n in range(1, a.size + 1) if a.size % n == 0]
            inner = divisors[number % len(divisors)]
            self.unify(a, product(factor(a.size // inner), factor(inner)))
        elif verb == "pad":  # meets another axis with padding
            small, large = sorted((a, b), key=lambda each: each.size)
            spare = large.size - small.size
            self.unify(large, concat(factor(left := number % (spare + 1)), small, factor(spare - left)))
        elif verb == "cut":
            before, after = cut(a, at := number % (a.size + 1))
            self.pool += [each for each in (before, after) if each.size > 1]
            self.claims.append((f"cut {at}", a, concat(before, after)))
        elif verb == "turn":  # a half rotation meets the axis
            before, after = cut(a, number % (a.size + 1))
            self.unify(a, concat(after, before))
        elif verb == "split":
            divisors = [n for n in range(1, a.size + 1) if a.size % n == 0]
            digits = algebra.split(a, divisors[number % len(divisors)])
            self.pool += [each for each in digits if each.size > 1]
            self.claims.append(("split", a, product(*digits)))
        elif verb in ("product", "concat"):
            made = product(a, b) if verb == "product" else concat(a, b)
            if made.size <= MOST:
                self.pool.append(made)
        elif verb == "freeze" and number % 4 == 0:
            algebra.freeze(a, "by hand")

    def unify(self, a: Axis, b: Axis) -> None:
        unify(a, b, "tangled")
        self.claims.append(("unify", a, b))
        self.pool.append(b)

    def broken(self, seed: int) -> Iterator[str]:
        keep = keep_some(seed, *(axis for _, a, b in self.claims for axis in (a, b)))
        for what, a, b in self.claims:
            left, right = positions(a, keep), positions(b, keep)
            if left.tolist() != right.tolist():
                yield f"{what}: {by_birth(a)} keeps {left}, {by_birth(b)} keeps {right}"


VERBS = st.sampled_from(["unify", "unify", "rows", "pad", "cut", "turn", "split", "product", "concat", "freeze"])
STEPS = st.tuples(VERBS, st.integers(0, 30), st.integers(0, 30), st.integers(0, MOST))


@settings(max_examples=400, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=4), st.lists(STEPS, max_size=12))
def test_what_a_program_says_about_positions_survives_any_selection(
    sizes: list[int], steps: list[tuple[str, int, int, int]]
) -> None:
    claims = Claims(sizes)
    for step in steps:
        claims.run(*step)
    for seed in range(3):
        assert list(claims.broken(seed)) == []
