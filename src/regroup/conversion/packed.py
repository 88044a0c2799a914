"""Networks of `ShiftedConv` on disk: integers packed to their bits, in one safetensors file.

>>> model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 10, 1))
>>> quantise(model, "shifted:bits=4,block=64").replaced
['0', '2']
>>> save_packed("/tmp/small.safetensors", model)
>>> again = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 10, 1))
>>> load_packed("/tmp/small.safetensors", again)
>>> torch.equal(again[0].integers, model[0].integers)
True

Every tensor of the state dict comes back bit for bit. The file's header says, as JSON, which layers have
integers and in which form, so that the network to load into may be the one from before the conversion.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from regroup.conversion.quantise import quantise as quantise
from regroup.errors import CheckpointError, printable
from regroup.files.documents import parse
from regroup.files.tensors import check_tensors
from regroup.ops.bitpacking import pack_bits, unpack_bits
from regroup.ops.shifted import ShiftedConv, ShiftedForm
from regroup.spec import ConvSpec
from regroup.strategies.learning import learned_modules

VERSION = 1
_BEYOND = ".integers.beyond"
"""Of the integers that are 2^(b-1) and so need a bit more: where they stand."""


def save_packed(path: str | Path, model: nn.Module) -> None:
    """Write the state of a network; the integers of a `ShiftedConv` take their b bits each.

    With float32 shifts that is b + 32/B bits a weight. Integers that were not clamped and are 2^(b-1) take
    four bytes each besides. All other tensors are written as they are.

    Raises:
        CheckpointError: a layer is still learning, or the file cannot be written; an old one stays as it was.
    """
    path = Path(path)
    learning = learned_modules(model)
    if learning:
        raise CheckpointError(path, f"not written: {next(iter(learning))} is still learning; deploy it first")
    modules = model.named_modules(remove_duplicate=False)
    layers = {name: m for name, m in modules if isinstance(m, ShiftedConv)}
    # copies, because the format takes no two tensors in the same memory
    tensors = {
        name: v.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, v in model.state_dict().items()
    }
    for name, layer in layers.items():
        tensors |= _packed(_key(name), tensors.pop(f"{_key(name)}integers"), layer.form.bits)
    header = {
        "version": VERSION,
        "layers": {
            name: {"form": asdict(m.form), "shape": list(m.integers.shape)} for name, m in layers.items()
        },
    }
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, {"regroup": json.dumps(header)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(path, f"could not be written: {error}") from error


def load_packed(path: str | Path, model: nn.Module) -> None:
    """Give `model` the state in a file of `save_packed`.

    Args:
        path: the file.
        model: the network that was saved, or the same before its convolutions were converted: then they are.

    Raises:
        CheckpointError: the file is damaged, foreign or of another network; the weights are as they were.
    """
    path = Path(path)
    layers, tensors = _read(path)
    state: dict[str, Tensor] = {}
    converted: dict[str, ShiftedConv] = {}
    new: dict[int, ShiftedConv] = {}
    try:
        for name, layer in layers.items():
            form, there = ShiftedForm(**layer["form"]), model.get_submodule(name)
            converted[name] = new.setdefault(id(there), _shifted(there, form))  # a shared layer stays shared
            state[f"{_key(name)}integers"] = _unpacked(tensors, _key(name), layer["shape"], form)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(path, f"is damaged or of another network: {printable(str(error))}") from error
    state |= tensors
    _check_fit(path, model, converted, state)
    for name, module in converted.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    model.load_state_dict(state)


def _key(name: str) -> str:
    return f"{name}." if name else ""


def _packed(key: str, integers: Tensor, bits: int) -> dict[str, Tensor]:
    """Return integers within -2^(b-1) ... 2^(b-1) as packed bits and a list of the highest."""
    flat = integers.flatten().to(torch.int16)
    beyond = (flat == 2 ** (bits - 1)).nonzero().flatten()
    lifted = flat.clamp(max=2 ** (bits - 1) - 1) + 2 ** (bits - 1)
    tensors = {f"{key}integers": pack_bits(lifted, bits)}
    if len(beyond):
        tensors[key.removesuffix(".") + _BEYOND] = beyond.to(torch.int32)
    return tensors


def _unpacked(tensors: dict[str, Tensor], key: str, shape: list[int], form: ShiftedForm) -> Tensor:
    """Take a layer's integers out of the tensors of a file."""
    count = torch.Size(shape).numel()
    values = unpack_bits(tensors.pop(f"{key}integers"), form.bits, count) - 2 ** (form.bits - 1)
    beyond = tensors.pop(key.removesuffix(".") + _BEYOND, None)
    if beyond is not None:
        values[beyond.long()] = 2 ** (form.bits - 1)
    return values.to(form.integer).view(shape)


def _shifted(module: nn.Module, form: ShiftedForm) -> ShiftedConv:
    """Return a ShiftedConv of this form for the convolution that stands there, or the one itself."""
    if isinstance(module, ShiftedConv) and module.form == form:
        return module
    if not isinstance(module, nn.Conv2d):
        raise TypeError(f"there is a {type(module).__name__} where it has a convolution of integers")
    new = ShiftedConv(ConvSpec.of(module), form, module.groups).to(module.weight)
    return new.train(module.training)


def _read(path: Path) -> tuple[dict[str, dict], dict[str, Tensor]]:
    try:
        check_tensors(path)
        with safe_open(path, "pt") as file:
            header = parse((file.metadata() or {}).get("regroup", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("layers"), dict):
        raise CheckpointError(path, "is no file of save_packed")
    if header.get("version") != VERSION:
        raise CheckpointError(path, f"is of version {header.get('version')}; this release reads {VERSION}")
    return header["layers"], tensors


def _check_fit(
    path: Path, model: nn.Module, converted: dict[str, ShiftedConv], state: dict[str, Tensor]
) -> None:
    """Require that the file has each tensor of the network, converted, in its shape, and no other."""
    here = {
        name: value
        for name, value in model.state_dict().items()
        if not any(name.startswith(_key(layer)) for layer in converted)
    }
    for name, module in converted.items():
        here |= {_key(name) + key: value for key, value in module.state_dict().items()}
    differing = sorted(here.keys() ^ state.keys())
    differing += [n for n in here.keys() & state.keys() if here[n].shape != state[n].shape]
    if differing:
        raise CheckpointError(path, f"is of another network: {', '.join(differing[:3])} differ")
