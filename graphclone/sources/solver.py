"""Which settings make a class build the shapes that a plan needs: its fields are tried, one after another, and no name is known here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Number = int | float
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Settings = dict[str, object]
Build = Callable[[Settings], Shapes | None]  # None where the class refuses the settings
Counts = Collection[tuple[int, int]]  # blocks of a stack, or units of a factor, in the parent, and as many as are wanted
_PAIRS = 60  # how many pairs of changes are tried where none alone brings the shapes nearer


@dataclass(frozen=True)
class Knob:
    """A number that can be set: a field, or with `index` one entry of a field that is a list (`whole`, in the parent);
    without `index` all of its entries together, and `value` is the largest. One that is not whole is a ratio of sizes."""

    name: str
    value: Number
    index: int | None = None
    whole: tuple[int, ...] = ()

    def set(self, settings: Settings, value: Number) -> Settings:
        if not self.whole:
            return {**settings, self.name: value}
        entries = list(settings.get(self.name, self.whole))  # type: ignore[call-overload]
        if self.index is None:
            entries = [int(each * Fraction(value) / Fraction(self.value)) for each in self.whole]
        elif self.index < len(entries):
            entries[self.index] = value
        return {**settings, self.name: entries}

    def now(self, settings: Settings) -> Number:
        held = settings.get(self.name)
        if isinstance(held, list):
            if self.index is None:
                return max(map(int, held))
            return int(held[self.index]) if self.index < len(held) else 0
        return held if isinstance(held, (int, float)) else self.value

    def others(self, deeper: bool) -> tuple[Number, ...]:
        """Values to try it with; `deeper`: larger ones."""
        if isinstance(self.value, float):
            return self.value / 2, 2 * self.value
        return (self.value // 2, self.value - 1, 2 * self.value) if not deeper else (2 * self.value,)


@dataclass(frozen=True)
class Solution:
    """The `settings` that come nearest to what was wanted; `unmet`: the tensors that they do not give, as wanted and as they are."""

    settings: Settings
    unmet: Mapping[str, tuple[Shape | None, Shape | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question:
    """What is looked for: `counts` of the blocks, `units` of the factors that change."""

    wanted: Shapes
    build: Build
    counts: Counts
    units: Counts


def solve(wanted: Shapes, fields: Mapping[str, object], build: Build, counts: Counts, units: Counts = ()) -> Iterator[Solution]:
    """The settings with which `build` gives the shapes of `wanted`, the likeliest first, all different: shapes do not say everything
    (48 units may be 6 heads of 8 or 3 of 16). If there are none, the ones that come nearest.

    **Arguments**: `fields`, those that may be set, and their values in the parent (numbers, lists of numbers, or None: worked out by the
    class); `counts`, for each stack how many blocks it has in the parent and how many are wanted; `units`, likewise of factors.

    The class is built once for each field, to see which shapes a change of it reaches; then, as often as it brings the shapes nearer, one
    field is set to a value that the ratio of a wanted size to the present one suggests. What gives the shapes is varied: by fields that no
    shape tells of, and by a search that leaves one of the changed fields alone.
    """
    parent = build({})
    if parent is None:
        yield Solution({}, {name: (shape, None) for name, shape in wanted.items()})
        return
    question = _Question(wanted, build, counts, units)
    implied = list(_implied(fields, parent, build))
    knobs = [*_knobs(fields), *implied]
    starts: list[Settings] = [{}, {knob.name: knob.value for knob in implied}]
    nearest, given = None, list[Settings]()
    for start in starts if implied else starts[:1]:  # what the class works out may stay as it is in the parent, or follow
        found = _search(question, start, knobs)
        nearest = found if nearest is None or len(found.unmet) < len(nearest.unmet) else nearest
        for settings in _ways(question, found, start, knobs):
            if settings not in given:
                given.append(settings)
                yield Solution(settings)
    if not given and nearest is not None:
        yield nearest


def _ways(question: _Question, found: Solution, start: Settings, knobs: Sequence[Knob]) -> Iterator[Settings]:
    """The settings found and others that give the same shapes."""
    if found.unmet:
        return
    yield found.settings
    yield from _unseen(question, found.settings, knobs)
    for name in (name for name, value in found.settings.items() if start.get(name) != value):
        other = _search(question, start, [knob for knob in knobs if knob.name != name])
        if not other.unmet:
            yield other.settings
            yield from _unseen(question, other.settings, knobs)


def _unseen(question: _Question, settings: Settings, knobs: Sequence[Knob]) -> Iterator[Settings]:
    """Further changes, one or two at a time, that leave the shapes as they are."""
    moves = [move for knob in knobs if knob.name not in settings for move in _followed(knob, settings, question.units)]
    for changed in itertools.chain(moves, itertools.islice(_pairs(moves, settings), _PAIRS)):
        if question.build(changed) == question.wanted:
            yield changed


def _search(question: _Question, settings: Settings, knobs: Sequence[Knob]) -> Solution:
    wanted, build = question.wanted, question.build
    shapes = build(settings) or {}
    deeper = not wanted.keys() <= shapes.keys()
    reach = {knob: _reach(knob, settings, shapes, build, deeper) for knob in knobs}
    cost = _cost(wanted, shapes)
    while cost:
        tried = [(move, build(move)) for move in _moves(question, shapes, reach, settings)]
        better = _joined(wanted, cost, tried, settings, build)
        if better is None:  # of the pairs first those with a change that the class refuses alone
            moves = [move for move, _ in sorted(tried, key=lambda each: each[1] is not None)]
            pairs = itertools.islice(_pairs(moves, settings), _PAIRS)
            better = _joined(wanted, cost, [(pair, build(pair)) for pair in pairs], settings, build)
        if better is None:
            ahead = itertools.islice(_ahead(question, tried, reach), _PAIRS)
            better = _joined(wanted, cost, [(move, build(move)) for move in ahead], settings, build)
        if better is None:
            break
        cost, settings, shapes = better
    return Solution(settings, _unmet(wanted, shapes))


def _knobs(fields: Mapping[str, object]) -> Iterator[Knob]:
    for name, value in fields.items():
        if _is_size(value) or (isinstance(value, float) and 1 < value < math.inf):
            yield Knob(name, value)  # type: ignore[arg-type]
        elif isinstance(value, (list, tuple)) and value and all(map(_is_size, value)):
            whole = tuple(value)
            yield Knob(name, max(whole), None, whole)
            yield from (Knob(name, entry, index, whole) for index, entry in enumerate(whole))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _implied(fields: Mapping[str, object], parent: Shapes, build: Build) -> Iterator[Knob]:
    """Fields that the class works out by itself: those that shapes depend on, with the value that leaves the parent as it is."""
    sizes = sorted({size for shape in parent.values() for size in shape})
    for name in (name for name, value in fields.items() if value is None):
        if any(build({name: number}) not in (None, parent) for number in (6, 10)):  # even: half a head is rotated
            divisors = sorted({size // parts for size in sizes for parts in (1, 2, 4, 8, 16, 32) if size % parts == 0})
            value = next((each for each in divisors if each > 1 and build({name: each}) == parent), None)
            if value is not None:
                yield Knob(name, value)


def _reach(knob: Knob, settings: Settings, before: Shapes, build: Build, deeper: bool) -> frozenset[str] | None:
    """The tensors whose shape, or being there, a change of the knob alone changes; None where the class refuses every change. `deeper`:
    some are wanted that are not there, and which only a larger value brings."""
    found = None
    for change in (knob.others(False), knob.others(True) if deeper else ()):
        built = (build(knob.set(settings, other)) for other in dict.fromkeys(change) if other > 0)
        after = next((each for each in built if each is not None), None)
        if after is not None:
            found = (found or frozenset()) | {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return found


def _moves(
    question: _Question, shapes: Shapes, reach: Mapping[Knob, frozenset[str] | None], settings: Settings
) -> Iterator[Settings]:
    unmet = _unmet(question.wanted, shapes)
    for knob, reached in reach.items():
        touched = [pair for name, pair in unmet.items() if reached is None or name in reached]
        now, values = knob.now(settings), dict[Number, None]()
        if settings and knob.name not in settings and touched:
            values[knob.value] = None  # as in the parent: the class may have worked out another one
        for want, have in touched:
            if want is None or have is None:
                values |= dict.fromkeys(_lengths(knob.value, question.counts) if isinstance(knob.value, int) else ())
            elif len(want) == len(have):
                ratios = {Fraction(a, b) for a, b in zip(want, have, strict=True) if a != b}
                values |= dict.fromkeys(_scaled(now, sorted(ratios)))
        yield from (knob.set(settings, value) for value in values if value > 0 and (value != now or knob.name not in settings))
        if not reached and not knob.whole:
            yield from _followed(knob, settings, question.units)


def _followed(knob: Knob, settings: Settings, units: Counts) -> Iterator[Settings]:
    """What becomes of a number that no shape tells of, if it shrinks as one of the factors does."""
    ratios = dict.fromkeys(Fraction(new, old) for old, new in sorted(units, key=lambda each: each[0] != knob.value))
    values = dict.fromkeys(_scaled(knob.value, ratios) if isinstance(knob.value, int) else ())
    yield from (knob.set(settings, value) for value in values if value not in (0, knob.now(settings)))


def _scaled(number: Number, ratios: Iterable[Fraction]) -> Iterator[Number]:
    """A number times each of some ratios; a whole number stays one."""
    for ratio in ratios:
        if isinstance(number, float):
            yield number * float(ratio)
        elif (number * ratio).denominator == 1:
            yield int(number * ratio)


def _lengths(length: int, counts: Counts) -> Iterator[int]:
    """What may become of a number of layers: that of a stack, a multiple of it, or a stack's and others' beside it."""
    for old, new in counts:
        if length * new % old == 0:
            yield length * new // old
        yield length - old + new
    yield length - sum(old - new for old, new in counts)


def _pairs(moves: Sequence[Settings], settings: Settings) -> Iterator[Settings]:
    merged = (_merged(first, second, settings) for first, second in itertools.combinations(moves, 2))
    yield from (both for both in merged if both is not None)


def _ahead(
    question: _Question, tried: Sequence[tuple[Settings, Shapes | None]], reach: Mapping[Knob, frozenset[str] | None]
) -> Iterator[Settings]:
    """Changes that only another one suggests: of a width by which another number is multiplied, which then has to make up for it."""
    built = [(move, shapes) for move, shapes in tried if shapes is not None]
    for move, shapes in sorted(built, key=lambda each: _cost(question.wanted, each[1])):
        yield from _moves(question, shapes, reach, move)


def _joined(
    wanted: Shapes, cost: int, tried: Sequence[tuple[Settings, Shapes | None]], settings: Settings, build: Build
) -> tuple[int, Settings, Shapes] | None:
    """The best change, and with it all others that bring the shapes nearer still: so a field is not tried again for each of the others."""
    measured = [(_cost(wanted, shapes), move, shapes) for move, shapes in tried if shapes is not None]
    nearer = sorted((each for each in measured if each[0] < cost), key=lambda each: each[0])
    if not nearer:
        return None
    best = nearer[0]
    for _, move, _ in nearer[1:]:
        if (both := _merged(best[1], move, settings)) is not None and (shapes := build(both)) is not None:
            best = min(best, (_cost(wanted, shapes), both, shapes), key=lambda each: each[0])
    return best


def _merged(first: Settings, second: Settings, settings: Settings) -> Settings | None:
    """Two changes of the same settings as one; None where they change the same field."""
    changed = [{name for name, value in move.items() if settings.get(name) != value} for move in (first, second)]
    return None if changed[0] & changed[1] else {**first, **{name: second[name] for name in changed[1]}}


def _unmet(wanted: Shapes, shapes: Shapes) -> dict[str, tuple[Shape | None, Shape | None]]:
    names = dict.fromkeys([*wanted, *shapes])
    return {name: (wanted.get(name), shapes.get(name)) for name in names if wanted.get(name) != shapes.get(name)}


def _cost(wanted: Shapes, shapes: Shapes) -> int:
    """How many sizes differ; a tensor too many or too few counts with all of its own, and once more."""
    return sum(
        len(want or have or ()) + 1
        if want is None or have is None or len(want) != len(have)
        else sum(a != b for a, b in zip(want, have, strict=True))
        for want, have in _unmet(wanted, shapes).values()
    )
