"""Parents in a Hugging Face folder: `config.json` and safetensors, as `save_pretrained` writes them."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from graphclone.errors import DestinationError, SourceError
from graphclone.sources.hf_config import resized, sizes
from graphclone.sources.hf_inputs.choice import example_inputs
from graphclone.sources.parent import Layers, Parent, Request
from graphclone.sources.quiet import quiet
from graphclone.sources.weights import check_safetensors, differences
from graphclone.sources.words import listed

# What `--arg` may say about a folder: how the same weights are computed with, never what they are.
_ARGS = ("attn_implementation", "experts_implementation")


def load(request: Request) -> Parent:
    """Load the class that `config.json` names, in float32 and eval mode, without a cache.

    Raises:
        SourceError: the folder, its config or its weights are missing, damaged, not allowed, or not the class's own.
    """
    folder = Path(request.spec).expanduser()
    stored = _stored_config(folder)
    if unknown := sorted(request.args.keys() - set(_ARGS)):
        raise SourceError(
            f"a folder takes no argument '{unknown[0]}'",
            because="its config.json says all about the parent",
            attempt=f"--set for the child's config; --arg takes {' or '.join(_ARGS)} here",
        )
    _check_weights(folder, allow_pickle=request.allow_pickle)
    kind = _model_class(folder, stored, trust_remote_code=request.trust_remote_code)
    with quiet(), _explained(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=request.trust_remote_code, local_files_only=True)
        module, found = kind.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            dtype=torch.float32,
            local_files_only=True,
            weights_only=True,
            use_safetensors=None if request.allow_pickle else True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below with both shapes
            output_loading_info=True,
            **request.args,
        )
    _check_loaded(folder, type(module).__name__, found)
    module = _without_cache(module).eval()

    def build(overrides: Mapping[str, object], layers: Layers) -> nn.Module:
        with quiet():
            return _another(module, resized(config, overrides, layers))

    def like(path: Path, overrides: Mapping[str, object]) -> nn.Module:
        with quiet():
            other, name = _other(path, config)
            return _another(module, resized(other, overrides) if overrides else other, name)

    return Parent(
        module, request.spec, kwargs=example_inputs(module), config=config, build=build, fields=sizes(config), like=like
    )


def _other(path: Path, own: PreTrainedConfig) -> tuple[PreTrainedConfig, str | None]:
    """Another model's config, and the name of its class. `path`: its folder, or the file itself.

    **Raises** `DestinationError` if there is none, or it is of another type than `own`.
    """
    file = path.expanduser() / "config.json" if path.expanduser().is_dir() else path.expanduser()
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        other = type(own).from_dict({name: value for name, value in stored.items() if name != "auto_map"})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DestinationError(
            f"cannot read the config '{file}'",
            because="there is no such file" if isinstance(error, FileNotFoundError) else str(error),
            attempt="a folder with a config.json",
        ) from error
    if stored.get("model_type") != own.model_type:
        raise DestinationError(
            f"'{file}' is no config for a child of this parent",
            because=f"it is of type {stored.get('model_type')!r}, the parent {own.model_type!r}",
            attempt="the config of a smaller model of the same type",
        )
    return other, next(iter(stored.get("architectures") or []), None)


def _another(module: PreTrainedModel, config: PreTrainedConfig, name: str | None = None) -> nn.Module:
    """A random model of the same class (or of transformers' class of another name), computing attention in the same way, with its cache
    switched off."""
    config = copy.deepcopy(config)
    config.dtype = torch.float32
    for computed_with in ("_attn_implementation", "_experts_implementation"):
        setattr(config, computed_with, getattr(module.config, computed_with, None))
    kind = getattr(transformers, name, None) if name is not None else None
    with quiet():
        fresh = (kind or type(module))(config)
    return _without_cache(fresh)


def _without_cache(module: nn.Module) -> nn.Module:
    """A cache of keys and values is one more output, of a type that torch.export does not know."""
    configs: list[Any] = [part.config for part in module.modules() if hasattr(part, "config")]
    for config in configs:
        if getattr(config, "use_cache", None):
            config.use_cache = False
    return module


def _stored_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands, once it is known to be there and to be readable."""
    if not folder.is_dir():
        raise SourceError(
            f"cannot find the model '{folder}'",
            because="there is no such folder" if not folder.exists() else "it is a file",
            attempt="a folder with config.json and model.safetensors; graphclone downloads nothing, `hf download` does",
        )
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(
            f"'{folder}' is no Hugging Face folder",
            because="it has no config.json",
            attempt="the folder that save_pretrained wrote (in a hub cache: snapshots/<revision>)",
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"cannot read '{path}'", because=f"it is not JSON: {error}") from error
    if not isinstance(stored, dict) or not stored.get("architectures"):
        raise SourceError(
            f"'{path}' does not say which class the weights belong to",
            because='it has no "architectures"',
            attempt='add it: "architectures": ["LlamaForCausalLM"]',
        )
    return stored


def _model_class(folder: Path, stored: Mapping[str, Any], *, trust_remote_code: bool) -> Any:
    """The class that config.json names: one of transformers' own, or with `trust_remote_code` one from the folder."""
    name = str(stored["architectures"][0])
    if (kind := getattr(transformers, name, None)) is not None:
        return kind
    references = [str(reference) for reference in dict(stored.get("auto_map") or {}).values()]
    reference = next((each for each in references if each.rpartition(".")[2] == name), None)
    if reference is None:
        raise SourceError(
            f"cannot load '{folder}'",
            because=f"transformers {transformers.__version__} has no class {name}, and the folder brings none",
            attempt="another version of transformers, or `package.module:factory` with --checkpoint",
        )
    if not trust_remote_code:
        raise SourceError(
            f"refused to load '{folder}'",
            because=f"its class {name} is a program in the folder itself ({reference.partition('.')[0]}.py)",
            attempt="--trust-remote-code, once you have read that file",
        )
    return get_class_from_dynamic_module(reference, folder, local_files_only=True)


def _check_weights(folder: Path, *, allow_pickle: bool) -> None:
    """There are weights, they are no pickle (or that is allowed), and each safetensors file is whole."""
    shards = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"cannot read '{index}'", because='it is no JSON with a "weight_map"') from error
        if absent := sorted(named - {shard.name for shard in shards}):
            raise SourceError(
                f"'{folder}' is not complete", because=f"{index.name} names {listed(absent)}, not there", attempt="copy it again"
            )
    for shard in shards:
        check_safetensors(shard)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if shards or (pickles and allow_pickle):
        return
    if pickles:
        raise SourceError(
            f"refused to load '{folder}'",
            because=f"its weights are in {listed(pickles)}, a pickle, which can run any program when it is read",
            attempt="the model's safetensors version, or --allow-pickle if you trust where it comes from",
        )
    raise SourceError(f"'{folder}' has no weights", because="there is no *.safetensors file in it")


def _check_loaded(folder: Path, name: str, found: Mapping[str, Any]) -> None:
    """Every parameter came from the files. Weights that the class does not use are only remarked on: many published
    checkpoints carry a head of their training, and a child has no need of it."""
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    misfits = [f"{key} is {list(there)} there and {list(here)} here" for key, there, here in sorted(found["mismatched_keys"])]
    if missing or misfits:
        raise SourceError(
            f"the weights in '{folder}' are not those of a {name}",
            because=differences(missing, unexpected, misfits),
            attempt='the class that was saved, under "architectures" in config.json',
        )
    if unexpected:
        warnings.warn(f"'{folder}' holds weights that {name} does not use: {listed(unexpected)}", stacklevel=4)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Whatever transformers raises, with what the user asked for before it."""
    try:
        yield
    except Exception as error:  # from a config's checks to a shard's bytes, each raises its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SourceError(
            f"cannot load '{folder}'", because=f"transformers says: {' '.join(lines[:3]) or type(error).__name__}"
        ) from error
