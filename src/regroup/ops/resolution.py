"""Resolution: pooling to a coarser grid and back, for layers that work at several resolutions.

>>> x = torch.arange(5.0).view(1, 1, 1, 5)
>>> average(x, [1, 2]).flatten().tolist()
[0.5, 2.5, 4.0]
>>> nearest(average(x, [1, 2]), [1, 5]).flatten().tolist()
[0.5, 0.5, 2.5, 2.5, 4.0]
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.spec import ConvSpec, Extent


def size_of(x: Tensor) -> list[int]:
    """Return the size of (N, C, *size), as FX and TorchScript can tell it."""
    return x.shape[2:]  # type: ignore[bad-return]


def average(x: Tensor, window: list[int]) -> Tensor:
    """Average-pool by a window, which is the stride, too; the last one may be smaller.

    (N, C, *size) -> (N, C, *pooled_size(size, window)); each mean is over the pixels that exist.
    """
    if max(window) == 1:
        return x
    if len(window) == 1:
        return F.avg_pool1d(x, window, window, 0, True, False)
    if len(window) == 2:
        return F.avg_pool2d(x, window, window, 0, True, False)
    window = _within(x, window)  # in three dimensions PyTorch takes no window larger than the image
    return F.avg_pool3d(x, window, window, 0, True, False)


def maximum(x: Tensor, window: list[int], whole: bool = False) -> Tensor:
    """Max-pool by a window, which is the stride, too.

    (N, C, H, W) -> (N, C, H // height, W // width): what does not fill a window is left out, but a window
    larger than the image is the image. If `whole`, the last window may be smaller instead:
    (N, C, ceil(H / height), ceil(W / width)). Likewise in one and three dimensions.
    """
    window = _within(x, window)
    if max(window) == 1:
        return x
    if len(window) == 1:
        return F.max_pool1d(x, window, window, 0, 1, whole)
    if len(window) == 2:
        return F.max_pool2d(x, window, window, 0, 1, whole)
    return F.max_pool3d(x, window, window, 0, 1, whole)


def _within(x: Tensor, window: list[int]) -> list[int]:
    """Return a window that is no larger than the image."""
    sides: list[int] = []
    for axis in range(len(window)):
        sides.append(min(window[axis], x.shape[axis + 2]))
    return sides


def nearest(x: Tensor, size: list[int]) -> Tensor:
    """Upsample to `size` by copying; the inverse of pooling by 2, for odd sizes too."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, size=list(size), mode="nearest")


def pooled_size(size: Sequence[int], window: Sequence[int]) -> Extent:
    """Return the size that `average` gives."""
    return tuple(-(-n // w) for n, w in zip(size, window, strict=True))


def check_centred(spec: ConvSpec) -> None:
    """Refuse a convolution whose output pixels do not lie over its input pixels.

    Only with padding = dilation * (kernel_size - 1) / 2 do a fine and a coarse grid stay aligned after a
    convolution on each.

    Raises:
        SpecError: the kernel is even, or the padding is another.
    """
    for k in spec.kernel_size:
        if k % 2 == 0:
            raise SpecError("kernel_size", spec.kernel_size, "odd, so that resolutions stay aligned")
    centred = tuple(d * (k - 1) // 2 for k, d in zip(spec.kernel_size, spec.dilation, strict=True))
    if spec.padding != centred:
        raise SpecError("padding", spec.padding, f"{centred}, so that resolutions stay aligned")
