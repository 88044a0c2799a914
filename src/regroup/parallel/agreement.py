"""Whether the processes that share a network are at one, asked before anything depends on it.

What would else be wrong numbers in silence, or a collective that never ends, is asked: plans and weights when
the network is shared, sizes of inputs at each call, their numbers and random ones at the first. An answer is
one number from each process; only where they differ are words exchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regroup.errors import ParallelError, RegroupError
from regroup.parallel.wire import Wire


def agree_on_plan(model: nn.Module, wire: Wire, found: Any) -> None:
    """Make sure that all processes are about to share one network in one way; otherwise all of them say so.

    Args:
        model: the whole network.
        wire: between the processes.
        found: the plan, or the error that there was instead.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    said: dict[str, Any] = {"error": "", "plan": "", "weights": {}}
    if isinstance(found, RegroupError):
        said["error"] = f"{type(found).__name__}: {found}"
    else:
        shapes = [(n, tuple(t.shape), str(t.dtype), t.requires_grad) for n, t in named]
        splits = [(n, s.dim, s.division.key) for n, s in found.splits.items()]
        said["plan"] = _hash([repr((shapes, splits, found.sent)).encode()])
        said["weights"] = {n: _of_numbers(t) for n, t in named}
    answers = _answers(wire, said, _device([t for _, t in named]))
    if not answers:
        return
    if len({(a["error"], a["plan"]) for a in answers}) > 1:
        told = "; ".join(f"process {i}: {a['error']}" for i, a in enumerate(answers) if a["error"])
        raise ParallelError(
            "the processes of the mesh do not share one plan: give all of them one model, inputs of one size "
            f"and one mesh{f' ({told})' if told else ''}"
        )
    for name, numbers in answers[0]["weights"].items():
        if other := [i for i, a in enumerate(answers) if a["weights"][name] != numbers]:
            raise ParallelError(
                f"the processes of the mesh do not share one network: {name} has other numbers in process "
                f"{other[0]} than in process 0: make it from one seed in all of them, or load one state dict"
            )


class Called:
    """The calls of a shared network: each with inputs of the same sizes in all processes that share it.

    In the first one, in training and otherwise, also with the same numbers, and the same random ones.
    """

    def __init__(self) -> None:
        self._asked: set[bool] = set()

    @contextmanager
    def asking(self, wire: Wire, training: bool, inputs: Any) -> Iterator[None]:
        """Ask about inputs before a call, and about random numbers after it if it is a first one."""
        tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        device, first = _device(tensors), training not in self._asked
        _agree_on_inputs(wire, tensors, [training, torch.is_grad_enabled()], first)
        before = _random(device) if first else []
        yield
        if first:
            _agree_on_chance(wire, before, _random(device), device)
            self._asked.add(training)


def _agree_on_inputs(wire: Wire, tensors: list[Tensor], mode: list[bool], numbers: bool) -> None:
    said = [[f"{str(t.dtype)[6:]} {tuple(t.shape)}", _of_numbers(t) if numbers else ""] for t in tensors]
    answers = _answers(wire, [mode, said], _device(tensors))
    if not answers:
        return
    other = next(i for i, answer in enumerate(answers) if answer != answers[0])
    modes, kinds = zip(*(answers[i] for i in (0, other)), strict=True)
    sizes = [", ".join(kind for kind, _ in each) or "no tensor" for each in kinds]
    differing = f"process 0 with {sizes[0]}, process {other} with {sizes[1]}"
    if modes[0] != modes[1]:
        differing = f"process {other} trains, or computes gradients, where process 0 does not, or the reverse"
    elif sizes[0] == sizes[1]:
        differing += ", but other numbers"
    raise ParallelError(
        f"the processes that share the network's channels call it differently: {differing}: give all of a "
        "group the same images in the same mode; different ones are for different groups"
    )


def _agree_on_chance(wire: Wire, before: list[Tensor], after: list[Tensor], device: torch.device) -> None:
    drawn = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if _answers(wire, _hash(map(_bytes, before)) if drawn else "", device):
        raise ParallelError(
            "the network draws random numbers, as dropout does, and the processes that share its channels "
            "draw different ones: set one seed in all processes of a group, with torch.manual_seed"
        )


def _answers(wire: Wire, said: Any, device: torch.device) -> list[Any]:
    """Return what each process says; nothing if all say the same."""
    text = json.dumps(said)
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
    if len(set(wire.numbers(number, device))) == 1:
        return []
    return [json.loads(each) for each in wire.told(text, device)]


def _device(tensors: list[Tensor]) -> torch.device:
    return tensors[0].device if tensors else torch.device("cpu")


def _random(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _of_numbers(tensor: Tensor) -> str:
    return "" if tensor.is_meta else _hash([_bytes(tensor)])


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _hash(parts: Iterable[Any]) -> str:
    seen = hashlib.blake2b(digest_size=8)
    for part in parts:
        seen.update(part)
    return seen.hexdigest()
