"""ONNX: read by ONNX Runtime, OpenVINO, TensorRT and by `regroup.compile`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from regroup.errors import ConfigError, ExportError, MissingPackageError, needed
from regroup.exporting.writing import Made, Subject, way

_MOST_BYTES = (1 << 31) - 1
"""What a file of protocol buffers may have."""


@way("onnx", suffix=".onnx")
def onnx(subject: Subject, *, opset: int | None = None, lowered: bool | None = None) -> Made:
    """Make an ONNX file with one input, "images", and one output, "scores".

    Args:
        subject: the network; what is known about it goes into the metadata, as JSON, by name.
        opset: version of the operators; None: 18, or PyTorch's choice.
        lowered: with batch norms and channel orders folded into weights, which is what runtimes run faster;
            False: operator for operator as PyTorch's exporter writes it; None: lowered where the network has
            such a form.

    Raises:
        ConfigError: the exporter does not write that version.
        ExportError: it has no place in a file of two gigabytes, or no lowered form, which was asked for.
    """
    if opset is not None and not (isinstance(opset, int) and 7 <= opset <= 99):
        raise ConfigError("opset", opset, "a version of ONNX's operators, such as 18")
    if lowered is not None and not isinstance(lowered, bool):
        raise ConfigError("lowered", lowered, "true, false, or left out")
    proto, note = _lowered(subject, opset) if lowered is not False else (None, "")
    if proto is None and lowered:
        raise ExportError("onnx", f"the network has no lowered form: {note}")
    proto = proto or _as_it_is(subject, opset)
    if proto.ByteSize() > _MOST_BYTES:
        raise ExportError("onnx", "the network has more than the two gigabytes of one file")
    for key, value in subject.about.items():
        proto.metadata_props.add(key=f"regroup.{key}", value=json.dumps(value))
    content = proto.SerializeToString()
    run, reason = _runner(content)
    return Made(content, run, reason, note=note and f"not lowered: {note}")


def _lowered(subject: Subject, opset: int | None) -> tuple[Any, str]:
    """Return the lowered network; or None, and why there is none."""
    from regroup.exporting.lowered import LoweredError, lowered
    from regroup.exporting.lowered.nodes import OPSET, model_of

    try:
        graph = lowered(subject.model, subject.images)
        return model_of(graph, tuple(subject.images.shape[1:]), subject.batch, opset or OPSET), ""
    except LoweredError as error:
        return None, str(error)


def _as_it_is(subject: Subject, opset: int | None) -> Any:
    """Return what PyTorch's exporter writes."""
    needed("onnxscript", "onnx")  # what torch.onnx needs, said before it begins

    sizes = {0: torch.export.Dim("batch", min=1)} if subject.batch is None else None
    with _silent():
        program = torch.onnx.export(
            subject.model,
            (subject.images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["scores"],
            dynamic_shapes=None if sizes is None else (sizes,),
            opset_version=opset,
        )
    assert program is not None
    proto = program.model_proto
    found = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset is not None and found != opset:
        raise ConfigError("opset", opset, f"a version that the exporter can write: it has written {found}")
    return proto


def _runner(content: bytes) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    try:
        onnxruntime = needed("onnxruntime", "onnx")
    except MissingPackageError as error:
        return None, str(error)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0]), ""


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what exporters print and log from people who asked for a file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
