"""What each problem means, in float64 PyTorch, and how far rounding may take a right kernel from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.kernels import problems as p
from regroup.kernels.problems.dynamic import DynamicConv, Largest
from regroup.ops.bounds import unit_roundoff
from regroup.ops.shifted import ShiftedForm
from tests.kernels import attention, norms

U = unit_roundoff(torch.float32)

ACTIVATION = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "leaky_relu:0.2": lambda x: F.leaky_relu(x, 0.2),
    "clamp:-0.5,inf": lambda x: x.clamp(min=-0.5),
    "clamp:-1.0,1.0": F.hardtanh,
    "tanh": torch.tanh,
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
    "mish": lambda x: x * torch.tanh(torch.nn.functional.softplus(x)),
    "elu:1.0,1.0,1.0": F.elu,
    "elu:1.6732632423543772,1.0507009873554805,1.0": F.selu,
    "elu:0.3,1.0,2.0": lambda x: torch.where(x > 0, x, 0.3 * torch.expm1(2 * x)),
    "softplus:1.0,20.0": F.softplus,
    "softplus:0.5,3.0": lambda x: F.softplus(x, 0.5, 3.0),
    "gelu": lambda x: x / 2 * torch.special.erfc(-x / 2**0.5),  # F.gelu rounds small values away
}

STEEPEST = 1.8
"""No activation of the list is steeper (SELU at 0)."""


@dataclass
class Rounded:
    """A float64 tensor (channels, height, width) and how far a float32 computation of it may lie off."""

    exact: Tensor
    error: Tensor

    @classmethod
    def of(cls, exact: Tensor) -> Rounded:
        """Return a tensor without error."""
        return cls(exact.double(), torch.zeros_like(exact, dtype=torch.float64))

    def __add__(self, other: Rounded) -> Rounded:
        return Rounded(self.exact + other.exact, self.error + other.error)._rounded()

    def __mul__(self, other: Rounded) -> Rounded:
        error = self.error * (other.exact.abs() + other.error) + other.error * self.exact.abs()
        return Rounded(self.exact * other.exact, error)._rounded()

    def activated(self, name: str) -> Rounded:
        """Return the activation; one that computes takes at most 8 roundings of its argument or result."""
        result = ACTIVATION[name](self.exact)
        if name in ("none", "relu", "relu6") or name.startswith("clamp"):
            return Rounded(result, self.error)
        return Rounded(
            result,
            STEEPEST * self.error + 8 * U * (result.abs() + self.exact.abs() * result.abs().clamp(max=1)),
        )

    def sloped(self, slope: Tensor) -> Rounded:
        """Return what is above zero as it is, the rest times `slope`."""
        below = Rounded(self.exact * slope, self.error * slope.abs())._rounded()
        # rounding may take a number to the other side of zero
        error = torch.where(self.exact > 0, self.error, below.error)
        error = torch.where(self.exact.abs() <= self.error, self.error * (1 + slope.abs()), error)
        return Rounded(torch.where(self.exact > 0, self.exact, below.exact), error)

    def _rounded(self) -> Rounded:
        return Rounded(self.exact, self.error + U * (self.exact.abs() + self.error))


def expected(
    problem: p.Problem, tensors: dict[str, Tensor], parameters: dict[str, Tensor], template: str = ""
) -> Rounded:
    """Return the output of a problem, given the tensor of each view by name, as a template rounds it."""
    x = tensors["x"]
    match problem:
        case p.Chain():
            return _chain(problem, tensors, parameters)
        case p.Conv() | p.Linear():
            return _conv(problem, tensors, parameters, template=template)
        case p.Pointwise():
            return _pointwise(problem, tensors, parameters)
        case p.Pool():
            return _pool(problem, x)
        case p.AdaptivePool():
            size = (problem.y.height, problem.y.width)
            if problem.kind == "max":
                return Rounded.of(F.adaptive_max_pool2d(x.double()[None], size)[0])
            mean = F.adaptive_avg_pool2d(x.double()[None], size)[0]
            terms = (problem.x.height // size[0] + 2) * (problem.x.width // size[1] + 2)
            return Rounded(mean, (terms + 2) * U * F.adaptive_avg_pool2d(x.double().abs()[None], size)[0])
        case p.Resize():
            return _resize(problem, x)
        case p.Pick():
            rows, columns = torch.tensor(problem.rows), torch.tensor(problem.columns)
            there = (rows >= 0)[:, None] & (columns >= 0)
            return Rounded.of(torch.where(there, x[:, rows][..., columns], problem.value))
        case p.Softmax():
            result = x.double().softmax(0)
            return Rounded(
                result, U * result * (x.shape[0] + 8 + 4 * (x.double() - x.double().amax(0)).abs())
            )
        case p.Attention():
            return Rounded(*attention.expected(problem, tensors, parameters))
        case p.LocalResponseNorm():
            result = F.local_response_norm(
                x.double()[None], problem.size, problem.alpha, problem.beta, problem.k
            )[0]
            return Rounded(result, (problem.size + 8) * U * result.abs())
        case p.BlockFloatingPoint():
            blocks = problem.blocks
            form = ShiftedForm(block=blocks.block, mantissa=blocks.mantissa, exponent=blocks.exponent)
            return Rounded.of(form.activations(x[None], blocks.groups)[0])
        case Largest():
            return Rounded.of(_largest(problem, x.flatten())[:, None, None])
        case DynamicConv():
            return _dynamic(problem, tensors, parameters)
    found = norms.expected(problem, tensors, parameters)
    assert found is not None, problem
    return Rounded(*found)


def _conv(
    problem: p.Conv | p.Linear,
    tensors: dict,
    parameters: dict[str, Tensor],
    source: Rounded | None = None,
    template: str = "",
) -> Rounded:
    source = source or Rounded.of(tensors["x"])
    source = _prologue(problem.prologue, source, tensors, parameters)
    if problem.order is not None:
        order = list(problem.order)
        source = Rounded(source.exact[order], source.error[order])
    weight = parameters["weight"].double()
    if isinstance(problem, p.Linear):
        weight, options = weight[:, :, None, None], {}
        pad = (0, 0, 0, 0)
    else:
        need = problem.x_halo
        pad = (problem.padding[1], need.right, problem.padding[0], need.bottom)
        options = {"stride": problem.stride, "dilation": problem.dilation, "groups": problem.groups}

    def conv(x: Tensor, w: Tensor) -> Tensor:
        y = F.conv2d(F.pad(x[None], pad), w, **options)[0]
        return y[:, : problem.y.height, : problem.y.width]

    exact = conv(source.exact, weight)
    terms = weight[0].numel() + 2
    error = terms * U * conv(source.exact.abs(), weight.abs()) + (1 + terms * U) * conv(
        source.error, weight.abs()
    )
    if template == "winograd":
        error = (problem.group_in + 8) * U * _winograd_magnitude(problem, F.pad(source.exact, pad), weight)
    total = Rounded(exact, error)
    return _epilogue(problem.epilogue, total, tensors, parameters, terms)


def _winograd_magnitude(problem: p.Conv, padded: Tensor, weight: Tensor) -> Tensor:
    """Return `|A'| [(|G| |g| |G'|) * (|B'| |d| |B|)] |A|`: what roundings in Winograd's F(2x2, 3x3) scale.

    With K input channels, a number goes through at most K + 8 of them: 2 in the differences of inputs, 1
    where the transformed weight is stored, at most K in products and sums over channels (a product's is that
    of the fused sum), 4 in the sums of positions, and 1 that stands for all of second order.
    """
    shape, groups = (problem.y.height, problem.y.width), problem.groups
    forward = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.float64)
    kernel = torch.tensor([[2, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 2]], dtype=torch.float64) / 2
    backward = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]], dtype=torch.float64)
    even = F.pad(padded.abs(), (0, shape[1] % 2, 0, shape[0] % 2))
    tiles = even.unfold(1, 4, 2).unfold(2, 4, 2)  # channel, tile row, tile column, 4, 4
    d = (forward @ tiles @ forward.T).unflatten(0, (groups, -1))
    g = (kernel @ weight.abs() @ kernel.T).unflatten(0, (groups, -1))
    products = torch.einsum("gcyxij,gocij->goyxij", d, g).flatten(0, 1)
    y = backward @ products @ backward.T
    return y.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)[:, : shape[0], : shape[1]]


def _largest(problem: Largest, x: Tensor) -> Tensor:
    sizes = x.abs().view(problem.heads, -1)
    order = sizes.sort(descending=True, stable=True).indices[:, : problem.kept].sort().values
    return torch.cat([order.flatten().double(), sizes.gather(1, order).flatten().double()])


def _dynamic(problem: DynamicConv, tensors: dict, parameters: dict[str, Tensor]) -> Rounded:
    numbers, values = tensors["choice"].double().view(2, problem.heads, problem.kept)
    saliency = torch.zeros(problem.heads, problem.in_channels, dtype=torch.float64)
    saliency = saliency.scatter(1, numbers.long(), values).repeat_interleave(problem.head_out, 0)
    scaled = parameters["weight"].double() * saliency[:, :, None, None]
    plain = replace(problem.of_kept, order=problem.order)
    return _conv(plain, tensors, parameters | {"weight": scaled})


def _chain(problem: p.Chain, tensors: dict[str, Tensor], parameters: dict[str, Tensor]) -> Rounded:
    result = Rounded.of(tensors["x"])
    for i, link in enumerate(problem.links):
        mine = {k.split(".")[1]: v for k, v in parameters.items() if k.startswith(f"{i}.")}
        result = _conv(link, tensors, mine, result)
    return result


def _prologue(prologue: p.Prologue, x: Rounded, tensors: dict, parameters: dict[str, Tensor]) -> Rounded:
    if prologue.gate is not None:
        x = x * Rounded.of(tensors["in_gate"])
    if prologue.affine:
        scale, shift = (parameters[name].double()[:, None, None] for name in ("in_scale", "in_shift"))
        x = x * Rounded.of(scale) + Rounded.of(shift)
    return x.activated(prologue.activation)


def _epilogue(
    epilogue: p.Epilogue, total: Rounded, tensors: dict, parameters: dict[str, Tensor], terms: int = 1
) -> Rounded:
    if epilogue.bias:
        bias = parameters["bias"].double()[:, None, None]
        total = total + Rounded(bias, terms * U * bias.abs())
    residual = None
    if epilogue.residual is not None:
        s, (_, height, width) = epilogue.residual_scale, total.exact.shape
        grown = tensors["residual"].repeat_interleave(s, 1).repeat_interleave(s, 2)
        residual = Rounded.of(grown[:, :height, :width])
    if residual is not None and epilogue.residual_first:
        total = total + residual
    if epilogue.slope is not None:
        total = total.sloped(tensors["slope"].double())
    total = total.activated(epilogue.activation)
    if epilogue.gate is not None:
        total = total * Rounded.of(tensors["gate"])
    if residual is not None and not epilogue.residual_first:
        total = total + residual
    return total


def _pointwise(problem: p.Pointwise, tensors: dict, parameters: dict[str, Tensor]) -> Rounded:
    x = tensors["x"]
    x = x if problem.order is None else x[list(problem.order)]
    result = _prologue(problem.prologue, Rounded.of(x), tensors, parameters)
    if problem.factor is not None:
        result = result * Rounded.of(tensors["factor"])
    return _epilogue(problem.epilogue, result, tensors, parameters)


def _pool(problem: p.Pool, x: Tensor) -> Rounded:
    (kh, kw), (sh, sw), (top, left) = problem.kernel_size, problem.stride, problem.padding
    height, width = problem.x.height, problem.x.width
    out = torch.zeros(x.shape[0], problem.y.height, problem.y.width, dtype=torch.float64)
    error = torch.zeros_like(out)
    for i in range(problem.y.height):
        for j in range(problem.y.width):
            y0, x0 = i * sh - top, j * sw - left
            cell = x[:, max(y0, 0) : min(y0 + kh, height), max(x0, 0) : min(x0 + kw, width)].double()
            if problem.kind == "max":
                out[:, i, j] = cell.amax((1, 2))
                continue
            count = cell[0].numel()
            if problem.count_include_pad:
                y1, x1 = min(y0 + kh, height + problem.padded[0]), min(x0 + kw, width + problem.padded[1])
                count = (y1 - y0) * (x1 - x0)
            count = problem.divisor or count
            out[:, i, j] = cell.sum((1, 2)) / count
            error[:, i, j] = (kh * kw + 3) * U * cell.abs().sum((1, 2)) / count
    return Rounded(out, error).activated(problem.activation)


def _resize(problem: p.Resize, x: Tensor) -> Rounded:
    size = (problem.y.height, problem.y.width)
    if problem.mode == "nearest":
        return Rounded.of(torch.ops.aten.upsample_nearest2d(x[None], size, *problem.scale)[0])
    if problem.mode == "nearest-exact":
        return Rounded.of(torch.ops.aten._upsample_nearest_exact2d(x[None], size, *problem.scale)[0])
    corners = problem.align_corners
    result = torch.ops.aten.upsample_bilinear2d(x.double()[None], size, corners, *problem.scale)[0]
    # a source position is at most the image's side, and rounded three times; so are its weights
    units = 3 * max(x.shape[1:]) + 20
    spread = x.double().abs().amax((1, 2))[:, None, None]
    return Rounded(result, 2 * units * U * spread.expand_as(result))
