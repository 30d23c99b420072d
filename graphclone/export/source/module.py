"""One or two rewritten graphs (in eval mode, and in train mode) as one Python module."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from graphclone.errors import OutputError
from graphclone.execute.graph import Child
from graphclone.export import grouped
from graphclone.export.source import template
from graphclone.export.source.blocks import looped, ordered, sections
from graphclone.export.source.body import Function, Section, majority, tensors, write
from graphclone.export.source.classes import Class, class_text
from graphclone.export.source.names import base, camel, misnamed
from graphclone.export.source.signature import signature
from graphclone.export.source.structure import built, records

WEIGHTS, MODULE = "model.safetensors", "modeling.py"


@dataclass(frozen=True)
class Source:
    """What is written: the graphs of the `modes` (`eval`, and `train` where there is one), the child's tensors by name, `ties` (further
    name → name), and `untrained`, why there is no train mode."""

    modes: Mapping[str, Child]
    state: Mapping[str, Tensor]
    ties: Mapping[str, str]
    untrained: str = ""


def source(
    child: Child, train: Child | None = None, ties: Mapping[str, str] | None = None, untrained: str = "it has an eval mode only"
) -> Source:
    """Gather what is written. **Raises** `OutputError` for a tensor whose name no module can have."""
    modes = {"eval": child} if train is None else {"eval": child, "train": train}
    state: dict[str, Tensor] = {}
    for each in modes.values():
        for name, tensor in held(each).items():
            assert torch.equal(state.setdefault(name, tensor), tensor) or tensor.isnan().any(), "two modes, and two weights"
    for name in state:
        if part := misnamed(name):
            raise OutputError(f"cannot write '{name}' as Python", because=f"every module has an attribute '{part}' of its own")
    found = {alias: name for alias, name in (ties or {}).items() if name in state and alias not in state}
    return Source(modes, state, found, "" if train is not None else untrained)


def held(child: Child) -> dict[str, Tensor]:
    """The tensors that a graph reads, by the names that its plan gives them."""
    found = {**dict(child.named_parameters(remove_duplicate=False)), **dict(child.named_buffers(remove_duplicate=False))}
    return {name: found[attribute] for attribute, name in attributes(child.graph).items()}


def attributes(graph: fx.Graph) -> dict[str, str]:
    """Attribute of a graph module → the name of the tensor."""
    return {str(node.target): node.meta["tensor"] for node in graph.nodes if node.op == "get_attr"}


def text(it: Source, version: str) -> str:
    """The Python module. **Raises** `OutputError` for what it cannot say."""
    outputs = list(dict.fromkeys(each for child in it.modes.values() for each in records(child.meta["call"].out_spec)))
    found = {mode: sections(child.graph, list(it.state)) for mode, child in it.modes.items()}
    it = replace(it, state={name: it.state[name] for name in _in_order(it, found)})
    names, real = list(it.state), majority(it.state.values())
    blocks = dict(_blocks(it, found, real))
    titles = _titles(blocks)
    called = signature(it.modes["eval"])
    functions = {
        mode: _root(child, found[mode], names, real, {place: each.method(mode) for place, each in blocks.items()})
        for mode, child in it.modes.items()
    }
    root = Class(tuple(_made(it, blocks, titles)), functions)
    classes = [class_text(title, blocks[place]) for title, place in {title: place for place, title in titles.items()}.items()]
    classes.append(class_text("Model", root, called, it.untrained))
    body = "\n\n".join([*outputs, *classes])
    helpers = [template.PARTS, *([template.TIE] if it.ties else []), *([template.EXPECT] if "expect(" in body else [])]
    helpers += [grouped.HELPER] if "grouped_mm(" in body else []
    helpers += [template.OUTPUT] if "(Output)" in body else []
    ties = f"TIES = {{{', '.join(map(repr, it.ties))}}}\n" if it.ties else "TIES = set()\n"
    return "\n\n".join([template.head(version, MODULE, body) + ties, *helpers, body, template.LOAD.format(weights=WEIGHTS)])


def _in_order(it: Source, found: Mapping[str, Sequence[Section]]) -> list[str]:
    """The tensors in the order in which modules are made: those with further names first, since the first name is the one that counts;
    the blocks of a container as they are run."""
    places = {name: place for place, name in enumerate(it.state)}
    rank: dict[str, tuple[int, int]] = {}
    for written in found.values():
        for container, stack in itertools.groupby(written, lambda each: each.path.rpartition(".")[0]):
            inside = [[name for name in _read(each).values() if name.startswith(f"{container}.")] for each in stack]
            first = min((places[name] for names in inside for name in names), default=0)
            rank = {name: (first, number) for number, names in enumerate(inside) for name in names} | rank
    tied = set(it.ties.values())
    return sorted(places, key=lambda name: (name not in tied, *rank.get(name, (places[name], 0)), places[name]))


def _blocks(it: Source, found: Mapping[str, Sequence[Section]], real: torch.dtype | None) -> Iterator[tuple[str, Class]]:
    """Every block that is a module, by its path."""
    for place in dict.fromkeys(each.path for written in found.values() for each in written):
        functions: dict[str, Function] = {}
        read: dict[str, Tensor] = {}
        for mode, all_ in found.items():
            for section in all_:
                if section.path == place:
                    inside = {a: n for a, n in _read(section).items() if n.startswith(f"{place}.")}
                    read |= {name: it.state[name] for name in inside.values()}
                    short = {a: n.removeprefix(f"{place}.") for a, n in inside.items()}
                    own = tensors(short, {a: it.state[n] for a, n in inside.items()}, real)
                    written = write(section, section.nodes, _arguments(section), own)
                    functions[mode] = Function(written.arguments, (*written.lines, f"return {', '.join(written.returned)}"))
        made = itertools.chain.from_iterable(_tensor(name.removeprefix(f"{place}."), tensor) for name, tensor in read.items())
        yield place, Class(tuple(made), functions, frozenset(read))


def _read(section: Section) -> dict[str, str]:
    """The tensors that the nodes of a section read: attribute → name."""
    return {str(s.target): s.meta["tensor"] for node in section.nodes for s in node.all_input_nodes if s.op == "get_attr"}


def _arguments(section: Section) -> list[str]:
    """What a block calls its inputs: the stream `x`, all else as it is called outside."""
    found: list[str] = []
    for node in section.inputs:
        last = node.meta["tensor"].rpartition(".")[2] if node.op == "get_attr" else node.name
        wanted = name = "x" if node is section.entry else base(last)
        number = 1
        while name in found or (name == "x" and node is not section.entry):
            name, number = f"{wanted}_{number}", number + 1
        found.append(name)
    return found


def _titles(blocks: Mapping[str, Class]) -> dict[str, str]:
    """A name for the class of each block; equal blocks share it."""
    titles: dict[str, str] = {}
    known: dict[tuple[str, Class], str] = {}
    for place, each in blocks.items():
        wanted = next((part for part in reversed(place.split(".")) if part.isidentifier()), "")
        wanted = f"{re.sub('Blocks?$', '', camel(wanted))}Block"
        used = {title for title in known.values() if title.rstrip("0123456789") == wanted}
        titles[place] = known.setdefault((wanted, each), f"{wanted}{len(used) + 1 if used else ''}")
    return titles


def _root(
    child: Child, found: Sequence[Section], names: Sequence[str], real: torch.dtype | None, methods: Mapping[str, str]
) -> Function:
    called, call = signature(child), child.meta["call"]
    direct = [(node, where) for node, where in called.places if where in called.names]
    (output,) = next(reversed(child.graph.nodes)).args
    whole = Section("", tuple(node for node, _ in direct), tuple(child.graph.nodes), tuple(output))
    items = ordered(child.graph, found)
    assert items is not None, "sections that cannot be run one by one"
    written = write(
        whole,
        list(looped(items, names)),
        [where for _, where in direct],
        tensors(attributes(child.graph), {a: held(child)[n] for a, n in attributes(child.graph).items()}, real),
        methods.__getitem__,
        [(node, where) for node, where in called.places if where not in called.names],
    )
    return Function(called.names, (*written.lines, f"return {built(call.out_spec, iter(written.returned))}"))


def _made(it: Source, blocks: Mapping[str, Class], titles: Mapping[str, str]) -> Iterator[str]:
    """The statements that make the child's tensors and blocks, those of a container in a loop."""
    owner = {name: place for place, each in blocks.items() for name in each.tensors}
    within = {name for name in it.state for place in blocks if name not in owner and name.startswith(f"{place}.")}
    order = dict.fromkeys(owner.get(name, name) for name in it.state if name not in within)
    for (container, made), run in itertools.groupby(order, lambda each: (each.rpartition(".")[0], titles.get(each))):
        places = list(run)
        if made is None:
            for name in places:
                yield from _tensor(name, it.state[name])
        elif len(places) == 1:
            yield f"place(self, {places[0]!r}, {made}())"
        else:
            yield f"for name in {tuple(place.rpartition('.')[2] for place in places)!r}:"
            yield f"    place(self, {f'{container}.' if container else ''!r} + name, {made}())"
    for name in sorted(within):  # what a block holds, and something else reads
        yield from _tensor(name, it.state[name])
    for alias, name in it.ties.items():
        yield f"tie(self, {alias!r}, {name!r})"


def _tensor(name: str, tensor: Tensor) -> Iterator[str]:
    kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
    dtype = [f"dtype={tensor.dtype}"] if tensor.dtype != torch.float32 else []
    frozen = ["trained=False"] if kind == "parameter" and not tensor.requires_grad else []
    yield f"{kind}(self, {', '.join([repr(name), *map(str, tensor.shape), *dtype, *frozen])})"
