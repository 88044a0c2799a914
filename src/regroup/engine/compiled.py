"""What `regroup.compile` returns: a network that is called like the model, and runs as native code.

>>> import torch
>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
>>> x = torch.randn(1, 3, 32, 32)
>>> fast = compile(model, x)
>>> bool((fast(x) - model(x)).abs().max() < 1e-5)
True
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regroup.engine import explain as explaining
from regroup.engine.prepared import Prepared, Progress
from regroup.errors import EngineError


def compile(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    progress: Progress | None = None,
    *,
    frozen: bool = False,
) -> Compiled:
    """Compile `model` for inputs like `example`.

    The result runs inference: what `model` computes in eval mode, without gradients, for any batch size. What
    the engine has no kernel for runs in PyTorch in between; `explain()` says what and why. Code is kept on
    disk, so that compiling the same architecture again is quick.

    Args:
        model: in eval mode.
        example: an input, or several: float32, on the CPU, (images, channels, height, width); only the shape
            is looked at, and not the number of images.
        progress: called as kernels become ready.
        frozen: compile a copy of the model, which nobody can change. Otherwise every call makes sure that the
            model is as it was, which takes 0.01 to 0.1 ms.

    Raises:
        EngineError: `model` is in training mode, or `example` is no input that can be compiled for.
    """
    return Compiled(model, example, progress, frozen=frozen)


class Compiled:
    """A compiled network; calls from several threads do not disturb each other.

    When the model changes (weights, modules, settings, hooks), the next call compiles anew (with code from
    the cache, so in a fraction of a second), unless it is frozen. PyTorch does not count changes in place
    through `.data` or NumPy: of these the next call sees what changes a small tensor or a twentieth of a
    large one, the following calls see the rest (one number among a million after 4,096 calls at most), and
    `refresh()` is for whoever cannot wait. Code is that of the time of compilation: methods, functions,
    global variables. Memory of weights that were replaced is given back at the next call.

    It uses as many threads as PyTorch does (`torch.set_num_threads`), but one in a forked process: OpenMP's
    threads are not there. It computes in float32, whatever autocast and default types say.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor | Sequence[Tensor],
        progress: Progress | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        several = isinstance(example, Sequence) and not isinstance(example, Tensor)
        examples = tuple(example) if several else (example,)
        _check_examples(model, examples)
        model = copy.deepcopy(model) if frozen else model
        self._batch, self._shapes = examples[0].shape[0], [tuple(e.shape[1:]) for e in examples]
        self._prepared = Prepared(model, examples, progress, frozen=frozen)

    def __call__(self, *inputs: Tensor) -> Any:
        """Return what the model returns for `inputs`.

        Raises:
            EngineError: an input that this was not compiled for, or the model is now in training mode.
        """
        for position, x in enumerate(inputs):
            self._check(position, x)
        if len(inputs) != len(self._shapes) or any(len(x) != len(inputs[0]) for x in inputs[1:]):
            raise EngineError(
                f"compiled for {len(self._shapes)} inputs of one batch size, called with "
                f"shapes {[tuple(x.shape) for x in inputs]}"
            )
        return self._prepared.run(inputs)

    def refresh(self) -> None:
        """Take the weights as they are now, whatever has changed them.

        Raises:
            EngineError: it is frozen.
        """
        self._prepared.refresh()

    def explain(self, *, json: bool = False) -> str | dict[str, Any]:
        """Return a table of the steps: kernel, shape, tile, time, speed, what was fused; or the same as data.

        The steps are timed on one image of zeros, with the threads that PyTorch has now. Speeds count the
        multiply-adds of the definition: Winograd's convolutions take fewer, and can be above the peak.
        """
        data = explaining.explain(self._prepared.plan(self._batch), self._shapes)
        return data if json else explaining.table(data)

    def _check(self, position: int, x: object) -> None:
        name = "input" if len(self._shapes) == 1 else f"input {position}"
        if not isinstance(x, Tensor):
            raise EngineError(f"{name} is a {type(x).__name__}; it must be a tensor")
        if position >= len(self._shapes) or tuple(x.shape[1:]) != self._shapes[position]:
            wanted = self._shapes[min(position, len(self._shapes) - 1)]
            raise EngineError(
                f"{name} has shape {tuple(x.shape)}; this network was compiled for (any, "
                f"{', '.join(map(str, wanted))}): compile it again for another size"
            )
        _check_tensor(name, x)


def _check_tensor(name: str, x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise EngineError(f"{name} is {x.dtype}; the engine computes in torch.float32: pass x.float()")
    if x.device.type != "cpu":
        raise EngineError(f"{name} is on {x.device}; the engine runs on the CPU: pass x.cpu()")
    if x.requires_grad and torch.is_grad_enabled():
        raise EngineError(f"{name} requires a gradient; the engine has none: pass x.detach()")
    if x.layout != torch.strided:
        raise EngineError(f"{name} is {x.layout}; it must be a dense tensor: pass x.to_dense()")


def _check_examples(model: nn.Module, examples: Sequence[Tensor]) -> None:
    if not callable(model):
        raise EngineError(f"the model is {type(model).__name__}; it must be a torch.nn.Module")
    if getattr(model, "training", False):
        raise EngineError("the model is in training mode: call model.eval() before compiling")
    for tensor in (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ():
        if tensor.device.type != "cpu":
            raise EngineError(f"the model is on {tensor.device}; the engine runs on the CPU: model.cpu()")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise EngineError(f"the model has {tensor.dtype} weights; the engine computes in torch.float32")
    if not examples:
        raise EngineError("no example input: compile(model, torch.randn(1, 3, 224, 224))")
    for x in examples:
        if not isinstance(x, Tensor) or x.dim() < 1:
            raise EngineError(f"example is {type(x).__name__}; it must be a tensor with a batch dimension")
        _check_tensor("example", x.detach())
