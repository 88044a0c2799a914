"""Write a network in a form that others run, such as ONNX, and check that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from torch import Tensor

    from regroup.cli._network import Chosen


@dataclass(frozen=True)
class Options:
    """Which network, in which form, and where to."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    out: Path
    """File to write; or a directory that is there, in which it is called like the network."""
    to: str | None = None
    """The form: onnx, pt2 (PyTorch's exported program), executorch, object; none: by the end of the name."""
    to_options: tuple[str, ...] = ()
    """Options of the form, such as opset=18."""
    target: str | None = None
    """With --to object: the machine that it is for, such as aarch64; `list` says which there are."""
    ram: str | None = None
    """With --to object: working memory that the machine has, such as 256k; none: any."""
    flash: str | None = None
    """With --to object: memory that it has for code and weights, such as 1M; none: any."""
    hook: bool = False
    """With --to object: a function besides that tells of each step; the example then times them."""
    image: int | None = None
    """Height and width of the input image; none: what it expects."""
    channels: int | None = None
    """Channels of the input image; none: 3, or those of the run's images."""
    batch: int | None = None
    """Images that there always will be; none: any number."""
    pretrained: bool = False
    """Load the weights that the model hub has for it."""
    weights: Path | None = None
    """File of weights, under the names that the network has; none: random ones."""
    check: bool = True
    """Compare the outputs with the network's before anything is written."""
    replace: bool = False
    """The file may exist; with --to object, an empty directory or an earlier export, which goes."""
    json: bool = False
    """Print what was written and compared as JSON."""
    quiet: bool = False
    """Say nothing of what was written."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Write the file and say what it is and how it was checked."""
    import json
    from dataclasses import asdict

    import torch

    from regroup.cli._network import check_number, choose
    from regroup.cli._table import say
    from regroup.errors import printable
    from regroup.exporting.writing import export, named_in, way_of, ways

    if options.target == "list":
        print(_targets())
        return 0
    check_number("batch", options.batch)
    to = options.to or ("object" if options.target else way_of(options.out))
    assert ways[to]
    chosen = choose(
        options.model,
        channels=options.channels,
        weights=options.weights,
        pretrained=options.pretrained,
        plugins=options.plugin,
    )
    images = torch.zeros(chosen.shape(options.image))
    chosen.check(images)
    found = export(
        chosen.model,
        named_in(options.out, Path(chosen.name).name, to),
        images,
        to=to,
        batch=options.batch or chosen.batch,
        check=options.check,
        replace=options.replace,
        about=_about(chosen, images, options),
        **_options_of_the_form(options, to),
    )
    if options.json:
        print(json.dumps({**asdict(found), "path": str(found.path)}, indent=1))
    elif not options.quiet:
        say(printable(str(found)))
    return 0


def _targets() -> str:
    from regroup.aot.targets import listed

    return listed()


def _options_of_the_form(options: Options, to: str) -> dict[str, Any]:
    """Return the options of the form, those of the machine among them.

    Raises:
        ConfigError: one is given twice, or has an option of the command's own.
    """
    import inspect

    from regroup.errors import ConfigError
    from regroup.exporting.writing import export
    from regroup.loading.named import read_options

    machine = _of_the_machine(options, to)
    for text in options.to_options:
        for name in read_options("to_options", (text,)):
            if name in machine:
                raise ConfigError("to_options", text, f"left out where --{name} is given")
            if name in inspect.signature(export).parameters:
                remedy = f"there is --{name}" if hasattr(options, name) else ""
                raise ConfigError("to_options", text, f"options of --to {to}, which {name} is not", remedy)
    return machine | read_options("to_options", options.to_options)


def _of_the_machine(options: Options, to: str) -> dict[str, Any]:
    """Return what is said about the machine that object code is for.

    Raises:
        ConfigError: something is, and it is another form.
    """
    from regroup.errors import ConfigError

    given = {name: getattr(options, name) for name in ("target", "ram", "flash", "hook")}
    given = {name: value for name, value in given.items() if value not in (None, False)}
    for name, value in given.items():
        if to != "object":
            raise ConfigError(name, value, f"left out for --to {to}", "it belongs to --to object")
    return given


def _about(chosen: Chosen, images: Tensor, options: Options) -> dict[str, Any]:
    """Return what the reader of the file should know: names of the classes, and how images are prepared.

    Where neither the network nor its description says it, the file does not.
    """
    from dataclasses import asdict

    import torch

    from regroup.training.tasks import tasks

    found: dict[str, Any] = {"network": chosen.loaded.name if chosen.loaded else chosen.name}
    if chosen.loaded or chosen.wanted or hasattr(chosen.model, "pretrained_cfg"):
        found["input"] = asdict(chosen.input_of(options.image)) | {"shape": list(images.shape[1:])}
    if chosen.loaded or options.pretrained:
        with torch.inference_mode():
            count = tasks[chosen.task].classes_of(chosen.model, chosen.model(images))
        if names := chosen.namings(count):
            found["classes"] = list(names[0])
    return found
