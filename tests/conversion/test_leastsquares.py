"""The closed forms are held against regression on the data themselves, in float64."""

import pytest
import torch
from torch import nn

from regroup.conversion import separating
from regroup.conversion.choosing import choices, choose
from regroup.conversion.leastsquares import (
    Problem,
    centred_bias,
    compensated,
    relative_error,
    spread_out,
    squared_error,
)
from regroup.conversion.partition import Partition
from regroup.conversion.statistics import collect
from regroup.ops.bounds import unit_roundoff
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy
from tests.conversion.linear import all_pairs, correlated, hidden_groups

U = unit_roundoff(torch.float64)


def moments_of(conv, images, original=None):
    double = nn.Sequential(conv).double()
    return collect(double, ["0"], [images.double()], positions=10_000, original=original)["0"]


def regression(x, y, ridge, start):
    """The coefficients nearest to `start` in the ridge's sense, by the normal equations of centred data."""
    x, y = x - x.mean(0), y - y.mean(0)
    count, width = x.shape
    rows = torch.cat([x / count**0.5, ridge**0.5 * torch.eye(width).double()])
    wanted = torch.cat([(y - x @ start.t()) / count**0.5, torch.zeros(width, y.shape[1]).double()])
    return start + torch.linalg.lstsq(rows, wanted).solution.t()


@pytest.mark.parametrize("groups", [2, 4])
def test_the_solution_is_that_of_direct_regression(groups):
    conv, images = nn.Conv2d(8, 12, 3, padding=1), correlated(20, 8, 6)
    moments, (x, y) = moments_of(conv, images), all_pairs(conv, images)
    conv.double()
    kernel = conv.weight.detach().flatten(2)
    problem, part = Problem(kernel, moments.inputs), choose("random", kernel, moments.inputs, groups)
    solved = problem.solve(part).unflatten(0, (groups, -1))
    condition = moments.inputs.diagonal().sum() / problem.penalty  # of the normal equations, at most
    for (inputs, outputs), weights in zip(part, solved, strict=True):
        start = kernel[outputs][:, inputs].flatten(1)
        direct = regression(x[:, problem.columns(inputs)], y[:, outputs], problem.penalty, start)
        limit = 100 * len(x) * U * condition * kernel.abs().max()
        assert (weights.flatten(1) - direct).abs().max() <= limit


def test_the_error_is_that_of_the_data_and_what_the_choice_was_told():
    conv, images = nn.Conv2d(8, 8, 3, padding=1), correlated(20, 8, 6)
    moments, (x, y) = moments_of(conv, images), all_pairs(conv, images)
    kernel = conv.weight.detach().double().flatten(2)
    problem = Problem(kernel, moments.inputs)
    part = choose("gain", kernel, moments.inputs, 2)
    dense = spread_out(problem.solve(part), part, 8)
    missed = (y - y.mean(0)) - (x - x.mean(0)) @ dense.flatten(1).t()
    limit = 1e4 * U * float(y.square().sum())
    assert (squared_error(dense, moments) - missed.square().mean(0)).abs().max() <= limit
    for inputs, outputs in part:
        added = (dense - kernel)[outputs][:, inputs].square().sum((1, 2))
        told = problem.errors(inputs, outputs)
        assert (told - squared_error(dense, moments)[outputs] - problem.penalty * added).abs().max() <= limit
    masked = spread_out(problem.masked(part), part, 8)
    assert relative_error(dense, moments) < relative_error(masked, moments)


def test_one_group_gives_the_dense_layer_back():
    conv, images = nn.Conv2d(4, 6, 3), correlated(5, 4, 6)
    moments = moments_of(conv, images)
    conv.double()
    kernel = conv.weight.detach().flatten(2)
    for name in choices:
        part = choose(name, kernel, moments.inputs, 1)
        weights = Problem(kernel, moments.inputs).solve(part)
        assert torch.equal(spread_out(weights, part, 4), kernel)
        module = part.build(ConvSpec.of(conv), weights.view(6, 4, 3, 3), conv.bias)
        assert torch.equal(module(images.double()), conv(images.double()))


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_that_are_hidden_by_a_permutation_are_found(groups):
    conv, _, outputs = hidden_groups(16, 24, groups)
    images = correlated(30, 16, 6)
    moments = moments_of(conv, images)
    kernel = conv.weight.detach().flatten(2)
    for name in ("gain", "overlapping"):
        part = choose(name, kernel, moments.inputs, groups)
        weights = Problem(kernel, moments.inputs).solve(part)
        assert torch.equal(spread_out(weights, part, 16), kernel)
    found = {frozenset(each.tolist()) for each in choose("gain", kernel, moments.inputs, groups).outputs}
    assert found == {frozenset(each.tolist()) for each in outputs}


def test_what_was_damaged_before_is_compensated():
    conv, images = nn.Conv2d(4, 6, 3, padding=1).double(), correlated(20, 4, 6).double()
    damage = torch.eye(4).double() + 0.3 * torch.randn(4, 4).double()

    class Damaged(nn.Module):
        def __init__(self, mixed):
            super().__init__()
            self.conv, self.mixed = conv, mixed

        def forward(self, x):
            return self.conv(torch.einsum("kc,nchw->nkhw", damage, x) if self.mixed else x)

    moments = collect(Damaged(True), ["conv"], [images], positions=10_000, original=Damaged(False))["conv"]
    kernel = conv.weight.detach().flatten(2)
    new = compensated(kernel, moments, ridge=1e-12)
    exact = torch.einsum("mck,cd->mdk", kernel, torch.linalg.inv(damage))  # the padding is 0 before and after
    assert relative_error(kernel, moments) > 0.01
    assert relative_error(exact, moments) < 1e-12
    assert relative_error(new, moments) < 1e-9
    bias = centred_bias(new, moments) - conv.bias
    assert bias.abs().max() < 1e-6
    undamaged = collect(Damaged(False), ["conv"], [images], positions=10_000)["conv"]
    limit = 1e4 * U * len(images) * float(kernel.abs().max()) / 1e-3
    assert (compensated(kernel, undamaged) - kernel).abs().max() <= limit


@pytest.mark.parametrize("name", list(choices))
def test_every_choice_makes_groups_and_the_module_computes_them(name):
    conv, images = nn.Conv2d(8, 12, 3, padding=1, stride=2), correlated(10, 8, 7)
    moments = moments_of(conv, images)
    kernel = conv.weight.detach().flatten(2)
    part = choose(name, kernel, moments.inputs, 4, seed=3)
    assert part.inputs.shape == (4, 2) and part.outputs.shape == (4, 3)
    assert part.outputs.flatten().sort().values.tolist() == list(range(12))
    assert all(len(set(each.tolist())) == 2 for each in part.inputs)
    if name != "overlapping":
        assert part.inputs.flatten().sort().values.tolist() == list(range(8))
    again = choose(name, kernel, moments.inputs, 4, seed=3)
    assert torch.equal(part.inputs, again.inputs) and torch.equal(part.outputs, again.outputs)
    weights = Problem(kernel, moments.inputs).solve(part)
    module = part.build(ConvSpec.of(conv), weights.unflatten(2, (3, 3)), conv.bias.detach())
    dense = nn.Conv2d(8, 12, 3, padding=1, stride=2).double()
    dense.weight.data = spread_out(weights, part, 8).unflatten(2, (3, 3))
    dense.bias.data = conv.bias.detach()
    x = images.double()
    limit = 2 * 72 * U * (x.abs().max() * dense.weight.abs().sum((1, 2, 3)).max() + 1)
    assert (module(x) - dense(x)).abs().max() <= limit


def test_better_choices_lose_less():
    conv, images = nn.Conv2d(16, 16, 3, padding=1), correlated(30, 16, 6)
    moments = moments_of(conv, images)
    kernel = conv.weight.detach().flatten(2)
    problem = Problem(kernel, moments.inputs)

    def left(name):
        return sum(float(problem.errors(*group).sum()) for group in choose(name, kernel, moments.inputs, 4))

    assert left("overlapping") <= left("gain") < min(map(left, ("contiguous", "random", "magnitude")))


def test_blocks_of_gconv_prune_by_definition():
    """Its example: a matrix that is two blocks after sorting is sorted into them."""
    from regroup.conversion.sorting import sorted_blocks

    saliency = torch.zeros(6, 6)
    rows, columns = torch.tensor([[0, 2, 4], [1, 3, 5]]), torch.tensor([[5, 0, 1], [2, 3, 4]])
    for a, b in zip(rows, columns, strict=True):
        saliency[a[:, None], b] = 1 + torch.rand(3, 3)
    part = sorted_blocks(saliency, 2)
    kept = sum(float(saliency[b[:, None], a].sum()) for a, b in part)
    assert kept == pytest.approx(float(saliency.sum()))


def test_a_contiguous_partition_needs_no_order():
    conv = nn.Conv2d(4, 6, 1)
    part = Partition.contiguous(4, 6, 2)
    module = part.build(ConvSpec.of(conv), torch.randn(6, 2, 1, 1), None)
    assert isinstance(module, nn.Conv2d) and module.groups == 2 and module.bias is None


@pytest.mark.parametrize("multiplier", [1, 2, 9])
def test_separable_weights_are_those_of_regression(multiplier):
    """Given its filters, the mixing is the regression of outputs on what the filters give."""
    conv, images = nn.Conv2d(6, 12, 3, padding=1), correlated(20, 6, 6)
    moments, (x, y) = moments_of(conv, images), all_pairs(conv, images)
    kernel = conv.weight.detach().double().flatten(2)
    filters, mixing = separating.solved(kernel, moments.inputs, multiplier)
    spread = torch.block_diag(*filters)
    shown = x @ spread.t()
    ridge = 0.01 * float((spread @ moments.inputs @ spread.t()).diagonal().mean())
    start = mixing_alone(kernel, moments.inputs, filters)
    direct = regression(shown, y, ridge, start)
    condition = 1e4 * multiplier
    assert (mixing.flatten(1) - direct).abs().max() <= 100 * len(x) * U * condition
    dense = torch.einsum("mcj,cjk->mck", mixing, filters)
    if multiplier == 9:
        assert relative_error(dense, moments) <= 1e-12  # nine filters are all of a kernel of nine taps
    else:
        plain = parse_strategy(f"separable:multiplier={multiplier}").from_dense(conv).module
        first, _, second = plain
        taken = second.weight.detach().double().flatten(1).unflatten(1, (6, multiplier))
        free = torch.einsum("mcj,cjk->mck", taken, first.weight.detach().double().view(6, multiplier, 9))
        assert relative_error(dense, moments) < relative_error(free, moments)


def mixing_alone(kernel, covariance, filters):
    """The mixing before it is solved: least squares of each channel by itself."""
    taps, parts = kernel.shape[2], []
    for c in range(kernel.shape[1]):
        own = covariance[c * taps : (c + 1) * taps, c * taps : (c + 1) * taps].clone()
        own.diagonal().add_(0.01 * float(covariance.diagonal().mean()))
        f = filters[c]
        parts.append(kernel[:, c] @ own @ f.t() @ torch.linalg.inv(f @ own @ f.t()))
    return torch.cat(parts, 1)
