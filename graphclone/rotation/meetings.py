"""Who meets a stream, and how: whether any rotation of its units leaves the function as it is, and which tensors turn with it.

A stream may be turned where everything that it meets is linear in it, or a norm: then x → Qᵀx can be undone in the weights that read
it (the invariance of SliceGPT, arXiv 2401.15024, §3; here one Q for the whole stream). Each value on the stream is one of three things:

- a *vector*: it turns with the stream, maybe once a `gain` (a norm's γ) and an `offset` (β) are folded into the weights that read it;
- a *square*: of a vector without gain; nothing but a sum or a mean over all units may become of it, which no rotation changes;
- a *gain*: parameters that scale the units one by one, and have to be folded away.

Whatever is none of these stops the rotation, with the line of the model.

The units inside heads (`head_dim`) may be turned in the same way, each head by itself: values, and queries and keys where no rotary
embedding meets them. There nothing is folded, and each unit has to say at every place to which head it belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.errors import FrozenError
from graphclone.layout import Layout
from graphclone.rotation.places import Places
from graphclone.rules import Contraction, Reason, Typed, elementwise, identity, name_of, rule_for

Slot = tuple[str, int]
TURNABLE = ("residual", "head_dim")  # the kinds of factors that `meetings` is asked about


@dataclass(frozen=True)
class Meetings:
    """What turns with a stream.

    - `writers`, `readers`: the slots (parameter, dim) that write to the stream and those that are summed with it;
    - `gains`: slot of a reader → the gain that is folded into it; `neutral`: gain → what it is set to, so that it scales by one;
    - `offsets`: slot of a reader → (offset, the reader's bias that takes it);
    - `centred`: a norm subtracts the mean of the units, so that the stream may be centred where it is written;
    - `heads`: of units inside heads, what they may turn differently for.
    """

    factor: Factor
    writers: frozenset[Slot]
    readers: frozenset[Slot]
    gains: Mapping[Slot, str] = field(default_factory=dict)
    neutral: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[Slot, tuple[str, str]] = field(default_factory=dict)
    centred: bool = False
    heads: Factor | None = None

    def places(self, layout: Layout, name: str, dim: int) -> Places:
        """Where a parameter has the units."""
        found = Places.of(layout.axes(name), dim, self.factor, self.heads)
        assert found is not None  # each was looked at on the way
        return found

    def changes(self) -> set[str]:
        """All tensors that are other ones on a turned stream."""
        slots = {name for name, _ in self.writers | self.readers}
        return slots | set(self.neutral) | {bias for _, bias in self.offsets.values()}


def meetings(layout: Layout, factor: Factor) -> Meetings:
    """**Raises** `FrozenError` that says what of the model is changed by a rotation, and where."""
    return _Walk(layout, factor).result()


@dataclass(frozen=True)
class _Seen:
    form: str = "vector"
    gain: str | None = None
    offset: str | None = None
    bare: str | None = None  # the parameter that it is a view of
    centred: bool = False  # its mean over the units is zero but for gain and offset


class _Walk:
    """From the inputs to the outputs, once."""

    def __init__(self, layout: Layout, factor: Factor) -> None:
        self.layout, self.factor = layout, factor
        self.seen: dict[fx.Node, _Seen] = {}
        self.writes: set[Slot] = set()
        self.reads: dict[Slot, set[tuple[str | None, str | None, str | None]]] = {}
        self.neutral: dict[str, float] = {}
        self.centred = False
        self.raw: fx.Node | None = None  # what reads the stream with its mean
        self.summed: dict[fx.Node, Contraction] = {}
        if factor.frozen is not None:
            raise self._refused(str(factor.frozen), None)
        if factor.interface:
            raise self._refused("it is part of the model's inputs or outputs", None)
        self.inside = factor.kind == "head_dim"
        self.heads = _heads(layout, factor) if self.inside else None
        for each in layout.contractions:
            if factor in algebra.factors(each.axis) and self.summed.setdefault(each.node, each) is not each:
                raise self._refused("its units are summed with themselves", each.node)
        for node in layout.trace.graph.nodes:
            inputs = [each for each in node.all_input_nodes if each in self.seen]
            if node.op == "get_attr" and self._on(node):
                if node.target not in layout.trace.parameters:
                    raise self._refused(f"'{node.target}' is a buffer: its class would compute it again, as it was", node)
                self.seen[node] = _Seen(bare=str(node.target))
            elif node.op == "call_function" and (inputs or self._on(node)):
                found = self._met(node, inputs)
                if found is not None:
                    value = node.meta.get("val")
                    if isinstance(value, Tensor) and not value.is_floating_point():
                        raise self._refused("its values are rounded to whole numbers, or are complex", node)
                    self.seen[node] = found

    def result(self) -> Meetings:
        gains, offsets, readers = {}, {}, set()
        for slot, folds in self.reads.items():
            if len(folds) > 1 or (slot in self.writes and (folds != {(None, None, None)} or self.centred)):
                raise self._refused(
                    f"'{slot[0]}' is used in two ways, and a norm's gain can be folded into one of them only", None
                )
            ((gain, offset, bias),) = folds
            readers.add(slot)
            if gain is not None:
                gains[slot] = gain
            if offset is not None and bias is not None:
                offsets[slot] = offset, bias
        if self.centred and self.raw is not None:
            raise self._refused("one norm takes the mean of its units away, and this reads them with it", self.raw)
        biases = {bias for _, bias in offsets.values()}
        if used := self.neutral.keys() & {*(name for name, _ in self.writes | readers), *biases}:
            raise self._refused(f"'{used.pop()}' is a gain in one place and part of the stream in another", None)
        slots = frozenset(self.writes), frozenset(readers)
        found = Meetings(self.factor, *slots, gains, self.neutral, offsets, self.centred, self.heads)
        for name in found.changes():
            if not (tensor := self.layout.trace.state[name]).is_floating_point() or tensor.element_size() < 2:
                raise self._refused(f"'{name}' holds {tensor.dtype}, which cannot be turned", None)
        return found

    # -- one node ----------------------------------------------------------------------------------------------------------

    def _met(self, node: fx.Node, inputs: list[fx.Node]) -> _Seen | None:
        name = name_of(node.target)
        if identity(node.target) or name.endswith("_as"):  # the second is read for its shape or dtype only
            inputs = [each for each in inputs if each is node.args[0]]
        if name in ("aten.zeros", "aten.new_zeros", "aten.zeros_like"):
            return _Seen() if self._on(node) else None
        if not inputs:
            if not self._on(node):  # it had only the dtype or shape of what is on the stream
                return None
            raise self._refused("a value is spread over its units", node)
        if self.heads is not None:
            self._same_heads(node, self.heads)
        if name in ("aten.layer_norm", "aten.rms_norm"):
            return self._normed(node, name)
        if node in self.summed:
            self._summed(node)
            return self._written(node, [each for each in inputs if each not in self._operands(node)]) if self._on(node) else None
        if not self._on(node) and not isinstance(node.meta.get("val"), (tuple, list)):
            if name == "aten.sym_size" or (self.inside and _moves(node)):  # what lay beside it: queries beside values
                return None
            raise self._refused("its units are neither kept nor summed", node)
        if name in ("aten.mul", "aten.multiply"):
            return self._multiplied(node, inputs)
        if name in ("aten.pow", "aten.square") and (name == "aten.square" or node.args[1] == 2):
            return self._square(node, inputs[0])
        if name in ("aten.add", "aten.sub"):
            return self._added(node, inputs)
        if name in ("aten.div", "aten.neg", "aten.masked_fill", "aten.where", "aten.lerp"):
            return self._scaled(node, inputs, name)
        if identity(node.target) or _moves(node):
            return self._alike(node, inputs)
        if name in ("aten.sum", "aten.mean"):  # over other dims
            return self._alike(node, inputs)
        if name in _LINEAR:
            return self._written(node, inputs)
        raise self._refused("it treats the units one by one", node)

    def _normed(self, node: fx.Node, name: str) -> _Seen:
        args = _arguments(node)
        value: Any = args["input"]
        if (
            value not in self.seen
            or len(args["normalized_shape"]) != 1
            or self._dims(value)[-1:] != (len(self._axes(value)) - 1,)
        ):
            raise self._refused("a norm runs over other units as well", node)
        self._plain(value, node)
        centred = name == "aten.layer_norm"
        if centred and self.inside:
            raise self._refused("a norm takes the mean of its units away", node)
        self.centred |= centred
        self._with_mean(value, node, centred)
        weight, bias = args.get("weight"), args.get("bias")
        gain = self._as_gain(weight, node) if isinstance(weight, fx.Node) else None
        offset = self._as_gain(bias, node, 0.0) if isinstance(bias, fx.Node) else None
        return _Seen(gain=gain, offset=offset, centred=centred)

    def _with_mean(self, value: fx.Node, node: fx.Node, centred: bool = False) -> None:
        """Note who reads a value of which the mean counts."""
        if not (centred or self.seen[value].centred):
            self.raw = node

    def _as_gain(self, node: fx.Node, user: fx.Node, neutral: float = 1.0) -> str:
        seen = self.seen.get(node)
        if seen is None or seen.bare is None or not self._is_gain(node):
            raise self._refused("a gain that is no parameter of one value per unit", user)
        return self._neutral(seen.bare, neutral, user)

    def _neutral(self, name: str, value: float, node: fx.Node) -> str:
        """Note what a gain is set to once it is folded."""
        if self.neutral.setdefault(name, value) != value:
            raise self._refused(f"'{name}' is a gain in one place, and an offset or another kind of gain elsewhere", node)
        return name

    def _multiplied(self, node: fx.Node, inputs: list[fx.Node]) -> _Seen:
        if len(inputs) == 1:
            if node.args[0] is node.args[1]:
                return self._square(node, inputs[0])
            return self._scaled(node, inputs, "aten.mul")
        gains = [each for each in inputs if self.seen[each].form == "gain" or self._is_gain(each)]
        values = [each for each in inputs if each not in gains]
        if len(gains) != 1 or len(values) != 1:
            raise self._refused("two of its values are multiplied unit by unit", node)
        self._plain(values[0], node)
        bare = self.seen[gains[0]].bare
        assert bare is not None
        if self.seen[gains[0]].form != "gain":
            self._neutral(bare, 1.0, node)
        return _Seen(gain=bare, centred=self.seen[values[0]].centred)

    def _is_gain(self, node: fx.Node) -> bool:
        """A whole parameter of one value per unit; a row of a stack of them is none, since one γ is folded at a time."""
        bare, form = self.seen[node].bare, self.seen[node].form
        return (
            not self.inside
            and bare is not None
            and form == "vector"
            and self._axes(self.layout.parameters[bare]) == (self.factor,)
        )

    def _square(self, node: fx.Node, value: fx.Node) -> _Seen:
        self._plain(value, node)
        self._with_mean(value, node)
        return _Seen("square")

    def _added(self, node: fx.Node, inputs: list[fx.Node]) -> _Seen:
        first, second = (node.args[0], node.args[1])
        if (
            len(inputs) == 1
            and self._is_gain(inputs[0])
            and isinstance(second, (int, float))
            and name_of(node.target) == "aten.add"
            and not node.kwargs
        ):
            bare = self.seen[inputs[0]].bare
            assert bare is not None
            return _Seen("gain", bare=self._neutral(bare, 1.0 - second, node))  # x · (1 + γ): γ is 0 once it is folded
        if len(inputs) == 1 and first is not second:
            raise self._refused("something else than the stream's own is added to every unit", node)
        return self._alike(node, inputs)

    def _scaled(self, node: fx.Node, inputs: list[fx.Node], name: str) -> _Seen:
        if name == "aten.div" and (len(inputs) > 1 or node.args[0] is not inputs[0] or node.kwargs.get("rounding_mode")):
            raise self._refused("it is divided unit by unit, or rounded", node)
        values = {"aten.masked_fill": (0, 2), "aten.where": (1, 2), "aten.lerp": (0, 1)}.get(name)
        if values is not None:
            if any(node.args[at] not in inputs and (name == "aten.lerp" or node.args[at] != 0) for at in values):
                raise self._refused("some of its positions are filled with something that is not the stream's", node)
            if any(each in inputs for at, each in enumerate(node.args) if at not in values):
                raise self._refused("each unit is chosen or weighted by itself", node)
        return self._alike(node, inputs)

    def _alike(self, node: fx.Node, inputs: list[fx.Node]) -> _Seen:
        """All that meets here turns alike."""
        first = self.seen[inputs[0]]
        if len(inputs) == 1 and first.bare is not None and (identity(node.target) or _moves(node)):
            return first
        for each in inputs:
            seen = self.seen[each]
            if (seen.form, seen.gain, seen.offset) != (first.form, first.gain, first.offset) or seen.form == "gain":
                raise self._refused("values on the stream meet that carry different gains of norms", node)
            self._write(each)
        padded = name_of(node.target) in ("aten.constant_pad_nd", "aten.pad")
        if padded and _arguments(node).get("value") not in (None, 0):
            raise self._refused("some of its positions are filled with a number", node)
        if first.offset is not None and (padded or not (identity(node.target) or _moves(node))):
            raise self._refused("what a norm put out is scaled before it is read", node)
        return replace(first, bare=None, centred=all(self.seen[each].centred for each in inputs))

    def _written(self, node: fx.Node, inputs: list[fx.Node]) -> _Seen:
        """A linear map whose result is on the stream: of what goes in, one operand is, and maybe what is added."""
        name = name_of(node.target)
        added = {
            "aten.linear": 2,
            "aten.addmm": 0,
            "aten.baddbmm": 0,
            "aten.convolution": 2,
            "aten.conv1d": 2,
            "aten.conv2d": 2,
            "aten._grouped_mm": 3,
        }.get(name)
        operands = list(node.args[1]) if name == "aten.einsum" else list(node.args)  # type: ignore[arg-type]
        if added is not None and added < len(operands) and isinstance(operands[added], fx.Node) and operands[added] not in inputs:
            raise self._refused("something else than the stream's own is added to every unit", node)
        factors = [each for at, each in enumerate(operands) if each in inputs and at != added]
        if name == "aten.scaled_dot_product_attention" and factors != [node.args[2]]:
            raise self._refused("attention compares its units", node)
        if len(factors) > 1 or _arguments(node).get("groups", 1) != 1:
            raise self._refused("two of its values are multiplied unit by unit", node)
        for each in inputs:
            self._plain(each, node)
        return _Seen()

    def _plain(self, value: fx.Node, node: fx.Node) -> None:
        """A vector without gain."""
        seen = self.seen[value]
        if seen.form != "vector" or seen.gain is not None or seen.offset is not None:
            raise self._refused("what a norm put out goes on before a linear map has read it", node)
        self._write(value)

    def _write(self, value: fx.Node) -> None:
        if (bare := self.seen[value].bare) is not None:
            self.writes.update((bare, dim) for dim in self._dims(self.layout.parameters[bare]))

    # -- sums over the units -----------------------------------------------------------------------------------------------

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        return [each for each, _ in self.summed[node].operands if each in self.seen]

    def _summed(self, node: fx.Node) -> None:
        contraction, name = self.summed[node], name_of(node.target)
        if contraction.axis is not self.factor and not self.inside:
            raise self._refused("its units are merged with others", node)
        operands = [(each, dim) for each, dim in contraction.operands if each in self.seen]
        if len(operands) == 1:
            ((value, _),) = operands
            if self.seen[value].form == "square" and name in ("aten.sum", "aten.mean"):
                return
            if name == "aten.linalg_vector_norm" and (len(node.args) < 2 or node.args[1] == 2):
                self._plain(value, node)
                self._with_mean(value, node)
                return
            raise self._refused("its units are reduced to one value", node)
        if name not in _PRODUCTS or (name == "aten.einsum" and len(node.args[1]) > 2):  # type: ignore[arg-type]
            raise self._refused("more than two values are multiplied unit by unit", node)
        forms = [self.seen[each] for each, _ in operands]
        weights = [(each, dim) for (each, dim), seen in zip(operands, forms, strict=True) if seen.bare is not None]
        if any(seen.form != "vector" for seen in forms) or len(operands) > 2:
            raise self._refused("more than two values are multiplied unit by unit", node)
        folded = next((seen for seen in forms if seen.gain is not None or seen.offset is not None), _Seen())
        for each, _ in operands:
            if each not in [weight for weight, _ in weights]:
                self._with_mean(each, node)
        if not weights:
            if folded != _Seen():
                raise self._refused("what a norm put out meets another value before a linear map has read it", node)
            return
        if len(weights) == 2 or (name == "aten.scaled_dot_product_attention"):
            raise self._refused("parameters on the stream are multiplied with one another", node)
        (weight, dim), bias = weights[0], self._bias(node) if folded.offset is not None else None
        slot = self._slot(weight, dim, node)
        self.reads.setdefault(slot, set()).add((folded.gain, folded.offset, bias))
        own = self._dims(self.layout.parameters[slot[0]]) if self._on(node) else ()
        self.writes.update((slot[0], other) for other in own if other != slot[1])  # from the stream to itself

    def _same_heads(self, node: fx.Node, heads: Factor) -> None:
        """Heads meet themselves only: they are summed together with their units, or each is one still."""
        sums = [each for each in self.layout.contractions if each.node is node and heads in algebra.factors(each.axis)]
        operands = set(self._operands(node)) if node in self.summed else set()
        if any(not operands or {value for value, _ in each.operands} != operands for each in sums):
            raise self._refused("its heads are summed, and not its units with them", node)
        held = sum(heads in algebra.factors(axis) for axis in self._axes(node))
        if operands and held != (0 if sums else 1):
            raise self._refused("its heads meet one another", node)

    def _slot(self, weight: fx.Node, dim: int, node: fx.Node) -> Slot:
        name = self.seen[weight].bare
        assert name is not None
        dims = self._dims(self.layout.parameters[name])
        if weight.op != "get_attr" and len(dims) > 1:
            raise self._refused("a weight from the stream to itself is read through a view", node)
        return name, dim % len(self._axes(weight)) if weight.op == "get_attr" else dims[0]

    def _bias(self, node: fx.Node) -> str:
        at = {"aten.linear": 2, "aten.addmm": 0}.get(name_of(node.target))
        bias: Any = node.args[at] if at is not None and at < len(node.args) else None
        reads = [
            each
            for each in self.layout.trace.graph.find_nodes(op="get_attr")
            if isinstance(bias, fx.Node) and each.target == bias.target
        ]
        if (
            not isinstance(bias, fx.Node)
            or bias.op != "get_attr"
            or bias.target not in self.layout.trace.parameters
            or sum(len(each.users) for each in reads) > 1
            or node.kwargs
            or self.layout.trace.state[str(bias.target)].shape != node.meta["val"].shape[-1:]
        ):
            raise self._refused("a norm's offset has to be folded into a bias, and what reads it has none of its own", node)
        return str(bias.target)

    # -- words -------------------------------------------------------------------------------------------------------------

    def _axes(self, node: fx.Node) -> tuple[Any, ...]:
        typed = self.layout.types.get(node)
        return typed.axes if isinstance(typed, Typed) else ()

    def _dims(self, node: fx.Node) -> tuple[int, ...]:
        if self.inside:
            return tuple(dim for dim, axis in enumerate(self._axes(node)) if self.factor in algebra.factors(axis))
        return tuple(dim for dim, axis in enumerate(self._axes(node)) if axis is self.factor)

    def _on(self, node: fx.Node) -> bool:
        found = [axis for axis in self._axes(node) if self.factor in algebra.factors(axis)]
        if not self.inside and any(axis is not self.factor for axis in found):
            raise self._refused("its units are merged with others", node)
        if self.inside and any(Places.of(self._axes(node), dim, self.factor, self.heads) is None for dim in self._dims(node)):
            raise self._refused("its units are of no one head", node)
        if len(found) > 1 and node.op != "get_attr":
            raise self._refused("a value has its units twice", node)
        return bool(found)

    def _refused(self, why: str, node: fx.Node | None) -> FrozenError:
        return FrozenError(
            f"cannot rotate '{self.factor.name}' ({self.factor.size})",
            because=str(Reason(why, node)),
            attempt="selecting units of it instead",
        )


_LINEAR = {
    f"aten.{name}"
    for name in (
        "linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum", "embedding", "convolution", "conv1d", "conv2d",
        "scaled_dot_product_attention", "_grouped_mm",
    )
} | {"transformers.grouped_mm_fallback"}  # fmt: skip
_PRODUCTS = (_LINEAR - {"aten.embedding"}) | {"aten.mv", "aten.dot", "aten.conv3d"}  # that may sum over the units


def _heads(layout: Layout, factor: Factor) -> Factor | None:
    """What tells the units of one head from those of another at every place; None where there is nothing, and all turn alike."""
    common: set[Factor] | None = None
    for typed in layout.types.values():
        on = {each for axis in typed.axes for each in algebra.factors(axis)} if isinstance(typed, Typed) else set()
        if factor in on:
            common = on if common is None else common & on
    found = [each for each in (common or set()) - {factor} if each.frozen is None and not each.interface]
    return max(found, key=lambda each: (each.size, each.name), default=None)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """By the names and with the defaults of the op's schema."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return (
        {each.name: each.default_value for each in schema}
        | dict(zip((each.name for each in schema), node.args, strict=False))
        | dict(node.kwargs)
    )


def _moves(node: fx.Node) -> bool:
    """Whether an op merely moves elements: their units too, were the stream not free of that."""
    if getattr(node.target, "__name__", "") == "getitem":
        return True
    found = rule_for(node.target)
    return (
        found is not None
        and not elementwise(node.target)
        and (found.__module__ == "graphclone.rules.shape" or name_of(node.target) in ("aten.index", "aten.index_select"))
    )
