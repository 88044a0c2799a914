"""The state dict in a checkpoint: out of its containers, without the names of modules around the network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regroup.errors import CheckpointError
from regroup.networks.weight_files import few, read_weights

State = dict[str, Tensor]

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema")
"""Where checkpoints keep the moving average of the weights, which is what their authors evaluate."""
TRAINED = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "shadow")
"""Where they keep the weights themselves."""

_LEAST = 1 << 20
"""Bytes that a tensor may have in any file: one that repeats a number is larger than what is stored of it."""

_DEPTH = 4
"""Mappings in each other that are looked into."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of keys that stand for a module around another one, which a state dict may have anywhere."""
HOLDERS = ("model", "net", "network", "backbone", "encoder")
"""First parts of keys where the network is one of several things in a module."""

_log = logging.getLogger(__name__)


def state_of(weights: str | Path | Mapping[str, Any]) -> tuple[str, State, str]:
    """Return what to call the weights in messages, the state dict in them, and where in them it was.

    Raises:
        CheckpointError: the file cannot be read, or there is no one state dict of plain tensors.
    """
    if not isinstance(weights, (str, Path)):
        state, where = unwrap(weights)
        return "weights", state, where
    state, where = unwrap(read_weights(weights), str(weights))
    most = max(Path(weights).stat().st_size, _LEAST)
    if large := [key for key, value in state.items() if value.numel() * value.element_size() > most]:
        raise CheckpointError(weights, f"claims more numbers than the file has bytes for: {few(large)}")
    return str(weights), state, where


def unwrap(content: object, name: str = "weights") -> tuple[State, str]:
    """Return the state dict inside a checkpoint, averaged weights rather than others, and the keys to it.

    Raises:
        CheckpointError: there is no state dict of plain tensors, or nothing tells which of several.
    """
    if hasattr(content, "state_dict"):
        raise CheckpointError(name, f"is a {type(content).__name__}: give what its state_dict() returns")
    path, found = _inside(content, name, {})
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(name, "holds no state dict")
    if foreign := [str(key) for key, value in found.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(name, f"holds other things than tensors: {few(foreign)}")
    if foreign := [str(key) for key, value in found.items() if not _is_plain(key, value)]:
        raise CheckpointError(name, f"holds tensors without a name or numbers of their own: {few(foreign)}")
    return dict(found), ".".join(path)


def _is_plain(key: object, value: Tensor) -> bool:
    return (
        isinstance(key, str)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested)
    )


def _inside(content: Any, name: str, known: dict[int, bool], depth: int = 0) -> tuple[list[str], Any]:
    """Return the keys to the mapping that holds tensors, looked for where checkpoints keep it, and that."""
    inner = _holders(content, known) if depth < _DEPTH else []
    chosen = next((key for key in (*AVERAGED, *TRAINED) if key in inner), None)
    if chosen is None and inner and not _has_tensors(content):
        if len(inner) > 1:
            raise CheckpointError(name, f"holds several state dicts: give one of {few(inner)} by weights=")
        (chosen,) = inner
    if chosen is None:
        return [], content
    if unread := [key for key in AVERAGED if chosen not in AVERAGED and _is_container(content.get(key))]:
        _log.warning("%s: no state dict can be read from its %s; took %s", name, unread[0], chosen)
    path, found = _inside(content[chosen], name, known, depth + 1)
    return [chosen, *path], found


def _holders(content: Any, known: dict[int, bool], depth: int = 0) -> list[str]:
    """Return the keys of a mapping behind which, sooner or later, there are tensors by name.

    `known` says of mappings, by identity, whether it is so: one may stand in many places, or in itself.
    """
    if depth > _DEPTH or not isinstance(content, Mapping):
        return []
    found = []
    for key, value in content.items():
        if isinstance(value, Mapping) and id(value) not in known:
            known[id(value)] = False
            known[id(value)] = _has_tensors(value) or bool(_holders(value, known, depth + 1))
        if isinstance(key, str) and known.get(id(value)):
            found.append(key)
    return found


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _is_container(content: Any) -> bool:
    return isinstance(content, (Mapping, list, tuple)) and len(content) > 0


def readings(state: State, own: Set[str]) -> Iterator[tuple[str, State]]:
    """Yield the state dict under keys that begin at the network, and what was before them.

    What stands for modules around others goes everywhere, unless the network has parts of that name, too.
    Then the network may be one of several things in a module: what is beside it keeps its keys.
    """
    parts = {part for key in own for part in key.split(".")}
    wrappers = set(WRAPPERS) - parts

    def bare(key: str) -> str:
        return ".".join(part for part in key.split(".") if part not in wrappers)

    found = [("", _renamed(state, bare))]
    for before, inner in found:  # which grows
        yield before, inner
        for holder in HOLDERS:
            if before.count(".") < _DEPTH and any(key.startswith(f"{holder}.") for key in inner):
                held = _renamed(inner, lambda key, first=f"{holder}.": key.removeprefix(first))
                found.append((f"{before}{holder}.", held))


def _renamed(state: State, rename: Callable[[str], str]) -> State:
    """Return the state under other keys; where two would be one, the second keeps its own."""
    result: State = {}
    for key, tensor in state.items():
        result[key if rename(key) in result else rename(key)] = tensor
    return result
