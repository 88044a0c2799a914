"""Train a network, of ours or of timm, with any grouping, on any images; resume it after whatever."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from regroup.files.remote import address, plain
from regroup.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from regroup.loading.trained import Trained
    from regroup.training import History
    from regroup.training.directory import Record
    from regroup.training.identity import Origin


_FIRST = ("weights", "new_head", "pretrained")
"""Options that decide the first weights, which may be gone when the run is resumed."""


@dataclass(frozen=True)
class Options(TrainConfig):
    """Writes a directory in runs/, or --out.

    Several processes: torchrun --nproc-per-node 2 -m regroup train ... [--devices groups=2]
    """

    output: Annotated[Path | None, tyro.conf.arg(name="out", aliases=["--output"])] = None
    """Directory for run.json, log.jsonl, checkpoints, weights, or a URL such as s3://bucket/run; none:
    runs/MODEL-STRATEGY-DATA."""
    task: str | None = None
    """What the network is to say: classify, segment (pixels), detect; none: what the model is for."""
    model: str = "resnet_small"
    """Network: a name of ours (`regroup models`), of timm's or of torchvision's; or such a name behind a head
    for a task, such as unet:resnet18. A backbone alone gets the usual head of --task."""
    model_options: tuple[str, ...] = ()
    """Options of the network, such as learned=true for a condensenet that is to learn its groups."""
    strategy: str | None = None
    """Grouping put into the network, such as grouped:groups=4; none: the network as it is."""
    where: str | None = None
    """Pattern of the names of the convolutions that get the grouping; none: all larger than 1x1."""
    pretrained: bool = False
    """Start from the weights that the hub has (timm's, torchvision's)."""
    weights: Path | None = None
    """Start from the weights of a run of the same network (its directory, or its `best`), or from a file of
    weights."""
    new_head: bool = False
    """With --weights: leave the classifier new, and load the rest, e.g. for other classes."""
    data: str = "digits"
    """Data set: a name such as digits, glyphs, scenes or cifar10, or a folder of images, or its URL, such as
    s3://bucket/flowers, which is copied to this machine."""
    image: int | None = None
    """Height and width of the images; none: as the data set has them."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read."""
    accelerate: bool = False
    """Train narrow groups by regroup's own kernels: quicker on CPUs, other rounding, compiled once."""
    download: bool = False
    """Download a data set that is not there."""
    teacher: str | None = None
    """Network that teaches this one too: a run of `regroup train`, the name of one whose weights the hub has,
    a file of weights of the same network without a grouping, or NAME=FILE."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies and networks."""
    quiet: bool = False
    """As --display quiet: say nothing but that another process is waited for."""
    wait: bool = True
    """Wait while another process uses the output directory; else end with a line that says which."""
    resume: tuple[Path, ...] | None = None  # type: ignore[assignment]
    """Go on with a run: its directory is enough, the options are those it was begun with. What is given
    besides may change epochs, workers, device and what only concerns how it looks. Without a directory, it is
    that of --out, where a run begins if there is none."""


def completed(options: Options, parse: Callable[..., Options]) -> Options:
    """Return the options with what is not given as it was when the run to resume was begun.

    Raises:
        ConfigError: there is no run to resume, and nothing says what should begin instead.
        CheckpointError: what the run was begun with cannot be read.
    """
    from regroup.errors import ConfigError

    if not options.resume:
        return _for_task(options, parse)
    directory = plain(options.resume[0])
    if len(options.resume) > 1 or options.output not in (None, directory):
        raise ConfigError("resume", list(map(str, options.resume)), "one directory of a run, without --out")
    record = _read_record(directory)
    if record is not None and record.command is not None:
        known = {f.name for f in fields(Options)}
        begun = {name: value for name, value in record.command.items() if name in known}
        options = parse(default=_begun_with(directory, begun))
    elif options == replace(Options(), resume=options.resume):
        raise ConfigError("resume", str(directory), "the directory of a run of `regroup train`")
    else:
        options = _for_task(options, parse)
    return replace(options, output=directory, resume=options.resume)


def _for_task(options: Options, parse: Callable[..., Options]) -> Options:
    """Return the options with the defaults of their task where nothing is given, and the network's head."""
    from regroup.interop import heads
    from regroup.training.tasks import tasks

    task = options.task or heads.task_of(options.model)
    if defaults := tasks[task].defaults:
        options = parse(default=replace(Options(), **defaults))
    return replace(options, task=task, model=heads.with_head(task, options.model))


def run(options: Options) -> int:
    """Train, and leave the weights in the output directory."""
    from regroup.loading.named import read_options
    from regroup.loading.named import teacher as find_teacher
    from regroup.loading.plugins import load_plugins
    from regroup.loading.trained import Trained
    from regroup.training import load_data, train

    plugins = load_plugins(options.plugin)
    how_read = {"bad_images": options.bad_images, "download": options.download}
    data = load_data(options.data, options.image, task=options.task or "classify", **how_read)
    settings: dict[str, Any] = {f.name: getattr(options, f.name) for f in fields(TrainConfig)}
    settings["resume"] = options.resume is not None
    settings["display"] = "quiet" if options.quiet else options.display
    config = TrainConfig(**settings)
    if config.output is None:
        config = replace(config, output=Path("runs") / _run_name(options))
    choices = (
        options.model,
        read_options("model_options", options.model_options),
        options.strategy,
        options.where,
    )
    network = Trained.on(data, *choices)
    record = _record(options, config)
    model = network.build(seed=options.seed) if record else _begun(options, network)
    origin = _origin(options, network, model, plugins, record)
    teacher = None
    if options.teacher is not None:
        common = {"num_classes": len(data.classes), "in_chans": data.shape[0], "options": network.options}
        teacher = find_teacher(options.teacher, options.model, **common)
    assert config.output is not None
    try:
        how = {"wait": options.wait, "accelerate": options.accelerate}
        history = train(model, data, config, teacher=teacher, origin=origin, **how)
    except (KeyboardInterrupt, SystemExit):
        _say_how_to_go_on(config.output)
        raise
    if _is_first():
        _say_result(config.output, history)
    return 0


def _record(options: Options, config: TrainConfig) -> Record | None:
    """Return what the run to resume says of itself, if it began with the same weights as the options say."""
    if not config.resume or config.output is None:
        return None
    record = _read_record(config.output)
    if record is None or record.command is None:
        return None
    begun, wanted = record.command, _to_json(options)
    return record if all(begun.get(name) == wanted[name] for name in _FIRST) else None


def _read_record(directory: Path) -> Record | None:
    from regroup.files.staging import fetched
    from regroup.training.directory import RUN, Record

    with fetched(directory, lambda name: name == RUN) as here:
        return Record.read(here)


def _begun(options: Options, network: Trained) -> nn.Module:
    """Return the network with its first weights, and say what there is to say of them."""
    more = {"pretrained": options.pretrained, "weights": options.weights, "new_head": options.new_head}
    return network.build(seed=options.seed, **more, say=_say if _is_first() else None)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _origin(
    options: Options, network: Trained, model: nn.Module, plugins: tuple, record: Record | None
) -> Origin:
    from regroup.strategies import parse_strategy
    from regroup.training.identity import Origin, digest_of_state

    weights = None
    if options.pretrained or options.weights is not None:  # they may be gone when the run is resumed
        weights = digest_of_state(model) if record is None else record.identity.fields["weights"]

    said: dict[str, Any] = {"model": network.model, "where": network.where}
    said |= {f"option {name}": value for name, value in network.options.items()}
    said["strategy"] = None if network.strategy is None else parse_strategy(network.strategy).label
    said["pretrained"] = options.pretrained
    return Origin(
        said=said,
        code=plugins,
        weights=weights,
        document=network.to_json(),
        command=_to_json(options),
    )


def _say_result(output: Path, history: History) -> None:
    from regroup.training.directory import BEST, WEIGHTS
    from regroup.training.history import told

    last, best, place = history.last, history.best, address(output) or output
    name = next(iter(last.figures))
    loss = "" if last.test_loss is None else f", test loss {last.test_loss:.4f}"
    print(f"{told({name: last.score})}{loss} after {last.epoch} epochs: {place}/{WEIGHTS}")
    if last.plain_score is not None:
        plain = told({name: last.plain_score})
        print(f"{plain} without the moving average: unaveraged.safetensors beside them")
    if best is not last and (address(output) or (output / BEST).exists()):
        print(f"best: {told({name: best.best_score})} after epoch {best.epoch}: {place}/{BEST}")


def _say_how_to_go_on(output: Path) -> None:
    from regroup.training.checkpoint import list_checkpoints

    if _is_first() and (address(output) or list_checkpoints(output)):
        command = shlex.join(["regroup", "train", "--resume", str(address(output) or output)])
        print(f"stopped; to go on: {command}", file=sys.stderr, flush=True)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _to_json(options: Options) -> dict[str, Any]:
    """Return the options by which the run can be gone on with, from whatever working directory."""
    from regroup.loading.named import told
    from regroup.training.data import from_anywhere

    values = {**asdict(options), "output": None, "resume": None, "devices": None}
    if options.weights is not None:
        values["weights"] = address(options.weights) or str(plain(options.weights).absolute())
    values["teacher"] = None if options.teacher is None else told(options.teacher)
    values["plugin"] = [str(path.absolute()) for path in options.plugin]
    values["data"] = from_anywhere(options.data)
    return values


def _begun_with(directory: Path, values: dict[str, Any]) -> Options:
    """Return the options that a run was begun with.

    Raises:
        CheckpointError: one is of a wrong type or value.
    """
    from regroup.errors import CheckpointError, ParameterError
    from regroup.files.documents import DocumentError, build

    try:
        return build(values, Options)
    except (DocumentError, ParameterError) as error:
        raise CheckpointError(directory, f"its run.json is damaged: {error}") from None


def _run_name(options: Options) -> str:
    parts = [options.model, *options.model_options, options.strategy or "", Path(options.data).name]
    text = "-".join(part for part in parts if part)
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
