"""Train the embedded vision parent: a small ViT on scikit-learn's digits (about ten minutes on one core).

python -m models_zoo.train_digits_vit [--steps 4000] [-o graphclone/demo/parents/digits-vit]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from graphclone.demo.data import Images, digits, shifted
from graphclone.training import warm_up_then_cosine
from models_zoo.training import save

CONFIG = dict(
    image_size=8, patch_size=2, num_channels=1, id2label={digit: str(digit) for digit in range(10)},
    hidden_size=96, num_hidden_layers=6, num_attention_heads=6, intermediate_size=192, layer_norm_eps=1e-6, initializer_range=0.1,
)  # fmt: skip
STEPS, PEAK_LR = 4000, 1e-3


def loss_of(model: ViTForImageClassification, batch: Images) -> Tensor:
    """Mean cross-entropy, in nats."""
    return torch.nn.functional.cross_entropy(model(pixel_values=batch.pixel_values).logits.float(), batch.labels)


@torch.no_grad()
def accuracy(model: ViTForImageClassification, images: Images) -> float:
    model.eval()
    guesses = model(pixel_values=images.pixel_values.to(model.dtype)).logits.argmax(-1)
    model.train()
    return float((guesses == images.labels).float().mean())


def train(output: Path, *, steps: int = STEPS, batch: int = 64, peak_lr: float = PEAK_LR) -> None:
    """Train the parent into a folder."""
    torch.manual_seed(0)
    data = digits()
    model = ViTForImageClassification(ViTConfig(**CONFIG)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = warm_up_then_cosine(optimizer, steps, warm_up=100)
    source, start = shifted(data.train, batch, seed=0), time.time()
    curve: list[tuple[int, float]] = []
    card: dict[str, Any] = {"steps": steps, "batch": batch, "peak_lr": peak_lr, "held_out_accuracy": curve}
    for step in range(1, steps + 1):
        loss = loss_of(model, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 250 == 0 or step == steps:
            curve.append((step, round(accuracy(model, data.held_out), 4)))
            print(f"step {step}: held out {curve[-1][1]:.2%} right, {time.time() - start:.0f} s", flush=True)
            save(model, output, card)
    saved = ViTForImageClassification.from_pretrained(output)
    card["saved_bf16_held_out_accuracy"] = round(accuracy(saved, data.held_out), 4)
    print(f"saved in {saved.dtype}: held out {card['saved_bf16_held_out_accuracy']:.2%} right")
    save(model, output, card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--peak-lr", type=float, default=PEAK_LR)
    parser.add_argument("-o", "--output", type=Path, default=Path("graphclone/demo/parents/digits-vit"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.output, steps=options.steps, batch=options.batch, peak_lr=options.peak_lr)


if __name__ == "__main__":
    main()
