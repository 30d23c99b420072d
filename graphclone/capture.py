"""Model → Trace: a functional ATen graph that reads its parameters by name.

`torch.export` (non-strict) traces the model; what it mutates is written out (`graphclone.inplace`, or torch's functionalisation, which
autocast needs too), sub-graphs that merely switch gradients (their results are then detached) or autocast off are inlined, and everything
lifted (parameters, buffers, constants) becomes a `get_attr`.
"""

from __future__ import annotations

import copy
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.utils import _pytree as pytree

from graphclone import decided, eased, inplace
from graphclone.decided import ASSERT, MARK, TOLD, deciding
from graphclone.dynamic import Dynamic, Open, at_sizes, compound, decided_sizes, settle, settled, shapes_for
from graphclone.errors import CaptureError
from graphclone.faithful import detach_no_grad, forgetful, own_backwards, remarks, uncached
from graphclone.inputs import describe
from graphclone.parity import Inputs, as_it_was, outputs, own, parity
from graphclone.unbacked import make_concrete
from graphclone.written import is_write, restore, write_buffers

_OWN = {__file__, decided.__file__, eased.__file__, inspect.getfile(own)}
_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}  # higher-order op → where its sub-graph stands


@dataclass(frozen=True)
class Trace:
    """A model as a graph of ATen calls.

    **Attributes**

    - `graph`: placeholders are the user's inputs; every parameter, buffer and constant is a `get_attr` of its name.
    - `state`: the tensors that the graph reads, by name (on `meta` if the model was).
    - `parameters`: the names in `state` that are trainable; the others are buffers and constants.
    - `aliases`: other names of the same parameter (ties) → the name that the graph uses.
    - `unused`: parameters and buffers of the model that never reach the output.
    - `in_spec`, `out_spec`: the call signature, as pytree specs; `arguments`: the names of the positional ones.
    - `inputs`: the example inputs as data (see `graphclone.inputs`).
    - `modules`: node → dotted path of the module that called it.
    - `open`: the sizes that may vary, if any (see `graphclone.dynamic`); then a node's `val` is its value at the example sizes.
    - `remarks`: what the graph cannot keep of the model.
    """

    graph: fx.Graph
    state: Mapping[str, Tensor]
    parameters: frozenset[str]
    aliases: Mapping[str, str]
    unused: tuple[str, ...]
    in_spec: Any
    out_spec: Any
    arguments: tuple[str, ...]
    inputs: Mapping[str, Any] = field(repr=False)
    modules: Mapping[fx.Node, str] = field(repr=False)
    open: Open | None = None
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Trace({len(self.graph.nodes)} nodes, {len(self.parameters)} parameters)"


def capture(
    model: nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic = False,
    writes: bool = False,
    check: bool = True,
) -> Trace:
    """Trace a model on example inputs.

    **Arguments**

    - `model`, a module (on any device, `meta` too; its train/eval state is respected) or a ready-made `ExportedProgram`;
    - `args`, `kwargs`, inputs as the model's `forward` takes them;
    - `dynamic`: True leaves every size of the inputs open that the model allows to vary (`Trace.open` says which), so that a
      child runs at other batch and sequence sizes. A mapping is handed to torch.export as its `dynamic_shapes`. The example
      inputs should have a batch and a sequence of different lengths above 1: torch takes 1 to be fixed;
    - `writes`: keep what the model writes into its buffers as it runs, such as statistics of batches in train mode;
    - `check`: run the model and the graph once on the example inputs (unless they are on the meta device, or draw random numbers), and
      say so in the remarks if they differ.

    **Raises** `CaptureError` with the place in the model that torch.export cannot trace.
    """
    if not isinstance(args, tuple):
        raise CaptureError(
            f"`args` cannot be a {type(args).__name__}", attempt="a tuple: (x,) for a single input; named ones are `kwargs`"
        )
    backwards: list[str] = []
    dropped: list[str] = []
    if isinstance(model, ExportedProgram):
        program = model
    else:
        with own_backwards(backwards):
            program = _program(
                model, lambda traced: _export(traced, lambda: forgetful(_twin(model)), args, dict(kwargs or {}), dynamic, dropped)
            )
    detach_no_grad(program)
    decisions = asserted(_graphs(program.graph_module))
    rewriting = [node for graph in _graphs(program.graph_module) for node in graph.nodes if _rewrites(node)]
    if rewriting and not _purified(program, rewriting):
        program = _functional(program)
    trace = _unlift(program, _aliases(model, program), _arguments(model, len(args)), writes)
    if trace.open is not None and trace.open.single:
        if isinstance(model, ExportedProgram) or isinstance(dynamic, Mapping):
            raise CaptureError(
                f"no second size is known that the model allows, beside those of the example: {trace.open}",
                attempt="dynamic=True, which leaves open what can be tried at two sizes",
            )
        return capture(model, args, kwargs, dynamic=trace.open.without(trace.open.single), writes=writes, check=check)
    if asserted([trace.graph]) != decisions:
        raise CaptureError(
            "torch drops the check of a value that decides what the model computes",
            because=f"{decisions} values of the inputs do, and the graph checks {asserted([trace.graph])}",
            attempt="the model without in-place ops or autocast around the `if`",
        )
    told = [*_swallowed(model, trace), *remarks(program, trace.unused, backwards, dropped, decisions)]
    if (
        check
        and not isinstance(model, ExportedProgram)
        and not writes
        and (differs := _parity(model, trace, (args, dict(kwargs or {}))))
    ):
        told.append(differs)
    return replace(trace, remarks=tuple(told))


def _handles(inputs: Inputs) -> Inputs:
    """The same tensors by other handles: torch marks the open dims on those that it is given, and an export that fails leaves them so."""
    seen: dict[int, Tensor] = {}

    def handle(tensor: Tensor) -> Tensor:
        return seen.setdefault(id(tensor), tensor.detach().requires_grad_(tensor.requires_grad))

    found: Inputs = pytree.tree_map_only(Tensor, handle, inputs)
    return found


def _swallowed(model: nn.Module | ExportedProgram, trace: Trace) -> Iterator[str]:
    """Inputs that the model's `**kwargs` took, and nothing read: their names may be misspelt."""
    if isinstance(model, ExportedProgram):
        return
    taken = inspect.signature(model.forward).parameters
    _, kwargs = pytree.tree_unflatten([node for node in trace.graph.nodes if node.op == "placeholder"], trace.in_spec)
    for name in kwargs.keys() - taken.keys():
        if not any(node.users for node in pytree.tree_leaves(kwargs[name]) if isinstance(node, fx.Node)):
            yield f"the model never reads the input '{name}': its forward takes ({', '.join(taken)})"


def _parity(model: nn.Module, trace: Trace, inputs: Inputs) -> str | None:
    """What is to be said if the graph is not the model; asked of a twin, in which the run may leave what it likes.

    **Raises** `CaptureError` where the model itself does not run: torch.export looks at no values (an index too large)."""
    try:
        return parity(_twin(model), trace.graph, trace.state, inputs)
    except Exception as error:
        runs(_twin(model), *inputs)
        return f"whether the graph computes what the model does could not be tried: {type(error).__name__}: {error}"


def _program(model: nn.Module, export: Callable[[nn.Module], ExportedProgram]) -> ExportedProgram:
    """The model as torch.export sees it; where functions of its twin still read the model's own tensors, it is the model itself."""
    twin = _twin(model)
    program = export(twin)
    try:
        return uncached(program, twin, export)
    except CaptureError as baked:
        if twin is model:
            raise
        try:
            return uncached(export(model), model, export)
        except CaptureError:
            raise baked from None


def _twin(model: nn.Module) -> nn.Module:
    """The model once more, its tensors shared: whatever a traced forward leaves behind (caches of tensors that have no values) is not
    left in the user's model."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        twin: nn.Module = copy.deepcopy(model, shared)
    except Exception:  # a lock, an open file, a tensor that was computed: then it is the model itself that is traced
        return model
    return twin


def _export(
    model: nn.Module,
    fresh: Callable[[], nn.Module],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic: Dynamic,
    dropped: list[str],
) -> ExportedProgram:
    """`fresh`: the model as it was, for a second attempt: the first may have left something behind."""
    given, (args, kwargs) = (args, kwargs), _handles((args, kwargs))
    try:
        shapes = shapes_for(dynamic, model, args, kwargs)
        with _use_lazy_graph_module(True):  # nobody runs torch's modules on the way: a quarter of the time
            try:
                with eased.eased(model, dropped):
                    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
            except Exception:
                if dynamic:
                    raise
            again = fresh()
            with eased.eased(again, dropped), deciding(again, args, kwargs):
                return torch.export.export(again, args, kwargs, strict=False)
    except Exception as error:
        runs(fresh(), *given)
        where = source_line(str(error)) or _last_frame(error)
        raise CaptureError(
            f"torch.export cannot trace {type(model).__name__}: {_first_line(error)}",
            because=f"it stops at {where}" if where else f"of {type(error).__name__}",
            attempt="another attention implementation, the KV cache off (use_cache=False), or other example inputs; "
            "a data-dependent `if` on a tensor has to become torch.where" + ("; or no open sizes" if dynamic else ""),
        ) from error


def runs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """**Raises** `CaptureError` where the model takes such inputs no more than the graph would."""
    if any(isinstance(each, Tensor) and each.is_meta for each in pytree.tree_leaves((args, dict(kwargs)))):
        return  # there are no values, which a model may ask for
    try:
        with as_it_was(model):
            outputs(model, own((args, dict(kwargs))))
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} does not run on the example inputs: {_first_line(error)}",
            because=f"it stops at {where}" if (where := _last_frame(error)) else f"it raises {type(error).__name__}",
            attempt="smaller integers: a table has no such row"
            if isinstance(error, IndexError)
            else f"what its forward takes: {inspect.signature(model.forward)}",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def at_other_sizes(trace: Trace) -> Trace:
    """The same trace with its open sizes at others, and those that it has now as its other ones."""
    assert trace.open is not None
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(trace.graph, env))
    sizes = {**decided_sizes(graph.nodes), **trace.open.other}
    for node in graph.nodes:
        if "open" in node.meta:
            node.meta["val"] = at_sizes(node.meta["open"], sizes)
    found = replace(trace.open, sizes=trace.open.other, other=trace.open.sizes)
    return replace(trace, graph=graph, open=found, modules={env[node]: path for node, path in trace.modules.items()})


def _purified(program: ExportedProgram, rewriting: list[fx.Node]) -> bool:
    """Write the mutations out where that takes no second trace. **Returns** whether it did."""
    for graph in _graphs(program.graph_module):
        inplace.same(graph)
    if not all(map(inplace.mutates, rewriting)):
        return False
    graphs = {node.graph for node in rewriting}
    owners = [each for each in program.graph_module.modules() if isinstance(each, fx.GraphModule) and each.graph in graphs]
    found = [(owner, new) for owner in owners if (new := inplace.pure(owner.graph)) is not None]
    if len(found) < len(owners):
        return False
    for owner, new in found:
        owner.graph = new
    return True


def _functional(program: ExportedProgram) -> ExportedProgram:
    try:
        with _use_lazy_graph_module(True):
            program = program.run_decompositions({})
    except Exception as error:
        where = source_line(str(error))
        raise CaptureError(
            f"torch cannot write out the mutations and casts of the graph: {_first_line(error)}",
            because=f"it stops at {where}" if where else f"of {type(error).__name__}",
            attempt="the model without autocast around its forward, or without in-place ops",
        ) from error
    return program


def _last_frame(error: BaseException) -> str | None:
    """The deepest frame outside torch: the user's own line."""
    where, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if f"{'torch'}/" not in name.replace("\\", "/") and name not in _OWN:
            where = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where


def source_line(stack_trace: str | None) -> str | None:
    """`modeling_foo.py:123` of the deepest frame in a node's stack trace that is not torch's own."""
    found = re.findall(r'File "([^"<]+)", line (\d+)', stack_trace or "")  # `<eval_with_key>` is a file of torch's own making
    frames = [(path.replace(chr(92), "/"), line) for path, line in found]
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    return f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else None


def _graphs(module: fx.GraphModule) -> list[fx.Graph]:
    return [each.graph for each in module.modules() if isinstance(each, fx.GraphModule)]


def _rewrites(node: fx.Node) -> bool:
    """What torch's functionalisation has to write out: mutations, the casts of autocast, and a function under `torch.vmap`."""
    name = getattr(node.target, "__name__", "")
    if name == "wrap_with_autocast":
        return node.args[2] is True
    if name == "flat_apply":
        return True
    return inplace.mutates(node)


def _aliases(model: nn.Module | ExportedProgram, program: ExportedProgram) -> dict[str, str]:
    """Every further name of a tied parameter → the first name that it has."""
    named = model.named_parameters(remove_duplicate=False) if isinstance(model, nn.Module) else program.state_dict.items()
    first: dict[int, str] = {}
    return {name: first[id(tensor)] for name, tensor in named if first.setdefault(id(tensor), name) != name}


def _arguments(model: nn.Module | ExportedProgram, count: int) -> tuple[str, ...]:
    """What `forward` calls its first arguments; a program has forgotten it."""
    if isinstance(model, ExportedProgram):
        return tuple(f"arg{i}" for i in range(len((model.example_inputs or ((),))[0])))
    named = positional(model)
    return tuple(named[i] if i < len(named) else f"arg{i}" for i in range(count))


def positional(model: nn.Module) -> tuple[str, ...]:
    """The arguments of `forward` that may be given by position, in order."""
    parameters = inspect.signature(model.forward).parameters.values()
    return tuple(each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD))


def _unlift(program: ExportedProgram, aliases: Mapping[str, str], arguments: tuple[str, ...], writes: bool) -> Trace:
    """Copy the program's graph, with get_attr nodes for whatever was lifted and wrappers inlined. `writes`: and with what it writes."""
    lifted = {spec.arg.name: spec for spec in program.graph_signature.input_specs if spec.kind != InputKind.USER_INPUT}
    graph, parameters = fx.Graph(), set()
    modules: dict[fx.Node, str] = {}
    state: dict[str, Tensor] = {}
    env: dict[fx.Node, Any] = {}
    for old in program.graph.nodes:
        if old.op == "placeholder" and old.name in lifted:
            if not old.users and not (
                writes and str(lifted[old.name].target) in program.graph_signature.buffers_to_mutate.values()
            ):
                continue
            spec = lifted[old.name]
            name = aliases.get(str(spec.target), str(spec.target))
            source = program.state_dict if name in program.state_dict else program.constants
            state[name] = source[name]
            if spec.kind == InputKind.PARAMETER:
                parameters.add(name)
            env[old] = graph.create_node("get_attr", name)
            env[old].meta = {"val": old.meta["val"]}
        elif old.op != "output" and not restore(old, graph, env, writes):
            _copy(old, program.graph_module, graph, env, modules)
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    user = len(program.graph_signature.user_outputs)  # mutated buffers come first, and nobody reads them afterwards
    results = output.args[0][len(output.args[0]) - user :]
    if writes:
        write_buffers(program, graph, env)
    graph.output(tuple(env[each] if isinstance(each, fx.Node) else each for each in results))
    prune(graph)
    args, kwargs = program.example_inputs or ((), {})
    inputs, found = describe(args, kwargs), settle(graph, program)
    for node in graph.nodes:
        node.meta["val"] = at_sizes(node.meta.get("val"), {})  # sizes that torch has settled by now
    make_concrete(graph, state, (args, kwargs))
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    unused = tuple(name for name in program.state_dict if aliases.get(name, name) not in used)
    modules = {node: path for node, path in modules.items() if not node._erased}
    return Trace(
        graph,
        state={name: tensor for name, tensor in state.items() if name in used},
        parameters=frozenset(parameters & used),
        aliases=aliases,
        unused=unused,
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        arguments=arguments,
        inputs=inputs | ({"dynamic": found.dims} if found and inputs else {}),
        modules=modules,
        open=found,
    )


def prune(graph: fx.Graph) -> None:
    """Remove what no output needs. (FX by itself would keep whatever may draw random numbers, attention and dropout among it.)"""
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in ("placeholder", "output") or node.target is ASSERT or is_write(node)
    )


def _copy(old: fx.Node, owner: fx.GraphModule, graph: fx.Graph, env: dict[fx.Node, Any], modules: dict[fx.Node, str]) -> None:
    name = getattr(old.target, "__name__", str(old.target))
    if name in _WRAPPERS:
        at = _WRAPPERS[name]
        inner = getattr(owner, str(old.args[at].target))  # type: ignore[union-attr]
        env[old] = _inline(inner, [env[arg] if isinstance(arg, fx.Node) else arg for arg in old.args[at + 1 :]], graph, modules)
    elif old.target is operator.getitem and isinstance(env.get(old.args[0]), (tuple, list)):  # type: ignore[arg-type]
        env[old] = env[old.args[0]][old.args[1]]  # type: ignore[index]
    elif old.op == "get_attr" and isinstance(getattr(owner, str(old.target), None), fx.GraphModule):
        pass  # a wrapper's sub-graph, inlined where it is called
    elif isinstance(old.target, torch._ops.HigherOrderOperator):
        where = source_line(old.meta.get("stack_trace"))
        raise CaptureError(
            f"the graph has a sub-graph that cannot be analysed: {name}" + (f" at {where}" if where else ""),
            because="which of its branches or how many of its turns run is known only when the model runs",
            attempt="torch.where in place of torch.cond, a Python loop in place of a scan or a while_loop",
        )
    elif old.target is ASSERT:
        if str(old.args[1]).startswith(MARK):
            _assert_decided(old, graph, env)
        elif str(old.args[1]).startswith(TOLD):
            graph.node_copy(old, env.__getitem__)
    elif "_assert_tensor_metadata" in str(old.target) or old.op == "call_module":
        pass  # checks that would forbid the child another dtype or device
    else:
        env[old] = new = explicit(graph.node_copy(old, env.__getitem__))
        stack = list((old.meta.get("nn_module_stack") or {}).values())
        modules[new] = re.sub(r"@\d+$", "", stack[-1][0]) if stack else ""


def _assert_decided(old: fx.Node, graph: fx.Graph, env: dict[fx.Node, Any]) -> None:
    """An assertion of `graphclone.decided`, with words for whoever gives a child inputs that decide otherwise."""
    same: Any = old.args[0]
    source, value = same.args
    env[source].meta["val"], env[same].meta["val"] = value, True
    told = f"{TOLD} it computes {value}{str(old.args[1]).removeprefix(MARK)}: a graph of it cannot take others"
    graph.call_function(ASSERT, (env[same], told)).meta["val"] = None


def asserted(graphs: Iterable[fx.Graph]) -> int:
    """How many values of the inputs are asserted."""
    calls = (node for graph in graphs for node in graph.nodes if node.target is ASSERT)
    return sum(str(node.args[1]).startswith((MARK, TOLD)) for node in calls)


def explicit(node: fx.Node) -> fx.Node:
    """State what an op leaves to be worked out from a size: a child's chunks may be unequal, its ends stand elsewhere."""
    aten, val = torch.ops.aten, node.meta.get("val")
    if node.target in (aten.view.default, aten._unsafe_view.default):
        node.target = aten.reshape.default  # a child's strides may be others, and so the op that its class is traced to
    if node.target is aten.reshape.default:
        shape = list(node.args[1])  # type: ignore[arg-type]
        computed = [i for i, size in enumerate(shape) if isinstance(size, fx.Node) and compound(size.meta["val"])]
        if computed and -1 not in shape:  # `batch * heads` is what is left: a child has fewer heads
            node.args = (node.args[0], [*shape[: computed[0]], -1, *shape[computed[0] + 1 :]])
    elif node.target is aten.repeat_interleave.self_Tensor and "output_size" not in node.kwargs:  # values have decided it
        size = val.shape[node.args[2] if len(node.args) > 2 and node.args[2] is not None else 0]  # type: ignore[union-attr]
        if settled(size):
            node.kwargs = {**node.kwargs, "output_size": int(size)}
    elif node.target is aten.copy.default:  # it has no derivative; what is written takes the place's shape and dtype
        place, written = node.args[:2]
        if written.meta["val"].dtype != val.dtype:  # type: ignore[union-attr]
            with node.graph.inserting_before(node):
                cast = node.graph.call_function(aten.to.dtype, (written, val.dtype))  # type: ignore[union-attr]
            cast.meta = {**node.meta, "val": written.meta["val"].to(val.dtype)}  # type: ignore[union-attr]
            written = cast
        node.target, node.args, node.kwargs = aten.expand_as.default, (written, place), {}
    if node.target in (aten.chunk.default, aten.split.Tensor, aten.unsafe_split.Tensor, aten.unsafe_chunk.default):
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        sizes = [piece.shape[dim] for piece in val]  # type: ignore[union-attr]
        if all(isinstance(size, int) for size in sizes):
            node.target, node.args, node.kwargs = aten.split_with_sizes.default, (node.args[0], sizes, dim), {}
    elif node.target in (aten.slice.Tensor, aten.select.int, aten.slice_scatter.default, aten.select_scatter.default):
        at = 1 + ("scatter" in str(node.target))  # where the dim stands; what is written stands before it
        size = node.args[0].meta["val"].shape[node.args[at] if len(node.args) > at else 0]  # type: ignore[union-attr]
        if isinstance(size, int):
            rest = (max(arg + size, 0) if isinstance(arg, int) and arg < 0 else arg for arg in node.args[at + 1 : at + 3])
            node.args = (*node.args[: at + 1], *rest, *node.args[at + 3 :])
    return node


def _inline(inner: fx.GraphModule, args: Sequence[Any], graph: fx.Graph, modules: dict[fx.Node, str]) -> Any:
    env: dict[fx.Node, Any] = {}
    remaining = iter(args)
    for node in inner.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(remaining)
        elif node.op == "output":
            return fx.map_arg(node.args[0], env.__getitem__)
        else:
            _copy(node, inner, graph, env, modules)
    raise AssertionError("a graph without an output")
