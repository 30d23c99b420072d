"""A file of single precision → one of half precision, or with 8-bit weights; by ONNX Runtime's own tools."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from graphclone.errors import OutputError

# Beside what ONNX Runtime cannot run in half precision: sums and powers, which leave its range (65,504) within any norm.
_SINGLE = (
    *DEFAULT_OP_BLOCK_LIST,
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "ReduceL2",
    "ReduceSumSquare",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
)
# Convolutions stay: ONNX Runtime has no kernel for most of them in 8 bits.
_QUANTISED = ["MatMul", "Gather", "LSTM", "EmbedLayerNormalization"]


Save = Callable[[ir.Model, Path], None]


def prepared(model: ir.Model, precision: str) -> None:
    """What has to be done to a model in single precision before it is written, so that `lowered` finds all weights."""
    if precision == "int8":
        _fold_transposes(model)


def lowered(single: Path, path: Path, precision: str, save: Save) -> list[str]:
    """Write the file `single` to `path` in that precision; inputs and outputs keep their types. **Returns** remarks: how much of it is."""
    with _quiet():
        _WRITERS[precision](single, path, save)
    return [_share(path, precision)]


def _half(single: Path, path: Path, save: Save) -> None:
    halved = convert_float_to_float16(onnx.load(single), keep_io_types=True, op_block_list=list(_SINGLE))
    del halved.graph.value_info[:]  # of some values beside its casts the tool says the type that they had
    model = ir.from_proto(halved)
    common.TopologicalSortPass()(model)  # the tool appends its casts at the end
    save(model, path)


def _eight_bits(single: Path, path: Path, save: Save) -> None:
    """Per channel; weights in 7 bits, since on processors without VNNI sums of 8-bit products overflow."""
    quantised = single.with_name("quantised.onnx")
    quantize_dynamic(
        single,
        quantised,
        op_types_to_quantize=_QUANTISED,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=single.with_name(f"{single.name}.data").exists(),
    )
    save(ir.from_proto(onnx.load(quantised)), path)  # a quarter of the size may fit into one file again


_WRITERS = {"fp16": _half, "int8": _eight_bits}
_TYPES = {"fp16": {onnx.TensorProto.FLOAT16}, "int8": {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}}


def _share(path: Path, precision: str) -> str:
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    sizes = [
        (each.data_type in _TYPES[precision], _count(each))
        for each in tensors
        if not each.name.endswith(("_scale", "_zero_point"))
    ]
    low, every = sum(size for is_low, size in sizes if is_low), sum(size for _, size in sizes)
    if not low:
        raise OutputError(
            f"nothing of this model can be written in {precision}",
            because="no weight of it is multiplied by in a linear layer or read as a table"
            if precision == "int8"
            else "it has no weights",
            attempt="without it, in single precision",
        )
    return f"{100 * low / every:.3g} % of its weights are {precision}"


def _count(tensor: onnx.TensorProto) -> int:
    size = 1
    for each in tensor.dims:
        size *= each
    return size


def _fold_transposes(model: ir.Model) -> None:
    """Weights as `x @ W` reads them: quantisation looks for a weight, and finds the transpose of one."""
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not weight.is_initializer() or weight.const_value is None or len(weight.uses()) > 1:
            continue
        array = weight.const_value.numpy().transpose(node.attributes.get_ints("perm", None) or None).copy()
        turned = ir.Value(name=f"{weight.name}.transposed", shape=ir.Shape(array.shape), type=weight.type)
        turned.const_value = ir.tensor(array, name=turned.name)
        model.graph.register_initializer(turned)
        node.outputs[0].replace_all_uses_with(turned)
        model.graph.remove(node, safe=True)
        model.graph.initializers.pop(str(weight.name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tool recommends another one in the root log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
