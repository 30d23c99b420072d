"""ONNX: exported by torch, checked by onnx, and run in ONNX Runtime against PyTorch before anyone trusts it.

module ──plain──▶ Plain ──opened──▶ program with open axes ──mended──▶ ──written──▶ file ──compared──▶ Exported
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from graphclone.capture import runs
from graphclone.errors import GraphcloneError, OutputError
from graphclone.export.onnx import opened as axes
from graphclone.export.onnx.bench import Latency, latencies
from graphclone.export.onnx.compared import DOUBTFUL, TOLERANCES, Difference, Disagreement, compare, fed, session
from graphclone.export.onnx.opened import Dims, Opened
from graphclone.export.onnx.plain import Plain
from graphclone.export.onnx.precision import lowered, prepared
from graphclone.export.onnx.refusing import weighed
from graphclone.export.onnx.written import save, translated

__all__ = ["TOLERANCES", "Difference", "Exported", "Latency", "Wanted", "export_onnx", "loaded"]


@dataclass(frozen=True)
class Wanted:
    """What kind of file.

    - `opset`: None is the exporter's own;
    - `precision`: fp32, fp16 or int8 (weights; see `TOLERANCES`);
    - `past`: with keys and values as inputs and outputs, for a model that generates text;
    - `bench`: measure how long a run takes;
    - `provenance`: what the file tells of itself (`metadata_props`).
    """

    opset: int | None = None
    precision: str = "fp32"
    past: bool = False
    bench: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared.

    - `differences`: one for each set of inputs;
    - `open`: the axes that may have other sizes, in words;
    - `remarks`: what stays fixed and why, and other things to know;
    - `latencies`: if they were asked for;
    - `trials`: the inputs that it was compared at, unless text was decoded.
    """

    differences: tuple[Difference, ...]
    open: str
    remarks: tuple[str, ...]
    latencies: tuple[Latency, ...] = ()
    trials: tuple[tuple[Tensor, ...], ...] = field(default=(), repr=False)

    @property
    def difference(self) -> float:
        """The largest, absolute."""
        return max(each.largest for each in self.differences)


# How far a running file is from a module, of which it is told what was left open, in some precision.
Measure = Callable[[Plain, Opened, onnxruntime.InferenceSession, str], Iterable[Difference]]
# What is asked to be open, the most first, each tried until one can be exported and agrees with PyTorch.
_FREEDOMS: dict[str, Callable[[Plain], Dims]] = {
    "batch and sequence": axes.batch_and_sequence,
    "batch": axes.batch_only,
    "nothing": axes.nothing,
}


def export_onnx(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], path: Path, wanted: Wanted | None = None
) -> Exported:
    """Write `module` as ONNX, and say how far ONNX Runtime's outputs are from PyTorch's.

    The batch of every input and the sequence of those that have one are left open where the model allows it (each at three sizes, and
    at a batch of one); the remarks say what stays fixed, and why. Inputs are named as in `forward`, outputs as in the model's result,
    initialisers as the parameters. The module itself is not touched. With a past, the encoder of a model that has one is written beside
    `path`, as `NAME.encoder.onnx`: what it gives as `present` goes into the decoder as `past_key_values`, at every step.

    Raises:
        OutputError: the model cannot be exported (in that opset, with a past), or the outputs differ by more than the precision
            explains.
        CaptureError: it does not run on these inputs.
    """
    wanted = wanted or Wanted()
    copied = copy.deepcopy(module).requires_grad_(False)
    if wanted.past:
        return _with_past(copied, kwargs, path, wanted)
    try:
        plain = Plain(copied, args, kwargs)
    except GraphcloneError:
        raise
    except Exception:
        runs(copied, args, kwargs)
        raise
    return _freest(plain, type(module).__name__, path, wanted, _FREEDOMS, _at_trials)


def _with_past(module: nn.Module, kwargs: Mapping[str, object], path: Path, wanted: Wanted) -> Exported:
    """One file; of a model with an encoder two, this being named beside the other."""
    from graphclone.export.onnx.past import carries, decoded, every_axis, refused, with_past  # it needs transformers

    what, name, free = refused(module), type(module).__name__, {"batch, sequence and past": every_axis}
    if not getattr(module.config, "is_encoder_decoder", False):
        plain = with_past(module, kwargs, what)
        done = _freest(plain, name, path, wanted, free, lambda plain, _, *given: decoded(plain, *given))
        return replace(done, remarks=(*[_CARRIED] * carries(plain), *done.remarks))
    from graphclone.export.onnx.encoder_decoder import halves

    both, place = halves(module, kwargs, what), path.with_suffix(".encoder.onnx")
    read = _freest(both.encoder, f"the encoder of {name}", place, replace(wanted, past=False, bench=False), _FREEDOMS, _at_trials)
    reading = session(place)

    def decoding(_: Plain, __: Opened, running: onnxruntime.InferenceSession, precision: str) -> Iterator[Difference]:
        return both.decoded(read.trials, reading if precision == wanted.precision else None, running, precision)

    done = _freest(both.decoder, name, path, wanted, free, decoding)
    beside = f"its encoder lies beside it, in {place.name}; open axes there: {read.open or 'none'}"
    return replace(done, remarks=(beside, *(f"encoder: {each}" for each in read.remarks), *done.remarks))


def _freest(
    plain: Plain, name: str, path: Path, wanted: Wanted, freedoms: Mapping[str, Callable[[Plain], Dims]], measure: Measure
) -> Exported:
    failures: dict[str, str] = {}
    for freedom, describe in freedoms.items():
        dims = describe(plain)
        if freedom != "nothing" and not any(dims):
            continue
        if freedom == "nothing":
            plain.inputs = plain.given  # as they are: their values may decide
        try:
            with torch.no_grad():
                done = _exported(plain, dims, path, wanted, measure)
        except OutputError:
            raise
        except Exception as error:  # the exporter raises what the traced program happens to raise
            failures[freedom] = reason(error)
            continue
        remarks = [f"it cannot be exported with {each} left open: {why}" for each, why in failures.items()]
        return replace(done, remarks=(*remarks, *done.remarks))
    raise OutputError(
        f"cannot export {name} as ONNX" + (f" in opset {wanted.opset}" if wanted.opset else ""),
        because="\n           ".join(f"with {each} left open: {why}" for each, why in failures.items()),
        attempt=_ATTEMPT[wanted.opset is not None],
    )


_CARRIED = "it takes a token at a time, and padding would reach the states that it carries on: rows of a batch have no padding"
_ATTEMPT = {
    False: "the PyTorch or Hugging Face form of the child, which needs no export",
    True: "without --opset: the exporter's own is the one that it writes best",
}


@torch.no_grad()
def loaded(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Callable[[], object]:
    """The module in ONNX Runtime, on these inputs and at no other sizes: a function that runs it once. No file is left.

    Raises:
        OutputError: the model cannot be exported, or the outputs differ by more than the precision explains.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            plain = Plain(copy.deepcopy(module).requires_grad_(False), args, kwargs, alone=True)
            save(translated(axes.opened(plain, axes.nothing(plain)), plain, None), path, {})
            running = session(path)
            compare(plain, running, plain.inputs, "fp32")
        except OutputError:
            raise
        except Exception as error:  # as for any export
            raise OutputError(f"cannot run {type(module).__name__} in ONNX Runtime", because=reason(error)) from error
    given = fed(plain, running, plain.inputs)
    return lambda: running.run(None, given)


def reason(error: BaseException) -> str:
    """The first line of what is at the bottom of an error: the exporter wraps it in advice about reporting bugs."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _exported(plain: Plain, dims: Dims, path: Path, wanted: Wanted, measure: Measure) -> Exported:
    """What may be left open is decided in single precision: rounding of weights is no reason to close an axis."""
    found = axes.opened(plain, dims)
    model = translated(found, plain, wanted.opset)
    if wanted.precision != "fp32" and weighed(model):
        raise OutputError(
            f"the model does not bear {wanted.precision} weights",
            because="real numbers decide what it computes, and rounded otherwise they would decide otherwise",
            attempt="the file in single precision",
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        single = path if wanted.precision == "fp32" else Path(folder) / "single.onnx"
        prepared(model, wanted.precision)
        save(model, single, wanted.provenance)
        running = session(single)
        differences = tuple(measure(plain, found, running, "fp32"))
        remarks = [] if wanted.past else _alone(found, plain, running)
        if wanted.precision != "fp32":
            remarks += lowered(single, path, wanted.precision, lambda model, path: save(model, path, wanted.provenance))
            running = session(path)
            differences = _coarser(lambda: tuple(measure(plain, found, running, wanted.precision)), wanted.precision)
            remarks += _told(differences, wanted.precision)
    measured = latencies(plain, running) if wanted.bench else ()
    return Exported(differences, str(found), (*found.fixed, *remarks), tuple(measured), found.trials)


def _at_trials(plain: Plain, found: Opened, running: onnxruntime.InferenceSession, precision: str) -> Iterator[Difference]:
    return (compare(plain, running, tensors, precision) for tensors in found.trials)


def _coarser(measure: Callable[[], tuple[Difference, ...]], precision: str) -> tuple[Difference, ...]:
    try:
        return measure()
    except Disagreement as error:
        raise OutputError(
            f"the model does not bear {precision} weights", because=str(error), attempt="the file in single precision"
        ) from error


def _told(differences: tuple[Difference, ...], precision: str) -> list[str]:
    share = max(each.share for each in differences)
    if share <= DOUBTFUL:
        return []
    return [
        f"{precision} weights change its outputs by {share:.0%} of the largest: try the file on data of yours before you use it"
    ]


def _alone(found: Opened, plain: Plain, running: onnxruntime.InferenceSession) -> list[str]:
    """A batch of one, which torch assumes that nobody asks for: a remark if the model takes it and the file does not."""
    single = found.single(plain.inputs)
    if single is None or not plain.takes(single):
        return []
    try:
        compare(plain, running, single, "fp32")
    except Exception as error:
        return [f"it does not take a batch of one: {reason(error)}"]
    return []
