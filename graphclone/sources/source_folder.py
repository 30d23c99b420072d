"""Parents that graphclone wrote itself: a folder with `modeling.py`, the weights, and a plan that says what they take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphclone.errors import OutputError, SourceError
from graphclone.export.source import MODULE, load
from graphclone.inputs import example
from graphclone.plan import Plan
from graphclone.sources.inputs import with_inputs
from graphclone.sources.parent import Parent
from graphclone.sources.weights import check_finite, check_safetensors


def load_written(folder: Path, inputs: Sequence[str], *, trust_remote_code: bool) -> Parent:
    """The model of a folder, and the example inputs that its own parent was traced with.

    The module is a program: it is read before it runs, and refused where it does what graphclone would not write.

    Raises:
        SourceError: it is refused, damaged, or its weights are not its own.
        WeightsError: its weights hold NaN or infinite values.
    """
    for path in (folder / MODULE, folder / "model.safetensors"):
        if not path.is_file():
            raise SourceError(f"cannot load '{folder}'", because=f"there is no {path.name} in it")
    check_safetensors(folder / "model.safetensors")
    try:
        module = load(folder, trusted=trust_remote_code)
    except OutputError as error:
        raise SourceError(str(error)) from error
    except Exception as error:  # a module that somebody changed raises what it raises
        raise SourceError(f"cannot load '{folder}'", because=f"{MODULE} raised {type(error).__name__}: {error}") from error
    plan = Plan.load(folder / "plan.json")
    args, kwargs = example(plan.inputs) if plan.inputs else ((), {})
    check_finite(module, str(folder))
    return with_inputs(Parent(module, str(folder), args, kwargs), inputs)
