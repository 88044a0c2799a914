"""Checkpoints: sealed directories of safetensors and JSON, of which the newest good one counts.

runs/resnet/
checkpoint-000003/       model.json  model.safetensors  optimizer.json  ...  manifest.json
checkpoint-000004/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from regroup.errors import CheckpointError
from regroup.files.disk import disk, make_directories, remove_partial
from regroup.files.documents import LARGEST, parse
from regroup.files.reading import read_file
from regroup.files.sealed import undisturbed, verify_sealed, write_sealed
from regroup.files.tensors import check_tensors
from regroup.training.packing import pack, unpack

_NAME = re.compile(r"checkpoint-\d{6,}")


@dataclass(frozen=True)
class Refused:
    """A checkpoint that was passed over, and why."""

    path: Path
    reason: str


def save_checkpoint(directory: Path, sections: Mapping[str, object], *, keep: int = 2) -> Path:
    """Write the next checkpoint into `directory` and return its path; the `keep` newest stay.

    Args:
        directory: holds the checkpoints of one run; it is created if it is missing.
        sections: what to save, by name: nested dicts, lists, tuples, numbers, strings and tensors.
        keep: checkpoints to keep, at least 1.

    Raises:
        CheckpointError: it could not be written; the checkpoints that were there still are.
        TrainingError: a section holds something that cannot be saved without pickle.
    """
    files: dict[str, bytes] = {}
    for name, value in sections.items():
        files |= section_files(name, value)
    try:
        make_directories(directory)
        old = list_checkpoints(directory)
        path = directory / f"checkpoint-{_number(old[0]) + 1 if old else 1:06d}"
        write_sealed(path, files)
        remove_partial(directory)
        for previous in old[keep - 1 :]:
            disk().remove(previous)
    except OSError as error:
        raise CheckpointError(directory, f"could not be written: {error.strerror or error}") from error
    return path


def load_checkpoint(path: Path) -> dict[str, object]:
    """Return the sections of a checkpoint, once all of it is known to be as it was written.

    If it is replaced meanwhile, they are the old one's or the new one's, never of both.

    Raises:
        CheckpointError: it is damaged, foreign or of another version; it says which file and why.
    """
    return undisturbed(path, lambda: _read_sections(path))


def _read_sections(path: Path) -> dict[str, object]:
    files = verify_sealed(path)
    sections = {}
    for name, file in files.items():
        if file.suffix == ".json":
            tensors = files.get(f"{file.stem}.safetensors")
            sections[file.stem] = _read_section(file, tensors)
        elif f"{file.stem}.json" not in files:
            raise CheckpointError(path / name, "has no structure beside it")
    return sections


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in `directory`, good or bad, newest first."""
    found = [path for path in directory.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_number, reverse=True)


def latest_valid(directory: Path) -> tuple[Path | None, list[Refused]]:
    """Return the newest checkpoint that verifies, or None, and the newer ones that were refused.

    Raises:
        CheckpointError: there are checkpoints, and every one of them is damaged.
    """
    refused: list[Refused] = []
    for path in list_checkpoints(directory):
        try:
            verify_sealed(path)
        except CheckpointError as error:
            refused.append(Refused(path, str(error)))
        else:
            return path, refused
    if refused:
        raise CheckpointError(directory, "holds no good checkpoint: " + "; ".join(r.reason for r in refused))
    return None, refused


def save_weights(path: Path, model: nn.Module | Mapping[str, torch.Tensor], **documents: object) -> Path:
    """Write a model's state (or named tensors) and any JSON `documents` as the sealed directory `path`.

    Example::

        save_weights(Path("resnet.regroup"), model, plan=plan.to_json())
        load_weights(Path("resnet.regroup"), other_model)

    Raises:
        CheckpointError: `path` exists or could not be written; nothing is left behind.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    if path.exists():
        raise CheckpointError(path, "exists already; choose another name or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    files = section_files("weights", state)
    for name, document in documents.items():
        files[f"{name}.json"] = _to_json(document)
    write_sealed(path, files)
    return path


def load_weights(path: Path, model: nn.Module) -> dict[str, object]:
    """Give `model` the weights in the sealed directory `path`; return the JSON documents saved with them.

    Raises:
        CheckpointError: the directory is damaged or foreign, or the names, shapes or types differ; the
            model is then as it was.
    """
    documents = load_checkpoint(path)
    if "weights" not in documents:
        raise CheckpointError(path, "holds no weights")
    load_state(path, model, documents.pop("weights"))
    return documents


def load_state(path: Path, model: nn.Module, state: object) -> None:
    """Give `model` a state dict read from `path`, if each name, shape and type is the model's own.

    Raises:
        CheckpointError: something differs; the model is then as it was.
    """
    check_state(path, model.state_dict(), state)
    model.load_state_dict(state)  # type: ignore[arg-type]


def check_state(path: Path, here: Mapping[str, torch.Tensor], state: object) -> None:
    """Require of a state dict read from `path` that each name, shape and type is as in `here`.

    Raises:
        CheckpointError: something differs.
    """
    if not isinstance(state, dict):
        raise CheckpointError(path, "holds no state dict")
    missing, foreign = here.keys() - state.keys(), state.keys() - here.keys()
    if missing or foreign:
        parts = [f"{verb} {_some(names)}" for verb, names in (("lacks", missing), ("adds", foreign)) if names]
        raise CheckpointError(path, f"is of another model: it {' and '.join(parts)}")
    for name, value in state.items():
        was, now = _kind(value), _kind(here[name])
        if was != now:
            raise CheckpointError(path, f"is of another model: {name} is {was}, not {now}")


def section_files(name: str, value: object) -> dict[str, bytes]:
    """Return the files, by name, that hold a section of a checkpoint.

    Raises:
        TrainingError: it holds something that cannot be saved without pickle.
    """
    structure, tensors = pack(value)
    files = {f"{name}.json": _to_json(structure)}
    if tensors:
        files[f"{name}.safetensors"] = to_bytes(tensors)
    return files


def _read_section(file: Path, tensors: Path | None) -> object:
    try:
        if tensors:
            check_tensors(tensors)
        return unpack(parse(read_file(file, most=LARGEST)), load_file(tensors) if tensors else {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(file, f"could not be understood: {error}") from error


def _to_json(value: object) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _number(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
