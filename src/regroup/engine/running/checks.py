"""What must hold before a network is compiled or called: an example that fits, nobody who traces the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from regroup.engine.frontend.inputs import Inputs, check_tensors, is_plain
from regroup.engine.running.bound import does_not_fit, is_training
from regroup.errors import EngineError

_TRACING = tuple(getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL"))

KINDS = frozenset({Tensor, nn.Parameter, nn.Buffer})
"""Others are of somebody who traces, or follows, what is done to them."""


class NotScripted:
    """A module that torch.jit.script is refused."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise EngineError("a compiled network has no TorchScript: script the model, which is its .original")


def is_traced() -> bool:
    """Tell whether somebody traces what is done, and must see operators of PyTorch."""
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or any(torch._C._get_dispatch_mode(mode) is not None for mode in _TRACING)
    )


def check_example(model: nn.Module, inputs: Inputs) -> None:
    """Raise an error for a model that cannot be compiled, or an example that it does not take."""
    if is_training(model):
        raise EngineError("the model is in training mode: call model.eval() before compiling")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "cpu":
            raise EngineError(f"the model is on {tensor.device}; the engine runs on the CPU: model.cpu()")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise EngineError(f"the model has {tensor.dtype} weights; the engine computes in torch.float32")
    if not inputs.tensors:
        raise EngineError("no example input that is a tensor: compile(model, torch.randn(1, 3, 224, 224))")
    if inputs.tensors[0].dim() < 1:
        raise EngineError("example is a single number; it must be a tensor with a batch dimension")
    check_tensors([(name.replace("input", "example"), x.detach()) for name, x in inputs.named()])
    reason = does_not_fit(model, inputs)
    if reason:
        raise EngineError(f"the model does not take such an example: {reason}")


def is_inference(tensors: Sequence[Tensor]) -> bool:
    """Tell whether native code may be called with such tensors now, as if it were the model's own code."""
    if (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or is_traced()
    ):
        return False
    if not tensors or not tensors[0].dim():
        return False
    return all(type(x) in KINDS and _can_be_given(x) for x in tensors)


def _can_be_given(x: Tensor) -> bool:
    known = x.dtype == torch.float32 or not (x.is_floating_point() or x.is_complex())
    return known and is_plain(x)
