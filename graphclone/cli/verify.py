"""`graphclone verify`: the oracles on a parent; and a child against what its plan makes of its parent."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import typer
from rich.text import Text
from torch import nn

import graphclone as gc
from graphclone.cli import children
from graphclone.cli.console import FAILED, err, out, working
from graphclone.cli.options import Asked
from graphclone.errors import SourceError
from graphclone.export.record import Record, digest_of_fitted
from graphclone.plan import Plan
from graphclone.report import Sheet
from graphclone.verify import Report, Verdict, fitted_in


def run(model: str, asked: Asked, is_child: bool, as_json: bool, seed: int, dynamic: bool | None) -> None:
    plan, child, given = None, None, None
    if is_child:
        plan = _plan(model)
        with working(f"loading {model}"):
            loaded = children.load(Asked(model, [], [], None, asked.allow_pickle, asked.trust_remote_code), trusted=asked.spec)
            child = loaded.module
        if not asked.input and children.is_written(model):
            given = loaded.args, loaded.kwargs  # its plan's, which may be all that it takes
    with working(f"loading {asked.spec}"):
        parent = children.load(asked)
    args, kwargs = given or (parent.args, parent.kwargs)
    with working("running the oracles"):
        verdicts = gc.verify(parent.program or parent.module, args, kwargs, plan=plan, child=child, seed=seed, dynamic=dynamic)
    if plan is not None and child is not None and plan.fitted:
        verdicts = _with_fitted(verdicts, plan, child, Record.load(Path(model).expanduser()))
    if plan is not None:  # what no oracle asks: what a class computes anew, and what names alone have matched
        verdicts = replace(verdicts, remarks=tuple(dict.fromkeys((*verdicts.remarks, *plan.remarks))))
    if as_json:
        oracles = [asdict(each) for each in verdicts.verdicts]
        out().print_json(json.dumps({"passed": verdicts.passed, "oracles": oracles, "remarks": verdicts.remarks}))
    else:
        out().print(_table(verdicts))
        for remark in verdicts.remarks:
            out().print(f"note: {remark}", markup=False, soft_wrap=True)
    if not verdicts.passed:
        roads = any(each.oracle in ("two roads", "refilled", "fitted") and not each.passed for each in verdicts.verdicts)
        hint = " A child that was trained since then differs from its plan: only a fresh clone can be verified." if roads else ""
        err().print(f"an oracle failed.{hint}", soft_wrap=True)
        raise typer.Exit(FAILED)


def _with_fitted(verdicts: Report, plan: Plan, child: nn.Module, record: Record) -> Report:
    """No plan tells what was fitted on data; the child's record tells whether it is what was written."""
    if not record.fitted:
        told = f"{len(plan.fitted)} tensors were fitted on data and are taken as they are: an older child does not tell what they were"
        return replace(verdicts, remarks=(*verdicts.remarks, told))
    same = digest_of_fitted(fitted_in(plan, child)) == record.fitted
    found = Verdict("fitted", same, float(not same), f"{len(plan.fitted)} tensors")
    return replace(verdicts, verdicts=(*verdicts.verdicts, found))


def _plan(model: str) -> Plan:
    path = Path(model).expanduser() / "plan.json"
    if not path.parent.exists():
        raise SourceError(
            f"'{model}' is no child of graphclone", because="there is no such folder", attempt="the folder that clone wrote"
        )
    if not path.is_file():
        itself = f"graphclone verify {model}, to run the oracles on a model by itself"
        raise SourceError(
            f"'{model}' is no child of graphclone",
            because="there is no plan.json in it",
            attempt=itself if (path.parent / "config.json").is_file() else "the folder that clone wrote",
        )
    return Plan.load(path)


_MEANS = {
    "identity": "the plan that keeps everything reproduces the parent",
    "permutation": "permuting every free factor at once changes nothing",
    "masked parent": "dropping units is the same as zeroing them in the parent",
    "growth": "repeating units, and sharing out what reads them, changes nothing",
    "rotation": "turning streams, and what is inside heads, changes nothing",
    "refilled": "the child, whose graph is not the parent's, holds what its plan makes of the parent's tensors",
    "fitted": "what was fitted on data is what it was when the child was made",
    "two roads": "the child computes what the rewritten graph of its plan computes",
}


def _table(verdicts: Report) -> Sheet:
    table = Sheet("", "oracle", "error", "over", "what it says")
    for each in verdicts.verdicts:
        style = {"✓": "green", "✗": "bold red", "–": "dim"}[each.mark]
        table.add_row(Text(each.mark, style=style), each.oracle, f"{each.error:.1e}", each.detail, _MEANS.get(each.oracle, ""))
    return table
