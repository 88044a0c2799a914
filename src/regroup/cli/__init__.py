"""The command `regroup`: one file per command, each with a dataclass of options and `run(options)`."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import pkgutil
import shlex
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from regroup.cli._faults import DONE, FAILED, WRONG_USE, said
from regroup.cli._output import lasting_output, verbose_output
from regroup.errors import ParameterError, unknown_name


def commands() -> dict[str, str]:
    """Return each command's name and the first line of its module's docstring, without running any of it."""
    found = {}
    for name in _names():
        spec = find_spec(f"{__name__}.{name}")
        assert spec is not None and spec.loader is not None
        source = spec.loader.get_source(spec.name)  # type: ignore[missing-attribute]
        doc = ast.get_docstring(ast.parse(source or "")) or ""
        found[name] = doc.partition("\n")[0]
    return found


def main(argv: list[str] | None = None) -> None:
    """Run `regroup COMMAND OPTIONS` and exit.

    The exit statuses are those of `regroup.cli._faults`. Output that nobody reads any more is no failure;
    output that could not be written is, once the work is done.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with lasting_output() as (out, _):
        status = _status(arguments)
        out.flush()
        if status == DONE and out.failure and not isinstance(out.failure, BrokenPipeError):
            reason = getattr(out.failure, "strerror", None) or out.failure
            print(f"regroup: the output could not be written: {reason}", file=sys.stderr)
            status = FAILED
    sys.exit(status)


def _status(arguments: list[str]) -> int:
    """Do what the arguments say and return the exit status, whatever happens."""
    rest = [argument for argument in arguments if argument not in ("--debug", "--verbose")]
    command = rest[0] if rest else ""
    try:
        with verbose_output("--verbose" in arguments):
            return _run(command, rest[1:])
    except SystemExit as exit:  # tyro's, after --help
        return exit.code if isinstance(exit.code, int) else DONE if exit.code is None else FAILED
    except BaseException as error:
        return said(command if command in _names() else "", error, arguments, debug="--debug" in arguments)


def _run(name: str, argv: list[str]) -> int:
    if name in ("", "-h", "--help"):
        print(_help())
        return DONE if name else WRONG_USE
    if name == "--version":
        import regroup

        print(f"regroup {regroup.__version__}")
        return DONE
    if name not in _names():
        raise unknown_name("command", name, _names())
    module = importlib.import_module(f"{__name__}.{name}")

    def parse(**more: Any) -> Any:
        return _parsed(name, module, argv, more)

    options = parse()
    if hasattr(module, "completed"):  # what is not given comes from elsewhere than the defaults
        options = module.completed(options, parse)
    return module.run(options)


def _parsed(name: str, module: ModuleType, argv: list[str], more: dict[str, Any]) -> Any:
    """Return the options of a command.

    Raises:
        ParameterError: the arguments are wrong; says which.
    """
    import tyro

    refusal = io.StringIO()
    try:
        with redirect_stderr(refusal):
            return tyro.cli(
                module.Options, prog=f"regroup {name}", description=module.__doc__, args=argv, **more
            )
    except SystemExit as exit:
        if not exit.code:  # after --help
            raise
        refused = exit
    from regroup.cli._misuse import misuse

    found = misuse(module.Options, argv, refused)
    if found is None:
        plain = "".join(c if c.isalnum() or c in "-.,:='" else " " for c in refusal.getvalue())
        plain = " ".join(plain.split())
        found = ParameterError(
            "arguments", shlex.join(argv), "those of this command", " ".join(plain.split())
        )
    raise found


def _names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _help() -> str:
    width = max(map(len, _names()))
    lines = [f"  {name:<{width}}  {text}" for name, text in commands().items()]
    usage = """
        regroup: grouped convolution for PyTorch

        usage: regroup COMMAND [OPTIONS]     (regroup COMMAND --help for its options)
               regroup --version

        --debug, with any command, shows the traceback of an error; --verbose shows what is logged
        exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted
        """
    return "\n".join([inspect.cleandoc(usage), "", *lines])
