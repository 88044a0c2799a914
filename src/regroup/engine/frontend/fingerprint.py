"""A recognised graph in a few bytes: two recordings that have the same compute the same, number by number.

What depends on the batch size (a number made of it, a branch, a shape in the result) is in the graph as a
number or as other nodes, so recordings at two batch sizes agree only where nothing does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from regroup.engine.frontend.capture import Capture
from regroup.engine.frontend.equality import numbers_of
from regroup.engine.frontend.results import Results
from regroup.engine.graph import Value


def fingerprint(recorded: Capture) -> bytes:
    """Return a digest of what is recorded: operators, their constants, how they hang together, the result.

    Constants that are the model's own tensors count as equal if they are the same memory; others by their
    numbers.
    """
    digest = hashlib.blake2b(digest_size=20)
    for word in _words(recorded):
        digest.update(word if isinstance(word, bytes) else word.encode())
        digest.update(b"\0")
    return digest.digest()


def _words(recorded: Capture) -> Iterator[str | bytes]:
    graph, storages = recorded.graph, recorded.storages
    names = {value: str(i) for i, value in enumerate(graph.values())}

    def value_words(value: Value) -> Iterator[str]:
        yield f"{names[value]}:{value.shape}{value.batched:d}{value.native:d}{value.per}"

    for value in graph.inputs:
        yield from value_words(value)
    for node in graph.nodes:
        yield "node"
        yield from _of(node.op, storages)
        yield ",".join(names[value] for value in node.inputs)
        for value in node.outputs:
            yield from value_words(value)
    yield "outputs " + ",".join(names[value] for value in graph.outputs)
    yield from _of_results(recorded.results, storages)


def _of_results(results: Results, storages: set[int]) -> Iterator[str | bytes]:
    yield str(results.structure)
    for leaf in results.leaves:
        yield leaf.kind
        yield from _of(leaf.what, storages)


def _of(thing: object, storages: set[int]) -> Iterator[str | bytes]:
    if isinstance(thing, Tensor):
        yield from _of_tensor(thing, storages)
    elif isinstance(thing, torch._ops.OpOverload):
        yield thing.name()
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield type(thing).__name__
        for field in fields(thing):
            yield from _of(getattr(thing, field.name), storages)
    elif isinstance(thing, (list, tuple)):
        yield f"{type(thing).__name__}{len(thing)}"
        for one in thing:
            yield from _of(one, storages)
    elif isinstance(thing, dict):
        for key, one in thing.items():
            yield repr(key)
            yield from _of(one, storages)
    else:
        yield f"{type(thing).__name__} {thing!r}"


def _of_tensor(tensor: Tensor, storages: set[int]) -> Iterator[str | bytes]:
    yield f"{tensor.dtype}{tuple(tensor.shape)}{tensor.stride()}{tensor.requires_grad:d}"
    if tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() in storages:
        version = "" if tensor.is_inference() else tensor._version
        yield f"{tensor.data_ptr()} {version}"
    else:
        yield numbers_of(tensor)
