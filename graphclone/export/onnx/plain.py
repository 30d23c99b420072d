"""A model as ONNX sees one: tensors in by position, a tuple of tensors out, all of them named."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Plain(nn.Module):
    """Around a module: `names` and `inputs` are its tensors among the example inputs, `output_names` those of its result.

    `given`: the inputs as they came, where the batch of `inputs` is twice theirs. Everything else among them (numbers, None, strings) is
    built in. `separator` stands between the parts of a nested name; `prefix` is where the model lies in this module. `alone`: a batch of
    one stays one, since no size is going to be open.
    """

    def __init__(
        self,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        separator: str = "_",
        prefix: str = "module.",
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.module, self.separator, self.prefix = module, separator, prefix
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", None):
            config.use_cache = False  # type: ignore[union-attr]  # a deep copy: the cache is one more output, and no tensor
        leaves, self.spec = pytree.tree_flatten_with_path((args, dict(kwargs)))
        positional = list(inspect.signature(module.forward).parameters)
        names = [_input_name(path, positional, separator) for path, _ in leaves]
        self.constants = [None if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
        self.places = [index for index, (_, leaf) in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.names = [names[index] for index in self.places]
        self.inputs: tuple[Tensor, ...] = tuple(leaf for _, leaf in leaves if isinstance(leaf, Tensor))
        with contextlib.suppress(NotImplementedError):  # an exported program is in one mode for good
            self.eval()
        self.given = self.inputs
        self.inputs = self.inputs if alone else self._batched()
        with torch.no_grad():
            found = named_tensors(self._call([each.clone() for each in self.inputs]), separator)
        self.output_names = [f"output_{name}" if name in self.names else name for name, _ in found]

    def _batched(self) -> tuple[Tensor, ...]:
        """The example inputs, a batch of one made two: torch takes a size of 1 to be fixed."""
        if not self.inputs or self.inputs[0].shape[:1] != (1,):
            return self.inputs
        twice = tuple(each.repeat_interleave(2, 0) if each.shape[:1] == (1,) else each for each in self.inputs)
        return twice if self.takes(twice) else self.inputs  # a first dim may be no batch

    @torch.no_grad()
    def takes(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the module runs on these inputs."""
        try:
            self._call([each.clone() for each in tensors])
        except Exception:  # whatever a model raises
            return False
        return True

    def _call(self, tensors: Sequence[Tensor]) -> object:
        leaves = list(self.constants)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        result: object = self.module(*args, **kwargs)
        return result

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        for _, tensor in named_tensors(self._call(tensors), self.separator):
            repeated = any(tensor is other for other in (*tensors, *found))  # ONNX has one name for one value
            found.append(tensor.clone() if repeated else tensor)
        return tuple(found)


def _parts(path: Sequence[object]) -> list[str]:
    """The keys, indices and attributes that lead to a leaf of a nested value."""
    return [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]


def _input_name(path: Sequence[object], positional: Sequence[str], separator: str) -> str:
    """The name in `forward` of a leaf of (args, kwargs), followed by where it is inside that argument."""
    kind, first, *rest = _parts(path)
    if kind == "0":
        first = positional[int(first)] if int(first) < len(positional) else f"input_{first}"
    return separator.join([first, *rest])


def named_tensors(result: object, separator: str = "_") -> list[tuple[str, Tensor]]:
    """Every tensor of a model's result under its name there: `logits`, `hidden_states_1`; `output` for a lone tensor."""
    leaves, _ = pytree.tree_flatten_with_path(result)
    named = [(separator.join(_parts(path)), leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
    return [(f"output_{name}" if name[:1].isdigit() else name or "output", tensor) for name, tensor in named]
