"""What every test stands on: no network, one thread, and a torchvision that can be imported beside a CPU torch."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import of huggingface_hub, which reads it once

import torch

import models_zoo  # noqa: F401  before transformers and timm, which import torchvision

torch.set_num_threads(1)
