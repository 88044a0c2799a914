"""Errors of regroup: one class per kind of mistake, one form of message.

>>> raise StrategyError("groups", 3, "a divisor of in_channels=64", "use 1, 2, 4, 8, 16, 32 or 64")
Traceback (most recent call last):
regroup.errors.StrategyError: groups=3: must be a divisor of in_channels=64; use 1, 2, 4, 8, 16, 32 or 64
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from types import ModuleType

_package = sys.modules["regroup"]
if not hasattr(_package, "__version__"):  # the tokenizer's; every module of ours comes through here
    raise ImportError(
        f"{_package.__file__} is another package's, regroup (a tokenizer): "
        "run `pip uninstall regroup`, then `pip install --force-reinstall torch-regroup`"
    )


def printable(text: str) -> str:
    r"""Return a text from elsewhere as a terminal may see it: what would steer it is shown instead.

    >>> print(printable("a\x1b[31m\n"))
    a\x1b[31m\n
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, as a terminal may see it."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else ""


def first_cause(error: BaseException) -> str:
    """Return what an error came from in the end: its kind and the first line of its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


class RegroupError(Exception):
    """Any error that regroup raises knowingly."""


class ParameterError(RegroupError, ValueError):
    """A parameter has a value that cannot work.

    Args:
        parameter: name of the parameter, as the user wrote it.
        value: the value given.
        allowed: what would be allowed, as the end of "must be ...".
        remedy: what to do about it, if that is not plain from `allowed`.
    """

    def __init__(self, parameter: str, value: object, allowed: str, remedy: str = "") -> None:
        self.parameter, self.value, self.allowed, self.remedy = parameter, value, allowed, remedy
        super().__init__(f"{parameter}={value!r}: must be {allowed}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple:
        return type(self), (self.parameter, self.value, self.allowed, self.remedy)


class SpecError(ParameterError):
    """A convolution that cannot exist (`ConvSpec`)."""


class StrategyError(ParameterError):
    """A strategy that cannot honour a convolution, or has a wrong parameter of its own."""


class NetworkError(ParameterError):
    """A network that is unknown or cannot be built."""


class ConfigError(ParameterError):
    """A wrong option of training, comparing or profiling."""


class ConversionError(RegroupError):
    """A network that cannot be converted, or what a conversion was asked for cannot be had."""


class EngineError(RegroupError):
    """A compiled network is used in a way that it cannot serve."""


class EngineWarning(UserWarning):
    """Most of a compiled network does not run as native code."""


class ParallelError(RegroupError):
    """Devices that cannot share a network, or no longer do: a process that ended, another plan elsewhere."""


class UnknownNameError(ParameterError, KeyError):
    """A name that no registry knows."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


def unknown_name(
    kind: str, name: str, known: Iterable[str], allowed: str = "", *, near: str | None = None
) -> UnknownNameError:
    """Return the error for a name that is not among those that are known, with the nearest of these.

    >>> print(unknown_name("shape", "squre", ["square", "circle"]))
    shape='squre': must be one of circle, square; did you mean 'square'?

    Args:
        kind: what the name is of, as the user wrote it.
        name: the one given.
        known: all there are.
        allowed: what it must be, if the names themselves are not to be listed.
        near: what they are to be near to, if that is another text than the name.
    """
    names = sorted(set(known))
    wanted = name if near is None else near
    found = difflib.get_close_matches(wanted, names, n=3)
    found = found or [known for known in names if wanted and wanted in known][:3]
    listed = ", ".join(names) if len(names) <= 24 else f"{len(names)} names"
    remedy = "did you mean " + " or ".join(map(repr, found)) + "?" if found else ""
    return UnknownNameError(kind, name, allowed or f"one of {listed}", remedy)


class MissingPackageError(RegroupError):
    """A package is not installed, too old or broken, and what is asked for needs it."""


def needed(module: str, extra: str) -> ModuleType:
    """Return a module of a package that is installed on demand only.

    >>> needed("json", "see").dumps([])
    '[]'

    Args:
        module: its name.
        extra: of regroup, with which it comes.

    Raises:
        MissingPackageError: it is not installed, older than the extra says, or fails to load.
    """
    package, remedy = module.partition(".")[0], f'pip install "torch-regroup[{extra}]"'
    try:
        found = importlib.import_module(module)
    except Exception as error:  # what is half installed raises anything
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise MissingPackageError(f"this needs the package {package}: {remedy}") from error
        text = f"the package {package} fails to load ({type(error).__name__}: {first_line(error)})"
        raise MissingPackageError(
            f"{text}; {remedy.replace('install', 'install --force-reinstall', 1)}"
        ) from error
    if outdated := _outdated(package, extra):
        raise MissingPackageError(f"{outdated}: {remedy}")
    return found


def _outdated(package: str, extra: str) -> str:
    """Return in which way a package is not what an extra of the installed regroup asks for, or nothing."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("torch-regroup") or ()]
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
    for one in wanted:
        is_it = one.name.replace("-", "_") == package
        is_wanted = one.marker is None or one.marker.evaluate({"extra": extra})
        if is_it and is_wanted and not one.specifier.contains(version, prereleases=True):
            return f"this needs {package}{one.specifier}, and {version} is installed"
    return ""


class FileError(RegroupError):
    """Something that a path names, and what is wrong with it."""

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{printable(self.path)}: {reason}")

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


class CheckpointError(FileError):
    """A checkpoint or weights file that is damaged, foreign or does not fit."""


class LockedError(FileError):
    """A directory in which another process is at work."""


class DataError(FileError):
    """A data set, or images in it, that cannot be used."""


class PlanError(FileError):
    """A saved plan, structure or grouping that is damaged or does not fit the network."""


class ReportError(FileError):
    """A report that cannot be written."""


class ExportError(FileError):
    """A network that cannot be written in another form, or cannot be written there."""


class TrainingError(RegroupError):
    """Training that cannot go on, such as a loss that is no longer a number."""
