"""Which models of the vision field, of torch.nn and of the odd ones can be built and run.

python -m models_zoo.field.reach_vision [PART …]

Each model in a process of its own, with a time limit; a line per model that fails, or is large or slow; counts at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils import _pytree as pytree

from models_zoo.entry import Tiny, Unbuildable

LIMIT = 60.0


def modules() -> tuple[Any, ...]:
    from models_zoo import odd
    from models_zoo.field import nn_field, timm_field, torchvision_field

    return timm_field, torchvision_field, nn_field, odd


def names() -> list[str]:
    return [name for module in modules() for name in module.names()]


def find(name: str) -> Tiny:
    for module in modules():
        if name in module.names():
            found: Tiny = module.find(name)
            return found
    raise Unbuildable(f"no model {name!r}")


def measure(name: str) -> str:
    """Build, run and check one model and its smaller sibling; what is wrong with it, or its figures."""
    tiny = find(name)
    args, kwargs = tiny.inputs()
    figures = []
    shapes = []
    for build in (tiny.build, tiny.smaller):
        if build is None:
            figures.append("no smaller")
            continue
        start = time.time()
        model = build()
        built = time.time()
        with torch.no_grad():
            leaves = [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        if not leaves or not all(leaf.isfinite().all() for leaf in leaves):
            return "✗ not finite" if leaves else "✗ no tensor comes out"
        count = sum(parameter.numel() for parameter in model.parameters())
        figures.append(f"{count:,} parameters, built in {built - start:.2f} s, run in {time.time() - built:.2f} s")
        shapes.append((count, [leaf.shape for leaf in leaves], type(model)))
    if len(shapes) == 2 and shapes[0][1] != shapes[1][1]:
        return f"✗ smaller gives other shapes: {shapes[0][1]} and {shapes[1][1]}"
    if len(shapes) == 2 and (shapes[1][0] >= shapes[0][0] or shapes[0][2] is not shapes[1][2]):
        return f"✗ smaller is not smaller, or of another class: {shapes}"
    return "✓ " + "; ".join(figures)


def _child(name: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        pipe.send(measure(name))
    except Unbuildable as error:
        pipe.send(f"✗ unbuildable: {error}")
    except Exception as error:
        pipe.send(f"✗ {type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}")


def forked(name: str, limit: float = LIMIT) -> str:
    context = multiprocessing.get_context("fork")  # torch and timm are imported once
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(name, there))
    process.start()
    there.close()
    try:
        return str(here.recv()) if here.poll(limit) else f"✗ longer than {limit:.0f} s"
    except EOFError:
        return "✗ the process died"
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="parts of names, all by default")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each model")
    options = parser.parse_args()
    import timm  # noqa: F401

    counts: dict[str, Counter[str]] = {}
    for name in names():
        if options.parts and not any(part in name for part in options.parts):
            continue
        said = forked(name)
        counts.setdefault(name.split("/")[0], Counter())[said[0]] += 1
        if options.verbose or said[0] == "✗":
            print(f"{name:60} {said}", flush=True)
    for family, count in counts.items():
        print(f"{family}: {count['✓']} of {count.total()} built and run")
    sys.exit(any(count["✗"] for count in counts.values()))


if __name__ == "__main__":
    main()
