"""How training images are varied: light warps of whole batches on tensors, or timm's on pictures.

Every change is a function of (seed, epoch, index) alone; see `randomness`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from regroup.errors import ConfigError
from regroup.training.data.drawing import direction
from regroup.training.data.randomness import Dice, seeded

Kind = Literal["none", "affine", "crop", "timm", "targets"]


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image before the network sees it.

    Args:
        kind: "none"; "targets", a shift, another size and a mirror image, in which boxes and masks go along
            (photographs); "affine", a slight rotation, scale, shear and shift (digits, glyphs); "crop", a
            shift of up to an eighth (small photographs); "timm", a random crop, resized (photographs).
        flip: probability of a mirror image.
        scale: smallest and largest part of the area that a crop of kind "timm" keeps.
        auto: timm's name of a learned or random policy such as "rand-m9-mstd0.5-inc1", "" for none;
            kind "timm" only.
        color_jitter: strength of changes of brightness, contrast and saturation; kind "timm" only.
        erase: probability that a rectangle of the image is blanked.
        mixup: alpha of mixing two images (Zhang et al. 2018); 0 is off. Labels become probabilities.
        cutmix: alpha of pasting a part of another image (Yun et al. 2019); 0 is off. Labels likewise.
        smoothing: label smoothing of labels that were mixed; unmixed ones are the loss's business.

    Raises:
        ConfigError: a value out of range, or one that `kind` does not use.
    """

    kind: Kind = "none"
    flip: float = 0.0
    scale: tuple[float, float] = (0.08, 1.0)
    auto: str = ""
    color_jitter: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "affine", "crop", "timm", "targets"):
            raise ConfigError("kind", self.kind, "'none', 'affine', 'crop', 'timm' or 'targets'")
        for name in ("flip", "erase", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "between 0 and 1")
        for name in ("color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "0 (off) or more")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError("scale", self.scale, "two increasing parts of the area, above 0 and up to 1")
        self._check_use()

    def _check_use(self) -> None:
        """Refuse what `kind` would pass over."""
        unused = {"timm": (), "none": ("flip", "scale", "auto", "color_jitter")}
        for name in unused.get(self.kind, ("scale", "auto", "color_jitter")):
            if getattr(self, name) != getattr(Augmentation, name):
                raise ConfigError(name, getattr(self, name), f"left out with kind={self.kind!r}")

    @property
    def mixes(self) -> bool:
        """Whether labels come out as probabilities, (batch, classes), instead of class numbers."""
        return self.mixup > 0 or self.cutmix > 0

    def of_pictures(self, height: int, width: int) -> Callable[..., Tensor]:
        """Return timm's transform of one picture, to uint8 (channels, height, width); draws globally.

        Only for kind "timm"; what it does not cover, `of_batch` and `mix` do.
        """
        from timm.data import create_transform

        transform: Any = create_transform(
            input_size=(3, height, width),
            is_training=True,
            scale=self.scale,
            hflip=self.flip,
            color_jitter=self.color_jitter,
            auto_augment=self.auto or None,
            interpolation="random",
            normalize=False,
        )
        return transform

    def of_targets(self) -> Callable[[Tensor, Any], tuple[Tensor, Any]] | None:
        """Return what varies an image with its mask or its boxes; draws globally. None: nothing does.

        What comes in from outside is grey, and of a mask counts for nothing; a box of which no more than a
        pixel is left, each way, goes.
        """
        if self.kind != "targets":
            return None
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        boxes_of: Any = tv_tensors.BoundingBoxes
        bilinear = v2.InterpolationMode.BILINEAR  # of images: masks are always nearest
        fill: Any = {tv_tensors.Image: 114, tv_tensors.Mask: 255}
        moved = v2.Compose(
            [
                v2.RandomHorizontalFlip(self.flip),
                v2.RandomAffine([0.0, 0.0], (0.1, 0.1), (0.7, 1.4), interpolation=bilinear, fill=fill),
            ]
        )

        def vary(image: Tensor, target: Any) -> tuple[Tensor, Any]:
            if isinstance(target, Tensor):
                whole, mask = moved(tv_tensors.Image(image), tv_tensors.Mask(target))
                return whole.as_subclass(Tensor), mask.as_subclass(Tensor)
            height, width = image.shape[1:]
            boxes = boxes_of(target["boxes"], format="XYXY", canvas_size=(height, width))
            whole, found = moved(tv_tensors.Image(image), boxes)
            corners = found.as_subclass(Tensor)
            corners = torch.stack(
                [corners[:, i].clamp(0, end) for i, end in enumerate((width, height, width, height))], 1
            )
            sides = corners[:, 2:] - corners[:, :2]
            kept = (sides > 1).all(1)
            rows = {name: value if name == "size" else value[kept] for name, value in target.items()}
            return whole.as_subclass(Tensor), {**rows, "boxes": corners[kept]}

        return vary

    def of_batch(self, images: Tensor, dice: Dice) -> Tensor:
        """Return the images, float (batch, channels, height, width), warped, shifted and mirrored.

        Args:
            images: what to vary; left as they are.
            dice: what decides, one stream for each image.
        """
        if self.kind not in ("affine", "crop"):
            return images
        rows = _affine(dice) if self.kind == "affine" else _shift(dice, images.shape[2], images.shape[3])
        if self.flip:
            rows[:, :, 0] *= np.where(dice.chance(self.flip), -1, 1)[:, None]
        points = _points(torch.from_numpy(rows.astype(np.float32)).to(images.device), *images.shape[-2:])
        if self.kind == "affine":
            return functional.grid_sample(images, points, padding_mode="border", align_corners=False)
        return functional.grid_sample(
            images, points, mode="nearest", padding_mode="reflection", align_corners=False
        )

    def blank(self, images: Tensor, *key: int) -> Tensor:
        """Set a rectangle of some images to 0, the mean, in place (timm's random erasing)."""
        if not self.erase:
            return images
        from timm.data.random_erasing import RandomErasing

        with seeded(*key):
            return RandomErasing(self.erase, mode="const", device=str(images.device))(images)

    def mix(self, images: Tensor, labels: Tensor, classes: int, *key: int) -> tuple[Tensor, Tensor]:
        """Return images mixed with others of the batch (timm's mixup and cutmix), in place, and their labels.

        Args:
            images: float, (batch, channels, height, width).
            labels: class numbers, (batch,).
            classes: number of classes.
            key: what the mixing depends on.

        Returns:
            The images, and for each the probability of each class, (batch, classes); as they were if
            mixing is off. Of an odd number of images the last stays pure, having no partner.
        """
        if not self.mixes:
            return images, labels
        from timm.data.mixup import Mixup, mixup_target

        mixup = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=classes)
        pairs = len(images) // 2 * 2
        with seeded(*key):
            soft = [mixup(images[:pairs], labels[:pairs])[1]] if pairs else []
        soft.append(mixup_target(labels[pairs:], classes, smoothing=self.smoothing))
        return images, torch.cat(soft)


def _affine(dice: Dice) -> np.ndarray:
    """Return maps of output to input positions: up to 11 degrees, 10 % of size and of shear, 8 % of shift."""
    turn, size, slant, right, low = dice.between(-1, 1, count=5).T
    cosine, sine = direction(0.1 * turn)
    scale, shear = 1 + 0.1 * size, 0.1 * slant
    across, down = 0.16 * right, 0.16 * low  # the image is 2 wide
    first = [cosine * scale, (shear * cosine - sine) * scale, across]
    second = [sine * scale, (shear * sine + cosine) * scale, down]
    return np.stack([np.stack(first, -1), np.stack(second, -1)], 1)


def _shift(dice: Dice, height: int, width: int) -> np.ndarray:
    """Return maps that shift by whole pixels, up to an eighth of the image."""
    rows = np.tile(np.eye(2, 3), (len(dice), 1, 1))
    for axis, pixels in ((0, width), (1, height)):
        most = max(1, pixels // 8)
        rows[:, axis, 2] = (dice.below(2 * most + 1) - most) * (2 / pixels)
    return rows


def _points(rows: Tensor, height: int, width: int) -> Tensor:
    """Return what torch's affine_grid does, (batch, height, width, 2), at a tenth of its cost on a CPU."""
    x, y = ((2 * torch.arange(n, device=rows.device) + 1) / n - 1 for n in (width, height))
    of_column = rows[:, :, 0, None] * x + rows[:, :, 2, None]
    of_row = rows[:, :, 1, None] * y
    return (of_column[:, :, None, :] + of_row[:, :, :, None]).permute(0, 2, 3, 1)


NO_AUGMENTATION = Augmentation()
