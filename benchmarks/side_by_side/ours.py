"""graphclone on a model, by its public API: half of every free residual, hidden and heads factor, and its own oracles.

Where torch.export refuses a model because of its KV cache, the cache is switched off, as the error message advises, and as
graphclone does itself when it loads a Hugging Face folder.
"""

from __future__ import annotations

import graphclone as gc
from benchmarks.side_by_side.roles import complaint, narrowed, shapes
from benchmarks.side_by_side.subjects import find, settle
from benchmarks.side_by_side.verdict import Outcome, principal, told


def judge(name: str) -> Outcome:
    subject, setting = find(name), "defaults"
    model, (args, kwargs) = subject.build(), subject.inputs()
    try:
        trace = gc.capture(model, args, kwargs)
    except gc.GraphcloneError as refusal:
        if "use_cache" not in str(refusal):
            return Outcome("fails", told(refusal), setting)
        setting, model = "KV cache off", settle(model, cache=False)
        try:
            trace = gc.capture(model, args, kwargs)
        except gc.GraphcloneError as error:
            return Outcome("fails", told(error), setting)
    layout = gc.analyze(trace)
    before, expected = shapes(model), principal(model, (args, kwargs))
    child = gc.execute(gc.plan(layout, width=halves(layout), scores=gc.score_weights(layout)), model, trace=trace)
    after = {**before, **{each: tuple(parameter.shape) for each, parameter in child.named_parameters(remove_duplicate=False)}}
    after |= {alias: after[origin] for alias, origin in trace.aliases.items() if alias in before and origin in after}
    roles = narrowed(before, after)
    if after == before:
        return Outcome("no-op", "nothing is pruned", setting, roles)
    found = principal(child, (args, kwargs))
    if [each.shape for each in found] != [each.shape for each in expected]:
        return Outcome("wrong", "the outputs have another shape", setting, roles)
    verdicts = gc.verify(model, args, kwargs)
    said = {v.oracle: f"{'passed' if v.passed else 'failed'}: {v.detail}, difference {v.error:.0e}" for v in verdicts.verdicts}
    if not verdicts.passed:
        return Outcome(
            "wrong", "; ".join(f"{oracle} {text}" for oracle, text in said.items() if "failed" in text), setting, roles, said
        )
    left = complaint(roles)
    return Outcome("partial" if left else "full", left and f"{left}{_why(layout)}", setting, roles, said)


def halves(layout: gc.Layout) -> dict[str, int | float]:
    """Half of every free factor of the residual stream, of MLPs and of heads; of shared key/value heads rather than of their queries."""
    free = [factor for factor in layout.factors if factor.slots and factor.frozen is None and factor.size > 1]
    groups = {slot for factor in free if factor.kind == "kv_groups" for slot in factor.slots}
    return {
        factor.name: factor.size // 2
        for factor in free
        if factor.kind in ("residual", "hidden", "kv_groups") or (factor.kind == "heads" and not groups & set(factor.slots))
    }


def _why(layout: gc.Layout) -> str:
    """The reason of the first frozen factor that such a child would need."""
    for factor in layout.factors:
        if (
            factor.frozen is not None
            and factor.kind in ("residual", "hidden", "heads", "kv_groups", "fixed")
            and len(factor.slots) > 1
        ):
            return f" ({factor.name} is frozen: {factor.frozen})"
    return ""
