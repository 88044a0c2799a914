"""Label the pixels of glyph scenes: a U-Net of segmentation_models_pytorch on a network of regroup.

pip install segmentation-models-pytorch
python examples/segmentation.py
"""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

import regroup.interop.timm  # noqa: F401  (from here on timm, and so the U-Net, knows our networks)
from regroup.training.data.scenes import glyph_scenes


def main(
    network: str = "shufflenet_v2_050", steps: int = 200, image: int = 128, count: int = 64
) -> list[float]:
    """Train for `steps` batches of four scenes and return the losses."""
    torch.manual_seed(0)
    scenes = glyph_scenes((image, image), classes="0123456789", count=count)
    model = smp.Unet(f"tu-{network}", encoder_weights=None, classes=len(scenes.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        batch = [scenes.train[(4 * step + i) % len(scenes.train)] for i in range(4)]
        images = torch.stack([image for image, _ in batch])
        labels = torch.stack([target["semantic"] for _, target in batch])
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}", flush=True)
    return losses


if __name__ == "__main__":
    main()
