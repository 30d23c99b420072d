"""The rewritten graph: the parent's own program with fewer blocks and narrower tensors, as a module of its own."""

from __future__ import annotations

import itertools
import keyword
import operator
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphclone import axes as algebra
from graphclone.axes import Factor, Keep
from graphclone.blocks import Block, Stack, read_elsewhere
from graphclone.capture import Trace, capture, positional, prune
from graphclone.dynamic import Open
from graphclone.errors import FrozenError, PlanError, SizeError, UnknownNameError
from graphclone.execute.memory import child_state, pick
from graphclone.inputs import example
from graphclone.layout import Layout, analyze
from graphclone.plan import Plan
from graphclone.rules import Typed
from graphclone.stacked import renumber
from graphclone.written import is_write


@dataclass(frozen=True)
class Member:
    """Of which block of a child's graph a node is part: the `index` of the parent's block, how many times that came already (`turn`),
    and the `path` that its tensors have in common; `exit`, whether it is what the block returns."""

    stack: str
    index: int
    turn: int
    path: str
    exit: bool


@dataclass(frozen=True)
class Call:
    """How a child is called: the `names` of its inputs, the first `positional` of which were given by position; how inputs and outputs
    are nested; `order`, all arguments of the parent by position, as far as it is known."""

    names: tuple[str, ...]
    positional: int
    in_spec: Any
    out_spec: Any
    order: tuple[str, ...] = ()


class Child(fx.GraphModule):
    """A child as a rewritten graph: a module with trainable parameters, called as its parent was.

    A graph is one mode of its parent: of one that was traced in eval mode, it computes as in eval mode whatever `train()` says, which
    therefore warns. `graphclone.save` writes a module with a body for each mode.

    **Raises** `SizeError` for inputs of other sizes than the example's, or, if it was captured with open sizes, of sizes for which the
    model is another program.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (found := self.meta.get("open")) is not None:
            names, open_ = found
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if given.keys() == set(names):  # any other call fails by itself
                open_.check(pytree.tree_leaves([given[name] for name in names]))
        return super().__call__(*args, **kwargs)

    def train(self, mode: bool = True) -> Child:
        """As of any module; with a warning where the graph has no dropout and no statistics of batches to bring back."""
        if mode and not self.meta.get("trains"):
            warnings.warn(
                "this child is its parent's graph in eval mode: train() brings neither dropout nor statistics of batches back. "
                "graphclone.save(plan, parent, folder) writes a module that has both modes",
                stacklevel=2,
            )
        return super().train(mode)

    def get_parameter(self, target: str) -> nn.Parameter:
        """The parameter that the plan calls so."""
        return super().get_parameter(_attribute(target))


_OWN = frozenset(each.rstrip("_") for each in dir(Child(nn.Module(), fx.Graph())))


def select(trace: Trace, layout: Layout, keep: Mapping[Factor, Sequence[int] | Tensor]) -> Child:
    """The graph with exactly these positions of these factors, in this order: the primitive under everything.

    **Arguments**: `keep`, factor (see `layout[...]`) → kept positions, repetitions allowed.

    **Raises** `FrozenError` for a frozen factor that would change, `SizeError` for positions outside the factor, `UnknownNameError`
    for a factor of another layout.
    """
    if foreign := [factor for factor in keep if factor not in layout.factors]:
        raise UnknownNameError(f"'{foreign[0].name}' is no factor of this layout", attempt=f"layout['{foreign[0].name}']")
    chosen = {factor: _positions(factor, kept) for factor, kept in keep.items()}
    state = {
        name: pick(tensor, [algebra.select(axis, chosen) for axis in layout.axes(name)]) for name, tensor in trace.state.items()
    }
    return build(layout.trace, resize(layout, chosen)[0], state, {name: name for name in trace.parameters})


def _positions(factor: Factor, kept: Sequence[int] | Tensor) -> tuple[int, ...]:
    positions = tuple(int(i) for i in (kept.tolist() if isinstance(kept, Tensor) else kept))
    if not positions or min(positions) < 0 or max(positions) >= factor.size:
        raise SizeError(f"'{factor.name}' has the positions 0 to {factor.size - 1}; {list(positions)[:8]} are not all among them")
    if factor.frozen is not None and positions != tuple(range(factor.size)):
        raise FrozenError(
            f"cannot select from '{factor.name}' ({factor.size})", because=str(factor.frozen), attempt="leaving this factor out"
        )
    return positions


def resize(layout: Layout, keep: Keep) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of the graph in which every integer that states the size of an axis states its new size; and node → copy.
    `meta["of"]` of a copy is the node, `meta["sizes"]` of an input what it is then."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(layout.trace.graph, env)
    graph.output(output)
    for node, new in env.items():
        new.meta["of"] = node
        if node.op == "placeholder" and isinstance(typed := layout.types.get(node), Typed):
            new.meta["sizes"] = tuple(algebra.size(axis, keep) for axis in typed.axes)
    for node, stated in layout.sizes.items():
        new, names = env[node], [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
        for (name, position), axis in stated.items():
            change = algebra.size(axis, keep) - axis.size
            if change:
                _restate(new, names, name, position, change)
    return graph, env


def _restate(node: fx.Node, names: list[str], name: str, position: int | None, change: int) -> None:
    at = names.index(name)
    old: Any = node.args[at] if at < len(node.args) else node.kwargs[name]
    value = old + change if position is None else [*old[:position], old[position] + change, *old[position + 1 :]]
    if at < len(node.args):
        node.update_arg(at, value)
    else:
        node.update_kwarg(name, value)


def build(trace: Trace, graph: fx.Graph, state: Mapping[str, Tensor], parameters: Mapping[str, str]) -> Child:
    """A module around a graph, called as the parent is. `parameters`: names in `state` → the parent's parameter, trained if that is."""
    prune(graph)
    root = nn.Module()
    places: dict[str, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "get_attr":
            places[str(node.target)].append(node)
    for name, nodes in places.items():
        tensor = state[name]
        trained = name in parameters and trace.state[parameters[name]].requires_grad
        _place(root, _attribute(name), nn.Parameter(tensor, trained) if name in parameters else tensor)
        for node in nodes:
            node.target, node.meta["tensor"] = _attribute(name), name
    _refuse_other_constants(graph)
    call = _sign(graph, trace)
    graph.lint()
    child = Child(root, graph, "Child")
    child.meta["call"] = call
    child.meta["open"] = list(call.names), _opened(trace.open or _closed(graph), graph)
    return child


def _closed(graph: fx.Graph) -> Open:
    inputs = [(node.name, node.meta.get("val")) for node in graph.nodes if node.op == "placeholder"]
    return Open.nothing(
        [name for name, _ in inputs], [tuple(each.shape) if isinstance(each, Tensor) else None for _, each in inputs]
    )


def _opened(found: Open, graph: fx.Graph) -> Open:
    """What a graph leaves open, its inputs' other sizes as they are in it."""
    inputs = (node for node in graph.nodes if node.op == "placeholder")
    shapes = [
        shape
        and tuple(now if isinstance(size, int) else size for size, now in zip(shape, node.meta.get("sizes", shape), strict=True))
        for node, shape in zip(inputs, found.shapes, strict=True)
    ]
    return replace(found, shapes=tuple(shapes))


def _place(root: nn.Module, name: str, tensor: Tensor) -> None:
    *path, last = name.split(".")
    for each in path:
        if each not in root._modules:
            root.add_module(each, nn.Module())
        root = root.get_submodule(each)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)


def _refuse_other_constants(graph: fx.Graph) -> None:
    """A number, a string or None among the inputs is part of the graph since it was traced: the child must not take another for it."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs:
        value = node.meta.get("val", ...)
        if value is None or isinstance(value, (bool, int, float, str)):
            with graph.inserting_before(inputs[-1].next):
                same = graph.call_function(operator.is_ if value is None else operator.eq, (node, value))
                told = f"this child was traced with {node.name}={value!r}: it cannot take another value"
                graph.call_function(torch._assert, (same, told))


def _attribute(name: str) -> str:
    """The name as a path of attributes that a graph module can have: those that are its own, or no Python, get an underscore."""
    first, *rest = (re.sub(r"[\"\\\\\n]", "_", part) for part in name.split("."))
    first = f"{first}_" if first.rstrip("_") in _OWN or keyword.iskeyword(first.rstrip("_")) else first
    return ".".join([first, *(f"{part}_" if keyword.iskeyword(part.rstrip("_")) else part for part in rest)])


def _sign(graph: fx.Graph, trace: Trace) -> Call:
    """Give the graph the parent's signature, so that it takes and returns what the parent does; and what that is."""
    spec: Any = trace.in_spec
    _, kwargs = spec.children() if hasattr(spec, "children") else spec.children_specs  # torch < 2.9 has no `children`
    names = [*trace.arguments, *map(str, kwargs.context)]
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, spec, trace.out_spec)))
    return Call(tuple(names), len(trace.arguments), spec, trace.out_spec)


# -- depth -----------------------------------------------------------------------------------------------------------


def child_graph(layout: Layout, plan: Plan) -> fx.Graph:
    """The parent's graph with the plan's sizes and blocks. Tensors bear the parent's names (`Block.again` where a block is repeated)."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    graph, env = resize(layout, keep)
    for stack in layout.blocks:
        _mark(env, stack)
        chosen = plan.stacks.get(stack.name)
        if chosen is not None and chosen != tuple(range(len(stack))):
            _restack(graph, env, stack, list(chosen))
    prune(graph)
    renumber(graph, plan)
    return graph


def _mark(env: Mapping[fx.Node, fx.Node], stack: Stack) -> None:
    """Note on every node of a copied graph which block it belongs to, and on a stack's values between blocks that they are."""
    for index, block in enumerate(stack.blocks):
        for end in (env[block.entry], env[block.exit]):
            end.meta["enters"] = {*end.meta.get("enters", ()), stack.name}
        for node in block.nodes:
            env[node].meta["member"] = Member(stack.name, index, 1, block.name, node is block.exit)


def _restack(graph: fx.Graph, env: Mapping[fx.Node, fx.Node], stack: Stack, chosen: list[int]) -> None:
    """Rewire a copied graph (`env`: node of the trace → its copy): a dropped block's exit becomes its entry, a block that comes again is
    copied, with parameters of its own."""
    if chosen != sorted(chosen) or not all(0 <= index < len(stack) for index in chosen):
        raise PlanError(
            f"'{stack.name}' has the blocks 0 to {len(stack) - 1}; a child cannot have {chosen} (in the parent's order)"
        )
    if why := read_elsewhere(stack, chosen):
        raise PlanError(f"the graph of the parent cannot have the blocks {chosen} of '{stack.name}'", because=why)
    inside = {env[node] for block in stack.blocks for node in block.nodes}
    following = [user for user in env[stack.blocks[-1].exit].users if user not in inside]
    current = env[stack.blocks[0].entry]
    for index, group in itertools.groupby(chosen):
        block, entry = stack.blocks[index], current
        for node in block.nodes:
            env[node].replace_input_with(env[block.entry], entry)
        current = env[block.exit]
        for turn in range(2, len(list(group)) + 1):
            current = _copy_block(graph, env, block, (entry, current), turn)
    for user in following:
        user.replace_input_with(env[stack.blocks[-1].exit], current)
    for index, block in enumerate(stack.blocks):
        for node in block.nodes if index not in chosen else ():
            if is_write(node):
                graph.erase_node(env[node])


def _copy_block(
    graph: fx.Graph, env: Mapping[fx.Node, fx.Node], block: Block, entries: tuple[fx.Node, fx.Node], turn: int
) -> fx.Node:
    """The block once more, with its entry replaced (old, new), and copies of the tensors that it alone reads."""
    inner: dict[fx.Node, fx.Node] = {entries[0]: entries[1]}
    place = entries[1]
    for node in block.nodes:
        with graph.inserting_after(place):
            place = graph.node_copy(env[node], lambda each: inner.get(each, each))
        place.meta["member"] = replace(place.meta["member"], turn=turn, path=f"{block.name}_{turn}")
        if place.op == "get_attr":
            place.target = block.again(str(place.target), turn)
        inner[env[node]] = place
    return inner[env[block.exit]]


# -- the whole road --------------------------------------------------------------------------------------------------


def execute(plan: Plan, model: nn.Module, *, trace: Trace | None = None, fitted: Mapping[str, Tensor] | None = None) -> Child:
    """The child that a plan describes, as a module: the parent's graph rewritten, with tensors under the plan's names.

    Its gradients are right, and it is the parent in the mode that it was traced in (usually eval), without a second body for the other:
    to train with the parent's dropout or batch norm, `graphclone.save` the plan and load the module that it writes.

    **Arguments**: `model`, the parent, which is traced on the plan's example inputs; `trace`, if it has been traced already;
    `fitted`, the values of the plan's fitted tensors.

    **Raises** `PlanError` when the plan was made for another model.
    """
    if trace is None:
        if not plan.inputs:
            raise PlanError(
                "the plan does not say what inputs its parent was traced with",
                attempt="execute(plan, model, trace=capture(model, …))",
            )
        trace = capture(model, *example(plan.inputs, model), dynamic=plan.inputs.get("dynamic", False))
    if plan.inputs and plan.inputs.get("dynamic") != trace.inputs.get("dynamic"):
        raise PlanError(
            "the plan was made of a capture with other open sizes",
            because=f"the plan's are {plan.inputs.get('dynamic', 'none')}, these are {trace.inputs.get('dynamic', 'none')}",
            attempt="a plan of this trace, or execute(plan, model) without one",
        )
    layout = analyze(trace)
    check_fits(plan, layout)
    graph = child_graph(layout, plan)
    state = child_state(plan, trace.state, fitted)
    _rename(graph, plan, layout)
    for name, changes in plan.literals.items():
        if "value" in changes:
            state[name] = torch.full_like(state[name], float(changes["value"] or 0))
    for node in graph.nodes:
        for path, value in plan.literals.get(node.name, {}).items():
            _set_literal(node, path, value)
    trained = {name: piece.source for name, piece in plan.tensors.items() if piece.source in trace.parameters}
    child = build(layout.trace, graph, state, trained)
    if isinstance(model, nn.Module):  # an exported program has forgotten both
        child.meta["call"] = replace(child.meta["call"], order=positional(model))
        child.meta["trains"] = model.training
    return child


def check_fits(plan: Plan, layout: Layout) -> None:
    """**Raises** `PlanError` when the plan was made for another model."""
    found = {factor.name: factor.size for factor in layout.factors}
    for name, size in plan.sizes.items():
        if found.get(name) != size:
            says = f"has {found[name]} units here, {size} in the plan" if name in found else "is not in this model"
            raise PlanError("the plan was made for another model", because=f"'{name}' {says}", attempt="the parent of the plan")


def _rename(graph: fx.Graph, plan: Plan, layout: Layout) -> None:
    """Give the tensors of a child graph the plan's names: the k-th of a source is the k-th time that its block comes."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, piece in plan.tensors.items():
        names[piece.source].append(name)
    turns: dict[str, tuple[str, int]] = {}
    for stack in layout.blocks:
        for index, times in Counter(plan.stacks.get(stack.name, ())).items():
            block = stack.blocks[index]
            for source in (str(node.target) for node in block.nodes if node.op == "get_attr"):
                turns.update({block.again(source, turn): (source, turn - 1) for turn in range(1, times + 1)})
    for node in graph.nodes:
        if node.op == "get_attr":
            source, turn = turns.get(str(node.target), (str(node.target), 0))
            stands_in = plan.aliases.get(str(node.target))
            if turn >= len(names[source]) and stands_in not in plan.tensors:
                told = [remark for remark in plan.remarks if remark.startswith("the destination's graph differs")]
                raise PlanError(
                    f"the plan has no tensor for '{node.target}'",
                    because="; ".join(told) or "the parent is another graph here than it was for the plan",
                    attempt="other sizes of the destination, or none: widths and a depth alone rewrite the parent's graph"
                    if told
                    else "the parent of the plan (the command line's is graphclone.sources.load(FOLDER).module, without a KV cache)",
                )
            node.target = names[source][turn] if turn < len(names[source]) else str(stands_in)


def _set_literal(node: fx.Node, path: str, value: Any) -> None:
    """Replace one plain number among a call's arguments; `path` is `args.1` or `kwargs.scale`, deeper for lists."""
    where, *steps = path.split(".")

    def put(old: Any, steps: list[str]) -> Any:
        if not steps:
            return value
        if isinstance(old, Mapping):
            return {**old, steps[0]: put(old.get(steps[0]), steps[1:])}
        at = int(steps[0])
        return type(old)([*old[:at], put(old[at], steps[1:]), *old[at + 1 :]])

    setattr(node, where, put(tuple(node.args) if where == "args" else dict(node.kwargs), steps))
