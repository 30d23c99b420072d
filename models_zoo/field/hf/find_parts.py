"""Look for the model types of transformers that no auto-mapping names (towers, decoders and heads of larger models), and write parts.json.

python -m models_zoo.field.hf.find_parts     (a minute: every modeling file is imported; for the pinned version of transformers it is done)
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def found(known: Collection[str]) -> dict[str, list[str]]:
    """The classes with a forward of their own that are built from the config of a type that is not `known`; those with heads come first,
    which is last in their files."""
    import transformers
    from torch import nn

    built: dict[Any, list[str]] = {}
    for file in sorted(Path(transformers.models.__path__[0]).glob("*/modeling_*.py")):
        name = f"transformers.models.{file.parent.name}.{file.stem}"
        try:
            classes = vars(importlib.import_module(name)).values()
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for each in classes:
            model = inspect.isclass(each) and issubclass(each, transformers.PreTrainedModel) and each.__module__ == name
            if model and each.forward is not nn.Module.forward and hasattr(transformers, each.__name__):
                built.setdefault(each.config_class, []).append(each.__name__)
    mapping = transformers.CONFIG_MAPPING
    return {each: built[mapping[each]][::-1] for each in mapping if each not in known and mapping[each] in built}


if __name__ == "__main__":
    import models_zoo  # noqa: F401  (torchvision's ops)
    from models_zoo.field.hf.registry import PARTS, mapped

    warnings.simplefilter("ignore")
    PARTS.write_text(json.dumps(found(mapped()), indent=1, sort_keys=True) + "\n")
