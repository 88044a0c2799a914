"""`regroup.export_object`: a network as a directory with its object code, headers and an example.

>>> import tempfile
>>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
>>> with tempfile.TemporaryDirectory() as folder:
...     found = export_object(model, torch.randn(1, 3, 8, 8), "aarch64", Path(folder) / "net")
...     print(sorted(path.name for path in (Path(folder) / "net").glob("net*")))
['net.h', 'net.hpp', 'net.o']
>>> found.macs
7776
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regroup.aot.archive import archive
from regroup.aot.fitting import smaller_image
from regroup.aot.network import Network, whole_network
from regroup.aot.object import Object, compile_network
from regroup.aot.report import Report, report, require_fit
from regroup.aot.settings import Settings
from regroup.aot.sources import sample_file, sources
from regroup.aot.targets import Machine
from regroup.aot.targets import target as machine_of
from regroup.aot.wasm import linked
from regroup.engine.frontend.inputs import of_example
from regroup.errors import ParameterError
from regroup.files.disk import make_directories, try_writing
from regroup.files.sealed import obstacle, write_sealed
from regroup.kernels.machine.target import Target

SIGN = "report.txt"
"""File by which an earlier export is known; converted networks have a report.json, too."""


def export_object(
    model: Any,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    target: str,
    directory: str | os.PathLike[str],
    *,
    replace: bool = False,
    **options: Any,
) -> Report:
    """Write `model` as object code for another machine, which runs there without Python.

    The directory gets `net.o` and `libnet.a` with one function, `net_run`, that does one image on one thread,
    calls no library and allocates nothing; `net.h` and `net.hpp`; an example, `main.c` with `Makefile` and
    `CMakeLists.txt`, that any C compiler builds; `report.txt` and `report.json`; and the example's numbers
    with what PyTorch makes of them: `make check` compares. All of it appears in one step, or nothing.

    Args:
        model: in eval mode: a module or function, as `regroup.compile` takes it.
        example: an input, as for `regroup.compile`; the code is for images of its size, one at a time.
        target: name of the machine (`regroup.aot.targets.MACHINES`).
        directory: to be written.
        replace: `directory` may be an earlier export, which goes with all that was put there since.
        options: of `regroup.aot.settings.Settings`: name="net", packed="inside" or "apart", ram=, flash=,
            winograd=.

    Returns:
        What it needs of the machine.

    Raises:
        EngineError: the model cannot be object code; says which operator is the reason.
        ParameterError: an argument cannot be, or `ram` or `flash` does not suffice.
        UnknownNameError: there is no such target.
        CheckpointError: the directory cannot be written.
        OSError: nor can the one above it.
    """
    path = Path(directory)
    _check_directory(path, replace)
    files, found = object_files(model, example, target, **options)
    make_directories(path.absolute().parent)
    write_sealed(path.absolute(), files, replace=True)
    return found


def object_files(
    model: Any,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    target: str,
    *,
    title: str = "",
    **options: Any,
) -> tuple[dict[str, bytes], Report]:
    """Return the files of an export by name, and what they need of the machine; as `export_object`.

    The headers call the network by its `title`, or by the name of its architecture or class.

    >>> model = nn.Sequential(nn.Linear(3, 2)).eval()
    >>> files, found = object_files(model, torch.randn(1, 3), "aarch64", name="two")
    >>> b"int two_run(const float *input, float *output, void *arena);" in files["two.h"]
    True

    Raises:
        EngineError: the model cannot be object code; says which operator is the reason.
        ParameterError: an argument cannot be, or `ram` or `flash` does not suffice.
        UnknownNameError: there is no such target.
    """
    machine, settings = machine_of(target), Settings(**options)
    cpus, name = settings.cpus(machine), settings.name
    networks = [whole_network(model, example, cpu) for cpu in cpus]
    parallel = machine.has_threads
    made = compile_network(networks, name, apart=settings.apart, parallel=parallel, hook=settings.hook)
    found = report(networks, made, machine.name)
    limits = settings.ram_bytes, settings.flash_bytes
    require_fit(found, *limits, lambda ram: _smaller(model, example, cpus, ram))
    files = _objects(made, machine, name)
    files |= sources(networks[0], made, machine, name, title or _title(model))
    files |= {SIGN: str(found).encode(), "report.json": found.as_json().encode()}
    return files | _samples(networks[0], model, example), found


def _smaller(model: Any, example: Any, cpus: Sequence[Target], ram: int) -> tuple[int, int] | None:
    """Return height and width of images that fit whatever the CPU is, None if none is found."""
    sides = [smaller_image(model, example, cpu, ram) for cpu in cpus]
    return min((side for side in sides if side), default=None) if all(sides) else None


def _check_directory(path: Path, replace: bool) -> None:
    """Raise an error for a directory that cannot be written, before there is anything to write."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ParameterError("directory", str(path), "a directory, or not there yet")
    if path.is_dir() and any(path.iterdir()):
        if not replace:
            remedy = "give another one, or say replace=True"
            raise ParameterError("directory", str(path), "empty or not there yet", remedy)
        if obstacle(path, SIGN):
            raise ParameterError("directory", str(path), "an earlier export where it is replaced")
    there = next(p for p in path.absolute().parents if p.exists())
    try_writing(there)


def _title(model: Any) -> str:
    """Return what people call a model: the name of its architecture, as timm has it, or of its class."""
    known = getattr(model, "pretrained_cfg", None)
    named = known.get("architecture") if isinstance(known, dict) else None
    return str(named or getattr(model, "__name__", type(model).__name__))


def _objects(made: Object, machine: Machine, name: str) -> dict[str, bytes]:
    files = {f"{name}.o": made.code}
    if made.apart:
        files[f"{name}.weights"] = made.weights
    if machine.is_wasm:
        files[f"{name}.wasm"] = linked(made.code, f"{name}_run")
    if made.code[:4] == b"\x7fELF":  # archives of other formats have another index
        files[f"lib{name}.a"] = archive(f"{name}.o", made.code, made.symbols)
    return files


def _samples(network: Network, model: Any, example: Any) -> dict[str, bytes]:
    """Return the example's first image and what the model makes of it, as files."""
    taken = of_example(example)
    long = len(taken.tensors[0])
    firsts = [x[:1] if x.dim() and len(x) == long else x for x in taken.tensors]
    args, kwargs = taken.put_back(firsts)
    with torch.no_grad():
        results = pytree.tree_leaves(model(*args, **kwargs))
    tensors = {port.name: firsts[port.position] for port in network.inputs}
    tensors |= {port.name: results[port.position] for port in network.outputs}
    ports = (*network.inputs, *network.outputs)
    return {sample_file(port): _numbers(tensors[port.name]) for port in ports}


def _numbers(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().astype("<f4").tobytes()
