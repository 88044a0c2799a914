"""What a trained network does with each test image: asked once for each run, and kept in the report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from regroup.comparison.evidence import MOST_IMAGES, pack, unpack
from regroup.comparison.result import Comparison
from regroup.errors import PlanError
from regroup.training.data import Loader
from regroup.training.evaluation import evaluate
from regroup.training.processes import find_device

if TYPE_CHECKING:
    from regroup.training import DataSet, TrainConfig


def kept_answers(out: Path) -> dict[str, str]:
    """Return the answers that the report in `out` has, if there is one, by the identity of the run."""
    with suppress(PlanError):
        rows = Comparison.load(out / "comparison.json").rows
        return {run.identity: run.right for row in rows for run in row.runs if run.identity and run.right}
    return {}


def answers(
    model: nn.Module, data: DataSet, config: TrainConfig, identity: str, kept: Mapping[str, str]
) -> str:
    """Return which test images a run's network classifies rightly, packed; "" of too many.

    Where right and wrong is said of pixels or boxes, not of images: the share of each image in the figure.

    Args:
        model: the trained network, where it was trained.
        data: whose test images are asked, in batches as in training.
        config: how it was trained.
        identity: of the run.
        kept: answers that are known, by identity.
    """
    images = len(data.test)
    if images > MOST_IMAGES:
        return ""
    if unpack(kept.get(identity, ""), images) is not None:
        return kept[identity]
    device = find_device(config.device)
    precision = torch.autocast(device.type, getattr(torch, config.amp_dtype)) if config.amp else nullcontext()
    loader = Loader(data, config.batch_size, train=False, workers=config.workers, device=device)
    with torch.no_grad(), precision:
        if data.task != "classify":
            each = evaluate(model, loader).each()
            return "" if each is None else pack(each)
        model.eval()
        found = [
            (model(batch.images).float().topk(1).indices[:, 0] == batch.labels).cpu() for batch in loader
        ]
    return pack(torch.cat(found).numpy())
