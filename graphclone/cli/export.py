"""`graphclone export`: a model as ONNX, checked in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from graphclone.cli import children
from graphclone.cli.console import out, working
from graphclone.cli.options import Asked
from graphclone.export.folder import new_file


def run(asked: Asked, onnx: Path, overwrite: bool) -> None:
    from graphclone.export.onnx import export_onnx

    with new_file(onnx, overwrite) as path:
        with working(f"loading {asked.spec}"):
            child = children.load(asked)
        with working("exporting, and comparing in ONNX Runtime"):
            difference = export_onnx(child.module, child.args, child.kwargs, path)
    out().print(f"written to [bold]{onnx}[/]; ONNX Runtime differs from PyTorch by {difference:.1e} at most", soft_wrap=True)
