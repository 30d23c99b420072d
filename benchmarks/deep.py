"""How long a deep model takes, and how much memory: Llamas of Llama-3-70B's shape, on the meta device.

    python -m benchmarks.deep [--layers N …] [--json FILE]

Each depth is measured in a process of its own. *memory* is the peak of the whole process, *baseline* what it had once the libraries
were imported and the model was built (no weights are made).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DEPTHS = (80, 12, 24, 48, 96)
TOKENS = (2, 17)


def measure(layers: int) -> dict[str, float]:
    """Capture and analysis of one model, here and now."""
    import models_zoo  # noqa: F401  isort: skip  (declares torchvision's ops, which transformers imports)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import graphclone as gc

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        use_cache=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
        ids = torch.zeros(TOKENS, dtype=torch.long)
    baseline, start = _peak(), perf_counter()
    trace = gc.capture(model, kwargs={"input_ids": ids})
    captured = perf_counter()
    layout = gc.analyze(trace)
    analysed = perf_counter()
    assert [len(stack) for stack in layout.blocks] == [layers], layout.blocks
    return {
        "layers": layers,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nodes": len(trace.graph.nodes),
        "capture": round(captured - start, 2),
        "analysis": round(analysed - captured, 2),
        "peak_mb": round(_peak()),
        "baseline_mb": round(baseline),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="*", default=list(DEPTHS))
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--here", action="store_true", help="measure one depth in this process, and print it as JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.layers[0])))
        return
    from rich.console import Console
    from rich.table import Table

    found = []
    table = Table("layers", "parameters", "nodes", "capture", "analysis", "peak memory", "of which baseline", box=None)
    for layers in options.layers:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.deep", "--here", "--layers", str(layers)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(each := json.loads(said.splitlines()[-1]))
        table.add_row(
            str(layers),
            f"{each['parameters'] / 1e9:.1f} B",
            str(each["nodes"]),
            f"{each['capture']:.1f} s",
            f"{each['analysis']:.2f} s",
            f"{each['peak_mb']:,} MB",
            f"{each['baseline_mb']:,} MB",
        )
    Console().print(table)
    if options.json:
        import torch

        setting = {"torch": torch.__version__, "threads": torch.get_num_threads(), "inputs": list(TOKENS)}
        options.json.write_text(json.dumps({"setting": setting, "depths": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
