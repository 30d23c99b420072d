"""Any timm architecture made small: what its registered function passes to its class is scaled down on the way.

timm's functions end in `build_model_with_cfg(cls, variant, …, **sizes)`, with sizes as keywords, as a config dataclass or as lists
of block definitions. All are treated alike, by the names of the fields: widths are divided, depths cut, heads made even.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

Sizes = Mapping[str, Any]
CLASSES = 11

WIDTH = re.compile(
    "embed_dims?|dims?|inner_dim|base_dims?|channels|widths|width_list|out_chs|c|stem_chs|stem_width|stem_size|stem_hidden_dim|num_features"
    "|head_widths|head_hidden_size|feature_dim|init_channels|num_init_features|growth_rates?|inplanes|intermediate_size"
    "|hidden_sizes|partial_dim|w0|stage_conv_chs|stage_out_chs|initial_chs|final_chs|stem_channels|out_features|num_channels"
)
HEAD_WIDTH = re.compile("head_dim|dim_head|key_dim|qk_dim")
MULTIPLIER = re.compile("width_factor|width_mult|widen_factor|width")
DEPTH = re.compile(
    "depths?|num_blocks|layers|serial_depths|parallel_depth|stages|block_config|depth_list|num_blocks_list|transformer_depths|d"
)
HEADS = re.compile("num_heads(_inner|_outer)?|heads")
RATIO = re.compile("mlp_ratios?|expansion_ratio")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How far to shrink: widths by `width` (to multiples of `multiple`), stacks to `deep`, stages of a pyramid to `stage` blocks."""

    width: float = 4
    head_width: float = 4
    multiple: int = 8
    deep: int = 4
    stage: int = 2
    heads: int = 2  # a single head, or three, become an even number of them; a smaller destination has half as many

    def halved(self) -> Scale:
        return dataclasses.replace(
            self, width=2 * self.width, multiple=max(self.multiple // 2, 1), deep=self.deep // 2, stage=(self.stage + 1) // 2,
            heads=1,
        )  # fmt: skip


def shrink(name: str, value: Any, scale: Scale) -> Any:
    """One size, by the name of its field; sequences, dataclasses and dicts by what they hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **shrink_all(fields, scale))
    if isinstance(value, dict):
        return {key: shrink(str(key), each, scale) for key, each in value.items()}
    if name == "block_args" and isinstance(value, list):  # EfficientNet's: a list of blocks per stage
        return [shrink("stage", [*stage[:1], *stage[1:][-scale.stage + 1 :][: scale.stage - 1]], scale) for stage in value]
    if DEPTH.fullmatch(name) and isinstance(value, (list, tuple)):
        return type(value)(_deep(each, scale.stage) for each in value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(shrink(name, each, scale) for each in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return _number(name, value, scale)


def shrink_all(sizes: Sizes, scale: Scale) -> dict[str, Any]:
    """Each by its name; a multiplier of widths is left alone beside the widths themselves."""
    widths = any(WIDTH.fullmatch(name) or name == "blocks" for name in sizes)
    return {name: value if widths and MULTIPLIER.fullmatch(name) else shrink(name, value, scale) for name, value in sizes.items()}


def _deep(value: Any, most: int) -> Any:
    return type(value)(_deep(each, most) for each in value) if isinstance(value, (list, tuple)) else min(value, most)


def _number(name: str, value: float, scale: Scale) -> Any:
    if WIDTH.fullmatch(name) and value > 0 and (isinstance(value, int) or value >= 8):
        return max(scale.multiple, round(value / scale.width / scale.multiple) * scale.multiple)
    if HEAD_WIDTH.fullmatch(name) and isinstance(value, int):
        return max(4, int(value / scale.head_width))
    if MULTIPLIER.fullmatch(name) and value <= 4:
        return value / scale.width
    if DEPTH.fullmatch(name) and isinstance(value, int):
        return min(value, scale.stage if name == "d" else scale.deep)
    if HEADS.fullmatch(name) and isinstance(value, int):
        return value * scale.heads if value % 2 else value * scale.heads // 2
    if RATIO.fullmatch(name) and value > 1:  # so that units are not as many as something else's
        return min(value, 3) if isinstance(value, int) else 2.5
    return value


def effective(cls: Callable[..., nn.Module], given: Sizes) -> dict[str, Any]:
    """What the class is given, and the defaults of what it is not."""
    defaults: dict[str, Any] = {}
    makers = [vars(owner)["__init__"] for owner in cls.__mro__ if "__init__" in vars(owner)] if isinstance(cls, type) else [cls]
    for each in reversed(makers):
        defaults |= {p.name: p.default for p in inspect.signature(each).parameters.values() if p.default is not p.empty}
    return {name: value for name, value in defaults.items() if value is not None} | dict(given)


def build(
    module: str, architecture: str, image: tuple[int, int], scale: Scale, sizes: Sizes, checkpoint: Path | None = None
) -> nn.Module:
    """The architecture at `scale`; `sizes` are keywords that overrule it; with a `checkpoint`, timm loads that."""
    home = importlib.import_module(f"timm.models.{module}")
    original = home.build_model_with_cfg

    def small(cls: Callable[..., nn.Module], variant: str, *args: Any, model_cfg: Any = None, **given: Any) -> nn.Module:
        wanted = effective(cls, given)
        new = shrink_all({name: value for name, value in wanted.items() if name != "pretrained_cfg"}, scale)
        changed = {name: value for name, value in new.items() if name in given or value is not wanted[name]}
        if "img_size" in wanted:
            changed["img_size"] = image if isinstance(wanted["img_size"], tuple) or image[0] != image[1] else image[0]
        if isinstance(given.get("round_chs_fn"), functools.partial):  # the widths are divided already; do not pull them up
            changed["round_chs_fn"] = functools.partial(given["round_chs_fn"], divisor=scale.multiple)
        kept = {name: value for name, value in given.items() if name not in changed}
        config = {"model_cfg": shrink("", model_cfg, scale)} if model_cfg is not None else {}
        built: nn.Module = original(cls, variant, *args, **kept | changed | config | {"num_classes": CLASSES} | dict(sizes))
        return built

    with mock.patch.object(home, "build_model_with_cfg", small):
        if checkpoint is not None:
            import timm

            loaded: nn.Module = timm.create_model(architecture, checkpoint_path=checkpoint)
            return loaded
        built: nn.Module = vars(home)[architecture]() if architecture in vars(home) else _entrypoint(architecture)()
    return built


def _entrypoint(architecture: str) -> Callable[[], nn.Module]:
    import timm

    found: Callable[[], nn.Module] = timm.models.model_entrypoint(architecture)
    return found
