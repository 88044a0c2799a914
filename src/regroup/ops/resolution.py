"""Resolution: pooling to a coarser grid and back, for layers that work at several resolutions.

>>> x = torch.arange(5.0).view(1, 1, 1, 5)
>>> average(x, (1, 2)).flatten().tolist()
[0.5, 2.5, 4.0]
>>> nearest(average(x, (1, 2)), (1, 5)).flatten().tolist()
[0.5, 0.5, 2.5, 2.5, 4.0]
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.spec import ConvSpec, Size


def average(x: Tensor, window: Size) -> Tensor:
    """Average-pool by a window and a stride of (height, width); the last window may be smaller.

    (N, C, H, W) -> (N, C, ceil(H / height), ceil(W / width)); each mean is over the pixels that exist.
    """
    if window == (1, 1):
        return x
    return F.avg_pool2d(x, window, window, ceil_mode=True, count_include_pad=False)


def maximum(x: Tensor, window: Size, whole: bool = False) -> Tensor:
    """Max-pool by a window and a stride of (height, width).

    (N, C, H, W) -> (N, C, H // height, W // width): what does not fill a window is left out, but a window
    larger than the image is the image. If `whole`, the last window may be smaller instead:
    (N, C, ceil(H / height), ceil(W / width)).
    """
    rows, columns = min(window[0], x.shape[2]), min(window[1], x.shape[3])
    if rows == 1 and columns == 1:
        return x
    return F.max_pool2d(x, [rows, columns], [rows, columns], ceil_mode=whole)


def nearest(x: Tensor, size: Size) -> Tensor:
    """Upsample to `size` (height, width) by copying; the inverse of pooling by 2, for odd sizes too."""
    if x.shape[2] == size[0] and x.shape[3] == size[1]:
        return x
    return F.interpolate(x, size=[size[0], size[1]], mode="nearest")


def pooled_size(size: Size, window: Size) -> Size:
    """Return the (height, width) that `average` gives."""
    return -(-size[0] // window[0]), -(-size[1] // window[1])


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
