"""What a kernel can be asked to do: one small dataclass per kind of work, shapes and layout included.

A problem says nothing about how; a template (`regroup.kernels.templates`) turns it into code.

>>> x, y = View.nhwc(14, 14, 64, halo=Halo(1, 1, 1, 1)), View.nhwc(14, 14, 128)
>>> conv = Conv(x, y, kernel_size=(3, 3), padding=(1, 1), groups=32, epilogue=Epilogue(activation="relu"))
>>> conv.macs
451584
>>> conv.parameters
{'weight': (128, 2, 3, 3)}

Numbers that are not known when code is generated (weights, biases, scales) come in separately, under the
names and shapes that `parameters` lists, in PyTorch's layout; a template packs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from regroup.kernels.fused import NO_EPILOGUE, NO_PROLOGUE, Epilogue, Prologue, parsed
from regroup.kernels.view import Halo, View
from regroup.spec import Size

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Work of one kernel: reads views, writes the view `y`, each element once.

    The views in `views` are passed to the generated function as pointers, in that order, so problems
    that differ only in places share one function.
    """

    x: View
    y: View

    @property
    def views(self) -> tuple[View, ...]:
        """All views, inputs first, `y` last."""
        return (self.x, self.y)

    @property
    def parameters(self) -> dict[str, Shape]:
        """Name and shape of each weight tensor."""
        return {}

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the parameters that are read through views, whose buffer is `WEIGHTS`, in their order."""
        return ()

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers, 0 for all else."""
        return 0

    @property
    def x_halo(self) -> Halo:
        """Zeros that the kernel reads around `x`: its view's halo must be at least this."""
        return Halo()


@dataclass(frozen=True)
class _Fused(Problem):
    prologue: Prologue = NO_PROLOGUE
    epilogue: Epilogue = NO_EPILOGUE

    def __post_init__(self) -> None:
        parsed(self.prologue.activation)
        assert self.epilogue.slope is None or parsed(self.epilogue.activation)[0] == "none"

    @property
    def views(self) -> tuple[View, ...]:
        """The input, the input gate, what the epilogue reads and the output, as far as there are any."""
        gate = () if self.prologue.gate is None else (self.prologue.gate,)
        return (self.x, *gate, *self.epilogue.views, self.y)

    @property
    def constants(self) -> tuple[str, ...]:
        """The slopes, if there are any."""
        return () if self.epilogue.slope is None else ("slope",)

    def _fused_parameters(self, channels_in: int) -> dict[str, Shape]:
        parameters: dict[str, Shape] = {}
        if self.prologue.affine:
            parameters |= {"in_scale": (channels_in,), "in_shift": (channels_in,)}
        if self.epilogue.bias:
            parameters |= {"bias": (self.y.channels,)}
        return parameters | dict.fromkeys(self.constants, (self.y.channels,))


@dataclass(frozen=True)
class Conv(_Fused):
    """A convolution of any groups, kernel, stride, dilation; transposed ones are not.

    Output sizes come from `y`: bottom and right padding are whatever that needs. `x` must have the halo
    `x_halo`, unless `x` is planar (`channel_pitch != 1`): a planar input is padded by the kernel.

    Attributes:
        kernel_size: (height, width).
        stride: (height, width).
        padding: zeros above and left.
        dilation: (height, width).
        groups: output channel o belongs to group `o // (y.channels // groups)`.
        order: channel of `x` that holds logical input channel i, for each i; None is 0, 1, 2, ... May name
            any channels of `x`, each any number of times: shuffles and index-selects cost nothing here.
            A depthwise convolution (`in_channels == groups`) also takes one.
    """

    kernel_size: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    groups: int = 1
    order: tuple[int, ...] | None = None

    @property
    def in_channels(self) -> int:
        """Logical input channels."""
        return self.x.channels if self.order is None else len(self.order)

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.y.channels // self.groups

    @property
    def parameters(self) -> dict[str, Shape]:
        """`weight` as PyTorch has it, then what is fused."""
        shape = (self.y.channels, self.group_in, *self.kernel_size)
        return {"weight": shape} | self._fused_parameters(self.x.channels)

    @property
    def macs(self) -> int:
        """One per weight and output pixel."""
        return self.y.height * self.y.width * prod(self.parameters["weight"])

    @property
    def x_halo(self) -> Halo:
        """What the windows of the outermost pixels reach."""
        (top, bottom), (left, right) = (
            _overhang(size_in, size_out, k, s, p, d)
            for size_in, size_out, k, s, p, d in zip(
                (self.x.height, self.x.width),
                (self.y.height, self.y.width),
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        )
        return Halo(top, left, bottom, right)


def _overhang(size_in: int, size_out: int, k: int, s: int, p: int, d: int) -> tuple[int, int]:
    last = (size_out - 1) * s - p + (k - 1) * d
    return max(p, 0), max(last - (size_in - 1), 0)


@dataclass(frozen=True)
class Linear(_Fused):
    """`y = W x + b` for vectors (1x1 views); `order` as in `Conv`.

    A flattened image is a vector whose channels the weights' columns are permuted to follow.
    """

    order: tuple[int, ...] | None = None

    @property
    def in_channels(self) -> int:
        """Logical inputs."""
        return self.x.channels if self.order is None else len(self.order)

    @property
    def parameters(self) -> dict[str, Shape]:
        """`weight` as PyTorch has it, then what is fused."""
        return {"weight": (self.y.channels, self.in_channels)} | self._fused_parameters(self.x.channels)

    @property
    def macs(self) -> int:
        """One per weight."""
        return self.y.channels * self.in_channels


@dataclass(frozen=True)
class Pool(Problem):
    """Max or average over windows; the output size (`y`) carries ceil mode.

    Attributes:
        kind: "max" or "average".
        kernel_size: (height, width).
        stride: (height, width).
        padding: above and left.
        dilation: (height, width), for max only.
        count_include_pad: average divides by the window's pixels inside the *padded* image, as PyTorch
            does; otherwise by those inside the image.
        padded: bottom and right padding that the count includes.
        divisor: a fixed divisor instead (0: none).
        activation: applied at the end.
    """

    kind: str = "max"
    kernel_size: Size = (2, 2)
    stride: Size = (2, 2)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    count_include_pad: bool = True
    padded: Size = (0, 0)
    divisor: int = 0
    activation: str = "none"


@dataclass(frozen=True)
class AdaptivePool(Problem):
    """Average (or max) over `y.height` x `y.width` cells as PyTorch defines them; 1x1 is the global mean."""

    kind: str = "average"


@dataclass(frozen=True)
class Resize(Problem):
    """Resize to the size of `y`.

    Attributes:
        mode: "nearest", "nearest-exact" or "bilinear".
        align_corners: for bilinear, as in PyTorch.
        scale: output pixels per source pixel (height, width) where a scale_factor was given to PyTorch, which
            then goes by that; None: sizes decide.
    """

    mode: str = "nearest"
    align_corners: bool = False
    scale: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class LocalResponseNorm(Problem):
    """Across channels: `x / (k + alpha / size * sum x^2) ** beta`, as `torch.nn.LocalResponseNorm`."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


@dataclass(frozen=True)
class Softmax(Problem):
    """Over the channels of each pixel."""

    log: bool = False


@dataclass(frozen=True)
class Pointwise(_Fused):
    """Elementwise work that no convolution could absorb.

    Without an `order` it may be in place: `y` the same view as `x`.

    `y = epilogue(prologue(x))`: scale and shift, activation, gate, sum of two tensors, in this order.
    Without either it is a copy: of channels in another `order`, from NCHW to NHWC or back
    (`channel_pitch`), into a slice.

    Attributes:
        order: channel of `x` for each channel of `y`.
        factor: a second tensor to multiply by, before the epilogue; a view as large as `y`.
    """

    order: tuple[int, ...] | None = None
    factor: View | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """As for a convolution, the factor before the output."""
        extra = () if self.factor is None else (self.factor,)
        return (*super().views[:-1], *extra, self.y)

    @property
    def parameters(self) -> dict[str, Shape]:
        """What is fused, per channel of `y`."""
        return self._fused_parameters(self.y.channels)


@dataclass(frozen=True)
class Chain(Problem):
    """Problems that run one after the other, band of rows by band of rows, within a thread's cache.

    The output of each is the input of the next and exists only as a band in a private buffer: the views
    in between give its channels and size, not a place. `x` and `y` are those of the first and last, and must
    not overlap: threads read rows of `x` beside their own.

    Attributes:
        links: convolutions (1x1, depthwise, grouped), pools or pointwise work over whole rows.
        band: rows of `y` that are made at a time; 0 lets the cost model choose.
    """

    links: tuple[Problem, ...] = ()
    band: int = 0

    @property
    def views(self) -> tuple[View, ...]:
        """Views of the links that are places: all but the bands."""
        inner = [view for i, link in enumerate(self.links) for view in link.views[min(i, 1) : -1]]
        return (*inner, self.y)

    @property
    def parameters(self) -> dict[str, Shape]:
        """Parameters of each link, its position before the name: `0.weight`."""
        return {f"{i}.{k}": v for i, link in enumerate(self.links) for k, v in link.parameters.items()}

    @property
    def constants(self) -> tuple[str, ...]:
        """Those of each link."""
        return tuple(f"{i}.{name}" for i, link in enumerate(self.links) for name in link.constants)

    @property
    def macs(self) -> int:
        """The sum over the links."""
        return sum(link.macs for link in self.links)

    @property
    def x_halo(self) -> Halo:
        """The first link's."""
        return self.links[0].x_halo
