"""How long it takes to find out what must move together, and to make a half-width child, beside torch-pruning.

    python -m benchmarks.analyze [--json FILE]

Both tools get the same model and the same example inputs, in the same process and in turns; one round of each is thrown away (both
warm), then the median of five counts. Inputs are of the size that the model is made for: 1,024 tokens, a 224 × 224 image. torch-pruning
runs the model on them and follows its autograd graph; graphclone exports it, which runs on no data. `--tokens` tries others.

- *capture*: `torch.export`, decompositions, ties; *analysis*: rules, blocks and names; torch-pruning's *build* does the work of both.
- *whole job*: from a model in memory to a half-width one (residual stream, heads, MLP). For torch-pruning: MetaPruner, then `step()`.

gpt2's Conv1D modules are unknown to torch-pruning, which then prunes nothing; so they are written as nn.Linear for both tools.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import models_zoo  # noqa: F401  isort: skip  (declares torchvision's ops, which timm imports)
import timm
import torch
import torch_pruning as tp
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import graphclone as gc

ROUNDS = 5
HALF = {"residual": 0.5, "*.hidden": 0.5, "*.heads": 0.5}


@dataclass(frozen=True)
class Subject:
    """A model and its inputs; `heads` and `ignored` are what torch-pruning has to be told."""

    name: str
    model: nn.Module
    kwargs: dict[str, torch.Tensor]
    heads: Callable[[nn.Module], dict[nn.Module, int]]
    ignored: Callable[[nn.Module], list[nn.Module]]


def gpt2(tokens: int, layers: int = 12) -> Subject:
    model = GPT2LMHeadModel(GPT2Config(use_cache=False, n_layer=layers)).eval()
    _linear(model)
    return Subject(
        f"gpt2-small, {tokens} tokens",
        model,
        {"input_ids": torch.randint(0, 50257, (1, tokens))},
        lambda m: {block.attn.c_attn: 12 for block in m.transformer.h},  # type: ignore[union-attr]
        lambda m: [m.lm_head],  # type: ignore[list-item]
    )


def _linear(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                linear.weight.data, linear.bias.data = child.weight.data.t().contiguous(), child.bias.data
                setattr(parent, name, linear)


def vit() -> Subject:
    return Subject(
        "ViT-B/16, 224 × 224",
        timm.create_model("vit_base_patch16_224").eval(),
        {"x": torch.randn(1, 3, 224, 224)},
        lambda m: {block.attn.qkv: 12 for block in m.blocks},  # type: ignore[union-attr]
        lambda m: [m.head],  # type: ignore[list-item]
    )


# -- one round -------------------------------------------------------------------------------------------------------


def ours(subject: Subject) -> dict[str, float]:
    start = perf_counter()
    trace = gc.capture(subject.model, kwargs=subject.kwargs, check=False)
    captured = perf_counter()
    layout = gc.analyze(trace)
    analysed = perf_counter()
    plan = gc.plan(layout, width=HALF, scores=gc.score_weights(layout))
    child = gc.execute(plan, subject.model, trace=trace)
    done = perf_counter()
    with torch.no_grad():
        child(**subject.kwargs)  # it runs
    return {"capture": captured - start, "analysis": analysed - captured, "whole job": done - start}


def theirs(subject: Subject) -> dict[str, float]:
    args = next(iter(subject.kwargs.values())) if len(subject.kwargs) == 1 and "x" in subject.kwargs else subject.kwargs
    start = perf_counter()
    tp.DependencyGraph().build_dependency(subject.model, example_inputs=args)
    built = perf_counter() - start
    model = copy.deepcopy(subject.model)  # it prunes in place
    start = perf_counter()
    try:
        pruner = tp.pruner.MetaPruner(
            model,
            args,
            importance=tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.5,
            head_pruning_ratio=0.5,
            prune_num_heads=True,
            num_heads=subject.heads(model),
            ignored_layers=subject.ignored(model),
        )
        pruner.step()
    except (IndexError, RuntimeError) as error:
        return {"build": built, "whole job": float("nan"), "error": f"{type(error).__name__}: {error}"}  # type: ignore[dict-item]
    return {"build": built, "whole job": perf_counter() - start}


def compare(subject: Subject) -> dict[str, Any]:
    rounds = [(ours(subject), theirs(subject)) for _ in range(ROUNDS + 1)][1:]

    def middle(side: int) -> dict[str, Any]:
        first: dict[str, Any] = rounds[0][side]
        return {
            key: value if isinstance(value, str) else statistics.median(each[side][key] for each in rounds)
            for key, value in first.items()
        }

    graphclone, pruning = middle(0), middle(1)
    times = pruning["build"] / graphclone["analysis"]
    return {"model": subject.name, "graphclone": graphclone, "torch_pruning": pruning, "build / analysis": times}


# -- depth -----------------------------------------------------------------------------------------------------------


def growth(layers: int) -> dict[str, float]:
    """Analysis of a gpt2 of so many layers, captured on the meta device: no weights are needed."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(use_cache=False, n_layer=layers)).eval()
        trace = gc.capture(model, kwargs={"input_ids": torch.zeros(1, 32, dtype=torch.long)}, check=False)
    times = []
    for _ in range(ROUNDS + 1):
        start = perf_counter()
        gc.analyze(trace)
        times.append(perf_counter() - start)
    return {"layers": layers, "nodes": len(trace.graph.nodes), "analysis": statistics.median(times[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--tokens", type=int, nargs="*", default=[1024, 32], help="sequence lengths for gpt2-small")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console = Console()
    compared = []
    table = Table("", "capture", "analysis", "tp build", "build / analysis", "whole job", "tp whole job", box=None)
    with console.status("measuring"):
        for make in (*(lambda tokens=tokens: gpt2(tokens) for tokens in options.tokens), vit):
            result = compare(make())
            compared.append(result)
            us, them = result["graphclone"], result["torch_pruning"]
            whole = "fails" if "error" in them else f"{them['whole job']:.2f} s"
            table.add_row(
                result["model"],
                f"{us['capture']:.2f} s",
                f"{us['analysis'] * 1e3:.1f} ms",
                f"{them['build'] * 1e3:.0f} ms",
                f"{result['build / analysis']:.0f}×",
                f"{us['whole job']:.2f} s",
                whole,
            )
    console.print(table)
    for result in compared:
        if "error" in result["torch_pruning"]:
            console.print(f"torch-pruning on {result['model']}: {result['torch_pruning']['error']}", highlight=False)
    grown = [growth(layers) for layers in (12, 24, 48, 96)]
    deep = Table("gpt2's layers", "nodes", "analysis", "per layer", box=None)
    for each in grown:
        per = each["analysis"] / each["layers"]
        deep.add_row(str(each["layers"]), str(each["nodes"]), f"{each['analysis'] * 1e3:.1f} ms", f"{per * 1e3:.2f} ms")
    console.print(deep)
    if options.json:
        setting = {"torch": torch.__version__, "threads": torch.get_num_threads(), "torch_pruning": "1.6.1", "rounds": ROUNDS}
        options.json.write_text(json.dumps({"setting": setting, "compared": compared, "depth": grown}, indent=1) + "\n")


if __name__ == "__main__":
    main()
