"""What every strategy that learns its groups shares: progress, penalty, deployment.

A learned module says how it learns by the methods of `Learned`; a model that has none is left alone:

>>> set_progress(nn.Conv2d(4, 4, 1), 0.5)
>>> penalty(nn.Conv2d(4, 4, 1)).item()
0.0

In a training loop of your own:

    for step, (x, y) in enumerate(batches):
        regroup.set_progress(model, step / total_steps)
        loss = criterion(model(x), y) + regroup.penalty(model)
        ...
    regroup.set_progress(model, 1)
    plain = regroup.deploy(model)

In Lightning, in the module that has the network as `self.network`:

    def on_train_batch_start(self, batch, batch_idx):
        regroup.set_progress(self.network, self.global_step / self.trainer.estimated_stepping_batches)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return cross_entropy(self.network(x), y) + regroup.penalty(self.network)

    def on_train_end(self):
        regroup.set_progress(self.network, 1)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import ParameterError, PlanError
from regroup.ops.scripting import NotScriptable


class Learned(NotScriptable, nn.Module):
    """A module whose grouping is learned. Subclasses override what they need.

    All state that decides the grouping lives in parameters and buffers of the module itself, so that it is
    saved with the weights, is the same in every process, and is not shared between models.
    """

    def set_progress(self, progress: float) -> None:
        """Take the share of training that is done, from 0 to 1, once before each step.

        It may jump: a module catches up with every stage that lies between, so that a resumed or very
        short run ends in the same complete grouping.
        """

    def stages(self) -> tuple[tuple[float, str], ...]:
        """Return the progress at which each stage of its training begins, and the stage's name.

        None, if what it connects does not change from stage to stage.
        """
        return ()

    def penalty(self) -> Tensor:
        """Return what this module adds to the loss now: a scalar, already weighted."""
        return next(self.parameters()).new_zeros(())

    @classmethod
    def joint_penalty(cls, modules: Sequence[Any]) -> Tensor:
        """Return what all modules of this class in a model add to the loss together: by default, the sum.

        Override it where the model as a whole has a budget.
        """
        return torch.stack([module.penalty() for module in modules]).sum()

    def deploy(self) -> nn.Module:
        """Return the plain module that computes, in eval mode, what this one does."""
        raise NotImplementedError(f"{type(self).__name__} has no deploy()")

    def grouping(self) -> dict:
        """Return what was learned as JSON-able data: which input feeds which group, kernels, scales."""
        raise NotImplementedError(f"{type(self).__name__} has no grouping()")

    def load_grouping(self, data: dict) -> None:
        """Take a grouping that `grouping` gave, instead of learning one."""
        raise NotImplementedError(f"{type(self).__name__} has no load_grouping(data)")


def learned_modules(model: nn.Module) -> dict[str, Learned]:
    """Return the modules of `model` that learn their grouping, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Learned)}


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell every learned module how far training is: 0 at the first step, 1 when it is over.

    Raises:
        ParameterError: `progress` is not within 0 ... 1.
    """
    if not 0 <= progress <= 1:
        raise ParameterError("progress", progress, "within 0 ... 1", "give step / total_steps")
    for module in learned_modules(model).values():
        module.set_progress(progress)


def penalty(model: nn.Module) -> Tensor:
    """Return the sum of the learned modules' regularisers: add it to the loss. 0 for a plain model."""
    alike: dict[type[Learned], list[Learned]] = {}
    for module in learned_modules(model).values():
        alike.setdefault(type(module), []).append(module)
    if alike:
        return torch.stack([kind.joint_penalty(modules) for kind, modules in alike.items()]).sum()
    first = next(model.parameters(), None)
    return torch.zeros(()) if first is None else first.new_zeros(())


def deploy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in eval mode in which every learned module has become its plain form.

    The copy computes what `model` computes in eval mode, within rounding, and has no module of this
    package's learned kinds left; `model` itself is not changed.
    """
    plain = copy.deepcopy(model).eval()
    found = [(n, m) for n, m in plain.named_modules(remove_duplicate=False) if isinstance(m, Learned)]
    found.sort(key=lambda item: item[0].count(".") + bool(item[0]), reverse=True)  # inner ones first
    done: dict[nn.Module, nn.Module] = {}
    for name, module in found:
        if module not in done:  # a shared layer stays shared
            done[module] = module.deploy()
        if name:
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, done[module])
    return done.get(plain, plain)


def groupings(model: nn.Module) -> dict[str, dict]:
    """Return what each learned module has learned, by its name: JSON-able."""
    return {name: module.grouping() for name, module in learned_modules(model).items()}


def load_groupings(model: nn.Module, data: dict[str, dict]) -> None:
    """Give each learned module the grouping that `groupings` returned for it, instead of learning one.

    Raises:
        PlanError: `data` is not of these modules.
    """
    modules = learned_modules(model)
    if modules.keys() != data.keys():
        differing = sorted(modules.keys() ^ data.keys())
        raise PlanError("groupings", f"of other layers than the model's: {', '.join(differing[:5])} differ")
    for name, module in modules.items():
        module.load_grouping(data[name])
