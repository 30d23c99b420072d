"""The line of the user's model that each node of a graph comes from.

torch would look up every frame of Python's stack for every node; what is needed of them is one line.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch.fx import config
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """While this lasts, torch writes down no stack of any node (its own switch); `tell` does."""
    before = getattr(config, "do_not_emit_stack_traces", False)  # older ones have no such switch, and tell by themselves
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


def tell() -> None:
    """Give every node that was made since the last call the `forward` that is running, as torch does: its deepest frame."""
    if torch.compiler.is_dynamo_compiling():  # the branches of a torch.cond: read by Dynamo, which can look up no frame
        return
    mode = get_proxy_mode()
    if mode is None:
        return
    text = None
    for node in reversed(mode.tracer.graph.nodes):
        if node.op == "placeholder" or "stack_trace" in node.meta:
            return
        text = _running(sys._getframe(2)) if text is None else text
        node.meta["stack_trace"] = text


def _running(frame: FrameType | None) -> str:
    """The deepest `forward` that is not torch's, else the deepest of torch's."""
    torchs = None
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and not code.co_filename.startswith("<"):  # `<eval_with_key>`: a graph that runs
            if not code.co_filename.startswith(_TORCH):
                return _shown(frame)
            torchs = torchs or frame
        frame = frame.f_back
    return _shown(torchs) if torchs is not None else ""


def _shown(frame: FrameType) -> str:
    """As Python's tracebacks write it."""
    path, line = frame.f_code.co_filename, frame.f_lineno
    return f'  File "{path}", line {line}, in {frame.f_code.co_name}\n    {linecache.getline(path, line).strip()}'
