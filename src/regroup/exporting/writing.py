"""Write a network in another form: what all ways have in common."""

from __future__ import annotations

import copy
import dataclasses
import errno
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    MissingPackageError,
    ParameterError,
    first_cause,
    first_line,
)
from regroup.files.disk import make_directories, remove_partial, try_writing, write_file
from regroup.files.sealed import obstacle, write_sealed
from regroup.ops.accelerate import decelerate
from regroup.registry import Registry
from regroup.strategies.learning import deploy

_MOST = 4
"""Times PyTorch's own rounding error that what was made may have, and roundings of the scores besides."""

_ABANDONED = 3600.0
"""Seconds after which what is half written is a killed writer's."""

_BATCHES = (1, 2, 3)
"""Numbers of images that what is exported for any number is compared with."""


@dataclass(frozen=True)
class Subject:
    """A network that is to be written.

    Attributes:
        model: in eval mode, on the CPU, plain: without learned layers, all operators PyTorch's.
        images: an example of its input, (N, C, H, W).
        batch: how many images there always are; None: any number.
        about: what else is known, to be written where the form has a place for it: JSON values.
    """

    model: nn.Module
    images: Tensor
    batch: int | None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What a way has made of a network.

    Attributes:
        content: of the file; or several files by name, which become a sealed directory.
        run: images -> scores, by what was made; None if that cannot be run here.
        reason: why not.
        batch: how many images there always are, where the form decides it.
        note: what else its user should know.
    """

    content: bytes | Mapping[str, bytes]
    run: Callable[[Tensor], Tensor] | None = None
    reason: str = ""
    batch: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file or directory.
        to: the way.
        bytes: how many.
        shape: of an image, (C, H, W).
        batch: how many images there always are; None: any number.
        checked: numbers of images for which the outputs were compared with the network's.
        error: root mean square of the outputs' errors, as a share of that of the outputs, against float64.
        own_error: PyTorch's own.
        reason: why nothing was compared.
        note: what else is to be known of it.
    """

    path: Path
    to: str
    bytes: int
    shape: tuple[int, ...]
    batch: int | None
    checked: tuple[int, ...] = ()
    error: float | None = None
    own_error: float | None = None
    reason: str = ""
    note: str = ""

    def __str__(self) -> str:
        number = "any number of images" if self.batch is None else f"batches of {self.batch} images"
        number = "one image at a time" if self.batch == 1 else number
        text = f"{self.path}: {self.to}, for {number} of {self.shape}; "
        more = f"; {self.note}" if self.note else ""
        if not self.checked:
            return f"{text}not checked: {self.reason}{more}"
        known = f"error {self.error:.2g} of the scores, PyTorch's own {self.own_error:.2g}"
        return f"{text}checked with {', '.join(map(str, self.checked))}: {known}{more}"


Way = Callable[..., Made]

ways: Registry[Way] = Registry("to", "regroup.exporting", entry_point="regroup.ways")
"""Name -> the function that makes it."""

_SUFFIXES: dict[str, str] = {}
_SIGNS: dict[str, str] = {}


def way(name: str, *, suffix: str, sign: str = "") -> Callable[[Way], Way]:
    """Register a function as a way out.

    Args:
        name: what it is called: `regroup export --to NAME`.
        suffix: how names of its files end; "" for directories.
        sign: file that all its directories have, and no others: one with it may be replaced when asked for;
            without a sign, only an empty one.
    """

    def add(function: Way) -> Way:
        _SUFFIXES[name], _SIGNS[name] = suffix, sign
        return ways.add(name, function)

    return add


def export(
    model: nn.Module,
    path: str | Path,
    images: Tensor,
    *,
    to: str | None = None,
    batch: int | None = None,
    check: bool = True,
    replace: bool = False,
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Exported:
    """Write a network as a file that others run, once its outputs are known to be the network's.

    Example::

        found = regroup.loaded("runs/digits")
        regroup.export(found.model, "digits.onnx", torch.zeros(1, *found.input.shape))

    The outputs of what was made, on random images, are compared with the network's before anything is
    written. Their errors against float64 may be four times PyTorch's own, or four roundings of the scores.

    Args:
        model: the network; it stays as it is. What it has learned becomes plain layers.
        path: of the file; in a directory that is there it is called like that. Never half written.
        images: an example of the input, (N, C, H, W); only its shape counts.
        to: the way out, a name of `regroup.exporting.ways`; None: by the end of the file's name.
        batch: how many images there will always be; None: any number.
        check: compare; else only write.
        replace: the file may exist; a directory only if it is empty or an earlier export, which goes with all
            that is in it.
        about: written into the file, where it has a place for it: JSON values by name.
        options: of the way.

    Raises:
        ConfigError, UnknownNameError: there is no such way, or it has no such option.
        ExportError: it exists, cannot be written, the network has no such form, or computes something else.
    """
    name = to or way_of(path)
    make = ways[name]
    _check_options(name, make, options)
    path = _place(Path(path), name, replace=replace)
    plain = _of_one_input(decelerate(deploy(copy.deepcopy(model).cpu())).eval())
    _check_numbers(plain, path)
    size = batch or 2  # of one image, the number would be taken for fixed
    _scores(plain, torch.zeros(size, *images.shape[1:]), path)
    subject = Subject(plain, torch.zeros(size, *images.shape[1:]), batch, about or {})
    made = _made(name, make, subject, path, options)
    written = len(made.content) if isinstance(made.content, bytes) else sum(map(len, made.content.values()))
    shape = tuple(images.shape[1:])
    reason = made.reason if check else "not asked for"
    found = Exported(path, name, written, shape, batch or made.batch, reason=reason, note=made.note)
    if check and made.run is not None:
        batches = _BATCHES if batch is None else (batch,)
        errors = _compared(plain, made.run, [_random(count, shape) for count in batches], path)
        if isinstance(errors, str):
            found = dataclasses.replace(found, reason=errors)
        else:
            found = dataclasses.replace(found, checked=batches, error=errors[0], own_error=errors[1])
    _write(path, name, made.content, replace=replace)
    return found


def way_of(path: str | Path) -> str:
    """Return the way out that a file's name ends like.

    Raises:
        ConfigError: none.
    """
    names = list(ways)
    for name in names:
        if _SUFFIXES[name] and str(path).endswith(_SUFFIXES[name]):
            return name
    suffixes = ", ".join(f"{_SUFFIXES[name]} ({name})" for name in names if _SUFFIXES[name])
    raise ConfigError("out", str(path), f"a name that ends in {suffixes}", f"or say to: {', '.join(names)}")


def named_in(path: Path, stem: str, name: str) -> Path:
    """Return where to write: `path`, or, if that is a directory, a file called `stem` in it."""
    if path.is_dir() and _SUFFIXES[name]:
        stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)
        return path / f"{stem.strip('.-') or 'network'}{_SUFFIXES[name]}"
    return path


class _OfOneInput(nn.Module):
    """A network whose `forward` takes any number of inputs, such as an ONNX file's, given one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def _of_one_input(model: nn.Module) -> nn.Module:
    parameters = inspect.signature(model.forward).parameters.values()
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return _OfOneInput(model).eval() if open_ended else model


def _check_options(name: str, make: Way, options: Mapping[str, Any]) -> None:
    known = [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option, value in options.items():
        if option not in known:
            allowed = (
                f"an option of {name!r}: {', '.join(known)}" if known else f"left out: {name!r} has none"
            )
            raise ConfigError(option, value, allowed)


def _place(path: Path, name: str, *, replace: bool) -> Path:
    """Return where it will be written, once it is known that it can be."""
    path = named_in(path, "network", name)
    try:
        if path.is_dir() if _SUFFIXES[name] else path.is_file():
            raise ExportError(path, "is a directory" if _SUFFIXES[name] else "is a file")
        if not replace and (path.exists() or path.is_symlink()):
            raise ExportError(path, "exists already: choose another name, or give --replace (replace=True)")
        if not _SUFFIXES[name]:
            _check_earlier(path, name)
        make_directories(path.parent)
        try_writing(path.parent)
    except (OSError, ValueError) as error:
        raise ExportError(path, f"cannot be written: {_reason(error)}") from error
    return path


def _check_earlier(path: Path, name: str) -> None:
    """Require that a directory takes no place where somebody's files are."""
    if obstacle(path, _SIGNS[name]):
        raise ExportError(
            path, "is neither empty nor an earlier export, and is not replaced: choose another name"
        )


def _check_numbers(model: nn.Module, path: Path) -> None:
    """Require of a network that it computes in float32."""
    found = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32}
    if found:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise ExportError(
            path, f"the network has weights of {names}: give model.float(), what is exported is float32"
        )


def _scores(model: nn.Module, images: Tensor, path: Path) -> Tensor:
    """Return what a network makes of images; it must take such, and give one tensor."""
    try:
        with torch.no_grad():
            scores = model(images)
    except Exception as error:  # any code may run there
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ExportError(
            path, f"the network does not take images of {tuple(images.shape)} ({reason})"
        ) from error
    if not isinstance(scores, Tensor):
        raise ExportError(
            path, f"the network gives a {type(scores).__name__}; what is exported gives one tensor"
        )
    return scores


def _made(name: str, make: Way, subject: Subject, path: Path, options: Mapping[str, Any]) -> Made:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters warn of what they do by themselves
            return make(subject, **options)
    except (ExportError, MissingPackageError, ParameterError):
        raise
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise ExportError(path, f"{name} needs {missing}, which is not installed") from error
    except Exception as error:  # exporters raise whatever the network makes them trip over
        remedy = "" if subject.batch else "; perhaps for a fixed number of images (batch=1)"
        reason = f"the network cannot be written as {name} ({first_cause(error)})"
        raise ExportError(path, reason + remedy) from error


def _random(count: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def _compared(
    model: nn.Module, run: Callable[[Tensor], Tensor], batches: Sequence[Tensor], path: Path
) -> tuple[float, float] | str:
    """Return the worst error of what was made, and PyTorch's, as shares of the scores; or why there is none.

    Raises:
        ExportError: it is too large, or it cannot be run.
    """
    worst, known, exact_scores = 0.0, 0.0, _in_float64(model)
    for images in batches:
        ours = _scores(model, images, path)
        try:
            with torch.no_grad():
                theirs = run(images)
        except Exception as error:  # runtimes have types of their own
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ExportError(path, f"not written: what was made cannot be run ({reason})") from error
        exact = exact_scores(images)
        if isinstance(exact, str):
            return exact
        if theirs.shape != exact.shape:
            sizes = f"{tuple(theirs.shape)} instead of {tuple(exact.shape)}"
            raise ExportError(path, f"not written: it gives {sizes} for {len(images)} images")
        if not exact.any():
            return "of random images the network makes zeros only"
        size = float(exact.square().mean().sqrt())
        error, own = (float((y.double() - exact).square().mean().sqrt()) / size for y in (theirs, ours))
        worst, known = max(worst, error), max(known, own)
        if not error <= _MOST * (own + torch.finfo(torch.float32).eps):
            reason = f"its error is {error:.2g} of the scores, PyTorch's own {own:.2g}"
            raise ExportError(
                path, f"not written: it computes something else for {len(images)} images: {reason}"
            )
    return worst, known


def _in_float64(model: nn.Module) -> Callable[[Tensor], Tensor | str]:
    """Return what computes a network's scores in float64, or says why it cannot."""
    exact_model = copy.deepcopy(model).double()

    def scores(images: Tensor) -> Tensor | str:
        try:
            with torch.no_grad():
                return exact_model(images.double())
        except Exception as error:  # tensors that are no buffers stay float32, and any code may run there
            return f"no float64 reference ({type(error).__name__}: {first_line(error)})"

    return scores


def _write(path: Path, name: str, content: bytes | Mapping[str, bytes], *, replace: bool) -> None:
    try:
        remove_partial(path.parent, path.name, age=_ABANDONED)
        if isinstance(content, bytes):
            write_file(path, content)
        else:
            _check_earlier(path, name)  # again: the network has taken its time
            write_sealed(path, dict(content), replace=replace)
    except CheckpointError as error:
        raise ExportError(path, error.reason) from error
    except OSError as error:
        raise ExportError(path, f"could not be written: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        above = {errno.ENOTDIR: f": {error.filename}", errno.EEXIST: f": {error.filename}"}
        return f"{error.strerror}{above.get(error.errno, '')}"
    return str(error)
