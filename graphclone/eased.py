"""What torch.export stumbles over though it means nothing: put out of its way while a model is traced."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphclone.lines import tell, untold

_NUMBERS = (int, float, complex, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
_PLAIN = (Tensor, *_NUMBERS, str, type(None), torch.dtype, torch.device)


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
        with _Stacked(), untold(), _idle_conversions(), _unchecked_distributions(), silence(), warnings.catch_warnings():
            # what a model keeps for its next run, torch restores
            warnings.filterwarnings("ignore", r"The (tensor|\.grad) attribute")
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
        real = [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
        same = all(dtype in (None, tensor.dtype) for tensor in real)
        same &= all(device in (None, tensor.device) for tensor in tensors)
        return module if same else given(module, *args, **kwargs)

    nn.Module.to = to  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.to = given  # type: ignore[method-assign]


@contextlib.contextmanager
def _unchecked_distributions() -> Iterator[None]:
    """Whether the numbers given to a distribution are such as it takes: an error or nothing, which no child computes."""
    checked = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checked)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """torch prints the whole graph where it stops; what it means, the error says."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


class _Stacked(TorchFunctionMode):
    """`torch.tensor([a, b])` of tensors, and `x[[a, b], [c, d]]`, which torch cannot trace: lists of tensors are stacks of them. Every call
    passes here, and its nodes are told the line that it is in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            raise TypeError("a tensor's .data is set: no graph can tell")
        if func is torch.tensor and args and _stackable(args[0]) and not options.get("requires_grad"):
            wanted = {name: value for name, value in options.items() if name in ("dtype", "device") and value is not None}
            return _stack(args[0]).clone().to(**wanted)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], tuple):
            index = tuple(_stack(each) if isinstance(each, (tuple, list)) and _stackable(each) else each for each in args[1])
            args = (args[0], index, *args[2:])
        result = func(*args, **options)
        tell()
        return result


def _stackable(data: Any) -> bool:
    """Whether some of it is tensors, and in a list each of them a single number (torch takes no others)."""
    tensors = [each for each in pytree.tree_leaves(data) if isinstance(each, Tensor)]
    return bool(tensors) and (isinstance(data, Tensor) or all(each.numel() == 1 for each in tensors))


def _stack(data: Any) -> Tensor:
    if isinstance(data, Tensor):
        return data.detach()
    if isinstance(data, (tuple, list)):
        return torch.stack([_stack(each.reshape(()) if isinstance(each, Tensor) else each) for each in data])
    return torch.tensor(data)
