"""Segmentation: a U-Net of segmentation_models_pytorch reads letters, with a grouped network as its encoder.

    pip install segmentation-models-pytorch
    python examples/segment.py --network shufflenet_v1_g3_050 --steps 200

It trains from random weights, prints the loss and draws segments.png: scenes in new fonts, the truth, what is
seen. The loss falls from 3 to about 1 in 80 steps (half a minute of one core), when strokes begin to be found
but not yet named.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

import regroup.interop.timm  # noqa: F401  timm, and so segmentation_models_pytorch, now knows our networks
from regroup.training.data.scenes import Scenes, Target, glyph_scenes

try:
    import segmentation_models_pytorch as smp
except ImportError as error:
    raise SystemExit("this example needs: pip install segmentation-models-pytorch") from error


def unet(network: str, classes: int) -> nn.Module:
    """Return a U-Net on all feature maps of the network: it halves the image as often as the network does."""
    coarsest = timm.create_model(network, features_only=True).feature_info.reduction()[-1]
    depth = coarsest.bit_length() - 1
    return smp.Unet(
        f"tu-{network}",
        encoder_weights=None,
        encoder_depth=depth,
        decoder_channels=(128, 64, 32, 32, 16)[-depth:],
        classes=classes,
    )


def pairs(samples: list[tuple[Tensor, Target]]) -> tuple[Tensor, Tensor]:
    """Return a batch of images (N, 3, H, W) and of what their pixels show (N, H, W)."""
    return default_collate([(image, target["semantic"]) for image, target in samples])


def main(
    steps: int = 200,
    network: str = "shufflenet_v1_g3_050",
    side: int = 128,
    batch: int = 8,
    scenes: int = 1000,
    picture: Path = Path("segments.png"),
) -> list[float]:
    """Train for some steps, draw what is seen in new scenes, and return the loss of every step."""
    data = glyph_scenes((side, side), classes="ABCDEF", count=scenes, most=4)
    model = unet(network, len(data.classes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in DataLoader(data.train, batch, shuffle=True, collate_fn=pairs):
            logits = model(images)
            loss = F.cross_entropy(logits, labels) + smp.losses.DiceLoss("multiclass")(logits, labels)
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
def draw(model: nn.Module, data: Scenes, picture: Path) -> None:
    """Save new scenes: image, what is there, what is seen."""
    figure = Figure(figsize=(12, 6))
    plots = figure.subplots(3, 6)
    for column, index in zip(plots.T, range(len(data.test)), strict=False):
        image, target = data.test[index]
        seen = model(image[None]).argmax(1)[0]
        for plot, shown in zip(column, (image.permute(1, 2, 0), target["semantic"], seen), strict=True):
            plot.imshow(shown, cmap="tab10", vmin=0, vmax=len(data.classes), interpolation="nearest")
            plot.set_axis_off()
    figure.savefig(picture)
    print(f"drawn: {picture}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
