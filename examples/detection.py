"""Find characters in glyph scenes: torchvision's Faster R-CNN with a feature pyramid on a network of regroup.

python examples/detection.py
"""

from __future__ import annotations

import torch
from torchvision.models.detection import FasterRCNN

from regroup.interop.torchvision import PyramidBackbone
from regroup.networks import create_model
from regroup.training.data.scenes import glyph_scenes


def main(
    network: str = "shufflenet_v2_050", steps: int = 200, image: int = 128, count: int = 64
) -> list[float]:
    """Train for `steps` batches of two scenes and return the losses."""
    torch.manual_seed(0)
    scenes = glyph_scenes((image, image), classes="0123456789", count=count)
    backbone = PyramidBackbone(create_model(network), out_channels=64)
    model = FasterRCNN(backbone, num_classes=len(scenes.classes), min_size=image, max_size=image)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    losses = []
    for step in range(steps):
        batch = [scenes.train[(2 * step + i) % len(scenes.train)] for i in range(2)]
        images, targets = zip(*batch, strict=True)
        loss = sum(model(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}", flush=True)
    return losses


if __name__ == "__main__":
    main()
