"""Networks that devices cannot share: what no layer may do, and how that is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from regroup.errors import ParallelError, first_line
from regroup.parallel.divided import Divided


def why_not(error: Exception) -> str:
    """Say why a network did not run without numbers, and what to do about it."""
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, NotImplementedError) or "on meta tensors" in said:
        return (
            "the network cannot be shared among devices: what it does depends on the numbers that it "
            "computes, as a detector's does, so that nobody can plan it"
        )
    if "more than 1 value per channel" in said:
        return f"a batch norm cannot train on one number for each channel: plan with more images ({said})"
    if "expected device meta" in said:
        return (
            "the network cannot be planned: it changes in place a tensor that forward makes on another "
            "device than its inputs': make it with device=x.device"
        )
    return f"the network cannot run without numbers: {said}"


@contextmanager
def functions_refused(run: Any) -> Iterator[None]:
    """Refuse autograd functions of the network's own on divided tensors: their gradients would be lost.

    PyTorch asks no rule about them; reentrant checkpointing is one, too.
    """
    real = vars(torch.autograd.Function)["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        given = tree_leaves((args, kwargs))
        if torch.is_grad_enabled() and any(isinstance(each, Divided) for each in given):
            raise ParallelError(
                f"{run.layer or 'forward'}: the autograd function {cls.__name__} has no rule on divided "
                "channels: write it with PyTorch's own operators (checkpointing: switch it off)"
            )
        return real.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[bad-assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = real
