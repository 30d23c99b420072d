"""Shrink a default config: walk its fields, nested configs and per-layer lists, and make each small by its role."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graphclone.sources.hf_inputs.case import CONTENT, nested
from models_zoo.field.hf.exceptions import TEXT, Pair, exceptions, keeps_widths, reads_sections
from models_zoo.field.hf.roles import role

VOCABULARY = 61
LAYERS = 4
_PALETTE = (64, 128, 192, 256, 320, 384, 448, 512)
_OUT = (
    "out_hidden_size",
    "text_hidden_size",
    "adapter_out_dim",
    "output_dim",
    "language_hidden_size",
)  # of a tower, towards the text
_SQUARES = (32, 16, 8, 4, 2, 1)
# Bookkeeping of the config class, and what follows from other fields.
_IGNORED = frozenset(
    {"transformers_version", "architectures", "dtype", "id2label", "label2id", "problem_type", "per_layer_config"}
)
_SIZES: dict[str, tuple[int, int]] = {  # role: (size in the parent, size in the smaller one)
    "vocabulary": (VOCABULARY, VOCABULARY), "codebook": (32, 32), "filters": (8, 4),
    "zero experts": (2, 2), "hashes": (53, 53), "channel groups": (4, 4), "rotary": (8, 8),
    "positions": (101, 101), "square positions": (64, 64), "window": (5, 5),
    "head": (12, 12), "rope head": (8, 8), "plain head": (12, 12), "value head": (20, 20),
    "query rank": (40, 20), "key rank": (28, 14), "experts": (6, 6), "experts per token": (2, 2), "shared experts": (2, 2),
    "groups of experts": (2, 2), "chosen groups": (1, 1), "patch": (4, 4), "image": (24, 24),
    "source positions": (26, 26), "queries": (9, 9),
    "dense first": (1, 1), "depths": (2, 1), "layers": (LAYERS, 2),
}  # fmt: skip


@dataclass(frozen=True)
class Halved:
    """Which sizes of a parent a smaller one has half of."""

    widths: bool = False
    depth: bool = False

    def of(self, kind: str) -> bool:
        """Whether sizes of this role are halved."""
        return self.depth if kind in ("layers", "depths", "layer indices") else self.widths


WHOLE, HALF, NARROW, SHALLOW = Halved(), Halved(True, True), Halved(widths=True), Halved(depth=True)


@dataclass(frozen=True)
class Scale:
    """What the sizes of one tree of configs become; equal sizes stay equal, so that what must agree agrees."""

    widths: dict[int, int]
    tokens: dict[int, int]
    half: Halved
    stages: bool  # whether some part has stages of widths, as hierarchical vision towers have

    def size(self, name: str, value: int) -> int:
        """The small size for `value` of the field `name`."""
        kind = role(name)
        if value < 2 or kind == "keep":
            return value
        if kind == "token":
            return self.tokens.get(value, value)
        if kind == "width":
            return self.widths.get(value, value)
        if kind in ("heads", "key heads"):
            heads = 8 if value >= 12 else min(4, value)
            return heads // 2 if self.half.widths and heads > 1 else heads
        if kind == "image" and self.stages:
            return min(value, 128)
        if kind in _SIZES:
            return min(value, _SIZES[kind][self.half.of(kind)])
        return value


def shrink(config: Any, half: Halved = WHOLE, **settings: Any) -> Any:
    """A config of the same class with small sizes: those of the parent, or with some halved those of a smaller destination."""
    return _rebuild(config, _scale(config, half), settings)


def field_of(config: Any, name: str) -> Any:
    """A field's value, also where it differs by layer and the config would not say."""
    return vars(config).get(config.attribute_map.get(name, name))


def _fields(config: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        if field.name not in _IGNORED:
            yield field.name, field_of(config, field.name)


def _integers(value: Any) -> list[int]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _integers(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def _scale(config: Any, half: Halved) -> Scale:
    widths: set[int] = set()
    stages: set[int] = set()
    tokens: set[int] = set()
    hierarchical = False
    for part in nested(config):
        for name, value in _fields(part):
            numbers = _integers(value)
            if role(name) == "token":
                tokens.update(numbers)
            elif role(name) == "depths" and isinstance(value, list | tuple):
                hierarchical = True
            elif role(name) == "width":
                (stages if isinstance(value, list | tuple) and "intermediate" not in name else widths).update(
                    number for number in numbers if number >= 16
                )
    moved = {old: VOCABULARY - 1 - index for index, old in enumerate(sorted(t for t in tokens if t >= CONTENT.start))}
    if keeps_widths(config.model_type):
        return Scale({}, moved, half, True)
    return Scale(_widths(widths, stages, hierarchical, half.widths), moved, half, hierarchical or bool(stages))


def _widths(widths: set[int], stages: set[int], hierarchical: bool, half: bool) -> dict[int, int]:
    """Widths by rank from a palette; where stages of widths exist, everything by one factor, for their ratios matter."""
    if hierarchical and not stages:
        stages = {width for width in widths if width >= 32}
    if stages:
        fits = (f for f in _SQUARES if all(v % f == 0 and v // f % 4 == 0 for v in stages) and min(stages) // f >= 16)
        factor = next(fits, 1)
        wide = [value for value in widths - stages if value // factor > 512]  # in the parent, so in both
        scaled = {value: max(8, value // factor // (2 if half else 1)) for value in widths | stages}
        return scaled | _palette(wide, half)
    return _palette([value for value in widths if value >= 32], half)


def _palette(widths: list[int], half: bool) -> dict[int, int]:
    big = sorted(widths)
    return {old: _PALETTE[min(rank, len(_PALETTE) - 1)] // (2 if half else 1) for rank, old in enumerate(big)}


def _rebuild(config: Any, scale: Scale, settings: dict[str, Any], owner: str = "") -> Any:
    from transformers import PretrainedConfig

    if config.model_type == "timm_backbone" and owner:
        return _backbone(config, scale.half.widths)
    plain = _plain(type(config))
    picked = _layers(config, scale.half.depth)
    sizes: dict[str, Any] = {}
    guessed: dict[str, Any] = {}  # for fields that the config's own rules fill in
    for field in dataclasses.fields(config):
        name, value = field.name, field_of(config, field.name)
        if name in _IGNORED or config.attribute_map.get(name, name) not in vars(config):
            continue
        if isinstance(value, PretrainedConfig):
            sizes[name] = _rebuild(value, scale, _ties(config, value, scale), config.model_type)
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        derived = default is None and plain is not None and value == field_of(plain, name)
        new = _small(config, name, value, scale, picked)
        if name == "rope_parameters" and isinstance(value, dict):
            value = {"mrope_section": [1, 1, 1], **value} if reads_sections(config.model_type) else value
            new = _rotary(value, _rotated(config, scale))
            derived = derived and "mrope_section" not in str(new)
        if derived and not (picked and _per_layer(config, value)) and role(name) not in ("key heads", "token"):
            if new != value:
                guessed[name] = new
            continue
        sizes[name] = new
    if "use_cache" in sizes:
        sizes["use_cache"] = False
    if "pad_token_id" in sizes and sizes["pad_token_id"] is None:
        sizes["pad_token_id"] = 0
    sizes |= _outputs(config, sizes, plain)
    for name, fix in (*exceptions(config.model_type, owner).items(), *settings.items()):
        if fix is ...:  # left to the config's own rule
            sizes.pop(name, None)
        elif name != TEXT:
            fixed = fix.of(scale.half.of(role(name))) if isinstance(fix, Pair) else fix
            sizes[name] = fixed(sizes) if callable(fixed) else fixed
    return _built(config, sizes, guessed)


def _built(config: Any, sizes: dict[str, Any], guessed: dict[str, Any]) -> Any:
    """The config of these sizes; a field that its rules still fill in as before, whatever the sizes, is given a guess."""
    try:
        small = type(config)(**sizes)
        stale = {
            name: new for name, new in guessed.items() if name not in sizes and field_of(small, name) == field_of(config, name)
        }
    except (ValueError, TypeError):
        stale = guessed
    return type(config)(**stale | sizes)


def _outputs(config: Any, sizes: dict[str, Any], plain: Any) -> dict[str, Any]:
    """A backbone hands on as many of its stages or layers as before, and is deep enough for that."""
    wanted = field_of(config, "_out_indices")
    if wanted is None or plain is None or wanted == field_of(plain, "_out_indices"):
        return {}
    sizes.pop("_out_indices", None), sizes.pop("_out_features", None)
    depth = field_of(config, "num_hidden_layers")
    if not isinstance(depth, int) or depth <= LAYERS:
        return {"out_indices": list(wanted)}
    layers = max(sizes["num_hidden_layers"], len(wanted))
    return {"num_hidden_layers": layers, "out_indices": list(range(layers - len(wanted) + 1, layers + 1))}


def _ties(config: Any, part: Any, scale: Scale) -> dict[str, Any]:
    """A tower's output is as wide as the text that it joins, whatever the two defaults say."""
    text = field_of(config, "text_config") or field_of(config, "thinker_config")
    if text is None or part is text or not isinstance(field_of(text, "hidden_size"), int):
        return {}
    width = scale.size("hidden_size", field_of(text, "hidden_size"))
    return {name: width for name in (*_OUT, *exceptions(part.model_type).get(TEXT, ())) if isinstance(field_of(part, name), int)}


def _backbone(config: Any, half: bool) -> Any:
    """A tiny network of four stages in the place of a full one of timm's, with the same stages handed on."""
    from transformers import ResNetConfig

    widths = [16, 32, 48, 64] if half else [32, 64, 96, 128]
    return ResNetConfig(
        num_channels=config.num_channels, embedding_size=widths[0], hidden_sizes=widths, depths=[1, 1, 1, 1],
        layer_type="basic", out_indices=[index for index in config.out_indices if index <= 4],
    )  # fmt: skip


def _plain(config_class: Any) -> Any:
    try:
        return config_class()
    except Exception:
        return None


def _small(config: Any, name: str, value: Any, scale: Scale, picked: Sequence[int]) -> Any:
    if picked and _per_layer(config, value):
        return type(value)(_each(name, value[index], scale) for index in picked)
    kind = role(name)
    if kind == "key heads" and not isinstance(value, list | tuple):
        heads = scale.size("num_heads", field_of(config, "num_attention_heads") or 0)
        if field_of(config, "kv_lora_rank"):
            return heads  # keys and values come from one latent, a part for each query head
        return value if value == 1 or heads < 2 else heads // 2
    if kind == "layers" and picked:
        return len(picked) if value == _depth(config) else _each(name, value, scale)
    if kind == "layer indices":
        return _indices(value, _depth(config), len(picked) or min(_depth(config), 2 if scale.half.depth else LAYERS))
    if kind == "heads" and isinstance(value, list | tuple) and value:
        return type(value)(_heads(value, scale.half.widths))
    return _each(name, value, scale)


def _each(name: str, value: Any, scale: Scale) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_each(name, item, scale) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return scale.size(name, value)
    return value


def _heads(heads: Sequence[int], half: bool) -> list[int]:
    """Heads per stage, with even numbers for the parent, so that the smaller one halves them."""
    unit = math.gcd(*heads)
    return [count // unit * (1 if half else 2) for count in heads]


def _rotated(config: Any, scale: Scale) -> int:
    """The size of a head that rotary sections share out."""
    head = (field_of(config, "qk_rope_head_dim") and "qk_rope_head_dim") or "head_dim"
    fixed = exceptions(config.model_type).get(head)
    if isinstance(fixed, int):
        return fixed
    explicit = any(field.name == head and field.default is not None for field in dataclasses.fields(config))
    if explicit and field_of(config, head):
        return scale.size(head, field_of(config, head))
    width, heads = field_of(config, "hidden_size"), field_of(config, "num_attention_heads")
    return scale.size("hidden_size", width) // scale.size("num_heads", heads) if width and heads else 12


def _rotary(value: dict[Any, Any], head: int) -> dict[Any, Any]:
    """Rotary parameters: sections must add up to half of the rotated part of a head."""
    small = dict(value)
    for key, item in value.items():
        if isinstance(item, dict):
            small[key] = _rotary(item, head)
        elif key == "original_max_position_embeddings":
            small[key] = 64
        elif key == "mrope_section":
            half = int(head * (value.get("partial_rotary_factor") or 1)) // 2
            small[key] = _sections(half, len(item))
    return small


def _sections(half: int, count: int) -> list[int]:
    third = round(half / 3)
    return [third, third, half - 2 * third][:count]


def _depth(config: Any) -> int:
    for name in ("num_hidden_layers", "num_layers", "depth", "n_layer", "encoder_layers"):
        value = field_of(config, name)
        if isinstance(value, int):
            return value
    return 0


def _indices(value: Any, depth: int, layers: int) -> Any:
    """Indices of layers, brought down in proportion."""
    if isinstance(value, list | tuple) and value and depth > layers:
        scaled = sorted({item * layers // depth if item >= 0 else item for item in value})
        return type(value)(scaled if len(scaled) < layers else scaled[1::2])
    return value


def _per_layer(config: Any, value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == _depth(config) > LAYERS


def _layers(config: Any, half: bool) -> list[int]:
    """Which layers to keep so that every kind of layer stays: kinds are told apart by all the per-layer lists together."""
    lists = [value for name, value in _fields(config) if _per_layer(config, value) and role(name) != "layer indices"]
    if not lists:
        return []
    kinds: dict[str, list[int]] = {}
    for index, kind in enumerate(zip(*lists, strict=True)):
        kinds.setdefault(str(kind), []).append(index)
    wanted = max(2 if half else LAYERS, len(kinds))
    chosen: list[int] = []
    for turn in range(_depth(config)):
        chosen += [indices[turn] for indices in kinds.values() if turn < len(indices)]
    return sorted(chosen[: min(wanted, 6)])
