"""What a tensor is, as far as it can be known without reading its numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from regroup.kernels.watch.tensors import TensorFacts


def is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor's numbers lie in this process's memory where its strides say, and are counted."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_nested
        and not tensor.is_inference()
        and not is_traceable_wrapper_subclass(tensor)
        and not isinstance(tensor, torch._subclasses.FakeTensor)
    )


def facts(tensor: Tensor) -> TensorFacts:
    """Return what a tensor is."""
    storage, shape = tensor.untyped_storage(), (tuple(tensor.shape), tensor.stride())
    where = (id(tensor), storage._cdata, tensor.data_ptr(), tensor._version, storage.nbytes())
    return TensorFacts(*where, tensor.dtype, shape)


def place(tensor: Tensor) -> tuple:
    """Return what is known of a tensor whose numbers are elsewhere, or lie in a way of their own."""
    version = None if tensor.is_inference() else tensor._version
    shape = None if tensor.is_nested else tuple(tensor.shape)
    return tensor._cdata, version, tensor.dtype, tensor.device, tensor.layout, shape


def span(tensor: Tensor) -> tuple[int, int]:
    """Return address and bytes of a tensor's numbers, with what lies between; none without memory."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = tensor.storage_offset() + last + 1
    if tensor.numel() == 0 or end * tensor.element_size() > tensor.untyped_storage().nbytes():
        return 0, 0  # the latter: its memory has been given back, by FSDP for example
    return tensor.data_ptr(), (last + 1) * tensor.element_size()
