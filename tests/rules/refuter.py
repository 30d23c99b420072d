"""The machine tries to refute every rule.

`record` runs a function and writes down the ATen calls as torch.export's graphs hold them; `typed` runs the rules over them with every
axis of every input free; `refute` then selects positions of the free factors at random, runs the calls again on the selected inputs and
compares each result with the selection of the old one. Whatever differs is a wrong rule.

    python -m tests.rules.refuter [OP …]           the sub-sample that the tests run
    python -m tests.rules.refuter --all [OP …]     every sample
    python -m tests.rules.refuter --frozen [OP …]  a work list: axes that are frozen though they could be permuted
"""

from __future__ import annotations

import argparse
import itertools
import operator
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.capture import explicit
from graphclone.rules import Facts, Typed, apply, name_of, rule_for

torch.set_num_threads(1)

Keep = dict[Factor, Sequence[int]]


class Skip(Exception):
    """A sample that cannot tell anything, with the reason."""


# -- from a function to a graph ----------------------------------------------------------------------------------------


class _Recorder(SchemaCheckMode):  # the one mode that torch lets see calls before composite ops are taken apart
    def __init__(self) -> None:
        TorchDispatchMode.__init__(self, _dispatch_key=torch._C.DispatchKey.PreDispatch)
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[Any] = []  # so that no id is used twice

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = target(*args, **(kwargs or {}))
        if target is torch.ops.aten.detach_.default:
            return value  # how torch.tensor() ends; no value changes
        if target._schema.is_mutable:
            raise Skip(f"{target} mutates: graphs are functional once they are captured")
        node = self.graph.call_function(target, *self._nodes((args, kwargs or {})))
        node.meta["val"] = value
        self._write(explicit(node), value)
        return value

    def _nodes(self, value: Any) -> Any:
        return tree_map_only(Tensor, self.node, value)

    def node(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self.nodes:
            if (type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter) or tensor.layout != torch.strided:
                raise Skip("not an ordinary dense tensor")
            last = next((node for node in reversed(self.graph.nodes) if node.op == "placeholder"), None)
            with self.graph.inserting_after(last):
                node = self.graph.placeholder(f"x{len(self.nodes)}")
            node.meta["val"] = tensor.detach().clone()
            self._write(node, tensor)
        return self.nodes[id(tensor)]

    def _write(self, node: fx.Node, value: Any) -> None:
        self.alive.append(value)
        if isinstance(value, Tensor):
            self.nodes[id(value)] = node
        elif isinstance(value, (tuple, list)):
            for index, each in enumerate(value):
                got = self.graph.call_function(operator.getitem, (node, index))
                got.meta["val"] = each
                self._write(got, each)


def record(function: Callable[[], Any], inputs: Sequence[Tensor] = ()) -> fx.Graph:
    """The ATen calls of a function. Every tensor that comes from outside is a placeholder, `inputs` first."""
    recorder = _Recorder()
    for each in inputs:
        recorder.node(each)
    with torch.no_grad(), enable_python_dispatcher(), recorder:
        function()
    return recorder.graph


def calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


# -- types -------------------------------------------------------------------------------------------------------------


Reading = Callable[[Tensor], Typed]


def bare(value: Tensor) -> Typed:
    """Each dim a factor of its own; integers mean nothing."""
    return Typed(tuple(algebra.factor(size) for size in value.shape))


def typed(graph: fx.Graph, reading: Reading = bare) -> Facts:
    """The rules' facts about a graph whose inputs are read in this way."""
    facts = Facts()
    for node in graph.nodes:
        if node.op == "placeholder":
            facts.types[node] = reading(node.meta["val"])
        else:
            apply(node, facts)
    return facts


class Shared:
    """All dims of one size are one axis: an op must not move one of them and leave the other."""

    def __init__(self) -> None:
        self.seen: dict[int, Axis] = {}

    def __call__(self, value: Tensor) -> Typed:
        return Typed(tuple(self.seen.setdefault(size, algebra.factor(size)) for size in value.shape))


class Rich:
    """Axes as they are deep inside a model: products, concatenations, factors that other dims have too, some of them frozen;
    integers that are positions on an axis."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seen: list[Axis] = []

    def __call__(self, value: Tensor) -> Typed:
        axes = tuple(self.axis(size) for size in value.shape)
        integers = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool)
        if not integers or not value.numel() or int(value.min()) < 0 or not 0 < int(value.max()) < 1000:
            return Typed(axes)
        return Typed(axes, self.axis(int(value.max()) + 1))

    def axis(self, size: int) -> Axis:
        known = [axis for axis in self.seen if axis.size == size]
        kind = self.rng.choice("ffff**++==[")
        if kind == "=" and known:
            return self.rng.choice(known)
        axis = algebra.factor(size)
        if kind == "*":
            inner = self.rng.choice([n for n in range(1, size + 1) if size % n == 0] or [1])
            axis = algebra.product(algebra.factor(size // inner), algebra.factor(inner))
        elif kind == "+":
            first = self.rng.randint(0, size)
            axis = algebra.concat(algebra.factor(first), algebra.factor(size - first))
        elif kind == "[":
            algebra.freeze(axis, "given as frozen")
        self.seen.append(axis)
        return axis


def known(typed: Any) -> Iterator[Typed]:
    for each in typed if isinstance(typed, (list, tuple)) else [typed]:
        if isinstance(each, Typed):
            yield each


def axes_of(typed: Any) -> Iterator[Axis]:
    for each in known(typed):
        yield from each.axes
        if each.domain is not None:
            yield each.domain


def free_factors(facts: Facts) -> list[Factor]:
    stated = (axis for sizes in facts.sizes.values() for axis in sizes.values())
    every = itertools.chain((axis for typed in facts.types.values() for axis in axes_of(typed)), stated)
    return list(dict.fromkeys(each for axis in every for each in algebra.factors(axis) if each.frozen is None))


# -- selection ---------------------------------------------------------------------------------------------------------


def kept(axis: Axis, keep: Keep) -> list[int]:
    return list(algebra.select(algebra.find(axis), keep))


def selected(value: Tensor, typed: Typed, keep: Keep) -> Tensor:
    """The kept positions of a tensor. Integers that are positions are renumbered; -1 marks one that is gone."""
    for dim, axis in enumerate(typed.axes):
        value = value.index_select(dim, torch.tensor(kept(axis, keep), dtype=torch.long))
    if typed.domain is None:
        return value
    if value.is_complex():
        return selected(value.real, Typed((), typed.domain), keep).to(value.dtype)
    places = kept(typed.domain, keep)
    new = torch.full((typed.domain.size,), -1)
    new[torch.tensor(places, dtype=torch.long)] = torch.arange(len(places))
    return new[value.long()].to(value.dtype) if value.numel() else value


def rewritten(node: fx.Node, facts: Facts, keep: Keep) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call with the integers that state a size made to state the new one."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    args, kwargs = list(node.args), dict(node.kwargs)
    for (name, position), axis in facts.sizes.get(node, {}).items():
        change = algebra.size(algebra.find(axis), keep) - axis.size
        place: Any = names.index(name)
        holder: Any = args if place < len(args) else kwargs
        place = place if place < len(args) else name
        if not change:
            continue
        old: Any = holder[place]
        holder[place] = old + change if position is None else [*old[:position], old[position] + change, *old[position + 1 :]]
    return args, kwargs


def rerun(graph: fx.Graph, facts: Facts, keep: Keep) -> Iterator[tuple[fx.Node, Any]]:
    """The calls of the child: on selected inputs, with the sizes that it has."""
    env: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = selected(node.meta["val"], facts.types[node], keep)
        elif node.target is operator.getitem:
            env[node] = env[node.args[0]][node.args[1]]
        else:
            args, kwargs = fx.node.map_arg(rewritten(node, facts, keep), env.__getitem__)  # type: ignore[arg-type]
            env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            yield node, env[node]


def sorted_by(typed: Typed) -> bool:
    """Whether the order of a tensor follows that of another axis: then only what it ends in can be compared."""
    return any(factor.order for axis in axes_of(typed) for factor in algebra.factors(axis))


def alike(new: Any, old: Tensor, typed: Typed, keep: Keep) -> bool:
    expected = selected(old, typed, keep)
    if new.shape != expected.shape or new.dtype != expected.dtype:
        return False
    if typed.domain is not None:  # what stood for a position that is gone stands for nothing now
        new = new.where(expected != -1, new.new_tensor(-1))
    if not (new.dtype.is_floating_point or new.dtype.is_complex):
        return torch.equal(new, expected)
    finite = expected[expected.isfinite()].abs()
    slack = 1e-4 * float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(new, expected, rtol=1e-3, atol=slack + 1e-6, equal_nan=True)


UNDEFINED = ("empty", "new_empty", "rand")  # results of these ops hold anything
RANKING = ("argmax", "argmin", "max", "min", "median", "nanmedian", "topk", "kthvalue", "argsort", "sort")


def refute(graph: fx.Graph, facts: Facts, seeds: int = 3) -> list[str]:
    """What is wrong with the facts; nothing, as far as this can tell:

    - *permuted*: every free factor in another order, all at once;
    - *selected*: some positions of each free factor that no op normalises or sums over;
    - *masked*: some positions of what is summed over as well, beside the old call on inputs that are zero elsewhere;
    - *shaped*: some positions of every free factor: the calls have to run, and to give tensors of the right sizes.
    """
    wrong: list[str] = []
    free = free_factors(facts)
    if not free:
        return wrong
    normalised = {each for axis in facts.normalised for each in algebra.factors(axis)}
    summed = {each for contraction in facts.contractions for each in algebra.factors(contraction.axis)}
    given = [facts.types[node].domain for node in graph.nodes if node.op == "placeholder"]  # no index may lose its position
    indexed = {each for axis in given if axis is not None for each in algebra.factors(axis)}
    if any(name_of(node.target) in ("aten.topk", "aten.kthvalue") for node in calls(graph)):
        indexed |= normalised  # which have to have k positions
    least = 2 if any("squeeze" in name_of(node.target) for node in calls(graph)) else 1  # of a dim that only now has one position
    for seed in range(seeds):
        rng = random.Random(seed)

        def some(*whole: set[Factor], rng: random.Random = rng) -> Keep:
            fixed = set().union(*whole)
            return {
                each: rng.sample(range(each.size), rng.randint(each.size if each in fixed else least, each.size)) for each in free
            }

        wrong += _compare(graph, facts, some(set(free)), "permuted")
        wrong += _compare(graph, facts, some(normalised, summed, indexed), "selected")
        wrong += _compare(graph, facts, some(indexed), "shaped")
        if summed - normalised and not indexed and len(calls(graph)) == 1 and _real(graph):
            wrong += _compare(graph, facts, some(normalised), "masked")
    return list(dict.fromkeys(wrong))


def _real(graph: fx.Graph) -> bool:
    return all(node.meta["val"].dtype.is_floating_point for node in graph.nodes if node.op == "placeholder")


def _compare(graph: fx.Graph, facts: Facts, keep: Keep, what: str) -> Iterator[str]:
    node = None
    old = {each: each.meta["val"] for each in calls(graph)}
    if what == "masked":
        old = _masked(graph, facts, keep)
    try:
        for node, value in rerun(graph, facts, keep):
            if isinstance(value, Tensor):
                results = [(value, old[node], facts.types[node])]
            elif isinstance(value, (tuple, list)):
                results = list(zip(value, old[node], facts.types[node], strict=True))
            else:
                continue  # a number that the op reads off its tensors, which are frozen
            for index, (new, before, typed) in enumerate(results):
                if what == "shaped" or sorted_by(typed) or name_of(node.target).removeprefix("aten.").startswith(UNDEFINED):
                    good = list(new.shape) == [algebra.size(algebra.find(axis), keep) for axis in typed.axes]
                else:
                    good = alike(new, before, typed, keep)
                if not good:
                    yield f"{what}: result {index} of {describe(node, facts)} differs"
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        last = calls(graph)[-1] if node is None else node
        yield f"{what}: {describe(last, facts)} raises {type(error).__name__}: {str(error).splitlines()[0]}"


def _masked(graph: fx.Graph, facts: Facts, keep: Keep) -> dict[fx.Node, Any]:
    """The results of the only call when its inputs are zero at the positions that are not kept."""
    env = {}
    for node in graph.nodes:
        if node.op != "placeholder":
            break
        env[node] = node.meta["val"].clone()
        for dim, axis in enumerate(facts.types[node].axes):
            gone = sorted(set(range(axis.size)) - set(kept(axis, keep)))
            env[node].index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0)
    (call,) = calls(graph)
    args, kwargs = fx.node.map_arg((call.args, call.kwargs), env.__getitem__)
    return {call: call.target(*args, **kwargs)}


def tied(graph: fx.Graph) -> bool:
    """Whether equal floats are ranked, of which the first wins: rules take floats to differ."""
    for node in calls(graph):
        if name_of(node.target).removeprefix("aten.") in RANKING and node.args:
            value = node.args[0].meta["val"]  # type: ignore[union-attr]
            for dim in range(value.dim()) if value.is_floating_point() else ():
                run = value.sort(dim=dim).values.movedim(dim, 0)
                if bool((run[1:] == run[:-1]).any()) or bool(run.isnan().any()):
                    return True
    return False


def draws(graph: fx.Graph) -> bool:
    """Whether the calls give other results when they are made again. (Few elements may be dropped alike once or twice.)"""
    if not any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in calls(graph)):
        return False
    facts = Facts(types={node: bare(node.meta["val"]) for node in graph.nodes if node.op == "placeholder"})
    runs = itertools.chain.from_iterable(rerun(graph, facts, {}) for _ in range(4))
    again = (zip(tree_leaves(value), tree_leaves(node.meta["val"]), strict=True) for node, value in runs)
    return not all(a.allclose(b, equal_nan=True) for pairs in again for a, b in pairs if isinstance(a, Tensor))


def describe(node: fx.Node, facts: Facts) -> str:
    """`aten.linear(b c, o c) -> b o` with its other arguments."""

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return shown(facts.types.get(value))
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(text, value))}]"
        return str(value)

    named = [f"{name}={text(value)}" for name, value in node.kwargs.items()]
    return f"{node.target}({', '.join([*map(text, node.args), *named])}) -> {shown(facts.types.get(node))}"


def shown(typed: Any) -> str:
    texts = []
    for each in known(typed):
        axes = " ".join(algebra.show(axis, lambda f: f"{f.size}#{f.birth % 1000}") for axis in each.axes)
        texts.append(f"<{axes}{' @ ' + algebra.show(each.domain) if each.domain is not None else ''}>")
    return ", ".join(texts)


# -- torch's own samples -------------------------------------------------------------------------------------------------

MOST = 12  # samples of an op in the tests
SECONDS = 0.0


def title(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def samples(op: OpInfo, dtype: torch.dtype, most: int | None = MOST) -> list[SampleInput]:
    """The op's samples, or some of them spread evenly over the first hundred; the same ones every time."""
    torch.manual_seed(0)
    random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), None if most is None else 100))
    if most is None or len(found) <= most:
        return found
    return [found[(2 * index + 1) * len(found) // (2 * most)] for index in range(most)]


def dtypes(op: OpInfo) -> list[torch.dtype]:
    """float32, and int64 for integers that are positions."""
    wanted = [each for each in (torch.float32, torch.int64) if each in op.dtypes]
    return wanted or sorted(op.dtypes, key=str)[:1]


def functions(op: OpInfo) -> list[Callable[..., Any]]:
    return [op.op, *(alias.op for alias in op.aliases)]


def trial(function: Callable[..., Any], sample: SampleInput) -> tuple[list[str], Counter[str]]:
    """Refute the rules on one sample, with all of its axes read in several ways."""
    sample = sample.transform(lambda x: x.abs() if isinstance(x, Tensor) and x.dtype == torch.int64 else x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = record(lambda: function(sample.input, *sample.args, **sample.kwargs))
        except Skip as skip:
            return [], Counter({f"skipped: {skip}": 1})
        except Exception as error:
            return [], Counter({f"skipped: torch itself raises {type(error).__name__}: {str(error).splitlines()[0][:60]}": 1})
        if draws(graph):
            return [], Counter({"skipped: draws random numbers": 1})
        if not calls(graph):
            return [], Counter({"skipped: no call at all": 1})
        if tied(graph):
            return [], Counter({"skipped: ranks equal floats": 1})
        wrong, seen = (
            [],
            Counter({str(node.target): 1 for node in calls(graph) if isinstance(node.target, torch._ops.OpOverload)}),
        )
        for reading in (bare, Shared(), Rich(0), Rich(1)):
            try:
                facts = typed(graph, reading)
            except Exception as error:
                wrong.append(f"a rule raises {type(error).__name__}: {str(error)[:300]} for {calls(graph)[0].target}")
                continue
            wrong += refute(graph, facts, seeds=2 if reading is bare else 1)
            seen["free" if free_factors(facts) else "all frozen"] += 1
    return wrong, seen


def trials(op: OpInfo, most: int | None = MOST) -> tuple[list[str], Counter[str]]:
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    for dtype in dtypes(op):
        for index, function in enumerate(functions(op)):
            for sample in samples(op, dtype, most if index == 0 or most is None else 3):
                w, s = trial(function, sample)
                wrong += w
                seen += s + Counter({"samples": 1})
    return list(dict.fromkeys(wrong)), seen


def needless(op: OpInfo, most: int | None = MOST) -> Counter[str]:
    """Dims that are frozen though they can be permuted: alone, or together with a dim of the result."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sample in samples(op, dtypes(op)[0], most):
            try:
                graph = record(lambda sample=sample: op.op(sample.input, *sample.args, **sample.kwargs))
                facts = typed(graph)
            except Exception:
                continue
            if len(calls(graph)) != 1 or tied(graph):
                continue
            (call,) = calls(graph)
            results = {f for axis in axes_of(facts.types[call]) for f in algebra.factors(axis) if f.frozen is not None}
            for node in graph.nodes:
                for dim, axis in enumerate(facts.types[node].axes if node.op == "placeholder" else ()):
                    frozen = [each for each in algebra.factors(axis) if each.frozen is not None and each.size > 2]
                    if frozen and all(_movable(graph, facts, each, results) for each in frozen):
                        found[f"dim {dim - len(facts.types[node].axes)} of {node}, {call.target}: {frozen[0].frozen}"] += 1
    return found


def _movable(graph: fx.Graph, facts: Facts, factor: Factor, results: set[Factor]) -> bool:
    orders = [random.Random(seed).sample(range(factor.size), factor.size) for seed in range(3)]
    return any(
        all(not list(_compare(graph, facts, dict.fromkeys(together, order), "permuted")) for order in orders)
        for together in [[factor], *([factor, other] for other in results if other.size == factor.size)]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("ops", nargs="*")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for op in op_db:
        if options.ops and op.name not in options.ops and title(op) not in options.ops:
            continue
        if options.frozen:
            for each, count in needless(op).most_common():
                print(f"{count:4} {title(op)}: {each}", flush=True)
            continue
        wrong, seen = trials(op, None if options.all else MOST)
        total += seen
        for each in wrong[:6]:
            print(f"{title(op)}: {each}", flush=True)
    if options.frozen:
        return
    print(f"{total['samples']} samples, {sum(1 for key in total if key.startswith('aten.'))} overloads of ATen ops")
    for key, count in total.most_common():
        if key.startswith("skipped"):
            print(f"{count:6} {key}")
    without = sorted(key for key in total if key.startswith("aten.") and rule_for(_overload(key)) is None)
    print(f"{len(without)} without a rule: {' '.join(without)}")
    print(f"free {total['free']}, all frozen {total['all frozen']}")


def _overload(text: str) -> Any:
    _, name, overload = text.split(".", 2)
    return getattr(getattr(torch.ops.aten, name), overload)


if __name__ == "__main__":
    main()
