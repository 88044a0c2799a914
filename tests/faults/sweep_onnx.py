"""Damaged ONNX files before the commands that take one: in their bytes, or in what they mean.

The files are ONNX's own backend tests (in the long form also those of single operators). They are changed as
programs that write ONNX go wrong: a node, an input or an attribute is missing, exchanged or odd; a weight
says another shape or type, or lies elsewhere; sizes, releases and names do not fit.
"""

import contextlib

from onnx import ModelProto, TensorProto

import regroup
from tests.data.malformed import damaged
from tests.faults import programs
from tests.interop import onnx_cases

_NUMBERS = (-(2**63), -(2**31), -1000, -2, -1, 0, 1, 2, 3, 7, 1000, 10**9, 2**31, 2**62)
_WORDS = ("", "x", "\x1b[31m", "../" * 9 + "etc/passwd", "/dev/zero", "é" * 300)


def files(sweep):
    """Damaged ONNX files through `compile`, `profile` and `regroup.compile`."""
    kinds = onnx_cases.KINDS if programs.LONG else onnx_cases.KINDS[1:]
    wholes = [case.proto.SerializeToString() for kind in kinds for case in onnx_cases.cases(kind)]
    path = sweep.directory / "a.onnx"

    def turn(n):
        path.write_bytes(_damaged(sweep.chance.choice(wholes), sweep.chance))
        sweep.command("compile", "an ONNX file", "compile", path, "--json")
        sweep.command("profile", "an ONNX file", "profile", path, "--no-time", "--json")
        sweep.call("regroup.compile", "an ONNX file", regroup.compile, path)

    sweep.each(turn)


def _damaged(whole, chance):
    if chance.random() < 0.25:
        return damaged(whole, chance)
    proto = ModelProto.FromString(whole)
    for _ in range(chance.choice([1, 1, 2, 3])):
        with contextlib.suppress(ValueError, TypeError, IndexError):  # protobuf has no such number or word
            chance.choice(_CHANGES)(proto, chance)
    return proto.SerializeToString()


def _some(repeated, chance):
    """Return one of several parts."""
    return repeated[chance.randrange(len(repeated))]


def _node_gone(proto, chance):
    del proto.graph.node[chance.randrange(len(proto.graph.node))]


def _node_twice(proto, chance):
    proto.graph.node.add().CopyFrom(_some(proto.graph.node, chance))


def _another_operator(proto, chance):
    _some(proto.graph.node, chance).op_type = chance.choice([*sorted(onnx_cases.OPERATORS), *_WORDS])


def _another_domain(proto, chance):
    _some(proto.graph.node, chance).domain = chance.choice([*_WORDS, "ai.onnx", "ai.onnx.ml"])


def _another_input(proto, chance):
    inputs = _some(proto.graph.node, chance).input
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    inputs[chance.randrange(len(inputs))] = chance.choice([*names, *_WORDS])


def _inputs_of_another_number(proto, chance):
    inputs = _some(proto.graph.node, chance).input
    inputs.append(_some(inputs, chance)) if chance.random() < 0.5 else inputs.pop()


def _another_output(proto, chance):
    outputs = _some(proto.graph.node, chance).output
    outputs[chance.randrange(len(outputs))] = chance.choice([outputs[0] + "_", *_WORDS])


def _odd_attribute(proto, chance):
    attribute = _some([one for node in proto.graph.node for one in node.attribute], chance)
    kind = chance.randrange(5)
    if kind == 0:
        attribute.name = chance.choice(["axis", "pads", "kernel_shape", "to", *_WORDS])
    elif kind == 1:
        attribute.type = chance.randrange(15)
    elif kind == 2 and attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(_NUMBERS)
    elif kind == 3 and attribute.ints:
        attribute.ints.append(chance.choice(_NUMBERS)) if chance.random() < 0.5 else attribute.ints.pop()
    elif attribute.s:
        attribute.s = chance.choice([*(word.encode() for word in _WORDS), b"\xff"])
    else:
        attribute.i, attribute.f = chance.choice(_NUMBERS), chance.choice([float("nan"), 1e38, -1.0, 0.0])


def _attribute_gone(proto, chance):
    attributes = _some([node for node in proto.graph.node if node.attribute], chance).attribute
    del attributes[chance.randrange(len(attributes))]


def _odd_weight(proto, chance):
    weight = _some(proto.graph.initializer, chance)
    kind = chance.randrange(6)
    if kind == 0:
        weight.dims[chance.randrange(len(weight.dims))] = chance.choice(_NUMBERS)
    elif kind == 1:
        weight.dims.append(chance.choice(_NUMBERS)) if chance.random() < 0.5 else weight.dims.pop()
    elif kind == 2:
        weight.data_type = chance.randrange(30)
    elif kind == 3:
        weight.name = chance.choice(_WORDS)
    elif kind == 4:
        weight.raw_data = weight.raw_data[: len(weight.raw_data) // 2]
    else:
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", chance.choice(_WORDS)


def _odd_input(proto, chance):
    kind = _some(proto.graph.input, chance).type.tensor_type
    if chance.random() < 0.3:
        kind.elem_type = chance.randrange(30)
    else:
        _some(kind.shape.dim, chance).dim_value = chance.choice(_NUMBERS)


def _odd_results(proto, chance):
    results = proto.graph.output
    if chance.random() < 0.5:
        results.add().name = chance.choice([proto.graph.node[0].output[0], *_WORDS])
    else:
        _some(results, chance).name = chance.choice(_WORDS)


def _odd_releases(proto, chance):
    if chance.random() < 0.5:
        proto.ir_version = chance.choice(_NUMBERS)
    else:
        _some(proto.opset_import, chance).version = chance.choice(_NUMBERS)


_CHANGES = (
    _node_gone,
    _node_twice,
    _another_operator,
    _another_domain,
    _another_input,
    _inputs_of_another_number,
    _another_output,
    _odd_attribute,
    _odd_attribute,
    _attribute_gone,
    _odd_weight,
    _odd_weight,
    _odd_input,
    _odd_results,
    _odd_releases,
)
