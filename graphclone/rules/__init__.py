"""One rule per operation: how its axes correspond. `table` is the one to read first; most rules are a line there."""

from graphclone.rules import dispatch, indexing, shape, spatial, table
from graphclone.rules.op import (
    Axes,
    Contraction,
    Facts,
    Op,
    Reason,
    Typed,
    apply,
    as_int,
    elementwise,
    identity,
    mixing,
    name_of,
    rule,
    rule_for,
    shape_of,
)
from graphclone.rules.table import along, create, equation, reduce, same

__all__ = [
    "Axes",
    "Contraction",
    "Facts",
    "Op",
    "Reason",
    "Typed",
    "along",
    "apply",
    "as_int",
    "create",
    "dispatch",
    "elementwise",
    "equation",
    "identity",
    "indexing",
    "mixing",
    "name_of",
    "reduce",
    "rule",
    "rule_for",
    "same",
    "shape",
    "shape_of",
    "spatial",
    "table",
]
