"""Makes a torchvision whose C++ ops do not load importable, for the tests and the zoo only.

The torchvision on the registry is built for CUDA. Beside a CPU torch its library of C++ ops cannot be loaded, and
the import then fails with "operator torchvision::nms does not exist", which takes timm and transformers down with it
(transformers 5 imports torchvision as soon as it is importable). No model here calls those ops: it is enough that
they are *declared* before torchvision is imported. So that Python's start-up stays free of torch, `install` only
places a hook on `sys.meta_path`, and the hook does the work when torchvision is first looked for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

# `pip install --target` puts torchvision here, apart from the packages that pip would otherwise replace with CUDA builds.
FOLDER = Path(sys.prefix) / "torchvision"
OPS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # a torch Library takes its ops back when it is collected


def declare_ops(package: Path) -> None:
    """Declare the two ops, unless the C++ library that defines them loads after all, or somebody declared them before."""
    import torch

    for binary in package.glob("_C*.so"):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(binary))  # type: ignore[no-untyped-call]
    known = set(torch._C._dispatch_get_all_op_names())
    missing = [op for op in OPS if f"torchvision::{op.partition('(')[0]}" not in known]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for op in missing:
            library.define(op)  # type: ignore[no-untyped-call]
        _declared.append(library)


class _Hook(MetaPathFinder):
    """Declares the ops just before torchvision is found by the ordinary finders; finds nothing itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)  # once is enough, and torch may look for torchvision while it is imported
            spec = PathFinder.find_spec(fullname)
            if spec is not None and spec.origin is not None:
                declare_ops(Path(spec.origin).parent)
        return None


def install() -> None:
    """Put `FOLDER` on the path if torchvision is nowhere else, and have its ops declared before its first import."""
    if "torchvision" in sys.modules or any(isinstance(finder, _Hook) for finder in sys.meta_path):
        return
    spec = PathFinder.find_spec("torchvision")
    if (spec is None or spec.origin is None) and FOLDER.is_dir():
        sys.path.append(str(FOLDER))
    sys.meta_path.insert(0, _Hook())
