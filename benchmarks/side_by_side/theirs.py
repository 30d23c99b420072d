"""torch-pruning on a model: its plain use, and its best use after the recipes in its own `examples/` folder.

- `transformers/prune_hf_vit.py`, `prune_hf_bert.py`: `num_heads` for query, key and value; `num_attention_heads`, `attention_head_size`
  and `all_head_size` set afterwards; either whole heads or dims of every head; with or without the residual stream (`--bottleneck`).
- `transformers/prune_hf_swin.py`: a pruner of its own for patch merging, which is a root module, too.
- `LLMs/prune_llm.py`: `num_heads` of key and value from `num_key_value_heads`, `prune_num_heads`, `prune_head_dims=False`,
  `out_channel_groups` of 2 for a fused gate and up projection; `hidden_size`, `num_heads` and `num_key_value_groups` set afterwards.
- `timm_models/prune_timm_models.py`: `num_heads` of `qkv`; `num_heads` and `head_dim` set afterwards.

Beyond its examples, in its favour: a pruner for transformers' Conv1D, relative-position tables and norms of
queries and keys left alone, an output transform that
takes the logits, further attributes set afterwards (`embed_dim`, `split_size`, `inner_dim`, …), and every parameter made to require
gradients, which it needs to see it.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import nn

from benchmarks.side_by_side.subjects import Inputs
from benchmarks.side_by_side.verdict import answers


@dataclass(frozen=True)
class Use:
    """A way to use torch-pruning; `attention` and `cache` None leave the model's defaults alone."""

    name: str
    heads: str = "unknown"  # it is not told the heads; `whole`: it removes whole heads; `dims`: dims of every head; `kept`: none
    attention: str | None = None
    cache: bool | None = None
    residual: bool = True

    @property
    def best(self) -> bool:
        return self.heads != "unknown"

    def __str__(self) -> str:
        if not self.best:
            return "MetaPruner, defaults"
        heads = {"whole": "whole heads", "dims": "dims of every head", "kept": "heads left alone"}[self.heads]
        return f"{heads}, {self.attention}" if self.residual else f"{heads}, {self.attention}, residual stream left alone"


PLAIN = Use("plain")
BEST = tuple(  # tried in this order until one is full
    Use(f"best-{heads}-{attention}{'' if residual else '-inner'}", heads, attention, False, residual)
    for heads, residual in (("whole", True), ("dims", True), ("kept", True), ("whole", False), ("kept", False))
    for attention in ("sdpa", "eager")
)

SEPARATE = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"),
    ("query_proj", "key_proj", "value_proj"),
)  # fmt: skip
FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv")
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
WIDTHS = ("all_head_size", "embed_dim", "inner_dim", "split_size", "hidden_size", "attn_dim", "dim")


class Conv1DPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]
    """For transformers' Conv1D: nn.Linear with its matrix the other way round."""

    def prune_out_channels(self, layer: Any, idxs: list[int]) -> Any:
        keep = sorted(set(range(layer.nf)) - set(idxs))
        layer.weight = self._prune_parameter_and_grad(layer.weight, keep, 1)
        layer.bias = self._prune_parameter_and_grad(layer.bias, keep, 0)
        layer.nf -= len(idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: list[int]) -> Any:
        keep = sorted(set(range(layer.weight.shape[0])) - set(idxs))
        layer.weight = self._prune_parameter_and_grad(layer.weight, keep, 0)
        layer.nx = len(keep)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[1])

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[0])


class PatchMergingPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]
    """As in its example for Swin: four neighbours side by side are normalised, then reduced."""

    def prune_out_channels(self, layer: Any, idxs: list[int]) -> Any:
        tp.prune_linear_out_channels(layer.reduction, idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: list[int]) -> Any:
        dim = self.get_in_channels(layer)
        four = [index + quarter * dim for quarter in range(4) for index in idxs]
        tp.prune_linear_in_channels(layer.reduction, four)
        tp.prune_layernorm_out_channels(layer.norm, four)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.reduction.out_features)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.reduction.in_features) // 4


# -- what it has to be told ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """An attention layer: its projections, their heads, and the modules that hold its attributes."""

    holder: nn.Module
    queries: nn.Module
    others: tuple[nn.Module, ...]
    heads: int
    groups: int


def attentions(model: nn.Module) -> Iterator[Attention]:
    for module in model.modules():
        for queries, *others in (*SEPARATE, *((name,) for name in FUSED)):
            layers = [getattr(module, name, None) for name in (queries, *others)]
            heads = _count(module, model)
            if heads and all(isinstance(layer, nn.Module) and hasattr(layer, "weight") for layer in layers):
                groups = getattr(module, "num_key_value_heads", None) or getattr(
                    getattr(module, "config", None), "num_key_value_heads", None
                )
                yield Attention(module, layers[0], tuple(layers[1:]), heads, groups or heads)  # type: ignore[arg-type]
                break


def _count(module: nn.Module, model: nn.Module) -> int | None:
    for holder in (module, getattr(module, "config", None), getattr(model, "config", None)):
        for name in COUNTS:
            if isinstance(count := getattr(holder, name, None), int):
                return count
    return None


def output_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are the model's: what every example of torch-pruning ignores."""
    named: Any = getattr(model, "get_output_embeddings", lambda: None)
    layers = [named()]
    layers += [
        module
        for name, module in model.named_modules()
        if re.search(r"(^|\.)(lm_head|classifier|head|head_dist|decoder|fc|text_projection|visual_projection|score)$", name)
        and isinstance(module, nn.Linear)
    ]
    return [layer for layer in dict.fromkeys(layers) if layer is not None]


def pruner_for(model: nn.Module, inputs: Inputs, use: Use) -> Any:
    """Its MetaPruner for half of the width."""
    args = inputs[1] or (inputs[0][0] if len(inputs[0]) == 1 else inputs[0])
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    ignored: list[Any] = output_layers(model)
    if not use.best:
        return tp.pruner.MetaPruner(model, args, importance=importance, pruning_ratio=0.5, ignored_layers=ignored)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    known = list(attentions(model))
    num_heads: dict[nn.Module, int] = {}
    for each in known:
        num_heads[each.queries] = each.heads
        num_heads.update(dict.fromkeys(each.others, each.groups))
    if not use.residual:
        ignored += [module for module in model.modules() if _writes_residual(module, model)]
    if use.heads == "kept":  # or it would look at their groups, and fail where it cannot follow them
        ignored += [layer for each in known for layer in (each.queries, *each.others)]
    ignored += [
        parameter for name, parameter in model.named_parameters() if re.search(r"relative_position_bias_table|[qk]_norm", name)
    ]
    merging = {type(m) for m in model.modules() if hasattr(m, "reduction") and hasattr(m, "norm")}
    turned = {type(m) for m in model.modules() if type(m).__name__ == "Conv1D"}
    for layer in model.modules():
        if type(layer) in turned:  # it reads this of a fused projection
            layer.out_features = layer.nf
    doubled = {m: 2 for name, m in model.named_modules() if name.endswith("gate_up_proj") and isinstance(m, nn.Linear)}
    return tp.pruner.MetaPruner(
        model,
        args,
        importance=tp.importance.RandomImportance() if turned else importance,  # its norms know no Conv1D, and would skip it
        pruning_ratio=0.5,
        head_pruning_ratio=0.5,
        num_heads=num_heads,
        prune_num_heads=use.heads == "whole",
        prune_head_dims=use.heads == "dims",
        ignored_layers=ignored,
        out_channel_groups=doubled,
        customized_pruners={kind: PatchMergingPruner() for kind in merging} | {kind: Conv1DPruner() for kind in turned},
        root_module_types=[nn.Conv2d, nn.Conv1d, nn.Linear, *merging, *turned],
        output_transform=answers,
    )


def _writes_residual(module: nn.Module, model: nn.Module) -> bool:
    """A layer whose results are as wide as the residual stream: ignored, so is what shares its outputs."""
    config = getattr(model, "config", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or getattr(model, "embed_dim", None)
    made = getattr(module, "embedding_dim", None) or getattr(module, "out_channels", None)
    if made is None and isinstance(module, nn.Linear) and module not in _inner(model):
        made = module.out_features
    return width is not None and made == width


def _inner(model: nn.Module) -> set[nn.Module]:
    return {layer for each in attentions(model) for layer in (each.queries, *each.others)}


# -- pruning, and what its examples do afterwards -------------------------------------------------------------------


@dataclass(frozen=True)
class Removal:
    """A group that it pruned: where the group has its root, and for each place the positions that went."""

    root: str
    out: bool
    places: tuple[tuple[str, Any, tuple[int, ...]], ...]  # (module or parameter, handler's name, positions)


def prune(model: nn.Module, inputs: Inputs, use: Use, only: set[str] | None = None) -> tuple[Any, list[Removal]]:
    """Prune in place (`only` the groups with these roots); the pruner, and what it removed."""
    pruner = pruner_for(model, inputs, use)
    before = copy.copy(pruner.num_heads)
    done = []
    for group in pruner.step(interactive=True):
        removal = _removal(pruner, group)
        if only is None or removal.root in only:
            group.prune()
            done.append(removal)
    fix_up(model, pruner, before)
    return pruner, done


def _removal(pruner: Any, group: Any) -> Removal:
    names = {module: name for name, module in pruner.model.named_modules()}
    places = []
    for dep, idxs in group:
        target = dep.target.module
        name = pruner.DG._param_to_name.get(target) if isinstance(target, nn.Parameter) else names.get(target)
        if name is not None and len(idxs):
            out = pruner.DG.is_out_channel_pruning_fn(dep.handler)
            places.append((name, "out" if out else "in", tuple(idxs)))
    root, first = group[0].dep.target.module, group[0].dep.handler
    out = pruner.DG.is_out_channel_pruning_fn(first)
    return Removal(f"{names.get(root, '?')}.{'out' if out else 'in'}", out, tuple(places))


def fix_up(model: nn.Module, pruner: Any, before: dict[nn.Module, int]) -> None:
    """Bring the attributes in line with the pruned layers."""
    if not pruner.num_heads:  # the plain use: nothing is known of heads
        return
    for each in list(attentions(model)):  # read before the first of them is changed: layers share a config
        parts = 1 if each.others else 3
        heads, made = pruner.num_heads[each.queries], _made(each.queries) // parts
        was = pruner.layer_init_out_ch.get(each.queries, made * parts) // parts
        groups = heads if each.groups == each.heads else each.groups
        wanted = dict.fromkeys(COUNTS, (before[each.queries], heads)) | {"num_key_value_heads": (each.groups, groups)}
        for holder in (each.holder, getattr(each.holder, "config", None)):
            for name, (old, new) in wanted.items():
                if getattr(holder, name, None) == old:
                    _set(holder, name, new)
        for name in ("head_dim", "attention_head_size", "key_value_proj_dim"):
            if getattr(each.holder, name, None) == was // before[each.queries]:
                _set(each.holder, name, made // max(heads, 1))
        for name in WIDTHS:
            if getattr(each.holder, name, None) == was:
                _set(each.holder, name, made)
        if hasattr(each.holder, "num_key_value_groups"):
            _set(each.holder, "num_key_value_groups", max(heads // groups, 1))
    config, layers = getattr(model, "config", None), output_layers(model)
    for name in ("hidden_size", "d_model"):
        if layers and getattr(config, name, None) == pruner.layer_init_in_ch.get(layers[0], 0):
            _set(config, name, int(layers[0].in_features))  # type: ignore[arg-type]


def _made(layer: nn.Module) -> int:
    return int(getattr(layer, "out_features", None) or getattr(layer, "nf", None) or layer.weight.shape[0])  # type: ignore[index]


def _set(holder: Any, name: str, value: int) -> None:
    with contextlib.suppress(AttributeError, TypeError):  # a property
        setattr(holder, name, value)
