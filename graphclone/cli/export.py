"""`graphclone export`: a model as ONNX, compared in ONNX Runtime with PyTorch, and timed beside its parent."""

from __future__ import annotations

import importlib.metadata
import inspect
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphclone.cli import children
from graphclone.cli.console import out, working
from graphclone.cli.options import Asked
from graphclone.errors import OutputError, SourceError
from graphclone.export.folder import new_files
from graphclone.export.record import PLAN, RECORD, Record
from graphclone.plan import Plan
from graphclone.report import Sheet
from graphclone.sources import Parent

if TYPE_CHECKING:  # onnx is an extra
    from graphclone.export.onnx import Exported, Wanted


def precision(fp16: bool, int8: bool) -> str:
    if fp16 and int8:
        raise OutputError("--fp16 and --int8 exclude each other", because="a file has weights of one kind", attempt="one of them")
    return "fp16" if fp16 else "int8" if int8 else "fp32"


def run(asked: Asked, onnx: Path, wanted: Wanted, parent: str | None, overwrite: bool) -> None:
    from graphclone.export.onnx import export_onnx

    if parent is not None and not wanted.bench:
        raise SourceError("--parent is not used", because="it is timed beside the child, and nothing is timed", attempt="--bench")
    with new_files(onnx, overwrite) as path:
        with working(f"loading {asked.spec}"):
            child = children.load(asked)
        with working("exporting, and comparing in ONNX Runtime"):
            told = replace(wanted, provenance=_provenance(asked.spec, child, parent))
            done = export_onnx(child.module, child.args, child.kwargs, path, told)
    if not wanted.past and (further := _further(child)):
        more = f"its inputs are those of the example; the model's forward can take others too ({', '.join(further)})"
        done = replace(done, remarks=(*done.remarks, f"{more}: --input {further[0]}=… adds it"))
    timed = {"this model": (child, done)}
    if parent is not None:
        timed["its parent"] = _parent(replace(asked, spec=parent, arg=[], checkpoint=None), wanted)
    _tell(onnx, done, timed)


def _further(child: Parent) -> list[str]:
    """The tensors that a model's forward takes and the example has not."""
    parameters = list(inspect.signature(child.module.forward).parameters.values())
    without = [each for each in parameters[len(child.args) :] if each.name not in child.kwargs]
    return [each.name for each in without if each.default is None and "Tensor" in str(each.annotation)]


def _parent(asked: Asked, wanted: Wanted) -> tuple[Parent, Exported]:
    """The parent as a file that nobody keeps, in the same precision."""
    from graphclone.export.onnx import export_onnx

    with tempfile.TemporaryDirectory() as folder, working(f"exporting {asked.spec}"):
        loaded = children.load(asked)
        return loaded, export_onnx(loaded.module, loaded.args, loaded.kwargs, Path(folder) / "parent.onnx", wanted)


def _tell(path: Path, done: Exported, timed: dict[str, tuple[Parent, Exported]]) -> None:
    out().print(f"written to [bold]{path}[/]; ONNX Runtime differs from PyTorch by {done.difference:.1e} at most", soft_wrap=True)
    for difference in done.differences:
        out().print(f"  {difference}", markup=False, soft_wrap=True)
    out().print(f"open axes: {done.open or 'none'}", markup=False, soft_wrap=True)
    for remark in done.remarks:
        out().print(f"note: {remark}", markup=False, soft_wrap=True)
    if any(each.latencies for _, each in timed.values()):
        table = Sheet("Measured here, on the example inputs", "", "parameters", "runtime", "inputs", "median", "fastest", "runs")
        for name, (model, each) in timed.items():
            size = f"{sum(parameter.numel() for parameter in model.module.parameters()):,}"
            for took in each.latencies:
                times = (f"{took.median:.2f} ms", f"{took.fastest:.2f} ms", str(took.runs))
                table.add_row(name, size, took.runtime, took.shapes, *times)
        out().print(table)


def _provenance(spec: str, child: Parent, parent: str | None) -> dict[str, str]:
    """What the file tells of itself: names, no paths of this machine."""
    folder = Path(spec).expanduser()
    told = {"graphclone_version": importlib.metadata.version("graphclone"), "graphclone_model": type(child.module).__name__}
    if (folder / RECORD).is_file():
        record = Record.load(folder)
        parent = parent or record.parent
        told["graphclone_parent_sha256"] = " ".join(f"{name}:{digest}" for name, digest in record.hashes.items())
    if parent:
        told["graphclone_parent"] = _without_path(parent)
    if (folder / PLAN).is_file():
        told["graphclone_plan"] = str(Plan.load(folder / PLAN))
    return told


def _without_path(spec: str) -> str:
    return Path(spec).name if Path(spec).expanduser().exists() or ":" not in spec else spec
