"""A program that changes a network in every way that PyTorch allows, and calls it after each change.

    python -m tests.faults.changes CHANGES SEED

What is compiled must be what the network computes: bit for bit while all numbers are whole, and else
what it or a fresh compilation of it computes. Run it where memory that was freed is overwritten
(MALLOC_PERTURB_, PYTHONMALLOC=malloc_debug), so that a stale address cannot go unseen. It prints how often
each change was made.
"""

import faulthandler
import gc
import json
import random
import sys
import threading
from collections import Counter

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import regroup
from tests.faults.programs import progress

__all__ = ["main"]


class Network(nn.Module):
    """Weights, a buffer, settings and a plain tensor; whole numbers stay whole in it, and small."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.last = nn.Linear(4, 40)
        self.register_buffer("scale", torch.ones(4, 1, 1))
        self.gain, self.sizes, self.plain, self.order = 1, [1, 2], [torch.ones(1)], {"first": 0}

    def forward(self, x):
        x = self.first(x).relu() * self.scale
        x = self.second(x) + self.third(x) * self.gain
        x = x * self.plain[0] + self.sizes[0] + self.order["first"]
        return self.last(x.amax((2, 3)))


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


class Trial:
    """A network, what is compiled of it, and the changes."""

    def __init__(self, seed):
        self.chance, self.draw = random.Random(seed), torch.Generator().manual_seed(seed)
        self.model, self.handles = Network().eval(), []
        for parameter in self.model.parameters():
            parameter.data = self.whole(parameter.shape)
        self.x = [self.whole((batch, 3, 5, 5)) for batch in (1, 2)]
        self.fast = regroup.compile(self.model, self.x[0])
        self.made = Counter()

    # -- the parts of changes ---------------------------------------------------------------------

    def whole(self, shape):
        return torch.randint(-3, 4, tuple(shape), generator=self.draw).float()

    def conv(self):
        return self.chance.choice([self.model.first, self.model.second, self.model.third])

    def layer(self):
        return self.chance.choice([self.model.first, self.model.second, self.model.third, self.model.last])

    def tensor(self):
        """Return a tensor that is a parameter, or where one is parametrised or pruned its original."""
        return self.chance.choice([*self.model.parameters(), self.model.scale])

    def state(self):
        return {name: self.whole(value.shape) for name, value in self.model.state_dict().items()}

    def swapping(self, change):
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            change()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    # -- changes ----------------------------------------------------------------------------------

    def step(self):
        kinds = [
            torch.optim.SGD,
            torch.optim.Adam,
            torch.optim.AdamW,
            torch.optim.RMSprop,
            torch.optim.Adagrad,
        ]
        kind, options = self.chance.choice(kinds), {"foreach": self.chance.random() < 0.5}
        for parameter in self.model.parameters():
            parameter.grad = self.whole(parameter.shape) if parameter.requires_grad else None
        kind(
            [p for p in self.model.parameters() if p.requires_grad] or [nn.Parameter(torch.ones(1))],
            1,
            **options,
        ).step()

    def load(self):
        self.model.load_state_dict(self.state())

    def load_assigned(self):
        self.model.load_state_dict(self.state(), assign=True)

    def load_swapped(self):
        self.swapping(self.load)

    def convert(self):
        self.model.double().float()

    def convert_swapped(self):
        self.swapping(self.convert)

    def swap(self):
        layer = self.layer()
        if isinstance(layer._parameters.get("bias"), nn.Parameter):
            torch.utils.swap_tensors(layer.bias, nn.Parameter(self.whole(layer.bias.shape)))

    def data(self):
        tensor = self.tensor()
        tensor.data = self.whole(tensor.shape)

    def data_twice(self):
        tensor = self.tensor()
        tensor.data = tensor.data * self.chance.choice([-1, 0, 1])
        tensor.data = tensor.data * 1.0

    def data_masked(self):
        tensor = self.tensor()
        for _ in range(self.chance.choice([1, 2, 3])):
            tensor.data = tensor.data * (torch.rand(tensor.shape, generator=self.draw) > 0.1)

    def data_turned(self):
        tensor = self.tensor()
        if tensor.dim() == 4:
            tensor.data = tensor.data.transpose(2, 3)

    def data_in_place(self):
        tensor = self.tensor()
        tensor.data.copy_(self.whole(tensor.shape))

    def number_in_place(self):
        """One number: all of them are read where they are few."""
        tensor = self.tensor()
        if tensor.numel() <= 256:
            flat = tensor.data.reshape(-1) if not tensor.is_contiguous() else tensor.data.view(-1)
            flat[self.chance.randrange(len(flat))] = self.chance.randint(-3, 3)

    def numpy(self):
        tensor = self.tensor()
        tensor.detach().numpy()[...] = self.whole(tensor.shape).numpy()

    def set(self):
        tensor = self.tensor()
        with torch.no_grad():
            tensor.set_(self.whole(tensor.shape))

    def copy(self):
        tensor = self.tensor()
        with torch.no_grad():
            tensor.copy_(self.whole(tensor.shape))

    def fill(self):
        with torch.no_grad():
            self.tensor().fill_(self.chance.randint(-3, 3))

    def resize(self):
        scale = self.model.scale
        scale.resize_(self.chance.choice([100, 2, 9])).resize_(4, 1, 1).copy_(self.whole((4, 1, 1)))

    def buffer(self):
        self.model.scale = self.whole((4, 1, 1))

    def tie(self):
        if self.is_plain(self.model.second) and self.is_plain(self.model.third):
            self.model.second.weight = self.model.third.weight

    def untie(self):
        for layer in (self.model.second, self.model.third):
            if self.is_plain(layer):
                layer.weight = nn.Parameter(self.whole(layer.weight.shape))

    def is_plain(self, layer):
        return "weight" in layer._parameters

    def gradients(self):
        self.model.requires_grad_(self.chance.random() < 0.5)

    def replace(self):
        name = self.chance.choice(["second", "third"])
        layer = nn.Conv2d(4, 4, 3, padding=1, groups=2).eval()
        layer.weight.data, layer.bias.data = self.whole(layer.weight.shape), self.whole((4,))
        setattr(self.model, name, layer)

    def remove_and_add(self):
        layer = self.conv()
        bias = layer.bias
        del layer.bias
        layer.bias = bias if self.chance.random() < 0.3 else nn.Parameter(self.whole((4,)))

    def no_bias(self):
        self.conv().register_parameter("bias", None)

    def bias(self):
        layer = self.conv()
        layer.bias = nn.Parameter(self.whole((4,)))

    def parametrise(self):
        layer = self.conv()
        if not parametrize.is_parametrized(layer) and self.is_plain(layer):
            parametrize.register_parametrization(layer, "weight", Doubled())

    def normalise(self):
        layer = self.conv()
        if not parametrize.is_parametrized(layer) and self.is_plain(layer):
            parametrizations.weight_norm(layer)

    def leave_parametrised(self):
        layer = self.conv()
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")

    def prune(self):
        layer = self.conv()
        if not parametrize.is_parametrized(layer):
            prune.random_unstructured(layer, "weight", 0.3)

    def leave_pruned(self):
        layer = self.conv()
        if prune.is_pruned(layer):
            prune.remove(layer, "weight")

    def setting(self):
        self.model.gain = self.chance.randint(-2, 2)

    def settings(self):
        self.model.sizes[self.chance.randrange(2)] = self.chance.randint(-2, 2)
        self.model.order["first"] = self.chance.randint(-2, 2)

    def stride(self):
        self.model.first.stride = self.chance.choice([(1, 1), (2, 2), (1, 2)])

    def plain_tensor(self):
        self.chance.choice([self.model.plain[0].fill_, self.model.plain[0].data.fill_])(
            self.chance.randint(-2, 2)
        )

    def another_plain_tensor(self):
        self.model.plain[0] = self.whole((1,))

    def hook(self):
        where = self.chance.choice([self.conv(), self.model])
        self.handles.append(where.register_forward_hook(lambda module, inputs, output: -output))

    def hook_before(self):
        self.handles.append(self.conv().register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)))

    def hook_of_all(self):
        def negate(module, inputs, output):
            return -output if isinstance(module, nn.Linear) else None

        self.handles.append(nn.modules.module.register_module_forward_hook(negate))

    def no_hook(self):
        while self.handles:
            self.handles.pop().remove()

    def train_and_back(self):
        self.model.train().eval()

    def train_part(self):
        self.conv().train(self.chance.random() < 0.5)

    def call_model(self):
        self.model(self.x[0])

    def nothing(self):
        gc.collect()

    # -- the trial --------------------------------------------------------------------------------

    def run(self, changes):
        names = [name for name, value in vars(Trial).items() if callable(value) and name not in _NO_CHANGES]
        for number in range(changes):
            done = []
            for _ in range(self.chance.choice([1, 1, 1, 2, 3])):
                name = self.chance.choice(names)
                self.make(name)
                done.append(name)
            if len(self.handles) > 3 or self.too_large():
                self.no_hook()
                self.load()
            litter = [self.whole(p.shape) for p in self.model.parameters()]  # it takes what was freed
            self.check(f"change {number}: {done}")
            del litter
            progress("changes", number + 1, changes)
        return self.made

    def make(self, name):
        """Make a change, in a thread of its own now and then."""
        self.made[name] += 1
        if self.chance.random() < 0.2:
            thread = threading.Thread(target=self.attempt, args=(name,))
            thread.start()
            thread.join()
        else:
            self.attempt(name)

    def attempt(self, name):
        try:
            getattr(self, name)()
        except (RuntimeError, TypeError, KeyError):  # PyTorch refuses some, as to swap what a graph holds,
            self.made["refused"] += 1  # perhaps after a part of it
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                if tensor.dtype == torch.float64:  # a conversion that went half the way
                    tensor.data = tensor.data.float()
            self.model.scale = self.whole((4, 1, 1))

    def too_large(self):
        return max(p.abs().max() for p in self.model.parameters()) > 50

    def check(self, what):
        x = self.chance.choice(self.x)
        with torch.no_grad():
            got, want = self.fast(x), self.model(x)
            if _equal(got, want):  # as where all numbers are whole, or PyTorch runs it
                return
            weights = (layer.weight for layer in self.model.children())
            whole = all(torch.equal(t, t.round()) for t in (*self.model.state_dict().values(), *weights))
            assert not whole, f"{what}: {(got - want).abs().max()}"
            anew = regroup.compile(self.model, x, frozen=True)(x)
            assert _equal(got, anew), f"{what}: {(got - anew).abs().max()}, {(got - want).abs().max()}"


def _equal(a, b):
    """Tell whether two tensors are the same numbers; the norm of no weights makes some that are none."""
    return torch.equal(a.nan_to_num(1234.5), b.nan_to_num(1234.5))


_NO_CHANGES = {"__init__", "whole", "conv", "layer", "tensor", "state", "swapping", "is_plain", "run", "make"}
_NO_CHANGES |= {"attempt", "too_large", "check"}


def main(changes, seed):
    faulthandler.enable()
    torch.set_num_threads(1)
    print(json.dumps(Trial(seed).run(changes)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
