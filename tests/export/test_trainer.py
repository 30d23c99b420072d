"""A child's folder, loaded without graphclone, goes into transformers' Trainer: it trains, saves, and goes on."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

import graphclone as gc
from graphclone.export.hf import save_hf

FOLDER = Path(gc.__file__).parent / "demo" / "parents" / "byte-llama"
SIZES = dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=3, intermediate_size=64)


def test_a_child_trains_in_the_trainer(tmp_path: Path) -> None:
    text = torch.tensor(list((FOLDER / "config.json").read_bytes() * 8))
    rows = [{"input_ids": text[start : start + 32], "labels": text[start : start + 32]} for start in range(0, 512, 16)]
    parent = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32").eval()
    small = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER, dtype="float32", **SIZES))
    ids = torch.stack([row["input_ids"] for row in rows[:4]])
    child, report = gc.subclone(parent, small, kwargs={"input_ids": ids}, data=[{"input_ids": ids}])
    (tmp_path / "child").mkdir()
    save_hf(child, FOLDER, tmp_path / "child", report.plan, report.axes)

    def trainer(steps: int) -> Trainer:
        settings = dict(
            output_dir=str(tmp_path / "run"), max_steps=steps, save_steps=8, logging_steps=1, learning_rate=3e-3, report_to="none"
        )
        return Trainer(
            AutoModelForCausalLM.from_pretrained(tmp_path / "child"),
            TrainingArguments(**settings, use_cpu=True, disable_tqdm=True, seed=0),
            train_dataset=rows,
        )

    first = trainer(8)
    first.train()
    losses = [entry["loss"] for entry in first.state.log_history if "loss" in entry]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    second = trainer(10)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 10
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-8")
    assert saved.config.hidden_size == 96
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in saved.state_dict().items())
