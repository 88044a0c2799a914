"""Errors: one form of message, one base, and they survive the way between processes."""

import copy
import multiprocessing
import sys
from importlib import metadata

import pytest

from regroup import errors
from regroup.errors import (
    CheckpointError,
    MissingPackageError,
    ParameterError,
    RegroupError,
    StrategyError,
    UnknownNameError,
)

ALL = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, RegroupError)]
PARAMETER = [e for e in ALL if issubclass(e, ParameterError)]


@pytest.mark.parametrize("kind", PARAMETER)
def test_a_wrong_parameter_says_which_what_is_allowed_and_what_to_do(kind):
    error = kind("groups", 3, "a divisor of 64", "use 4")
    assert str(error) == "groups=3: must be a divisor of 64; use 4"
    assert (error.parameter, error.value, error.allowed, error.remedy) == (
        "groups",
        3,
        "a divisor of 64",
        "use 4",
    )
    assert str(kind("name", "x", "known")) == "name='x': must be known"
    assert isinstance(error, ValueError)


def test_an_unknown_name_can_be_caught_as_a_key_error():
    with pytest.raises(KeyError, match=r"^strategy='x': must be known$"):
        raise UnknownNameError("strategy", "x", "known")


def test_a_file_error_names_the_file_and_the_reason():
    error = CheckpointError("runs/last", "its hash is wrong")
    assert str(error) == "runs/last: its hash is wrong"
    assert (error.path, error.reason) == ("runs/last", "its hash is wrong")


def make(kind):
    if issubclass(kind, ParameterError):
        return kind("groups", 3, "a divisor", "use 4")
    return kind("path", "reason") if hasattr(kind, "path") or "FileError" in str(kind.__mro__) else kind("oh")


@pytest.mark.parametrize("kind", [e for e in ALL if not e.__name__.startswith("_")])
def test_every_error_can_be_copied_and_sent_between_processes(kind):
    error = make(kind)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.send(error)
    for other in (copy.copy(error), receiver.recv()):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_every_error_is_a_regroup_error():
    with pytest.raises(RegroupError):
        raise StrategyError("groups", 3, "a divisor")
    assert all(e.__doc__ or e.__name__.startswith("_") for e in ALL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import nothing_of_this_name",
            r"halfway fails to load \(ModuleNotFoundError: No module named 'nothing",
        ),
        ("raise OSError('libsomething.so: no such file')", r"fails to load \(OSError: libsomething"),
        ("from halfway import part", r"fails to load \(ImportError"),
        (None, r'this needs the package halfway: pip install "torch-regroup\[see\]"'),
    ],
)
def test_packages_that_are_missing_or_half_installed_are_said_in_a_line(tmp_path, monkeypatch, text, said):
    if text is not None:
        (tmp_path / "halfway.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "halfway", raising=False)
    with pytest.raises(MissingPackageError, match=said) as caught:
        errors.needed("halfway", "see")
    assert "torch-regroup[see]" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["1.16.2", "1.17", "99"])
def test_packages_older_than_their_extra_says_are_refused(monkeypatch, version):
    monkeypatch.setattr(
        metadata, "requires", lambda name: ['json>=1.17; extra == "onnx"', 'json>=9; extra == "dev"']
    )
    monkeypatch.setattr(metadata, "version", lambda name: version)
    if version == "1.16.2":
        with pytest.raises(
            MissingPackageError, match=r'json>=1.17, and 1.16.2 is installed: pip install "torch'
        ):
            errors.needed("json", "onnx")
    else:
        assert errors.needed("json", "onnx").dumps([]) == "[]"
