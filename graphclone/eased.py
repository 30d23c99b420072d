"""What torch.export stumbles over though it means nothing: put out of its way while a model is traced."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_PLAIN = (Tensor, int, float, complex, bool, str, type(None), torch.dtype, torch.device)


@contextlib.contextmanager
def eased(model: nn.Module, dropped: list[str]) -> Iterator[None]:
    """Trace under this. `dropped` collects the classes of outputs that a graph cannot hold (caches), for which it returns None."""

    def drop(leaf: Any) -> Any:
        if isinstance(leaf, _PLAIN):
            return leaf
        dropped.append(type(leaf).__name__)
        return None

    hook = model.register_forward_hook(lambda module, args, result: pytree.tree_map(drop, result))
    try:
        with _Stacked(), _idle_conversions(), _silence():
            yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _idle_conversions() -> Iterator[None]:
    """`module.to(dtype)` within a forward, where the module is of that dtype already."""
    given = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        tensors = [*module.parameters(), *module.buffers()]
        same = all(dtype in (None, tensor.dtype) or not tensor.is_floating_point() for tensor in tensors)
        same &= all(device in (None, tensor.device) for tensor in tensors)
        return module if same else given(module, *args, **kwargs)

    nn.Module.to = to  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.to = given  # type: ignore[method-assign]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """torch prints the whole graph where it stops; what it means, the error says."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


class _Stacked(TorchFunctionMode):
    """`torch.tensor([a, b])` of tensors, and `x[[a, b], [c, d]]`, which torch cannot trace: lists of tensors are stacks of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is torch.tensor and args and _holds_tensors(args[0]):
            return _stack(args[0]).to(**{name: value for name, value in options.items() if name in ("dtype", "device") and value})
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], tuple):
            index = tuple(_stack(each) if isinstance(each, (tuple, list)) and _holds_tensors(each) else each for each in args[1])
            args = (args[0], index, *args[2:])
        return func(*args, **options)


def _holds_tensors(data: Any) -> bool:
    return any(isinstance(each, Tensor) for each in pytree.tree_leaves(data))


def _stack(data: Any) -> Tensor:
    if isinstance(data, Tensor):
        return data.detach()
    return torch.stack([_stack(each) for each in data]) if isinstance(data, (tuple, list)) else torch.tensor(data)
