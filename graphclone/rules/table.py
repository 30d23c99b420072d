"""The table: equations, and families of ops that treat all dims alike.

    equation("linear", "... i, o i, o -> ... o")      a name on the left only is contracted
    equation("baddbmm", "*, b n k, b k m -> b n m")    * broadcasts against the result
    equation("embedding", "v d, ...@v -> ... d")       @v: integers that are positions on v

Families: `same` (a tensor as it is), `pointwise` (torch's own tag, with broadcasting), `along` (positional in some dims),
`reduce`, `create`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphclone import axes as algebra
from graphclone.axes import Axis
from graphclone.rules.masks import unchosen, unmasked
from graphclone.rules.op import Axes, Op, Opaque, Typed, as_int, name_of, rule
from graphclone.rules.ties import differs

# -- equations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operand:
    """`... a b`: whether leading dims are open, the named last dims, and the name that its integers are positions on."""

    open: bool
    names: tuple[str, ...]
    domain: str = ""


@functools.cache
def read_equation(text: str) -> tuple[tuple[Operand | None, ...], Operand]:
    """Operands and result of an equation; None is an operand that broadcasts against the result (`*`)."""

    def operand(part: str) -> Operand | None:
        part, _, domain = part.strip().partition("@")
        names = part.split()
        return None if names == ["*"] else Operand("..." in names, tuple(n for n in names if n != "..."), domain.strip())

    left, _, right = text.partition("->")
    result = operand(right)
    assert result is not None
    return tuple(operand(part) for part in left.split(",")), result


def equation(name: str, text: str) -> None:
    """Register an op whose tensor arguments, in the order of its schema, obey an equation."""
    operands, result = read_equation(text)

    def equal(op: Op) -> Axes:
        return apply_equation(op, _tensors(op), operands, result)

    rule(name, mixing="@" not in text)(equal)


def _tensors(op: Op) -> list[str]:
    """The names of the tensor arguments, absent ones too, in the order of the schema."""
    schema = op.node.target._schema.arguments  # type: ignore[union-attr]
    return [argument.name for argument in schema if "Tensor" in str(argument.type)]


def apply_equation(op: Op, names: Sequence[str], operands: Sequence[Operand | None], result: Operand) -> Axes:
    bound: dict[str, Axis] = {}
    carriers: dict[str, list[tuple[str, int]]] = {}
    lead: Axes = ()
    later = []
    for name, operand in zip(names, operands, strict=False):
        if not op.has(name):
            continue
        if operand is None:
            later.append(name)
            continue
        axes = op.axes(name)
        first = len(axes) - len(operand.names)
        if first < 0:
            raise Opaque(f"{name} has fewer dims than usual")
        if operand.open:
            lead = op.broadcast(lead, axes[:first])
        for index, letter in enumerate(operand.names, first):
            bound[letter] = op.unify(bound.get(letter, algebra.UNIT), axes[index])
            carriers.setdefault(letter, []).append((name, index))
        if operand.domain:
            op.index(name, bound[operand.domain])
    for letter, places in carriers.items():
        if letter not in result.names and letter not in {o.domain for o in operands if o is not None}:
            op.contract(bound[letter], *places)
    indexed = {o.domain for o in operands if o is not None and o.domain}
    for letter in indexed - set(result.names):
        op.contract(bound[letter])
    axes = (*(lead if result.open else ()), *(bound[letter] for letter in result.names))
    return op.broadcast(axes, *(op.axes(name) for name in later))


equation("linear", "... i, o i, o -> ... o")
equation("mm", "n k, k m -> n m")
equation("bmm", "b n k, b k m -> b n m")
equation("mv", "n k, k -> n")
equation("dot", "k, k ->")
equation("vdot", "k, k ->")
equation("outer", "n, m -> n m")
equation("ger", "n, m -> n m")
equation("addmm", "*, n k, k m -> n m")
equation("addmv", "*, n k, k -> n")
equation("addbmm", "*, b n k, b k m -> n m")
equation("baddbmm", "*, b n k, b k m -> b n m")
equation("bilinear", "... i, ... j, o i j, o -> ... o")
equation("embedding", "v d, ...@v -> ... d")


@rule("matmul", mixing=True)
def matmul(op: Op) -> Axes:
    """`... n k, ... k m -> ... n m`; a vector has no n, or no m."""
    left, right = len(op.axes("self")), len(op.axes("other"))
    a = Operand(left > 2, ("n", "k") if left > 1 else ("k",))
    b = Operand(right > 2, ("k", "m") if right > 1 else ("k",))
    names = (("n",) if left > 1 else ()) + (("m",) if right > 1 else ())
    return apply_equation(op, ("self", "other"), (a, b), Operand(True, names))


@rule("einsum", mixing=True)
def einsum(op: Op) -> Axes:
    """The equation is an argument. A letter twice in one operand makes those dims one axis."""
    text = op["equation"].replace(" ", "")
    left, arrow, right = text.partition("->")
    inputs = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    bound: dict[str, Axis] = {}
    lead: Axes = ()
    carriers: dict[str, list[tuple[Any, int]]] = {}
    for node, term, axes in zip(op["tensors"], inputs, op.lists("tensors"), strict=True):
        before, dots, after = term.partition("...")
        spare = len(axes) - len(before) - len(after)
        if dots:
            lead = op.broadcast(lead, axes[len(before) : len(before) + spare])
        for letter, index in [
            *zip(before, range(len(before)), strict=True),
            *zip(after, range(len(before) + spare, len(axes)), strict=True),
        ]:
            bound[letter] = op.unify(bound.get(letter, algebra.UNIT), axes[index])
            carriers.setdefault(letter, []).append((node, index))
    for letter, places in carriers.items():
        if letter not in right:
            op.contract(bound[letter], *places)
    before, dots, after = right.partition("...")
    if not dots:
        for axis in lead:
            op.contract(axis)
    return (*(bound[c] for c in before), *(lead if dots else ()), *(bound[c] for c in after))


# -- families --------------------------------------------------------------------------------------------------------


def same(names: str) -> None:
    """The first tensor as it is (cast, copied, dropped out), so that integers keep their meaning; others give a shape or dtype."""

    @rule(names, elementwise=True, identity=True)
    def keep(op: Op) -> Typed:
        first = op.first
        op.shape_only(*(name for name in op.args if name != first and op.has(name)))
        typed = op.type(first)
        return Typed(typed.axes, typed.domain if typed.domain is not None and _holds(op, typed.domain.size) else None)


def _holds(op: Op, count: int) -> bool:
    """Whether a cast keeps the numbers below `count` apart."""
    dtype = op.node.meta["val"].dtype
    if dtype.is_floating_point or dtype.is_complex:
        return bool(count <= 2 / torch.finfo(dtype).eps)
    return bool(dtype != torch.bool and count - 1 <= torch.iinfo(dtype).max)


same(
    "to _to_copy clone contiguous alias detach alias_copy detach_copy lift lift_fresh lift_fresh_copy cpu pin_memory type_as chalf"
)
same("dropout dropout_ feature_dropout positive resolve_conj resolve_neg _conj_physical real")


@rule("pointwise where copy copy_ masked_fill polar complex rrelu hardswish log_sigmoid isclose float_power", elementwise=True)
@rule("add subtract multiply divide true_divide xlogy arctan2 clip __and__ __or__ __xor__", elementwise=True)
@rule("greater greater_equal less less_equal not_equal", elementwise=True)
def pointwise(op: Op) -> Axes:
    """Elementwise with broadcasting."""
    operands = []
    for name, value in op.args.items():
        if op.has(name) and isinstance(op.facts.types.get(value), Typed):
            operands.append(op.axes(name))
        elif isinstance(value, (list, tuple)) and value and all(isinstance(op.facts.types.get(each), Typed) for each in value):
            operands.extend(op.lists(name))
    return op.broadcast(*operands)


def along(dims: str | tuple[int, ...], names: str, why: str = "depends on the order") -> None:
    """Positional in some dims (named by an argument, or fixed), elementwise in the others. A dim of another size is a new axis."""
    rule(names)(functools.partial(ordered, dims=dims, why=why))


def ordered(op: Op, dims: str | tuple[int, ...], why: str) -> Axes:
    axes = op.axes(op.first)
    chosen = op.dims(dims, len(axes)) if isinstance(dims, str) else [dim % len(axes) for dim in dims if axes]
    result = []
    for dim, (axis, size) in enumerate(zip(axes, op.shape(), strict=True)):
        if dim in chosen:
            op.freeze(axis, why)
            axis = axis if axis.size == size else op.positional(size, why)
        result.append(axis)
    return tuple(result)


along("dim", "cumprod logcumsumexp")
along("dims", "flip roll")
along((-2, -1), "tril triu")
along("dim", "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft", why="a Fourier transform depends on the order")
along("dim", "fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2", why="a Fourier transform depends on the order")
along("dim", "fft_fftn fft_ifftn fft_rfftn fft_irfftn", why="a Fourier transform depends on the order")


@rule("diff")
def diff(op: Op) -> Axes:
    """Each position less the one before, `prepend` and `append` at the ends."""
    names = [name for name in ("prepend", "self", "append") if op.has(name)]
    dim = op.dim("dim", len(op.axes("self")))
    for name in names:
        op.freeze(op.axes(name)[dim], "depends on the order")
    axes = op.broadcast(*((*axes[:dim], algebra.UNIT, *axes[dim + 1 :]) for axes in map(op.axes, names)))
    return (*axes[:dim], op.positional(op.shape()[dim], "depends on the order"), *axes[dim + 1 :])


@rule("renorm")
def renorm(op: Op) -> Axes:
    """Each slice along `dim` gets a norm of at most `maxnorm`."""
    axes = op.axes("self")
    op.normalise(*(axis for dim, axis in enumerate(axes) if dim != op.dim("dim", len(axes))))
    return axes


def reduce(names: str, adds: bool = False) -> None:
    """One value from many along `dim`, whatever their order. `adds`: the value is their sum."""

    rule(names)(functools.partial(fold, adds=adds))


def fold(op: Op, adds: bool = False) -> Axes:
    axes = op.axes(op.first)
    dims = op.dims("dim", len(axes))
    for dim in dims:
        op.contract(axes[dim], (op.first, dim))
        if not adds:
            op.normalise(axes[dim])
    keep = bool(op.get("keepdim"))
    return tuple(algebra.UNIT if dim in dims else axis for dim, axis in enumerate(axes) if keep or dim not in dims)


reduce("sum nansum", adds=True)
reduce("mean nanmean amax amin prod logsumexp any all var std linalg_vector_norm linalg_norm norm frobenius_norm count_nonzero")
reduce("max.default min.default median.default nanmedian.default _is_all_true _is_any_true")


@rule("cosine_similarity")
def cosine_similarity(op: Op) -> Axes:
    """Both operands over their norms along `dim`, multiplied and summed there."""
    axes = op.broadcast(op.axes("x1"), op.axes("x2"))
    if not axes:
        return ()
    dim = op.dim("dim", len(axes))
    op.contract(axes[dim])
    op.normalise(axes[dim])
    return (*axes[:dim], *axes[dim + 1 :])


@rule("aminmax", "var_mean", "std_mean")
def reduce_twice(op: Op) -> list[Axes]:
    return [fold(op)] * 2


@rule("frexp")
def pointwise_twice(op: Op) -> list[Axes]:
    return [pointwise(op)] * 2


@rule("max.dim", "min.dim", "median.dim", "nanmedian.dim")
def extreme(op: Op) -> list[Axes | Typed]:
    """A value and the position where it stands, which is a position on the reduced axis."""
    axes, values = op.axes("self"), fold(op)
    return [values, Typed(values, _ranked(op, axes[op.dim("dim", len(axes))])) if axes else values]


def _ranked(op: Op, axis: Axis, count: int = 1) -> Axis:
    """An axis whose positions are told apart by their values, unless some of the best may be equal and nobody but their order decides."""
    values = op.node.all_input_nodes[0]
    if not differs(values, axis, op.facts) and not _enough_left(op, values, axis, count):
        op.freeze(axis, "of equal values the first one wins")
    return algebra.find(axis)


def _enough_left(op: Op, values: torch.fx.Node, axis: Axis, count: int) -> bool:
    """Whether the best are none of those that a mask has made equal, here and (`at_least`) in every child."""
    left = unmasked(values, op.facts)
    others = unchosen(left, axis) if left is not None and differs(left.values, axis, op.facts) else None
    if left is None or others is None or len(others) > 1:
        return False
    each = -(-count // left.count)
    if others and others[0].size >= each:
        op.at_least(others[0], each)
    return others[0].size >= each if others else left.count >= count


@rule("argmax", "argmin")
def arg_extreme(op: Op) -> Typed:
    axes = op.axes("self")
    if op["dim"] is None or not axes:
        for axis in axes:
            op.freeze(axis, "its positions are counted across dims")
        return Typed((algebra.UNIT,) * len(op.shape()))
    return Typed(fold(op), _ranked(op, axes[op.dim("dim", len(axes))]))


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax")
def softmax(op: Op) -> Axes:
    axes = op.axes("self")
    if axes:
        op.normalise(axes[op.dim("dim", len(axes))])
    return axes


@rule("topk", "kthvalue")
def topk(op: Op) -> list[Typed]:
    """The best of an axis, ordered by value; the second result is where they stood, which are positions on that axis."""
    axes = op.axes("self")
    if not axes:
        return [Typed(())] * 2
    dim = op.dim("dim", len(axes))
    op.contract(axes[dim], ("self", dim))
    op.at_least(axes[dim], op["k"])
    op.normalise(axes[dim])
    whole = len(op.shape(0)) == len(axes)
    result = (*axes[:dim], *((op.positional(op.shape(0)[dim], "ordered by value"),) if whole else ()), *axes[dim + 1 :])
    best = as_int(op["k"]) if name_of(op.node.target) == "aten.topk" else axes[dim].size
    return [Typed(result), Typed(result, _ranked(op, axes[dim], best))]


def create(names: str, uniform: bool = True) -> None:
    """A new tensor; `uniform`: all of its values are alike, so its axes are free."""

    @rule(names)
    def fresh(op: Op) -> Axes:
        op.shape_only("self")
        axes = tuple(algebra.factor(n) if uniform else op.positional(n, "its values differ by position") for n in op.shape())
        op.sizes("size", axes)
        return axes


create("zeros ones full empty new_zeros new_ones new_full new_empty scalar_tensor")
create("rand randn randint randperm eye linspace logspace tril_indices triu_indices hann_window", uniform=False)


@rule("rand_like randn_like randint_like")
def drawn(op: Op) -> Axes:
    """Numbers are drawn in order: in a child each unit would get another's."""
    op.shape_only(op.first)
    return tuple(op.freeze(axis, "its random numbers are drawn in order") for axis in op.axes(op.first))


@rule("zeros_like ones_like full_like empty_like")
def like(op: Op) -> Axes:
    """Uniform values in the shape of another tensor."""
    op.shape_only(op.first)
    axes = op.axes(op.first)
    return tuple(
        op.positional(axis.size, "as large as a sorted axis") if type(axis) is algebra.Factor and axis.order else axis
        for axis in axes
    )


@rule("arange")
def arange(op: Op) -> Typed:
    """0, 1, …, n - 1 are the positions of its own axis; any other progression is positional."""
    (count,) = op.shape()
    if op.get("start") in (None, 0) and op.get("step") in (None, 1) and isinstance(op["end"], int):
        axis = algebra.factor(count)
        op.sizes("end", axis)
        return Typed((axis,), axis)
    return Typed((op.positional(count, "an arithmetic progression"),))


# -- norms and attention ---------------------------------------------------------------------------------------------


@rule("layer_norm", "rms_norm", "native_layer_norm")
def layer_norm(op: Op) -> Any:
    """Statistics over the last dims; weight and bias lie on these."""
    axes, rank = op.axes("input"), len(op["normalized_shape"])
    for name in ("weight", "bias"):
        if op.has(name):
            axes = op.broadcast(axes, op.axes(name))
    op.normalise(*axes[len(axes) - rank :])
    op.sizes("normalized_shape", axes[len(axes) - rank :])
    if isinstance(op.node.meta["val"], (tuple, list)):
        rows = (*axes[: len(axes) - rank], *(algebra.UNIT,) * rank)
        return [axes, *(rows if shape else () for shape in (op.shape(1), op.shape(2)))]
    return axes


@rule("batch_norm", "instance_norm", "native_batch_norm")
@rule("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional")
def batch_norm(op: Op) -> Any:
    """One scale per channel (dim 1); in training the statistics run over the other dims (of one instance: over space)."""
    axes = list(op.axes("input"))
    if len(axes) < 2:
        raise Opaque("it has no channels")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.has(name):
            axes[1] = op.unify(axes[1], op.axes(name)[0])
    if op.get("training"):
        op.normalise(axes[0])
    if op.get("training", "use_input_stats"):
        op.normalise(*axes[2:])
    value = op.node.meta["val"]
    if not isinstance(value, (tuple, list)):
        return tuple(axes)
    return [tuple(axes), *((axes[1],) if op.shape(i) != (0,) else (algebra.EMPTY,) for i in range(1, len(value)))]


@rule("prelu")
def prelu(op: Op) -> Axes:
    """A slope for each channel (dim 1), or one for all."""
    axes, slope = list(op.axes("self")), op.axes("weight")
    if len(axes) > 1 and slope:
        axes[1] = op.unify(axes[1], slope[0])
    return tuple(axes)


@rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(op: Op) -> list[Axes]:
    """Per layer and direction `(g h) i, (g h) h` and biases; one h for all, and two directions side by side in the result."""
    states = op.lists("hx") if name_of(op.node.target) == "aten.lstm" else [op.axes("hx")]
    weights, biased, ways = op.lists("params"), bool(op["has_biases"]), 1 + bool(op["bidirectional"])
    if len(op["params"]) != op["num_layers"] * ways * (4 if biased else 2):
        raise Opaque("its outputs are projected")
    time, batch = (1, 0) if op["batch_first"] else (0, 1)
    axes = op.axes("input")
    op.freeze(axes[time], "depends on the order")
    width, h = axes[-1], algebra.factor(op.shape(1)[-1])
    step = 4 if biased else 2
    for first in range(0, len(weights), step):
        for (rows, *columns), inner in zip(weights[first : first + step], (width, h, None, None), strict=False):
            for gate in algebra.cuts(rows, [h.size] * (rows.size // h.size)):
                op.unify(gate, h)
            if inner is not None:
                given = [(op["input"], -1)] if first < step * ways and inner is width else []
                op.contract(op.unify(columns[0], inner), *given, (op["params"][first + (inner is not width)], 1))
        if (first // step + 1) % ways == 0:
            width = algebra.concat(*[algebra.find(h)] * ways)
    for layers, *rest, units in states:
        op.freeze(layers, "layers and directions differ")
        op.unify(units, h)
        axes = (op.unify(axes[0], rest[0]), *axes[1:]) if batch == 0 else (axes[0], op.unify(axes[1], rest[0]), axes[2])
    last = tuple(map(algebra.find, (op.positional(states[0][0].size, "layers and directions differ"), axes[batch], h)))
    return [(*axes[:2], algebra.find(width)), *[last] * len(states)]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(op: Op) -> Any:
    """One step: `... i, ... h, (g h) i, (g h) h` and biases give each state anew."""
    states = op.lists("hx") if isinstance(op["hx"], (list, tuple)) else [op.axes("hx")]
    (*lead, width), h = op.axes("input"), states[0][-1]
    for name, inner in (("w_ih", width), ("w_hh", h), ("b_ih", None), ("b_hh", None)):
        if op.has(name):
            rows, *columns = op.axes(name)
            for gate in algebra.cuts(rows, [h.size] * (rows.size // h.size)):
                op.unify(gate, h)
            if inner is not None:
                op.unify(columns[0], inner)
    given = op["hx"][0] if isinstance(op["hx"], (list, tuple)) else op["hx"]
    op.contract(algebra.find(width), ("input", len(lead)), ("w_ih", 1))
    op.contract(algebra.find(h), (given, len(states[0]) - 1), ("w_hh", 1))
    result = op.broadcast((*lead, algebra.UNIT), *states)
    return [result] * len(states) if len(states) > 1 else result


@rule("group_norm")
def group_norm(op: Op) -> Axes:
    """Channels (dim 1) are (group channel); statistics run over a group's channels and all of space."""
    axes = list(op.axes("input"))
    for name in ("weight", "bias"):
        if op.has(name):
            axes[1] = op.unify(axes[1], op.axes(name)[0])
    groups, channels = algebra.split(axes[1], axes[1].size // op["num_groups"])
    op.sizes("num_groups", groups)
    op.normalise(channels, *axes[2:])
    return tuple(axes)


@rule("_weight_norm")
def weight_norm(op: Op) -> Axes:
    """Each slice of v along `dim` gets the norm g."""
    axes = op.broadcast(op.axes("v"), op.axes("g"))
    op.normalise(*(axis for dim, axis in enumerate(axes) if dim != op["dim"]))  # -1 is no dim: one norm for all
    return axes


@rule("scaled_dot_product_attention", mixing=True)
def attention(op: Op) -> Axes:
    """`... t e, ... s e, ... s v -> ... t v`; with grouped queries, dim -3 of the query is (group member)."""
    *q_lead, t, e = op.axes("query")
    *k_lead, s, e2 = op.axes("key")
    *v_lead, s2, v = op.axes("value")
    e, s = op.unify(e, e2), op.unify(s, s2)
    lead = op.broadcast(tuple(k_lead), tuple(v_lead))
    if op["enable_gqa"] and lead[-1].size != q_lead[-1].size:
        groups, members = algebra.split(q_lead[-1], q_lead[-1].size // lead[-1].size)
        op.unify(groups, lead[-1])
        lead = (*lead[:-1], algebra.product(groups, members))
    lead = op.broadcast(tuple(q_lead), tuple(lead))
    if op.has("attn_mask"):
        mask = op.broadcast(op.axes("attn_mask"), (*lead, t, s))
        *mask_lead, t, s = mask
        lead = tuple(mask_lead)
    if op["is_causal"]:
        for axis in (t, s):
            op.freeze(axis, "attention is causal")
    op.contract(e, ("query", -1), ("key", -1), averaged=op["scale"] is None)
    op.contract(s, ("key", -2), ("value", -2), averaged=True)
    op.normalise(s)
    if op["scale"] is None:
        op.normalise(e)  # the scale is 1/sqrt of its size
    return (*lead, t, v)


@rule("glu")
def glu(op: Op) -> Axes:
    """Two halves, one gating the other."""
    axes = list(op.axes("self"))
    dim = op.dim("dim", len(axes))
    value, gate = algebra.cut(axes[dim], axes[dim].size // 2)
    axes[dim] = op.unify(value, gate)
    return tuple(axes)
