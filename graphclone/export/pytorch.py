"""PyTorch files: a state dict as safetensors, and a module as an exported program (`.pt2`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphclone.dynamic import Dynamic, shapes_for
from graphclone.errors import OutputError
from graphclone.export import grouped


def save_state(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, each storage once.

    Names that share one tensor (tied embeddings) are written under the first of them; the file's metadata maps the others
    to it, as safetensors' own `save_model` does, so `sources.read_state` and `safetensors.torch.load_model` restore
    them. Tensors that merely overlap are written apart.
    """
    kept: dict[tuple[object, ...], str] = {}
    ties: dict[str, str] = {}
    written: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in kept:
            ties[name] = kept[place]
        else:
            kept[place] = name
            written[name] = _own(tensor)
    save_file(written, path, metadata={**(metadata or {}), **ties, "format": "pt"})


def _own(tensor: Tensor) -> Tensor:
    """The tensor alone in its storage: safetensors refuses views into a larger one."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.detach() if whole else tensor.detach().clone(memory_format=torch.contiguous_format)


def save_graph(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], path: Path, dynamic: Dynamic = False
) -> None:
    """Write a module as a `.pt2` file, exported with these example inputs; `dynamic`: the dims that stay open, as for `capture`.

    Raises:
        OutputError: torch.export cannot trace the module.
    """
    try:
        shapes = shapes_for(dynamic, module, args, kwargs)
        program = torch.export.export(module, args, dict(kwargs), dynamic_shapes=shapes, strict=False)
        if found := {node.target: grouped.spread for node in program.graph.nodes if grouped.parts(node)}:
            program = program.run_decompositions(found)  # what torch alone does not have
    except Exception as error:  # torch.export raises what the traced program happens to raise
        raise OutputError(
            f"cannot write '{path.name}'",
            because=f"torch.export says: {(str(error).splitlines() or [type(error).__name__])[0]}",
            attempt="writing its weights alone, as safetensors",
        ) from error
    torch.export.save(program, path)
