"""Inputs of the model types whose forward needs more than its parameters' names tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models_zoo.field.hf.case import Case

SPECIAL: dict[str, Callable[[Case], dict[str, Any]]] = {}
