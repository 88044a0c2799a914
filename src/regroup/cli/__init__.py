"""The command `regroup`: one file per command, each with a dataclass of options and `run(options)`."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from importlib.util import find_spec
from typing import Any

from regroup.cli._faults import FAILED, said
from regroup.cli._output import lasting_output

DONE, WRONG_USE = 0, 2


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

    The status is 0 when it worked, 1 when it did not, with a line that says why, 2 when it was used wrongly,
    and 130 when it was interrupted. Output that nobody reads any more is no failure; output that could not
    be written is, once the work is done.
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
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    command = rest[0] if rest else ""
    try:
        return _run(command, rest[1:])
    except SystemExit as exit:  # tyro's, after --help or a wrong option
        return exit.code if isinstance(exit.code, int) else DONE if exit.code is None else FAILED
    except BaseException as error:
        return said(command, error, arguments, debug=debug)


def _run(name: str, argv: list[str]) -> int:
    if name in ("", "-h", "--help"):
        print(_help())
        return DONE if name else WRONG_USE
    if name == "--version":
        import regroup

        print(f"regroup {regroup.__version__}")
        return DONE
    if name not in _names():
        print(f"regroup: no command {name!r}\n\n{_help()}", file=sys.stderr)
        return WRONG_USE
    import tyro

    module = importlib.import_module(f"{__name__}.{name}")

    def parse(**more: Any) -> Any:
        return tyro.cli(module.Options, prog=f"regroup {name}", description=module.__doc__, args=argv, **more)

    options = parse()
    if hasattr(module, "completed"):  # what is not given comes from elsewhere than the defaults
        options = module.completed(options, parse)
    return module.run(options)


def _names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _help() -> str:
    lines = [f"  {name:<10} {text}" for name, text in commands().items()]
    usage = """
        regroup: grouped convolution for PyTorch

        usage: regroup COMMAND [OPTIONS]     (regroup COMMAND --help for its options)
               regroup --version

        --debug, with any command, shows the traceback of an error
        """
    return "\n".join([inspect.cleandoc(usage), "", *lines])
