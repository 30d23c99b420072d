"""The axis algebra: what the dims of tensors are made of.

A **factor** is a set of positions that are interchangeable as far as a program can tell. An **axis** is a term over factors:

    Factor(n)           n interchangeable positions
    Product(a, b, …)    row-major digits, as `view` makes them: heads × head_dim
    Concat(a, b, …)     segments side by side, as `cat` makes them: q + k + v

The notation is einx's: `(h d)` is a product, `(q + k)` a concatenation, `[c]` a frozen factor, `1` an axis of one position.
`unify` makes two axes the same term, refining as little as needed; a factor that was refined is *bound* to what it became, and
`find` replaces bound factors by their terms. Only factors carry state. No term changes its size, ever.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphclone.errors import SizeError

Keep = Mapping["Factor", Sequence[int]]
_births = itertools.count()


@dataclass(frozen=True, slots=True)
class Order:
    """The positions of `of`, sorted by integers that are positions on `by`; or (one more position) where its runs begin and end."""

    of: Axis
    by: Axis


class Factor:
    """`size` interchangeable positions; compared by identity.

    **Attributes**: `frozen`, why its positions must stay as they are (anything printable), or None; `bound`, the term that it was
    refined to (see `find`). A Layout adds what it found out: `name`, `kind`, `interface` ("input": it lies on one of the model, else
    "output", or empty) and `slots`, the (tensor name, dim) pairs of the model's state that it runs through. `order`: its positions
    follow the order of another axis, which is frozen as soon as this one is put beside positions that do not.
    """

    __slots__ = ("birth", "bound", "frozen", "interface", "kind", "name", "order", "size", "slots")

    def __init__(self, size: int, name: str = "", frozen: object = None) -> None:
        self.size, self.name, self.frozen = size, name, frozen
        self.bound: Axis | None = None
        self.order: Order | None = None
        self.kind, self.interface = "", ""
        self.slots: tuple[tuple[str, int], ...] = ()
        self.birth = next(_births)

    def __repr__(self) -> str:
        return show(self)


class _Term:
    __slots__ = ("parts", "size")
    parts: tuple[Axis, ...]
    size: int

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.parts))

    def __repr__(self) -> str:
        return show(self)  # type: ignore[arg-type]


class Product(_Term):
    """Row-major digits, the first one outermost. Build it with `product`, which keeps the normal form."""

    __slots__ = ()

    def __init__(self, parts: tuple[Axis, ...]) -> None:
        self.parts, self.size = parts, math.prod(part.size for part in parts)


class Concat(_Term):
    """Segments side by side. Build it with `concat`, which keeps the normal form."""

    __slots__ = ()

    def __init__(self, parts: tuple[Axis, ...]) -> None:
        self.parts, self.size = parts, sum(part.size for part in parts)


Axis = Factor | Product | Concat
UNIT: Final = Product(())
EMPTY: Final = Concat(())


def factor(size: int, name: str = "", frozen: object = None) -> Axis:
    """A fresh factor; one position is `UNIT`, none is `EMPTY`: neither holds anything to choose."""
    return Factor(size, name, frozen) if size > 1 else UNIT if size == 1 else EMPTY


def sorted_axis(size: int, of: Axis, by: Axis, why: object) -> Axis:
    """A frozen factor with an `Order`."""
    axis = factor(size, frozen=why)
    if type(axis) is Factor:
        axis.order = Order(of, by)
    return axis


def product(*parts: Axis) -> Axis:
    """The normal form of a product: flat, no digit of size 1, a single digit unwrapped."""
    flat: list[Axis] = []
    for part in parts:
        if part.size == 0:
            return EMPTY
        flat += part.parts if type(part) is Product else () if part.size == 1 else (part,)
    return flat[0] if len(flat) == 1 else Product(tuple(flat)) if flat else UNIT


def concat(*parts: Axis) -> Axis:
    """The normal form of a concatenation: flat, no empty segment, a single segment unwrapped."""
    flat: list[Axis] = []
    for part in parts:
        flat += part.parts if type(part) is Concat else (part,)
    return flat[0] if len(flat) == 1 else Concat(tuple(flat)) if flat else EMPTY


def find(axis: Axis) -> Axis:
    """The term with every bound factor replaced by what it became."""
    if type(axis) is Factor:
        if axis.bound is None:
            return axis
        if type(axis.bound) is not Factor or axis.bound.bound is not None:
            _settle(axis)
        return axis.bound
    parts = axis.parts  # type: ignore[union-attr]
    for part in parts:
        if type(part) is not Factor or part.bound is not None:
            break
    else:
        return axis
    found = list(map(find, parts))
    if all(map(operator.is_, found, parts)):
        return axis
    return product(*found) if type(axis) is Product else concat(*found)


def _settle(old: Factor) -> None:
    """Bind it to a term without bound factors. No recursion: a program may slice a slice thousands of times."""
    waiting = [old]
    while waiting:
        inner = [each for each in _leaves(waiting[-1].bound) if each.bound and any(leaf.bound for leaf in _leaves(each.bound))]
        if inner:
            waiting += inner
        else:
            last = waiting.pop()
            last.bound = find(last.bound)  # type: ignore[arg-type]


def _leaves(axis: Axis | None) -> Iterator[Factor]:
    if type(axis) is Factor:
        yield axis
    elif axis is not None:
        for part in axis.parts:  # type: ignore[union-attr]
            yield from _leaves(part)


def factors(axis: Axis) -> Iterator[Factor]:
    """Its factors from left to right, with repetitions."""
    return _leaves(find(axis))


def freeze(axis: Axis, why: object) -> None:
    """Make its positions stay as they are. The first reason is kept."""
    for each in factors(axis):
        if each.frozen is None:
            each.frozen = why
        if each.order is not None:
            by, each.order = each.order.by, None
            freeze(by, why)


def _bind(old: Factor, new: Axis) -> None:
    for each in (old, *_leaves(new)):
        if each.order is not None:
            freeze(each, "an axis sorted by it meets one that is not")
    if old.frozen is not None:
        freeze(new, old.frozen)
    old.bound = new


def cut(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """The axis before and from position `at`, refining what the cut goes through.

    A product `(o i)` is cut inside one value of its outer digit: `((o1 i) + i1)` and `(i2 + (o2 i))`.
    """
    axis = find(axis)
    if at <= 0:
        return EMPTY, axis
    if at >= axis.size:
        return axis, EMPTY
    if type(axis) is Factor:
        first, second = factor(at, frozen=axis.frozen), factor(axis.size - at, frozen=axis.frozen)
        _bind(axis, concat(first, second))
        return first, second
    if type(axis) is Concat:
        offsets = list(itertools.accumulate((part.size for part in axis.parts), initial=0))
        index = bisect.bisect(offsets, at) - 1
        before, after = cut(axis.parts[index], at - offsets[index])
        return concat(*axis.parts[:index], before), concat(after, *axis.parts[index + 1 :])
    outer, inner = axis.parts[0], product(*axis.parts[1:])  # type: ignore[union-attr]
    row, rest = divmod(at, inner.size)
    above, below = cut(outer, row)
    if not rest:
        return product(above, inner), product(below, inner)
    _, below = cut(below, 1)
    left, right = cut(inner, rest)
    return concat(product(find(above), find(inner)), left), concat(right, product(find(below), find(inner)))


def cuts(axis: Axis, sizes: Iterable[int]) -> list[Axis]:
    """The axis in consecutive pieces of the given sizes."""

    def pieces(axis: Axis, sizes: Sequence[int]) -> list[Axis]:  # by halves, so that bound factors do not form long chains
        if len(sizes) == 1:
            return [cut(axis, sizes[0])[0]]
        half = len(sizes) // 2
        before, after = cut(axis, sum(sizes[:half]))
        return pieces(before, sizes[:half]) + pieces(after, sizes[half:])

    sizes = list(sizes)
    return [find(piece) for piece in pieces(axis, sizes)] if sizes else []


def split(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    """The axis as a product of an outer digit and an inner digit of size `inner`, which has to divide its size."""
    axis = find(axis)
    if axis.size % inner:
        raise SizeError(f"cannot split {show(axis)} ({axis.size}) into rows of {inner}")
    reason = axis.frozen if type(axis) is Factor else None
    digits = factor(axis.size // inner, frozen=reason), factor(inner, frozen=reason)
    unify(axis, product(*digits), "its digits are tangled")
    return find(digits[0]), find(digits[1])


def unify(a: Axis, b: Axis, why: object) -> None:
    """Make `a` and `b` the same term. What is tangled (digits without a common refinement) is frozen, because of `why`."""
    a, b = find(a), find(b)
    if a is b or a == b:
        return
    if a.size != b.size:
        raise SizeError(f"axes of different sizes cannot be one: {show(a)} ({a.size}) and {show(b)} ({b.size})")
    if type(a) is Factor and type(b) is Factor:
        young, old = (a, b) if a.birth > b.birth else (b, a)  # keeps chains of bound factors short
        _bind(young, old)
    elif type(a) is Factor:
        _bind(a, b)
    elif type(b) is Factor:
        _bind(b, a)
    elif type(a) is Product and type(b) is Product:
        _unify_products(a, b, why)
    else:
        left, right = _segments(a), _segments(b)
        if len(left) == 1 or len(right) == 1:
            _unify_rows(*((a, right) if len(left) == 1 else (b, left)), why)  # type: ignore[arg-type]
        else:
            _unify_segments(left, right, why)


def _segments(axis: Axis) -> list[Axis]:
    """What lies side by side in an axis. The rows of a product whose outer digit is a concatenation do, too."""
    if type(axis) is Concat:
        return [segment for part in axis.parts for segment in _segments(part)]
    if type(axis) is Product and axis.parts and type(axis.parts[0]) is Concat:
        inner = axis.parts[1:]
        return [segment for row in axis.parts[0].parts for segment in _segments(product(row, *inner))]
    return [axis]


def _unify_products(a: Product, b: Product, why: object) -> None:
    """Peel equal digits off the inner, then off the outer end. Digits are refined at every gcd; the coprime rest is tangled."""
    left, right = list(a.parts), list(b.parts)
    for end in (-1, 0):
        while left and right:
            p, q = find(left[end]), find(right[end])
            common = math.gcd(p.size, q.size)
            if common == 1:
                break
            for digits, digit in ((left, p), (right, q)):
                if digit.size == common:
                    digits[end] = digit
                else:
                    inner = common if end else digit.size // common
                    digits[end : end + 1 or None] = split(digit, inner)
            unify(left.pop(end), right.pop(end), why)
            if p.size != common != q.size:
                break  # what is left of both digits is coprime
    for digit in (*left, *right):
        freeze(digit, why)


def _unify_segments(left: list[Axis], right: list[Axis], why: object) -> None:
    """Piece by piece: from one common boundary to the next, cut at all boundaries in between."""
    starts = [[0, *itertools.accumulate(part.size for part in side)] for side in (left, right)]
    common = sorted(set(starts[0]) & set(starts[1]))
    for start, end in itertools.pairwise(common):
        a, b = (side[begin.index(start) : begin.index(end)] for side, begin in zip((left, right), starts, strict=True))
        if len(a) == len(b) == 1:
            unify(a[0], b[0], why)
        elif _shares(concat(*a), concat(*b)):  # it meets itself shifted, and would be cut down to single positions
            _freeze_shifted(a, b, why)
        else:
            inside = sorted({*starts[0], *starts[1]} & set(range(start, end + 1)))
            sizes = [stop - begin for begin, stop in itertools.pairwise(inside)]
            for p, q in zip(cuts(concat(*a), sizes), cuts(concat(*b), sizes), strict=True):
                unify(p, q, why)


def _freeze_shifted(a: list[Axis], b: list[Axis], why: object) -> None:
    """Freeze segments, except for an inner digit that all of them have: then whole rows are shifted."""
    digits = [find(part).parts if type(find(part)) is Product else (find(part),) for part in (*a, *b)]  # type: ignore[union-attr]
    while all(digits) and len({each[-1] for each in digits}) == 1:
        digits = [each[:-1] for each in digits]
    for each in digits:
        freeze(product(*each), why)


def _shares(a: Axis, b: Axis) -> bool:
    return not set(factors(a)).isdisjoint(factors(b))


def _unify_rows(a: Product, segments: list[Axis], why: object) -> None:
    """A product meets a concatenation: cut the outer digit around each boundary, so that no more than one row is ever shared."""
    outer, inner = a.parts[0], product(*a.parts[1:])
    ends = list(itertools.accumulate(part.size for part in segments))
    b = concat(*segments)
    if _shares(outer, b) or (_shares(a, b) and any(end % inner.size for end in ends)):
        freeze(concat(a, b), why)  # it meets itself shifted
        return
    rows = {0, outer.size}
    for end in ends:
        rows |= {end // inner.size, -(-end // inner.size)}
    heights = [end - start for start, end in itertools.pairwise(sorted(rows))]
    pieces = cuts(outer, heights)
    for piece, segment in zip(pieces, cuts(b, [height * inner.size for height in heights]), strict=True):
        unify(product(find(piece), find(inner)), segment, why)


def size(axis: Axis, keep: Keep) -> int:
    """The size of the axis when its factors keep the given positions only."""
    if type(axis) is Factor:
        return len(keep[axis]) if axis in keep else axis.size
    sizes = [size(part, keep) for part in axis.parts]  # type: ignore[union-attr]
    return math.prod(sizes) if type(axis) is Product else sum(sizes)


def select(axis: Axis, keep: Keep) -> Sequence[int]:
    """The surviving positions of the axis, in their new order, from the kept positions of its factors."""
    if type(axis) is Factor:
        return keep.get(axis, range(axis.size))
    if not any(each in keep for each in factors(axis)):
        return range(axis.size)
    if type(axis) is Concat:
        offsets = itertools.accumulate((part.size for part in axis.parts), initial=0)
        return [offset + i for offset, part in zip(offsets, axis.parts, strict=False) for i in select(part, keep)]
    chosen: Sequence[int] = [0]
    for part in axis.parts:  # type: ignore[union-attr]
        inner = select(part, keep)
        chosen = [i * part.size + j for i in chosen for j in inner]
    return chosen


def labels(axis: Axis, factor: Factor) -> list[int]:
    """For each position of the axis, the position of `factor` that it belongs to; -1 where the factor is not a part of it."""
    if type(axis) is Factor:
        return list(range(axis.size)) if axis is factor else [-1] * axis.size
    if type(axis) is Concat:
        return [label for part in axis.parts for label in labels(part, factor)]
    found = [-1]
    for part in axis.parts:  # type: ignore[union-attr]
        inner = labels(part, factor)
        found = [j if j >= 0 else i for i in found for j in inner]
    return found


def show(axis: Axis, name: Callable[[Factor], str] | None = None) -> str:
    """The axis in the notation: `((heads + kv + kv) head_dim)`, frozen factors in brackets."""
    axis = find(axis)
    if type(axis) is Factor:
        text = name(axis) if name else axis.name or str(axis.size)
        return f"[{text}]" if axis.frozen is not None else text
    parts = [show(part, name) for part in axis.parts]  # type: ignore[union-attr]
    if not parts:
        return "1" if type(axis) is Product else "0"
    return f"({(' ' if type(axis) is Product else ' + ').join(parts)})"


_TOKEN: Final = re.compile(r"[()+\[\]]|[^\s()+\[\]]+")


def parse(text: str, lookup: Callable[[str], Axis]) -> Axis:
    """Read the notation; `lookup` gives the factor of a name. Brackets are read and mean nothing: a factor knows its state.

    **Raises** `SizeError` when the text is not an axis.
    """
    tokens = ["its end", *reversed(_TOKEN.findall(text))]

    def take(*expected: str) -> str:
        token: str = tokens.pop()
        if (token not in expected) if expected else (token in {")", "]", "+", "its end"}):
            raise SizeError(f"'{text}' is not an axis: {token if token == 'its end' else repr(token)} comes too early")
        return token

    def term() -> Axis:
        token = take()
        if token == "[":
            inner = term()
            take("]")
            return inner
        if token != "(":
            return UNIT if token == "1" else EMPTY if token == "0" else lookup(token)
        parts, joined = [term()], tokens[-1] == "+"
        while tokens[-1] != ")":
            if joined:
                take("+")
            parts.append(term())
        take(")")
        return concat(*parts) if joined else product(*parts)

    axis = term()
    if len(tokens) > 1:
        raise SizeError(f"'{text}' is not an axis: '{tokens[-1]}' is left over")
    return axis
