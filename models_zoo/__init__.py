"""Tiny models of every architecture, and the scripts that trained the embedded parents. Not in the wheel."""

from models_zoo import torchvision_ops

torchvision_ops.install()
