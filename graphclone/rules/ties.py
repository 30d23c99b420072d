"""Whether values that are ranked can be equal: of equals the first one wins, and then the order of the axis matters.

Weights and inputs are *generic*: no two of their values are equal, none is zero. Arithmetic, norms, linear maps and smooth functions
keep that. What rounds, compares, clamps, masks or fills does not, nor does a combination of a value with what was picked out of it: values
that were chosen among others are generic until they meet what they were chosen from. A
generic value *differs* along an axis if it can be followed to a weight or an input that runs along this axis once.

What is taken on trust: no weight is zero. A table's row for padding that is all zeros, and read by a router as it is, ties all experts.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator

import torch
from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.rules.op import Facts, Op, Typed, as_int, identity, mixing, name_of, rule_for, shape_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SMOOTH = _names(
    "neg exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square pow sigmoid log_sigmoid tanh sin cos atan asinh sinh erf "
    "softplus gelu silu mish elu selu celu leaky_relu softmax log_softmax _softmax _log_softmax _safe_softmax"
)
_FOLDS = _names("sum mean logsumexp linalg_vector_norm")
_NORMS = _names("layer_norm rms_norm group_norm batch_norm")
_SUMS = _names("add sub rsub")
_PRODUCTS = _names("mul div multiply divide true_divide")
_KEEPING = _SMOOTH | _SUMS | _PRODUCTS | _FOLDS | _NORMS
_READS = _names("embedding index gather index_select take_along_dim")
_CREATED = _names("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty")  # of a tensor only its shape
_PROBABILITIES = ("softmax", "_softmax", "_safe_softmax")
_PICKS = ("masked_scatter", "where", "index_put")  # one value or another
_LAYERS = _names("linear conv1d conv2d conv3d convolution")
_CHOOSING = frozenset([*_PICKS, "masked_fill", "scatter"])
_BEST = ("topk", "max", "min", "amax", "amin", "kthvalue", "median")


def differs(node: fx.Node, axis: Axis, facts: Facts) -> bool:
    """Whether the values of a node at any two positions of one of its axes are surely different."""
    return _differ(node, list(algebra.factors(axis)), facts)


def _differ(node: fx.Node, factors: list[Factor], facts: Facts) -> bool:
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        if _real(each) and _once(each, factors, facts):
            if each.op == "placeholder" or _weight(each, facts):
                return True
            if each.op == "get_attr":  # a buffer may be filled with one number
                continue
            more = [source for source in _carriers(each, factors, facts) if source not in seen]
            waiting += more
            seen.update(more)
    return False


def _real(node: fx.Node) -> bool:
    dtype = getattr(node.meta.get("val"), "dtype", None)
    return dtype is None or dtype.is_floating_point  # several results at once have no dtype


def _once(node: fx.Node, factors: list[Factor], facts: Facts) -> bool:
    """Whether a value runs along each of these factors, and along none of them twice."""
    return all(found.count(factor) == 1 for found in [_factors(node, facts)] for factor in factors) or _several(node, facts)


def _several(node: fx.Node, facts: Facts) -> bool:
    return isinstance(facts.types.get(node), list)


def _factors(node: fx.Node, facts: Facts) -> list[Factor]:
    typed = facts.types.get(node)
    return [factor for axis in typed.axes for factor in algebra.factors(axis)] if isinstance(typed, Typed) else []


def _carriers(node: fx.Node, factors: list[Factor], facts: Facts) -> list[fx.Node]:
    """The operands that may make this result differ along the factors, if none can undo it."""
    name, sources = _name(node), node.all_input_nodes
    along = [source for source in sources if set(factors) & set(_factors(source, facts))]
    if name in _SUMS or name in _PRODUCTS:
        alone = len(sources) == 1  # with a number
        rest = sources if name in _PRODUCTS else along
        hidden = [each for each in sources if each not in rest and not generic(each, facts) and not _tame(each, facts)]
        kept = alone or (not _meet_again(sources) and not hidden and all(generic(each, facts) for each in rest))
        return along if kept and not _nothing(node) and not (name in _SUMS and _cancels(node)) else []
    if mixing(node.target):
        return sources if generic(node, facts) else list(node.args[2:3]) if name == "linear" else []  # type: ignore[arg-type]
    if name in _NORMS:
        return sources if generic(node, facts) else []
    if name in _BEST:  # of other positions the best are others
        return sources[:1] if not set(factors) & _ranked(node, facts) else []
    if _passes(node):  # what is made of several has each of their values
        values = _read(node)
        return values[:1] if all(_differ(each, factors, facts) for each in values[1:]) else []
    return sources if name in _SMOOTH | _FOLDS and not _degenerate(node, facts) else []


def _ranked(node: fx.Node, facts: Facts) -> set[Factor]:
    """The factors along which the best values are looked for."""
    op = Op(node, facts)
    axes = op.axes(op.first)
    return {factor for dim in op.dims("dim", len(axes)) for factor in algebra.factors(axes[dim])}


def _name(node: fx.Node) -> str:
    return name_of(node.target).removeprefix("aten.")


def _passes(node: fx.Node) -> bool:
    """Whether the results are values of the operands, in other places."""
    if identity(node.target) or name_of(node.target) == "getitem":
        return True
    found, name = rule_for(node.target), _name(node)
    if name in ("pad", "constant_pad_nd", "im2col"):  # zeros around them, if any
        return not any(_numbers(node.args[3 if name == "im2col" else 1]))
    return found is not None and found.__module__ == "graphclone.rules.shape"


def _numbers(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def generic(node: fx.Node, facts: Facts) -> bool:
    """Whether no value of a node is likelier than its neighbours: none is zero, and no two are equal but copies."""
    known, waiting = facts.generic, [node]
    while waiting:
        each = waiting[-1]
        for needs in _ways(each, facts) if each not in known else ():
            if more := [source for source in needs if source not in known]:
                waiting += more
                break
            if all(known[source] for source in needs):
                known[each] = _real(each)
                waiting.pop()
                break
        else:
            known.setdefault(each, False)
            waiting.pop()
    return known[node]


def _ways(node: fx.Node, facts: Facts) -> Iterator[list[fx.Node]]:
    """Operands that, if they are generic, make the result so; one such set after the other."""
    if node.op != "call_function":
        yield []
    elif needs := list(_needs(node, facts)):
        yield needs
    if _name(node) in _SUMS and not node.kwargs and len(node.all_input_nodes) == 2:
        one, other = node.all_input_nodes
        yield from ([a] for a, b in ((one, other), (other, one)) if _fresh(a, node, facts) and _tame(b, facts))


def _needs(node: fx.Node, facts: Facts) -> Iterator[fx.Node]:
    """The operands that have to be generic for the result to be so; none if it never is."""
    if node.op != "call_function":
        return
    name, sources = _name(node), _read(node)
    if name in _READS:
        yield sources[0]
    elif name in _PICKS and True not in node.args:  # which would accumulate
        values = [each for each in sources if _real(each)]
        yield from values if len(values) == 2 and not any(map(_bare, values)) else ()
    elif name in _BEST:
        yield sources[0]
    elif name == "scaled_dot_product_attention":
        yield sources[2] if len(sources) > 2 else sources[-1]
    elif mixing(node.target):  # probabilities are not all zero, whatever is masked
        values = [each for each in sources if _real(each)]
        yield from [each for each in values if not _probabilities(each)] or values
    elif name in _SUMS and (_nothing(node) or _cancels(node)):
        return
    elif name in _SUMS:  # what a weight has mixed anew cancels nothing, be it zero here and there
        yield from () if _meet_again(sources) else [each for each in sources if not _mixed(each)] or sources
    elif name in _PRODUCTS and _meet_again(sources):
        return
    elif _passes(node) or (name in _KEEPING and not (name in _PRODUCTS and _nothing(node)) and not _degenerate(node, facts)):
        yield from sources


def _bare(node: fx.Node) -> bool:
    """Whether a value is spread copies, or not made of anything mixed or looked up: a buffer may be filled with one number, say."""
    made = [each for each in _history([node], _READS) if each.op == "call_function"]
    return _size(_source(node)) < _size(node) or not any(mixing(each.target) or _name(each) in _READS for each in made)


def _read(node: fx.Node) -> list[fx.Node]:
    """The operands, but for those that give a shape or a dtype."""
    like = identity(node.target) or _name(node).endswith("_as")
    return node.all_input_nodes[: 1 if like else None]


def _mixed(node: fx.Node) -> bool:
    """Whether all that it is made of has come through a linear map, or another product of two tensors."""
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        if each.op != "call_function":
            return False
        if not mixing(each.target) and _name(each) not in _CREATED:
            more = [source for source in _read(each) if _real(source) and source not in seen]
            waiting += more
            seen.update(more)
    return True


def _fresh(operand: fx.Node, node: fx.Node, facts: Facts) -> bool:
    """Whether an operand is what a weight has just mixed, value by value, and neither it nor the weight is of use to anything else.

    Then nothing that is added to it, before or later, can be what cancels it.
    """
    size, mixed = _size(node), operand
    while len(mixed.users) == 1 and (_name(mixed) in _SMOOTH | _NORMS or (_passes(mixed) and len(mixed.all_input_nodes) == 1)):
        mixed = mixed.all_input_nodes[0]
    if len(mixed.users) > 1 or _name(mixed) not in _LAYERS or _size(mixed) != size:
        return False
    weight = mixed.args[1]
    return isinstance(weight, fx.Node) and _weight(weight, facts) and len(weight.users) == 1


def _tame(node: fx.Node, facts: Facts) -> bool:
    """Whether a value never hides what is added to it: no mask, no huge number, and no buffer, which may hold some, has a part in it."""
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        numbers = [abs(x) for x in each.args if isinstance(x, (int, float))] if _real(each) else []
        buffer = each.op == "get_attr" and _real(each) and not _weight(each, facts)
        if (
            buffer
            or _name(each) in _CHOOSING
            or getattr(each.meta.get("val"), "dtype", None) == torch.bool
            or max(numbers, default=0) > 1e4
        ):
            return False
        more = [source for source in each.all_input_nodes if source not in seen]
        waiting += more
        seen.update(more)
    return True


def _nothing(node: fx.Node) -> bool:
    """Whether a sum or product is with a zero, or with none of one operand."""
    return 0 in node.args or 0 in node.kwargs.values()


def _weight(node: fx.Node, facts: Facts) -> bool:
    return node.op == "get_attr" and str(node.target) in facts.weights


def _size(node: fx.Node) -> int:
    return math.prod(getattr(node.meta.get("val"), "shape", ()))


def _source(node: fx.Node) -> fx.Node:
    """Where the values of a node come from that are only in other places."""
    while node.op == "call_function" and _passes(node) and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def _meet_again(operands: list[fx.Node]) -> bool:
    """Whether a value that was picked out of others is combined with what it was picked from."""
    if len(operands) < 2:
        return False
    apart = _history(operands, (*_PICKS, *_BEST))
    picks = [node for node in apart if node.op == "call_function" and _name(node) in (*_PICKS, *_BEST)]
    return any(apart & _history([each for each in pick.all_input_nodes if _real(each)], ()) for pick in picks)


def _cancels(node: fx.Node) -> bool:
    """Whether a sum takes from a value what it is a sum of."""
    found = [_summed(each) for each in node.all_input_nodes[:2]]
    signs = [node, *(each for some in found for each in some)]
    return len(found) == 2 and bool(found[0] & found[1]) and any(map(_negative, signs))


def _summed(node: fx.Node) -> set[fx.Node]:
    """All that a value is a sum of, in whatever places."""
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        name, sources = _name(each), _read(each)
        if name in _SUMS or name in _READS or _negative(each) or _passes(each) or (name in _PRODUCTS and len(sources) == 1):
            more = [source for source in sources[: 1 if name in _READS else None] if _real(source) and source not in seen]
            waiting += more
            seen.update(more)
    return seen


def _negative(node: fx.Node) -> bool:
    numbers = [x for x in (*node.args, *node.kwargs.values()) if isinstance(x, (int, float))]
    return _name(node) in ("sub", "rsub", "neg") or (_name(node) in _SUMS | _PRODUCTS and min(numbers, default=0) < 0)


def _history(nodes: list[fx.Node], until: Container[str]) -> set[fx.Node]:
    """What values are made of, back to where they were mixed (and the weights of that), and to ops of these names."""
    waiting, seen = list(nodes), set(nodes)
    while waiting:
        each = waiting.pop()
        if each.op == "call_function" and mixing(each.target):
            seen.update(source for source in map(_source, each.all_input_nodes) if source.op == "get_attr")
        elif each.op == "call_function" and _name(each) not in until:
            more = [source for source in _read(each) if _real(source) and source not in seen]
            waiting += more
            seen.update(more)
    return seen


def _probabilities(node: fx.Node) -> bool:
    node = _source(node)
    return node.op == "call_function" and _name(node) in _PROBABILITIES


def _degenerate(node: fx.Node, facts: Facts) -> bool:
    """What norms and sums over one or two values, or a softmax over one, leave has none of their variety."""
    if not isinstance(node.target, torch._ops.OpOverload):  # getitem, or arithmetic on sizes
        return False
    name, op = _name(node), Op(node, facts)
    shape = shape_of(op.node.all_input_nodes[0].meta["val"])
    if name in ("leaky_relu", "elu", "celu", "pow"):
        return 0 in node.args[1:]
    if name in ("layer_norm", "rms_norm"):
        operand = node.all_input_nodes[0]  # of spread copies
        return bool(math.prod(map(as_int, op["normalized_shape"])) < 3) or _size(_source(operand)) < _size(operand)
    if name == "group_norm":
        return bool(math.prod(shape[1:]) < 3 * op["num_groups"])
    if name in ("sum", "mean"):
        return _probabilities(node.all_input_nodes[0]) or math.prod(shape) == math.prod(
            op.shape()
        )  # they add up to 1; x / sum(x)
    if name in _FOLDS:
        return math.prod(shape) < 3 * math.prod(op.shape())
    return bool("softmax" in name and shape[op.dim("dim", len(shape))] < 2)
