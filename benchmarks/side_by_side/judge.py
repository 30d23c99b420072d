"""What a use of torch-pruning comes to on a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.side_by_side.reorder import Check, permutation, zeroed
from benchmarks.side_by_side.roles import complaint, narrowed, shapes
from benchmarks.side_by_side.subjects import Inputs, find, settle
from benchmarks.side_by_side.theirs import BEST, PLAIN, Removal, Use, prune
from benchmarks.side_by_side.verdict import Outcome, principal, told

USES = {use.name: use for use in (PLAIN, *BEST)}


def judge(name: str, use_name: str) -> Outcome:
    use, subject = USES[use_name], find(name)
    model, inputs = settle(subject.build(), cache=use.cache, attention=use.attention), subject.inputs()
    before, expected = shapes(model), principal(model, inputs)
    child = copy.deepcopy(model)
    try:
        _, done = prune(child, inputs, use)
    except Exception as error:
        return Outcome("fails", f"while pruning: {told(error)}", str(use))
    roles = narrowed(before, shapes(child))
    if not any(shapes(child)[each] != shape for each, shape in before.items() if each in shapes(child)):
        return Outcome("no-op", "nothing is pruned", str(use), roles)
    try:
        found = principal(child, inputs)
    except Exception as error:
        return Outcome("fails", f"the pruned model does not run: {told(error)}", str(use), roles)
    if [each.shape for each in found] != [each.shape for each in expected]:
        return Outcome("wrong", "the outputs have another shape", str(use), roles)
    checks = {check.__name__: _tried(check, model, inputs, use, done) for check in (permutation, zeroed)}
    said = {
        check: f"{ {True: 'passed', False: 'failed', None: 'not applicable'}[c.passed] }: {c.detail}"
        for check, c in checks.items()
    }
    if failed := [check.detail for check in checks.values() if check.passed is False]:
        return Outcome("wrong", failed[0], str(use), roles, said)
    left = complaint(roles)
    unchecked = "" if any(check.passed for check in checks.values()) else "no group could be checked"
    return Outcome("partial" if left else "full", "; ".join(filter(None, (left, unchecked))), str(use), roles, said)


def _tried(check: Callable[[nn.Module, Inputs, Use, list[Removal]], Check], *arguments: Any) -> Check:
    """A check that cannot be made counts for nobody."""
    try:
        return check(*arguments)
    except Exception as error:
        return Check(None, told(error))
