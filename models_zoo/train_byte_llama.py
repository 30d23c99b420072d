"""Train the embedded text parent: a byte-level Llama on the standard library's source (about an hour on one core).

python -m models_zoo.train_byte_llama [--steps 4500] [-o graphclone/demo/parents/byte-llama]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from graphclone.demo.data import standard_library, windows
from graphclone.training import warm_up_then_cosine
from models_zoo.training import save

CONFIG = dict(
    vocab_size=256, hidden_size=192, num_hidden_layers=8, num_attention_heads=6, num_key_value_heads=6, head_dim=32,
    intermediate_size=512, max_position_embeddings=256, tie_word_embeddings=False, rope_theta=10000.0,
    bos_token_id=None, eos_token_id=None, use_cache=False,
)  # fmt: skip
STEPS, PEAK_LR = 4500, 2e-3


def loss_of(model: LlamaForCausalLM, batch: Tensor) -> Tensor:
    """Mean next-byte cross-entropy, in nats."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, stream: Tensor, length: int, batches: int = 40) -> float:
    model.eval()
    source = windows(stream, 16, length + 1, seed=1)
    total = sum(float(loss_of(model, next(source).to(model.device))) for _ in range(batches)) / batches
    model.train()
    return total


def train(
    config: Mapping[str, Any],
    output: Path,
    *,
    steps: int = STEPS,
    length: int = 128,
    peak_lr: float = PEAK_LR,
    device: str = "cpu",
    looks: int = 40,
) -> None:
    """Train a parent of this config into a folder. `looks`: held-out batches of each evaluation."""
    torch.manual_seed(0)
    data = standard_library()
    model = LlamaForCausalLM(LlamaConfig(**config)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = warm_up_then_cosine(optimizer, steps, warm_up=100)
    source, start = windows(data.train, 16, length + 1, seed=0), time.time()
    curve: list[tuple[int, float]] = []
    card = {"steps": steps, "length": length, "peak_lr": peak_lr, "held_out_nats_per_byte": curve}
    for step in range(1, steps + 1):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = loss_of(model, next(source).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 250 == 0 or step == steps:
            curve.append((step, held_out_loss(model, data.held_out, length, looks)))
            print(f"step {step}: held out {curve[-1][1]:.4f} nats per byte, {time.time() - start:.0f} s", flush=True)
            save(model, output, card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--peak-lr", type=float, default=PEAK_LR)
    parser.add_argument("-o", "--output", type=Path, default=Path("graphclone/demo/parents/byte-llama"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(CONFIG, options.output, steps=options.steps, length=options.length, peak_lr=options.peak_lr)


if __name__ == "__main__":
    main()
