"""ExecuTorch: PyTorch's programs for telephones and small devices, run there by XNNPACK."""

from __future__ import annotations

import contextlib
import logging

import torch
from torch import Tensor

from regroup.errors import ConfigError
from regroup.exporting.writing import Made, Subject, way


@way("executorch", suffix=".pte")
def executorch(subject: Subject, *, delegate: str = "xnnpack") -> Made:
    """Make a program of ExecuTorch's, for one image at a time or for `batch` of them.

    Args:
        subject: the network.
        delegate: "xnnpack" for its kernels where it has some, or "none" for ExecuTorch's own, which are slow.

    Raises:
        ConfigError: there is no such delegate.
    """
    if delegate not in ("xnnpack", "none"):
        raise ConfigError("delegate", delegate, "'xnnpack' or 'none'")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    size = subject.batch or 1
    with _quiet():
        program = torch.export.export(subject.model, (subject.images[:size],))
        partitioners = [XnnpackPartitioner()] if delegate == "xnnpack" else []
        content = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch().buffer
        method = Runtime.get().load_program(content).load_method("forward")
    assert method is not None

    def run(images: Tensor) -> Tensor:
        parts = images.split(size)
        return torch.cat([method.execute([part.contiguous()])[0].clone() for part in parts])

    return Made(content, run, batch=size)


@contextlib.contextmanager
def _quiet():
    """Keep what its passes log from people who asked for a file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
