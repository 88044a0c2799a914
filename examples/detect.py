"""Detection: torchvision's Faster R-CNN finds letters, with a feature pyramid on a grouped network.

    python examples/detect.py --network shufflenet_v1_g3_050 --steps 300

It trains from random weights, prints the loss and draws detections.png: what is found in scenes whose fonts
were not learned from. The loss falls from 4 to 1 in the first steps, when all is background, and wavers there
while boxes begin to meet letters; after 100 steps (a minute of one core) no box is yet half sure.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from regroup.interop.torchvision import PyramidBackbone
from regroup.networks import create_model
from regroup.training.data import DataSet, Loader, load_data


def detector(network: str, classes: int, side: int) -> FasterRCNN:
    """Return a Faster R-CNN for images of `side` pixels, smaller than photographs need."""
    pyramid = PyramidBackbone(create_model(network), out_channels=64)
    sizes = tuple((16 * 2**level,) for level in range(5))
    return FasterRCNN(
        pyramid,
        min_size=side,
        max_size=side,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        rpn_post_nms_top_n_train=100,
        box_head=TwoMLPHead(pyramid.out_channels * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, classes),
        box_batch_size_per_image=64,
    )


def main(
    steps: int = 300,
    network: str = "shufflenet_v1_g3_050",
    side: int = 128,
    batch: int = 8,
    scenes: int = 1000,
    picture: Path = Path("detections.png"),
) -> list[float]:
    """Train for some steps, draw the detections in new scenes, and return the loss of every step."""
    data = load_data("scenes", side, task="detect", count=scenes)
    model = detector(network, len(data.classes), side).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    losses: list[float] = []
    while len(losses) < steps:
        for images, targets, _ in Loader(data, batch).batches(len(losses)):
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 20 == 0:
                print(f"step {len(losses)}: loss {loss.item():.3f}")
            if len(losses) == steps:
                break
    draw(model.eval(), data, picture)
    return losses


@torch.no_grad()
def draw(model: nn.Module, data: DataSet, picture: Path) -> None:
    """Save new scenes with the boxes of which the model is at least half sure."""
    figure = Figure(figsize=(12, 6))
    for plot, index in zip(figure.subplots(2, 4).flat, range(len(data.test)), strict=False):
        image, (batch, *_) = data.test[index][0], next(Loader(data, 1, train=False).batches(start=index))
        (found,) = model(batch)
        plot.imshow(image.permute(1, 2, 0))
        for box, label, score in zip(found["boxes"].tolist(), found["labels"], found["scores"], strict=True):
            if score >= 0.5:
                x1, y1, x2, y2 = box
                plot.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="red"))
                plot.text(x1, y1, data.classes[label], color="white", backgroundcolor="red")
        plot.set_axis_off()
    figure.savefig(picture)
    print(f"drawn: {picture}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
