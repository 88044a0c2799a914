"""Whether a network that devices share does what one process does, each layer within its own rounding.

Over a deep network in training the a-priori bound says nothing: every norm and every layer multiplies it by
tens, until it is larger than the numbers. So each layer is held against its own bound. A twin in one process
is given the weights that the devices have together, and runs the step with them; but each layer of it reads
what the devices' layer has read, and each layer's backward pass gets the gradient that theirs has got. What
it gives from these must be what theirs gave, within twice the rounding bound of this one layer (both have
rounded): outputs, gradients of outputs and weights, statistics of norms, and what the optimiser makes of it.
If that holds everywhere and in every step, the devices' training is that of one process but for rounding,
however far rounding is carried.

The bound needs each sum over absolute values: a second twin, of absolute weights, forms it. Batch norms and
response norms are no sums; their magnitudes are below.
"""

import copy
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from regroup.networks.alexnet import ResponseNorm
from regroup.ops.bounds import rounding_bound, unit_roundoff, worst_ratio
from regroup.parallel.divided import Divided
from regroup.parallel.state import gather_part
from regroup.parallel.wire import gather_rows
from tests.parallel.magnitude import absolute

LR, MOMENTUM = 1e-4, 0.9  # AlexNet, at full width and from such weights, diverges with more


class Passed:
    """What a layer has given, once it ran: on a device its channels of it, later the whole."""

    def __init__(self, layer, value, division):
        self.layer, self.value, self.division = layer, value.detach().clone(), division
        self.grad = None
        self.exact, self.largest = {}, {}  # "output" and "gradient", of the twin and of that of absolutes

    def keep(self, grad):
        self.grad = grad.detach().clone()

    def gather(self, wire):
        if self.division is not None:
            self.value = gather_rows(wire, self.value, self.division, 1, "", False)
            if self.grad is not None:
                self.grad = gather_rows(wire, self.grad, self.division, 1, "", False)


class Forced(torch.autograd.Function):
    """Keeps what a twin's layer gives and gets, and goes on with what the devices had there."""

    @staticmethod
    def forward(ctx, out, passed, into, change):
        ctx.known = passed, into, change
        into["output"] = out.detach().clone()
        return change(passed.value).clone(memory_format=torch.contiguous_format)  # dropout draws in its order

    @staticmethod
    def backward(ctx, grad):
        passed, into, change = ctx.known
        into["gradient"] = grad.detach().clone()
        return torch.zeros_like(grad) if passed.grad is None else change(passed.grad), None, None, None


class Layerwise:
    """Watches the layers of a network that devices share.

    Args:
        model: what `shard` gave.
        whole: the same network, not shared, in float64.
        optimizer: SGD with momentum, of the shared one.
        images: of a step.
    """

    def __init__(self, model, whole, optimizer, images):
        self.model, self.wire, self.optimizer = model, model.shared_wire, optimizer
        self.leaves = [
            name
            for name, module in whole.named_modules()
            if not list(module.children()) and not isinstance(module, nn.Identity)  # its tensor is another's
        ]
        self.passed = []
        for name in self.leaves:
            model.get_submodule(name).register_forward_hook(self._watching(name))
        self.first = self.wire.rank == 0
        if self.first:
            self.twin, self.largest = whole, _largest_of(whole)
            self.terms = _terms(whole, images)

    def _watching(self, name):
        def hook(_module, _args, out):
            if not isinstance(out, torch.Tensor):
                return
            local, division = out, None
            if isinstance(out, Divided):
                local, division = out.block.local, out.block.division
                if not out.settled:
                    return
            self.passed.append(Passed(name, local, division))
            if local.requires_grad:
                local.register_hook(self.passed[-1].keep)

        return hook

    def step(self, images, labels, seed, counted=None):
        """Do a step of training; return by kind the largest error as a share of the bound, and the layer."""
        before = _State(self.model, self.optimizer, self.first)
        self.passed.clear()
        with counted or nullcontext():
            torch.manual_seed(seed)
            out = self.model(images)
            out.retain_grad()
            self.optimizer.zero_grad()
            F.cross_entropy(out, labels).backward()
            self.optimizer.step()
        after = _State(self.model, self.optimizer, self.first, momentum=False)
        splits = self.model.shared_plan.splits
        grads = {}
        for name, parameter in self.model.named_parameters():
            grad = gather_part(parameter.grad, splits.get(name), self.wire)
            grads[name] = grad if self.first else None
        for one in self.passed:
            one.gather(self.wire)
        return self._compared(before, after, grads, images, out, seed) if self.first else {}

    def _compared(self, before, after, grads, images, out, seed):
        self._run_twins(before.weights, images, out.grad, seed)
        before.weights = {n: t for n, t in before.weights.items() if "running" in n}  # the twin has the rest
        found = dict.fromkeys(("outputs", "gradients", "weights", "statistics", "step"), (0.0, ""))

        def compare(kind, name, value, exact, magnitude, terms=self.terms):
            for part, right, size in _parts(value, exact, magnitude):
                bound = rounding_bound(right, size, terms, torch.float64, torch.float64)
                found[kind] = max(found[kind], (worst_ratio(part, right, 2 * bound), name))

        watched = {one.layer for one in self.passed}
        assert watched >= {name.rpartition(".")[0] for name in grads}  # all that have weights
        for one in self.passed:
            compare("outputs", one.layer, one.value, one.exact["output"], one.largest["output"])
            if one.grad is not None:
                compare("gradients", one.layer, one.grad, one.exact["gradient"], one.largest["gradient"])
        slopes = {n: p.grad for n, p in self.largest.named_parameters()}
        for name, parameter in self.twin.named_parameters():
            compare("weights", name, grads[name], parameter.grad, slopes[name])
            moved = before.momentum.get(name, torch.zeros(()))
            for new, was, grad, old in _parts(after.weights[name], parameter.detach(), grads[name], moved):
                moving, size = MOMENTUM * old + grad, MOMENTUM * old.abs() + grad.abs()
                compare("step", name, new, was - LR * moving, was.abs() + LR * size, 4)
        for name, module in self.twin.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                sizes = self.largest.get_submodule(name).statistics(module, before.weights, name)
                for kind, size in sizes.items():
                    exact = getattr(module, kind)
                    compare("statistics", name, after.weights[f"{name}.{kind}"], exact, size)
        return found

    def _run_twins(self, weights, images, slope, seed):
        self.twin.load_state_dict(weights)
        with torch.no_grad():
            for name, parameter in self.largest.named_parameters():
                parameter.copy_(weights[name].abs())
        for model, change, kept in ((self.twin, _same, "exact"), (self.largest, torch.abs, "largest")):
            waiting = iter(self.passed)
            handles = [
                model.get_submodule(name).register_forward_hook(_forcing(name, waiting, kept, change))
                for name in self.leaves
            ]
            handles += [] if model is self.largest else self._showing()
            model.zero_grad()
            torch.manual_seed(seed)
            model(change(images)).backward(change(slope))
            for handle in handles:
                handle.remove()

    def _showing(self):
        """Let norms among absolutes see what the twin's norms have read."""
        return [
            module.register_forward_pre_hook(self.largest.get_submodule(name).see)
            for name, module in self.twin.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        ]


def _parts(first, *others):
    """Return tensors piece by piece: AlexNet's largest takes 300 MB, and comparing takes it several times."""
    return zip(*(t.expand_as(first).reshape(-1).split(1 << 21) for t in (first, *others)), strict=True)


def _same(tensor):
    return tensor


def _forcing(name, waiting, kept, change):
    def hook(_module, _args, out):
        passed = next(waiting)
        assert passed.layer == name
        return Forced.apply(out, passed, getattr(passed, kept), change)

    return hook


class _State:
    """Weights, statistics and momenta, as one process has them; kept only where they are compared."""

    def __init__(self, model, optimizer, kept, momentum=True):
        splits, wire, names = model.shared_plan.splits, model.shared_wire, dict(model.named_parameters())
        moving = {n: optimizer.state.get(p, {}).get("momentum_buffer") for n, p in names.items()}
        given = {"weights": model.state_dict(), "momentum": moving if momentum else {}}
        for kind, tensors in given.items():
            found = {}
            for name, tensor in tensors.items():
                if tensor is not None:
                    whole = gather_part(tensor, splits.get(name), wire)
                    if kept:
                        found[name] = whole if name in splits else whole.clone()
            setattr(self, kind, found)


def _terms(model, images):
    """Return more than any one layer sums: inputs, outputs, pixels and images, readers of one tensor."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    sums = max(max(w[0].numel(), w.numel() // w.shape[1]) for w in weights)
    return sums + images[:, 0].numel() + len(list(model.modules())) + 64


# ---- magnitudes of norms


def _largest_of(model):
    """Return the twin of absolutes, its norms replaced by what bounds their rounding."""
    twin = absolute(copy.deepcopy(model))
    for name, module in [*twin.named_modules()]:
        if isinstance(module, nn.BatchNorm2d):
            twin.set_submodule(name, LargestNorm(module))
        elif isinstance(module, ResponseNorm):
            twin.set_submodule(name, LargestResponse(module))
    return twin


class LargestNorm(nn.Module):
    """What bounds the rounding of a batch norm in training, as a multiple of the terms and the unit roundoff.

    The variance's relative error is n u k for updating and n u + (n u k)^2 for two passes, with k^2 = 1 +
    mean^2 / variance (Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983).
    """

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias = nn.Parameter(norm.weight.abs()), nn.Parameter(norm.bias.abs())
        self.eps, self.read = norm.eps, None

    def see(self, _module, args):
        self.read = args[0].detach()

    def forward(self, x):
        return _LargestNorm.apply(x, self.weight, self.bias, self.read, self.eps)

    def statistics(self, norm, before, name):
        """Return the magnitudes of the running mean and variance after a step."""
        x = self.read
        share, count = norm.momentum, x[:, 0].numel()
        size, (_, variance, spread) = x.abs().mean((0, 2, 3)), _moments(x)
        old = {kind: (1 - share) * before[f"{name}.{kind}"].abs() for kind in ("running_mean", "running_var")}
        spread = (variance + spread) * count / (count - 1)
        return {
            "running_mean": old["running_mean"] + share * size,
            "running_var": old["running_var"] + share * spread,
        }


def _moments(x):
    """Return mean, variance and the variance's error as a multiple of n u."""
    mean = x.mean((0, 2, 3))
    variance = (x - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))
    square = variance + mean.square()
    terms = x[:, 0].numel() * unit_roundoff(x.dtype)
    return mean, variance, (variance * square).sqrt() + terms * square


class _LargestNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, _x, weight, bias, x, eps):
        mean, variance, spread = _moments(x)
        each = (1, -1, 1, 1)
        scale = (variance + eps).rsqrt().view(each)
        loss = (spread / (variance + eps)).view(each)  # of the deviation: relative, as a multiple of n u
        size = x.abs().mean((0, 2, 3), keepdim=True)
        normed = (x.abs() + size) * scale + (x - mean.view(each)).abs() * scale * loss
        ctx.save_for_backward(normed, weight.view(each) * scale * (1 + loss))
        return weight.view(each) * normed + bias.view(each)

    @staticmethod
    def backward(ctx, grad):
        normed, scale = ctx.saved_tensors
        over = {"dim": (0, 2, 3), "keepdim": True}
        slope, shift = (grad * normed).sum((0, 2, 3)), grad.sum((0, 2, 3))
        back = scale * (grad + grad.mean(**over) + normed * (grad * normed).mean(**over))
        return back, slope, shift, None, None


class LargestResponse(nn.Module):
    """The same of a response norm: x / s^b, whose sums s have positive terms only.

    Forward it is the norm itself; backward both parts of its derivative are added instead of subtracted.
    """

    def __init__(self, norm):
        super().__init__()
        self.alpha, self.k, self.groups = norm.alpha, norm.k, norm.groups

    def forward(self, x):
        return torch.cat([self._of(tower) for tower in x.chunk(self.groups, 1)], 1)

    def _of(self, x):
        beta, squares = 0.75, F.pad(x.square()[:, None], (0, 0, 0, 0, 2, 2))
        sums = self.k + 5 * self.alpha * F.avg_pool3d(squares, (5, 1, 1), stride=1)[:, 0]
        constant = sums.detach()
        added = beta * (x * constant.pow(-beta - 1)).detach() * (sums - constant)
        return x * constant.pow(-beta) + added
