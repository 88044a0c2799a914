"""PyTorch's own exported program: read by `torch.export.load`, without the network's code."""

from __future__ import annotations

import io
import json

import torch

from regroup.exporting.writing import Made, Subject, way


@way("pt2", suffix=".pt2")
def pt2(subject: Subject) -> Made:
    """Make an archive of `torch.export`; what is known about the network is its extra file regroup.json.

    Args:
        subject: the network.
    """
    sizes = ({0: torch.export.Dim("batch", min=1)},) if subject.batch is None else None
    program = torch.export.export(subject.model, (subject.images,), dynamic_shapes=sizes)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"regroup.json": json.dumps(dict(subject.about))})
    again = torch.export.load(io.BytesIO(file.getvalue())).module()
    return Made(file.getvalue(), lambda images: again(images))
