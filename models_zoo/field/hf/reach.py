"""How many of transformers' models are built and run. `python -m models_zoo.field.hf.reach [--only PATTERN] [--jobs N]`."""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from models_zoo.field.hf import Unbuildable, find, names

LIMIT = 60  # seconds for a model
Result = dict[str, Any]


def attempt(name: str) -> Result:
    """Build, run and halve one model, and say what came of it."""
    tiny = find(name)
    stage = "build"
    try:
        model = tiny.build()
        stage = "inputs"
        args, kwargs = tiny.inputs()
        stage = "forward"
        start = time.time()
        with torch.no_grad():
            out = model(*args, **kwargs)
        seconds = time.time() - start
        result: Result = {"ok": True, "seconds": round(seconds, 3), "parameters": sum(p.numel() for p in model.parameters())}
        if not all(torch.isfinite(tensor).all() for tensor in tensors(out) if tensor.is_floating_point()):
            return result | {"ok": False, "stage": "forward", "reason": "outputs that are not finite"}
        result |= deaf(model, kwargs, out)
    except Unbuildable as error:
        possible = str(error).startswith("no maker")
        return {"ok": False, "stage": stage, "unbuildable": not possible, "reason": str(error)}
    except Exception as error:
        return {"ok": False, "stage": stage, "reason": f"{type(error).__name__}: {error}"[:300], "where": where(error)}
    try:
        if tiny.smaller is None:
            return result | {"smaller": 0}
        child = tiny.smaller()
        with torch.no_grad():
            child(*args, **kwargs)
        result["smaller"] = sum(p.numel() for p in child.parameters())
    except Exception as error:
        result |= {"smaller": None, "smaller_reason": f"{type(error).__name__}: {error}"[:300], "where": where(error)}
    return result


def deaf(model: Any, kwargs: dict[str, Any], out: Any) -> Result:
    """Real inputs that change no output, and those that the forward takes but is not fed."""
    dead = []
    before = [tensor for tensor in tensors(out) if tensor.is_floating_point()]
    for name, value in kwargs.items():
        if value.is_floating_point() and value.ndim > 2:
            try:
                with torch.no_grad():
                    other = model(**kwargs | {name: value.flip(-1) * 0.5})
            except Exception:  # so it was read
                continue
            after = [tensor for tensor in tensors(other) if tensor.is_floating_point()]
            if all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, after, strict=False)):
                dead.append(name)
    senses = {"pixel_values", "input_features", "input_values"} & set(inspect.signature(model.forward).parameters)
    return {"dead": dead, "unfed": sorted(senses - set(kwargs))} if dead or senses - set(kwargs) else {}


def where(error: BaseException) -> list[str]:
    """The last frames of a traceback, for whoever mends it."""
    return [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.line}" for f in traceback.extract_tb(error.__traceback__)[-4:]]


def tensors(out: Any) -> Iterator[torch.Tensor]:
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, dict):
        for value in out.values():
            yield from tensors(value)
    elif isinstance(out, list | tuple):
        for value in out:
            yield from tensors(value)


def fork(name: str) -> tuple[int, int]:
    """A child process at work on `name`, and the pipe its result comes through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(LIMIT)  # the default action of SIGALRM ends the process
        try:
            os.write(writer, json.dumps(attempt(name)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return child, reader


def collect(reader: int, status: int) -> Result:
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    if text:
        return dict(json.loads(text))
    late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
    return {"ok": False, "stage": "time", "reason": f"longer than {LIMIT} s" if late else f"process ended with status {status}"}


def run(todo: list[str], jobs: int) -> Iterator[tuple[str, Result]]:
    """The result of each name, `jobs` at a time."""
    running: dict[int, tuple[str, int]] = {}
    queue = list(reversed(todo))
    while queue or running:
        while queue and len(running) < jobs:
            name = queue.pop()
            child, reader = fork(name)
            running[child] = name, reader
        child, status = os.wait()
        name, reader = running.pop(child)
        yield name, collect(reader, status)


def preload() -> None:
    """Import once, before the forks, what nearly every model needs."""
    import transformers

    transformers.logging.set_verbosity_error()
    for name in ("hf/llama/LlamaForCausalLM", "hf/vit/ViTForImageClassification", "hf/whisper/WhisperForConditionalGeneration"):
        attempt(name)
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch, and so copy, the parent's memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression for the names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every-head", action="store_true", help="all classes of each type, not only the richest")
    parser.add_argument("--again", action="store_true", help="only those that failed in the --json of before")
    parser.add_argument("--json", type=Path, help="write the results here; what is there already is kept where not run again")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    preload()
    todo = [name for name in names(arguments.every_head) if re.search(arguments.only, name)]
    if not todo:
        parser.error(f"no model's name matches '{arguments.only}'")
    old = arguments.json is not None and arguments.json.exists()
    results: dict[str, Result] = json.loads(arguments.json.read_text()) if old else {}
    if arguments.again:
        todo = [name for name in todo if not results.get(name, {}).get("ok") or results[name].get("smaller") is None]
    for name, result in run(todo, arguments.jobs):
        results[name] = result
        if not result["ok"] or result.get("smaller") is None:
            print(f"{name}: {result.get('stage', 'smaller')}: {result.get('reason') or result.get('smaller_reason')}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
    print(summary({name: results[name] for name in todo}))


def summary(results: dict[str, Result]) -> str:
    good = [result for result in results.values() if result["ok"]]
    possible = len(results) - sum(bool(result.get("unbuildable")) for result in results.values())
    stages = Counter(result["stage"] for result in results.values() if not result["ok"])
    smaller = sum(result.get("smaller") is not None for result in good)
    return f"{len(good)} of {len(results)} run ({possible} possible), {smaller} have a smaller one; failures by stage: {dict(stages)}"


if __name__ == "__main__":
    main()
