"""A lowered graph -> a model of ONNX: for each operator of the engine, the nodes that do it.

`@writes(Op)` registers what writes one: it gets the writer, the op, and the names of its inputs, and calls
`writer.node` for each node; the last one's result is the op's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor

from regroup.engine.graph import Graph, Shape
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.adaptive_pool import AdaptivePool
from regroup.engine.operators.add import Add
from regroup.engine.operators.concat import Concat
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear
from regroup.engine.operators.local_response_norm import Lrn
from regroup.engine.operators.multiply import Multiply
from regroup.engine.operators.pad import Pad
from regroup.engine.operators.pixels import Pixels
from regroup.engine.operators.pool import Pool
from regroup.engine.operators.reshape import Reshape
from regroup.engine.operators.resize import Resize
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select
from regroup.engine.operators.softmax import Softmax
from regroup.engine.operators.transposed_convolution import ConvTranspose
from regroup.exporting.lowered import LoweredError
from regroup.exporting.lowered.writer import Writer, writes
from regroup.kernels.problems.fused import parsed

OPSET = 18
"""Version of ONNX's operators, if none is asked for; the least is `LEAST`."""

LEAST = 15


def model_of(graph: Graph, shape: Shape, batch: int | None, opset: int = OPSET) -> onnx.ModelProto:
    """Return the model with the input "images" and the output "scores".

    Args:
        graph: with one input and one output.
        shape: of an image.
        batch: how many images there are; None: any number.
        opset: version of ONNX's operators.

    Raises:
        LoweredError: an operator has no nodes in that version; says which.
    """
    if not LEAST <= opset <= onnx.defs.onnx_opset_version():
        raise LoweredError(f"opset {opset} is not between {LEAST} and {onnx.defs.onnx_opset_version()}")
    writer = Writer(graph, opset)
    size = "batch" if batch is None else batch
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [size, *shape])]
    result = [size, *graph.outputs[0].shape]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, result)]
    made = helper.make_graph(writer.nodes, "network", inputs, outputs, writer.constants)
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(made, opset_imports=opsets, ir_version=version, producer_name="regroup")
    onnx.checker.check_model(model, full_check=True)
    return model


# ---- weights -------------------------------------------------------------------------------------


@writes(Conv)
def _conv(writer: Writer, op: Conv, inputs: list[str]) -> str:
    (x,), (top, bottom, left, right) = inputs, op.padding
    if min(op.padding) < 0:  # ONNX has no windows that begin inside the image
        x = _padded(writer, x, op.padding)
        top = bottom = left = right = 0
    given = [x, writer.constant(op.weight), *_bias(writer, op.bias)]
    sizes = {"kernel_shape": op.kernel_size, "strides": op.stride, "dilations": op.dilation}
    return writer.node("Conv", given, pads=(top, left, bottom, right), group=op.groups, **sizes)


@writes(ConvTranspose)
def _conv_transpose(writer: Writer, op: ConvTranspose, inputs: list[str]) -> str:
    top, bottom, left, right = op.padding
    weight = op.weight.unflatten(0, (op.groups, -1)).transpose(1, 2).flatten(0, 1)
    given = [*inputs, writer.constant(weight), *_bias(writer, op.bias)]
    sizes = {"kernel_shape": op.kernel_size, "strides": op.stride, "dilations": op.dilation}
    sizes |= {"pads": (top, left, bottom, right), "output_padding": op.extra}
    return writer.node("ConvTranspose", given, group=op.groups, **sizes)


@writes(Linear)
def _linear(writer: Writer, op: Linear, inputs: list[str]) -> str:
    if len(writer.shape) == 1:
        return writer.node("Gemm", [*inputs, writer.constant(op.weight), *_bias(writer, op.bias)], transB=1)
    return _conv(writer, Conv(op.weight[:, :, None, None], op.bias), inputs)


def _bias(writer: Writer, bias: Tensor | None) -> list[str]:
    return [] if bias is None else [writer.constant(bias)]


@writes(ScaleShift)
def _scale_shift(writer: Writer, op: ScaleShift, inputs: list[str]) -> str:
    ones = (1,) * (len(writer.shape) - 1)
    if not op.shift.any():
        return writer.node("Mul", [*inputs, writer.constant(op.scale.view(-1, *ones))])
    if (op.scale == 1).all():
        return writer.node("Add", [*inputs, writer.constant(op.shift.view(-1, *ones))])
    mean, variance = writer.constant(np.zeros(len(op.scale))), writer.constant(np.ones(len(op.scale)))
    given = [*inputs, writer.constant(op.scale), writer.constant(op.shift), mean, variance]
    return writer.node("BatchNormalization", given, epsilon=0.0)


# ---- elementwise ---------------------------------------------------------------------------------


@writes(Add)
def _add(writer: Writer, op: Add, inputs: list[str]) -> str:
    return writer.node("Add", inputs)


@writes(Multiply)
def _multiply(writer: Writer, op: Multiply, inputs: list[str]) -> str:
    return writer.node("Mul", inputs)


_OF_ONE_NODE = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh"}


@writes(Activate)
def _activate(writer: Writer, op: Activate, inputs: list[str]) -> str:
    if op.slope is not None:
        ones = (1,) * (len(writer.shape) - 1)
        return writer.node("PRelu", [*inputs, writer.constant(op.slope.view(-1, *ones))])
    kind, numbers = parsed(op.kind)
    if kind in _OF_ONE_NODE:
        return writer.node(_OF_ONE_NODE[kind], inputs)
    return _ACTIVATIONS[kind](writer, inputs[0], *numbers)


def _clip(writer: Writer, x: str, low: float, high: float) -> str:
    least = "" if math.isinf(low) else writer.constant(low)
    return writer.node("Clip", [x, least, *([] if math.isinf(high) else [writer.constant(high)])])


def _elu(writer: Writer, x: str, alpha: float, scale: float, input_scale: float) -> str:
    if input_scale == 1:
        return writer.node("Selu", [x], alpha=alpha, gamma=scale)
    if scale == 1 and math.isclose(alpha * input_scale, 1):
        return writer.node("Celu", [x], alpha=alpha)
    raise LoweredError("ONNX has no ELU with a scale of its inputs")


def _softplus(writer: Writer, x: str, beta: float, threshold: float) -> str:
    if beta == 1:
        return writer.node("Softplus", [x])
    y = writer.node("Softplus", [writer.node("Mul", [x, writer.constant(beta)])])
    return writer.node("Div", [y, writer.constant(beta)])


def _gelu(writer: Writer, x: str) -> str:
    erf = writer.node("Erf", [writer.node("Mul", [x, writer.constant(math.sqrt(0.5))])])
    half = writer.node("Mul", [x, writer.constant(0.5)])
    return writer.node("Mul", [half, writer.node("Add", [erf, writer.constant(1.0)])])


def _gelu_tanh(writer: Writer, x: str) -> str:
    cube = writer.node("Mul", [writer.node("Mul", [x, x]), x])
    inner = writer.node("Add", [x, writer.node("Mul", [cube, writer.constant(0.044715)])])
    tanh = writer.node("Tanh", [writer.node("Mul", [inner, writer.constant(math.sqrt(2 / math.pi))])])
    half = writer.node("Mul", [x, writer.constant(0.5)])
    return writer.node("Mul", [half, writer.node("Add", [tanh, writer.constant(1.0)])])


def _mish(writer: Writer, x: str) -> str:
    return writer.node("Mul", [x, writer.node("Tanh", [writer.node("Softplus", [x])])])


_ACTIVATIONS: dict[str, Callable[..., str]] = {
    "relu6": lambda writer, x: _clip(writer, x, 0.0, 6.0),
    "silu": lambda writer, x: writer.node("Mul", [x, writer.node("Sigmoid", [x])]),
    "hardsigmoid": lambda writer, x: writer.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "leaky_relu": lambda writer, x, slope: writer.node("LeakyRelu", [x], alpha=slope),
    "clamp": _clip,
    "elu": _elu,
    "softplus": _softplus,
}


# ---- images --------------------------------------------------------------------------------------


@writes(Pool)
def _pool(writer: Writer, op: Pool, inputs: list[str]) -> str:
    top, _, left, _ = op.padding
    more = _beyond(op, writer.shape, writer.result)
    pads = (top, left, top + more[0], left + more[1])
    sizes = {"kernel_shape": op.kernel, "strides": op.stride, "pads": pads}
    if op.kind == "max":
        return writer.node("MaxPool", inputs, dilations=op.dilation, **sizes)
    whole = not any(pads) or op.divisor is not None
    if any(more) and (op.count_padding or op.divisor is not None) and any(pads):
        raise LoweredError("ONNX has no mean over windows that end beyond the padding, which count it")
    y = writer.node("AveragePool", inputs, count_include_pad=int(op.count_padding or whole), **sizes)
    factor = 1.0 if op.divisor is None else math.prod(op.kernel) / op.divisor
    return y if factor == 1 else writer.node("Mul", [y, writer.constant(factor)])


def _beyond(op: Pool, image: Shape, result: Shape) -> list[int]:
    """Return by how many pixels the last window of each direction ends beyond the padding."""
    found = []
    for axis in (0, 1):
        reach = (result[1 + axis] - 1) * op.stride[axis] + op.dilation[axis] * (op.kernel[axis] - 1) + 1
        found.append(max(0, reach - image[1 + axis] - 2 * op.padding[2 * axis]))
    return found


@writes(AdaptivePool)
def _adaptive_pool(writer: Writer, op: AdaptivePool, inputs: list[str]) -> str:
    if op.size == (1, 1):
        return writer.node("GlobalAveragePool" if op.kind == "avg" else "GlobalMaxPool", inputs)
    sides = list(zip(writer.shape[1:], op.size, strict=True))
    if any(side % size for side, size in sides):
        raise LoweredError("ONNX has no pooling into windows of several sizes")
    kernel = tuple(side // size for side, size in sides)
    return writer.node(
        "AveragePool" if op.kind == "avg" else "MaxPool", inputs, kernel_shape=kernel, strides=kernel
    )


@writes(Pad)
def _pad(writer: Writer, op: Pad, inputs: list[str]) -> str:
    return _padded(writer, inputs[0], op.padding)


def _padded(writer: Writer, x: str, padding: Sequence[int]) -> str:
    top, bottom, left, right = padding
    return writer.node("Pad", [x, writer.constant([0, 0, top, left, 0, 0, bottom, right])])


@writes(Pixels)
def _pixels(writer: Writer, op: Pixels, inputs: list[str]) -> str:
    (x,), ends = inputs, []
    for axis, (numbers, size) in enumerate(zip((op.rows, op.columns), writer.shape[1:], strict=True), 2):
        inside = [i for i, number in enumerate(numbers) if number >= 0]
        if inside != list(range(inside[0], inside[-1] + 1) if inside else ()) or not inside:
            raise LoweredError("ONNX has no constants between pixels")
        ends.append((inside[0], len(numbers) - 1 - inside[-1]))
        read = [number for number in numbers if number >= 0]
        if read != list(range(size)):
            x = _taken(writer, x, read, axis)
    if any(sum(ends, ())):
        (top, bottom), (left, right) = ends
        pads = writer.constant([0, 0, top, left, 0, 0, bottom, right])
        x = writer.node("Pad", [x, pads, writer.constant(op.value)])
    return x


@writes(Resize)
def _resize(writer: Writer, op: Resize, inputs: list[str]) -> str:
    if writer.opset < 18:
        raise LoweredError(f"opset {writer.opset} resizes whole batches only")
    if any(scale is not None and size != int(scale * side) for side, size, scale in _sides(writer, op)):
        raise LoweredError("ONNX resizes by sizes or by factors, not by both")
    if op.mode not in ("nearest", "bilinear"):
        raise LoweredError(f"ONNX has no resizing by {op.mode!r}")
    nearest = op.mode == "nearest"
    where = "align_corners" if op.align_corners else "asymmetric" if nearest else "half_pixel"
    how: dict[str, Any] = {"mode": "nearest" if nearest else "linear", "axes": [2, 3]}
    how |= {"coordinate_transformation_mode": where, **({"nearest_mode": "floor"} if nearest else {})}
    scales = [scale for *_, scale in _sides(writer, op)]
    if all(scale is not None for scale in scales):
        return writer.node("Resize", [*inputs, "", writer.constant(np.array(scales, np.float32))], **how)
    return writer.node("Resize", [*inputs, "", "", writer.constant(list(op.size))], **how)


def _sides(writer: Writer, op: Resize) -> list[tuple[int, int, float | None]]:
    return list(zip(writer.shape[1:], op.size, op.scale, strict=True))


@writes(Lrn)
def _lrn(writer: Writer, op: Lrn, inputs: list[str]) -> str:
    if op.size % 2 == 0:
        raise LoweredError("ONNX normalises over other channels where their number is even")
    return writer.node("LRN", inputs, size=op.size, alpha=op.alpha, beta=op.beta, bias=op.k)


# ---- places --------------------------------------------------------------------------------------


@writes(Concat)
def _concat(writer: Writer, op: Concat, inputs: list[str]) -> str:
    return writer.node("Concat", inputs, axis=1)


@writes(Select)
def _select(writer: Writer, op: Select, inputs: list[str]) -> str:
    return _taken(writer, inputs[0], op.channels, 1)


def _taken(writer: Writer, x: str, numbers: Sequence[int], axis: int) -> str:
    """Return what is read at some places of an axis, in their order."""
    first, count = numbers[0], len(numbers)
    if list(numbers) == list(range(first, first + count)):
        return writer.node("Slice", [x, *(writer.constant([n]) for n in (first, first + count, axis))])
    return writer.node("Gather", [x, writer.constant(list(numbers))], axis=axis)


@writes(Reshape)
def _reshape(writer: Writer, op: Reshape, inputs: list[str]) -> str:
    if op.to == writer.shape:
        return inputs[0]
    if len(op.to) == 1:
        return writer.node("Flatten", inputs, axis=1)
    return writer.node("Reshape", [*inputs, writer.constant([0, *op.to])])


@writes(Softmax)
def _softmax(writer: Writer, op: Softmax, inputs: list[str]) -> str:
    if writer.shape[1:] not in ((), (1, 1)):
        raise LoweredError("ONNX has no softmax over all of an image")
    return writer.node("Softmax", inputs, axis=1)
