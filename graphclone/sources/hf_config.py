"""A Hugging Face config with other sizes: what was set stays, what its class derives is derived again."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from graphclone.errors import DestinationError
from graphclone.sources.parent import Layers
from graphclone.sources.words import listed, nearest

# Bookkeeping that transformers writes by itself; nobody sets it.
_NOT_FIELDS = {"transformers_version", "architectures", "dtype", "output_hidden_states", "return_dict", "chunk_size_feed_forward"}

_ABSENT = object()


def resized(config: PreTrainedConfig, overrides: Mapping[str, object], layers: Layers = ()) -> PreTrainedConfig:
    """A copy of `config` with some fields changed, made anew by its class. `text_config.hidden_size` reaches inside.

    These follow a change without being named:

    - what the class works out and does not let anyone set (Swin's `hidden_size`, T5's `is_gated_act`);
    - a list with one entry per layer: the entries of the layers that are kept. Where `layers` says nothing of as many, one
      that the class fills in by itself (`layer_types` by a pattern) is filled in anew, and of one that was written out
      the first and last entries are kept, as when the middle layers are dropped;
    - values of single layers (`per_layer_config`): those of the layers that are kept, unless the class works them out;
    - any other list that the class fills in: it is filled in anew;
    - a copy that the class makes of a changed field (`num_key_value_heads` of `num_attention_heads`).

    Everything else stays as it is in the parent: with `hidden_size` halved, `head_dim` is still the same.

    Raises:
        DestinationError: there is no such field, or the class refuses the values.
    """
    kind = type(config)
    flat: dict[str, object] = {}
    nested: dict[str, dict[str, object]] = {}
    for name, value in overrides.items():
        outer, dot, inner = name.partition(".")
        if dot and isinstance(getattr(config, outer, None), PreTrainedConfig):
            nested.setdefault(outer, {})[inner] = value
        else:
            flat[_settable(config, name)] = value
    given = {name: copy.deepcopy(_read(config, name)) for name in _fields(config)}
    if "num_labels" in flat:  # it is stored as the labels' names
        given = {name: value for name, value in given.items() if name not in ("id2label", "label2id")}
    given |= {outer: resized(getattr(config, outer), inner, layers) for outer, inner in nested.items()}
    try:
        given |= _stated_beside_fields(config, given)
        own = _of_layers(config, given, flat, layers)
        given = _follow(config, given, flat, layers)
        return kind(**(given | flat | own))
    except DestinationError:
        raise
    except Exception as error:
        raise DestinationError(
            f"cannot make a {kind.__name__} with {', '.join(f'{name}={value}' for name, value in overrides.items())}",
            because=str(error).strip() or type(error).__name__,
            attempt="values of the fields' types, and those that belong together at once",
        ) from error


def _fields(config: PreTrainedConfig) -> list[str]:
    """The names that the class can be called with: its constructor's own, and those of the classes below it."""
    parameters = inspect.signature(type(config)).parameters.values()
    own = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    inherited = [each.name for each in dataclasses.fields(type(config)) if each.init]
    return [name for name in dict.fromkeys([*own, *inherited]) if _read(config, name, _ABSENT) is not _ABSENT]


def _read(config: PreTrainedConfig, name: str, *default: object) -> Any:
    """A field as it is for all layers: where layers have values of their own, a config refuses to tell."""
    read = getattr(config, "_getattr_without_heterogeneous_validation", partial(getattr, config))
    return read(name, *default)


def _of_layers(
    config: PreTrainedConfig, given: Mapping[str, Any], changed: Mapping[str, object], layers: Layers
) -> dict[str, Any]:
    """Values that some layers have of their own, for the layers that are kept; nothing where the class comes to them by itself."""
    stated: Mapping[str, Any] = config.to_dict().get("per_layer_config") or {}
    if not stated or type(config)(**given).to_dict().get("per_layer_config") == stated:
        return {}
    name = type(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    old = _read(config, name)
    new: Any = changed.get(name, old)
    kept = next((chosen for depth, chosen in layers if (depth, len(chosen)) == (old, new)), _middle(old, new))
    found = {int(layer): each for layer, each in stated.items()}
    return {"per_layer_config": {place: found[layer] for place, layer in enumerate(kept) if layer in found}}


def sizes(config: PreTrainedConfig) -> dict[str, object]:
    """The fields that may hold sizes, those of inner configs under dotted names: numbers (ratios of sizes too), lists of numbers, and
    what is not set."""
    found: dict[str, object] = {}
    for name in _fields(config):
        value = _read(config, name)
        if isinstance(value, PreTrainedConfig):
            found |= {f"{name}.{inner}": each for inner, each in sizes(value).items()}
        elif name not in _NOT_FIELDS and not isinstance(value, (bool, str, dict)):
            found[name] = value
    return found


def _settable(config: PreTrainedConfig, name: str) -> str:
    """The field behind a name, common names such as `num_hidden_layers` included."""
    field: str = type(config).attribute_map.get(name, name)
    fields = _fields(config)
    if field in fields or field == "num_labels":
        return field
    public = [each for each in (*fields, *type(config).attribute_map) if not each.startswith("_") and each not in _NOT_FIELDS]
    inner = [each for each in public if isinstance(_read(config, each, None), PreTrainedConfig)]
    public += [f"{outer}.{each}" for outer in inner for each in _fields(getattr(config, outer)) if each not in _NOT_FIELDS]
    sizes = [each for each in public if type(_read(config, each, None)) is int]
    derived = _read(config, name, _ABSENT) is not _ABSENT
    raise DestinationError(
        f"cannot set '{name}'",
        because=f"{type(config).__name__} derives it from other fields"
        if derived
        else f"{type(config).__name__} has no such field",
        attempt=nearest(name, public) or f"one of {listed(sizes, 12)}",
    )


def _stated_beside_fields(config: PreTrainedConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes beside the fields that the class does not come to by itself: someone has set them, so they are kept."""
    fresh = type(config)(**given)
    beside = [name for name in vars(config) if not name.startswith("_") and name not in given]
    return {name: copy.deepcopy(value) for name in beside if (value := _read(config, name)) != _read(fresh, name, _ABSENT)}


def _follow(config: PreTrainedConfig, given: dict[str, Any], changed: Mapping[str, object], layers: Layers) -> dict[str, Any]:
    """`given` without what the class is to derive anew, and with written-out lists cut to the new depth."""
    kept = dict(given)
    for name, value in given.items():
        if name in changed or name in _NOT_FIELDS or isinstance(value, PreTrainedConfig):
            continue
        copied = [new for field, new in changed.items() if value == given.get(field)]
        if not copied and not isinstance(value, (list, tuple)):
            continue  # asking the class takes time
        before, after = _derived(config, given, {}, name), _derived(config, given, changed, name)
        if isinstance(value, (list, tuple)) and isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
            per_layer = len(after) != len(before) == len(value)
            told = [chosen for depth, chosen in layers if (depth, len(chosen)) == (len(value), len(after))]
            if per_layer and (told or list(value) != list(before)):
                chosen = (told or [_middle(len(value), len(after))])[0]
                kept[name] = list(range(len(after))) if _numbers(value) else [value[index] for index in chosen]
            elif list(value) == list(before):
                del kept[name]
        elif value == before != after and after in copied:
            del kept[name]
    return kept


def _derived(config: PreTrainedConfig, given: Mapping[str, Any], changed: Mapping[str, object], name: str) -> Any:
    """What the class makes of a field that nobody sets; None where it cannot do without.

    Several lists may have an entry per layer, and a class refuses those of another depth: then all as long as this one are left out.
    """
    rest = {key: value for key, value in (dict(given) | dict(changed)).items() if key != name}
    others = {key: value for key, value in rest.items() if key in changed or not _as_long(value, given[name])}
    for fields in [rest] + [others] * (len(others) < len(rest)):
        try:
            return _read(type(config)(**copy.deepcopy(fields)), name, None)
        except Exception:  # whatever a config class raises: it needs this field
            continue
    return None


def _numbers(value: Sequence[object]) -> bool:
    """Whether a list says of each layer its number, as one does of which layers have experts where all have."""
    return list(value) == list(range(len(value)))


def _as_long(value: object, other: object) -> bool:
    return isinstance(value, (list, tuple)) and isinstance(other, (list, tuple)) and len(value) == len(other)


def _middle(old: int, new: int) -> Sequence[int]:
    """The layers that are left when the middle ones are dropped, or each is repeated."""
    return [*range((new + 1) // 2), *range(old - new // 2, old)] if new <= old else [i * old // new for i in range(new)]
