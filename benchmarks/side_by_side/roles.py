"""What of a model has to be narrowed, by the names that its parameters bear: the same measure for both tools.

A child's parameters bear its parent's names. A role is narrowed when every parameter that plays it is smaller in the child, along the
dim that carries the role. A role that no parameter of the model plays is not asked for (a convolutional net has no heads).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

Shapes = Mapping[str, tuple[int, ...]]

# (role, name of the parameter without `.weight`, dim). `-2` is what a matrix of nn.Linear makes, `-1` what it reads.
LINEAR = (
    ("queries", r"q_proj|query|q_lin|query_proj|q|q_b_proj", -2),
    ("keys and values", r"k_proj|v_proj|key|value|k_lin|v_lin|key_proj|value_proj|k|v|kv_b_proj", -2),
    ("queries", r"qkv_proj|query_key_value|Wqkv|qkv", -2),
    ("keys and values", r"qkv_proj|query_key_value|Wqkv|qkv", -2),
    (
        "MLP",
        r"up_proj|gate_proj|gate_up_proj|fc1|pwconv1|intermediate\.dense|wi|wi_0|wi_1|lin1|dense_h_to_4h|ffn|albert\.ffn",
        -2,
    ),
    ("residual", r"up_proj|gate_proj|gate_up_proj|fc1|pwconv1|intermediate\.dense|wi|wi_0|wi_1|lin1|dense_h_to_4h|ffn", -1),
    ("residual", r"q_proj|query|q_lin|query_proj|q|q_a_proj|qkv_proj|query_key_value|Wqkv|qkv", -1),
    ("MLP", r"mixer\.in_proj", -2),  # a state-space layer has its inner width instead
    ("residual", r"mixer\.in_proj", -1),
    ("MLP", r"conv1", -4),  # a residual net's bottleneck
    ("residual", r"layer\d+\.\d+\.conv1", -3),
)
CONV1D = (  # transformers' Conv1D holds its matrix the other way round
    ("queries", r"c_attn", -1),
    ("keys and values", r"c_attn", -1),
    ("MLP", r"c_fc", -1),
    ("residual", r"c_attn|c_fc", -2),
)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}


def roles(before: Shapes) -> dict[str, list[tuple[str, int]]]:
    """Role → its (parameter, dim) pairs."""
    found: dict[str, list[tuple[str, int]]] = {}
    turned = any(re.search(r"\.c_attn\.weight$", name) and shape[1] == 3 * shape[0] for name, shape in before.items())
    for role, names, dim in LINEAR + (CONV1D if turned else ()):
        for name, shape in before.items():
            if re.search(rf"(^|\.)({names})(\.weight)?$", name) and len(shape) >= max(2, -dim) and shape[dim] > 1:
                found.setdefault(role, []).append((name, dim))
    return found


def narrowed(before: Shapes, after: Shapes) -> dict[str, str]:
    """Role → `all`, `none`, or how many of how many (parameter, dim) pairs were narrowed."""
    told = {}
    for role, places in roles(before).items():
        smaller = sum(after.get(name, before[name])[dim] < before[name][dim] for name, dim in places)
        told[role] = "all" if smaller == len(places) else f"{smaller} of {len(places)}" if smaller else "none"
    return told


def complaint(told: Mapping[str, str]) -> str:
    """What is left whole, in words; empty when nothing is."""
    return "; ".join(
        f"{role} not narrowed" if state == "none" else f"{role} narrowed in {state} places"
        for role, state in told.items()
        if state != "all"
    )
