"""The command `regroup`: one file per command, each with a dataclass of options and `run(options)`."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from regroup.errors import RegroupError


def commands() -> dict[str, str]:
    """Return each command's name and the first line of its module's docstring."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            doc = importlib.import_module(f"{__name__}.{module.name}").__doc__ or ""
            found[module.name] = doc.partition("\n")[0]
    return found


def main(argv: list[str] | None = None) -> None:
    """Run `regroup COMMAND OPTIONS`; exit 0 when it worked, 1 with one clear line when it did not."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if argv else 2)
    if argv[0] == "--version":
        import regroup

        print(f"regroup {regroup.__version__}")
        sys.exit(0)
    try:
        sys.exit(_run(argv[0], argv[1:]))
    except RegroupError as error:
        print(f"regroup {argv[0]}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `regroup models | head`
        sys.stderr.close()
        sys.exit(0)


def _run(name: str, argv: list[str]) -> int:
    import tyro

    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    if name not in names:
        print(f"regroup: no command {name!r}\n\n{_help()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{__name__}.{name}")
    options = tyro.cli(
        module.Options,
        prog=f"regroup {name}",
        description=module.__doc__,
        args=argv,
    )
    return module.run(options)


def _help() -> str:
    lines = [f"  {name:<10} {text}" for name, text in commands().items()]
    return "\n".join(
        [
            "regroup: grouped convolution for PyTorch",
            "",
            "usage: regroup COMMAND [OPTIONS]     (regroup COMMAND --help for its options)",
            "",
            *lines,
        ]
    )
