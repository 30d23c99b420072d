"""ONNX: exported by torch, checked by onnx, and run in ONNX Runtime against PyTorch before anyone trusts it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphclone.decided import ASSERT
from graphclone.eased import eased
from graphclone.errors import OutputError

TOLERANCE = 1e-3
_SINGLE_FILE = 1_800_000_000  # bytes; ONNX's own limit for one file is 2 GiB
_log = logging.getLogger(__name__)


def export_onnx(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], path: Path) -> float:
    """Write `module` as ONNX, and return how far ONNX Runtime's outputs are from PyTorch's (the largest difference).

    The batch of every input and the sequence of integer inputs are left open where the model allows it (checked at
    another size too), else only the batch, else nothing; a log line says so. Inputs are named as in `forward`, outputs as in
    the model's result. The module itself is not touched.

    Raises:
        OutputError: the model cannot be exported, or the outputs differ by more than 1e-3 (relative to their largest value
            where that is above 1).
    """
    if isinstance(module, fx.GraphModule) and any(node.target is ASSERT for node in module.graph.nodes):
        _log.warning(
            "the graph refuses inputs that decide another computation than the example's; an ONNX file cannot: mind its inputs"
        )
    plain = _Plain(copy.deepcopy(module).requires_grad_(False), args, kwargs)
    failures = []
    for freedom, describe in _FREEDOMS.items():
        shapes = describe(plain)
        if freedom != "nothing" and not any(shapes):
            continue
        try:
            return _exported(plain, shapes, path)
        except Exception as error:  # the exporter raises what the traced program happens to raise
            cause = error.__cause__ or error  # the exporter wraps it in advice about reporting bugs
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            failures.append(f"with {freedom} left open: {reason}")
            _log.warning("the ONNX file keeps its example sizes: it cannot be exported with %s left open: %s", freedom, reason)
    raise OutputError(
        f"cannot export {type(module).__name__} as ONNX",
        because="\n           ".join(failures),
        attempt="the PyTorch or Hugging Face form of the child, which needs no export",
    )


class _Disagreement(Exception):
    """ONNX Runtime computes something else than PyTorch."""


class _Plain(nn.Module):
    """A module as ONNX sees one: tensors in by position, a tuple of tensors out, all of them named."""

    def __init__(self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        super().__init__()
        self.module = module
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", None):
            config.use_cache = False  # type: ignore[union-attr]  # a deep copy: the cache is one more output, and no tensor
        leaves, self.spec = pytree.tree_flatten_with_path((args, dict(kwargs)))
        positional = list(inspect.signature(module.forward).parameters)
        names = [_input_name(path, positional) for path, _ in leaves]
        self.constants = [None if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
        self.places = [index for index, (_, leaf) in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.names = [names[index] for index in self.places]
        self.inputs: tuple[Tensor, ...] = tuple(leaf for _, leaf in leaves if isinstance(leaf, Tensor))
        with contextlib.suppress(NotImplementedError):  # an exported program is in one mode for good
            self.eval()
        with torch.no_grad():
            self.output_names = [name for name, _ in _named_tensors(self._call(self.inputs))]

    def _call(self, tensors: Sequence[Tensor]) -> object:
        leaves = list(self.constants)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        result: object = self.module(*args, **kwargs)
        return result

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in _named_tensors(self._call(tensors)))


def _parts(path: Sequence[object]) -> list[str]:
    """The keys, indices and attributes that lead to a leaf of a nested value."""
    return [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]


def _input_name(path: Sequence[object], positional: Sequence[str]) -> str:
    """The name in `forward` of a leaf of (args, kwargs), followed by where it is inside that argument."""
    kind, first, *rest = _parts(path)
    if kind == "0":
        first = positional[int(first)] if int(first) < len(positional) else f"input_{first}"
    return "_".join([first, *rest])


def _named_tensors(result: object) -> list[tuple[str, Tensor]]:
    """Every tensor of a model's result under its name there: `logits`, `hidden_states_1`; `output` for a lone tensor."""
    leaves, _ = pytree.tree_flatten_with_path(result)
    named = [("_".join(_parts(path)), leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
    return [(f"output_{name}" if name[:1].isdigit() else name or "output", tensor) for name, tensor in named]


Shapes = tuple[dict[int, str], ...]


def _batch_and_sequence(plain: _Plain) -> Shapes:
    """Dim 0 of inputs that share the first one's batch, and dim 1 of integer inputs; equal lengths are one sequence."""
    lengths: dict[int, str] = {}
    shapes = []
    for name, tensor, batch in zip(plain.names, plain.inputs, _batch_only(plain), strict=True):
        open_dims = dict(batch)
        if tensor.dim() > 1 and not tensor.is_floating_point() and tensor.shape[1] > 1:
            open_dims[1] = lengths.setdefault(tensor.shape[1], "sequence" if not lengths else f"{name}_sequence")
        shapes.append(open_dims)
    return tuple(shapes)


def _batch_only(plain: _Plain) -> Shapes:
    batch = plain.inputs[0].shape[0] if plain.inputs and plain.inputs[0].dim() else 0
    return tuple({0: "batch"} if tensor.dim() and tensor.shape[0] == batch > 1 else {} for tensor in plain.inputs)


# What is left open, the most first, each tried until one can be exported and agrees with PyTorch.
_FREEDOMS: dict[str, Callable[[_Plain], Shapes]] = {
    "batch and sequence": _batch_and_sequence,
    "batch": _batch_only,
    "nothing": lambda plain: tuple({} for _ in plain.inputs),
}


def _exported(plain: _Plain, shapes: Shapes, path: Path) -> float:
    size = sum(tensor.numel() * tensor.element_size() for tensor in plain.state_dict().values())
    with torch.no_grad(), _quiet(), eased(plain, []):
        torch.onnx.export(
            plain,
            tuple(each.clone() for each in plain.inputs),  # the exporter leaves marks on them
            path,
            dynamo=True,
            dynamic_shapes={"tensors": shapes} if any(shapes) else None,
            input_names=plain.names,
            output_names=plain.output_names,
            external_data=size > _SINGLE_FILE,
            verbose=False,
        )
    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    trials = [plain.inputs, *([_resized(plain.inputs, shapes)] if any(shapes) else [])]
    return max(_difference(plain, session, tensors) for tensors in trials)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own parts, and about a torchvision that nobody asked for."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _resized(tensors: Sequence[Tensor], shapes: Shapes) -> tuple[Tensor, ...]:
    """Inputs of another size: one more in each open dim, filled with values from the same input, so that all are valid."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for tensor, open_dims in zip(tensors, shapes, strict=True):
        shape = [size + (dim in open_dims) for dim, size in enumerate(tensor.shape)]
        chosen = torch.randint(tensor.numel(), (int(np.prod(shape)),), generator=generator)
        made.append(tensor.flatten()[chosen].reshape(shape))
    return tuple(made)


@torch.no_grad()
def _difference(plain: _Plain, session: onnxruntime.InferenceSession, tensors: Sequence[Tensor]) -> float:
    fed = {name: tensor.numpy() for name, tensor in zip(plain.names, tensors, strict=True)}
    wanted = {each.name for each in session.get_inputs()}  # an input that the model never reads is not among them
    results = session.run(None, {name: value for name, value in fed.items() if name in wanted})
    largest = 0.0
    for name, ours, theirs in zip(plain.output_names, plain(*tensors), results, strict=True):
        expected = ours.float().numpy()
        if expected.shape != theirs.shape:
            raise _Disagreement(f"output {name} is {theirs.shape} in ONNX Runtime, {expected.shape} in PyTorch")
        gap = float(np.abs(expected - theirs.astype(np.float32)).max(initial=0.0))
        if not gap <= TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
            raise _Disagreement(f"output {name} differs by {gap:.2g} between ONNX Runtime and PyTorch")
        largest = max(largest, gap)
    return largest
