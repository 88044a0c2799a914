"""How training images are varied: light warps of whole batches on tensors, or timm's on pictures.

Every change is a function of (seed, epoch, index) alone; see `randomness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regroup.errors import ConfigError

Kind = Literal["none", "affine", "crop", "timm"]


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image before the network sees it.

    Args:
        kind: "none"; "affine", a slight rotation, scale, shear and shift (digits, glyphs); "crop", a shift
            of up to an eighth (small photographs); "timm", a random crop, resized (photographs).
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
        if self.kind not in ("none", "affine", "crop", "timm"):
            raise ConfigError("kind", self.kind, "'none', 'affine', 'crop' or 'timm'")
        for name in ("flip", "erase", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "between 0 and 1")
        for name in ("color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "0 (off) or more")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError("scale", self.scale, "two increasing parts of the area, above 0 and up to 1")
        for name in ("auto", "color_jitter"):
            if getattr(self, name) and self.kind != "timm":
                raise ConfigError(
                    name, getattr(self, name), f"off with kind={self.kind!r}", "use kind='timm'"
                )

    @property
    def mixes(self) -> bool:
        """Whether labels come out as probabilities, (batch, classes), instead of class numbers."""
        return self.mixup > 0 or self.cutmix > 0


NO_AUGMENTATION = Augmentation()
