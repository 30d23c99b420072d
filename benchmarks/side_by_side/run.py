"""One run of one tool on one model, in a process of its own."""

from __future__ import annotations

import os
import warnings
from time import perf_counter

from benchmarks.side_by_side.verdict import Outcome, told


def attempt(name: str, use: str) -> Outcome:
    """`use` is `graphclone`, `plain`, or one of torch-pruning's best uses."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import torch

    import models_zoo  # noqa: F401  before transformers and timm, which import torchvision

    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = perf_counter()
    try:
        if use == "graphclone":
            from benchmarks.side_by_side.ours import judge as ours

            outcome = ours(name)
        else:
            from benchmarks.side_by_side.judge import judge as theirs

            outcome = theirs(name, use)
    except Exception as error:
        outcome = Outcome("fails", told(error), use)
    return Outcome(**{**outcome.json(), "seconds": round(perf_counter() - start, 2)})
