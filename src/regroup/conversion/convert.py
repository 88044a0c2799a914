"""Regroup a trained network within a budget: the whole way, from what layers could become to the last repair.

Example::

    model = timm.create_model("resnet18", pretrained=True)
    found = convert(model, regroup.load_data("photos/"), "time=0.5")
    print(found)                # accuracy and damage after each stage, times before and after
    torch.onnx.export(found.model, ...)

First every layer is assessed under every option: its time on this machine, the damage it does alone. Then
options are allocated that damage least within the budget, by networks that are built and timed. The stages
that follow, by the names under which they are recorded; only the last needs labels:

    dense        the original
    squares      groups chosen, weights solved by least squares, layer after layer
    norms        statistics of batch norms estimated anew, where that helps
    blocks       blocks fitted to the original's, without labels
    fine-tuned   trained with the original as the teacher

Before the last, channel orders are folded into the weights around them, where that changes nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from regroup.conversion.assessment import Scope, assess, candidates, quick, whole
from regroup.conversion.blocks import BlockConfig, blocks_of, reconstruct
from regroup.conversion.budget import Cell, Whole, fitted, names_of, parse_budget, shares_of_time
from regroup.conversion.damage import divergence
from regroup.conversion.folding import fold_orders
from regroup.conversion.images import LEAST, calibration
from regroup.conversion.layerspeed import network_timings
from regroup.conversion.memory import Memory
from regroup.conversion.norms import reestimate
from regroup.conversion.options import DENSE
from regroup.conversion.plan import LayerPlan, Plan, orders_in
from regroup.conversion.regrouping import Method, Regrouped, regroup_layers
from regroup.errors import ConfigError, ConversionError, first_line
from regroup.ops.counting import count_macs
from regroup.profiling.clock import Ratio, batch_of, ratio
from regroup.profiling.cost import cost
from regroup.training import DataSet, TrainConfig, evaluate, train
from regroup.training.data import Loader
from regroup.training.identity import Origin, digest_of_state, identify


@dataclass(frozen=True)
class ConvertConfig:
    """How to convert.

    Args:
        method: of choosing groups and solving weights.
        scope: which layers may change, and into what.
        blocks: how blocks are fitted; None: they are not.
        images: for calibration.
        assessed: of these, images on which each option of each layer is tried.
        training: how to train at the end, where there are labels; None: not at all. Where it names an output
            directory, each run has one of its own in it, named for what it starts from and how it trains.
        batch: images in a call that is timed.
        threads: of the engine; None: PyTorch's.
        seconds: to spend on timing a network.
    """

    method: Method = field(default_factory=Method)
    scope: Scope = field(default_factory=Scope)
    blocks: BlockConfig | None = field(default_factory=BlockConfig)
    images: int = 512
    assessed: int = 64
    training: TrainConfig | None = None
    batch: int = 1
    threads: int | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("images", LEAST), ("assessed", LEAST), ("batch", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(name, value, f"an int of at least {least}")
        if not self.seconds > 0:
            raise ConfigError("seconds", self.seconds, "a number above 0")


@dataclass(frozen=True)
class Stage:
    """How good the network is after a stage; accuracies are None where there are no labels.

    Attributes:
        name: of the stage.
        divergence: of its scores from the original's on calibration images, in nats.
        top1: on the test split, in percent.
        loss: likewise.
    """

    name: str
    divergence: float
    top1: float | None = None
    loss: float | None = None


@dataclass(eq=False)
class Conversion:
    """What came out.

    Attributes:
        model: the converted network, in eval mode; the original itself, copied, if nothing pays.
        budget: that it was to keep.
        layers: what became of each layer that changed, in the order in which they run.
        plan: by which the converted network is built again from the dense one.
        left: of the others, why.
        table: what every layer could have become.
        whole: what the dense network costs.
        macs: that the converted one executes for an image.
        parameters: that it has.
        options: what each layer that may change is to become.
        foreseen: share of the dense network's time that such a network was measured to take.
        share: of the dense network's time, measured in turns; None where nothing changed or it was a dry run.
        stages: how good it was when.
    """

    model: nn.Module
    budget: dict[str, float]
    layers: list[Regrouped]
    plan: Plan
    left: dict[str, str]
    table: dict[str, dict[str, Cell]]
    whole: Whole
    macs: int
    parameters: int
    options: dict[str, str]
    foreseen: float
    share: Ratio | None = None
    stages: list[Stage] = field(default_factory=list)

    @property
    def pays(self) -> bool:
        """Whether anything changed."""
        return bool(names_of(self.options))

    @property
    def late(self) -> str:
        """What to do where the measured time is more than a twentieth above the budget; else ""."""
        wanted = min(shares_of_time(self.budget, self.whole).values(), default=math.inf)
        if self.share is None or self.share.median <= 1.05 * wanted:
            return ""
        return f"more than the {wanted:.0%} asked for: convert again on a quiet machine, or ask for less"

    def __str__(self) -> str:
        """Say it in words, a line a stage, and a line a layer."""
        asked = ", ".join(f"{name}={value:g}" for name, value in self.budget.items())
        if not self.pays:
            why = "is faster in another form on this machine" if self.options else "may change"
            return f"nothing changed: no layer {why} ({asked})"
        share = self.foreseen if self.share is None else self.share.median
        lines = [f"{len(names_of(self.options))} layers changed for {asked}"]
        lines.append(
            f"time {share:.0%} of dense, MACs {self.macs / self.whole.macs:.0%}, "
            f"parameters {self.parameters / self.whole.parameters:.0%}"
        )
        lines += [f"the time is {self.late}"] if self.late else []
        for stage in self.stages:
            top1 = "" if stage.top1 is None else f"top-1 {stage.top1:.2f} %, "
            lines.append(f"  {stage.name:<10}  {top1}divergence {stage.divergence:.4f}")
        width = max(map(len, self.options))
        for name, option in self.options.items():
            lines.append(f"  {name:<{width}}  {option}")
        return "\n".join(lines)


Say = Callable[[str], None]


def convert(
    model: nn.Module,
    data: DataSet | Sequence[Tensor],
    budget: str | Mapping[str, float] = "time=0.5",
    config: ConvertConfig | None = None,
    *,
    dry_run: bool = False,
    say: Say = lambda line: None,
    memory: Memory | None = None,
) -> Conversion:
    """Return a copy of a trained network, regrouped within a budget; the original stays as it is.

    Args:
        model: images (N, channels, height, width) -> scores (N, classes).
        data: a data set, or batches of images as the network takes them, without labels: these allow all but
            accuracies and fine-tuning.
        budget: such as "time=0.5" (of the dense network's), "ms=3", "macs=0.5", "params=0.5", or several.
        config: how; None: the defaults.
        dry_run: stop when it is known what each layer would become, and how long the network would take.
        say: called with a line as it goes on.
        memory: what is known already, and learns what is found out; see `regroup.conversion.memory`.

    Raises:
        ConfigError: the budget cannot be kept, the network cannot run the images, or something does not fit.
        DataError: there are too few images.
    """
    config, limits = config or ConvertConfig(), parse_budget(budget)
    if config.training is not None and not isinstance(data, DataSet):
        raise ConfigError("training", config.training, "None where the images have no labels")
    original = copy.deepcopy(model).cpu().eval()
    batches = calibration(data, config.images) if isinstance(data, DataSet) else list(data)
    _check(original, batches)
    images = batch_of(torch.cat(batches), config.batch)
    options, left = candidates(original, images, config.scope)
    say(f"{len(options)} of {len(options) + len(left)} convolutions may change; assessing what into")
    if not options:
        total = cost(original, images[:1]).total
        nothing = Whole(0.0, total.macs, total.parameters)
        return Conversion(
            original, limits, [], Plan([]), left, {}, nothing, total.macs, total.parameters, {}, 1.0
        )
    dense = whole(original, images, seconds=config.seconds, threads=config.threads)
    memory = memory or Memory()
    few = torch.cat(batches)[: config.assessed].split(64)

    def assessed(name: str, cells: dict[str, Cell]) -> None:
        memory.learn(name, cells)
        say(f"assessed {name}, {len(memory.cells)} of {len(options)}")

    how = {"known": memory.cells, "threads": config.threads, "on_layer": assessed}
    table = assess(original, options, few, images, quick(config.method), **how)
    if memory.options is None:
        memory.decide(*_decided(original, images, table, dense, limits, config, say))
    wanted, foreseen = memory.options or {}, memory.foreseen
    if foreseen >= 1 and limits.keys() <= {"time", "ms"}:
        wanted = dict.fromkeys(wanted, DENSE)  # what is no faster as a whole pays nothing
    found = Conversion(
        copy.deepcopy(original),
        limits,
        [],
        Plan([]),
        left,
        table,
        dense,
        dense.macs,
        dense.parameters,
        wanted,
        foreseen,
    )
    if not dry_run and found.pays:
        _apply(found, original, data, batches, config, say)
        timings = network_timings(
            {DENSE: original, "": found.model}, images, seconds=config.seconds, threads=config.threads
        )
        found.share = ratio(timings[""], timings[DENSE])
        found.macs = count_macs(found.model, images[:1])
        found.parameters = sum(p.numel() for p in found.model.parameters())
    return found


def _decided(
    original: nn.Module,
    images: Tensor,
    table: Mapping[str, Mapping[str, Cell]],
    dense: Whole,
    limits: Mapping[str, float],
    config: ConvertConfig,
    say: Say,
) -> tuple[dict[str, str], float]:
    def built(wanted: float, found: float) -> None:
        aim = f", wanted {wanted:.1%}" if math.isfinite(wanted) else ""
        say(f"built and timed: {found:.1%} of dense{aim}")

    how = {"seconds": config.seconds, "threads": config.threads, "on_round": built}
    return fitted(original, images, table, dense, limits, **how)


def _apply(
    found: Conversion,
    original: nn.Module,
    data: DataSet | Sequence[Tensor],
    batches: Sequence[Tensor],
    config: ConvertConfig,
    say: Say,
) -> None:
    """Take the network through the stages from least squares on."""

    def passed(name: str, model: nn.Module) -> None:
        stage = Stage(name, divergence(model, original, batches))
        if isinstance(data, DataSet):
            scores = evaluate(model, Loader(data, 256, train=False))
            stage = replace(stage, top1=scores.top1, loss=scores.loss)
        found.stages.append(stage)
        top1 = "" if stage.top1 is None else f", top-1 {stage.top1:.2f} %"
        say(f"{name}: divergence {stage.divergence:.4f}{top1}")

    model, wanted = found.model, {name: found.options[name] for name in names_of(found.options)}
    passed("dense", original)
    found.layers = regroup_layers(
        model, original, wanted, batches, config.method, on_layer=lambda layer: say(str(layer))
    )
    passed("squares", model)
    before, state = divergence(model, original, batches), copy.deepcopy(model.state_dict())
    if reestimate(model, batches):
        if divergence(model, original, batches) < before:
            passed("norms", model)
        else:  # least squares keep means already; variances of what is missed are not to be scaled up
            model.load_state_dict(state)
            say("norms: as they were, for estimated anew they were further from the original")
    if config.blocks is not None:
        reconstruct(model, original, blocks_of(original, wanted), batches, config.blocks)
        passed("blocks", model)
    plans = [LayerPlan.of(layer, _has_bias(model, layer.name)) for layer in found.layers]
    orders = orders_in(model)
    try:
        say(str(fold_orders(model, batches[0][:2])).partition("\n")[0])
    except ConversionError as error:
        say(f"channel orders stay: {first_line(error)}")
    found.plan = Plan.of(plans, orders, model)
    if config.training is not None:
        assert isinstance(data, DataSet)
        fine_tune(model, original, data, config.training)
        passed("fine-tuned", model)


def fine_tune(model: nn.Module, original: nn.Module, data: DataSet, training: TrainConfig) -> None:
    """Train with the original as the teacher, in a directory of this start and this config alone."""
    teacher, origin = copy.deepcopy(original), Origin(weights=digest_of_state(model))
    if training.output is not None:
        run = identify(model, data, training, teacher=teacher, origin=origin)
        training = replace(training, output=training.output / run.digest)
    train(model, data, training, teacher=teacher, origin=origin)
    model.cpu()


def _has_bias(model: nn.Module, name: str) -> bool:
    layers = model.get_submodule(name).modules()
    return any(isinstance(layer, nn.Conv2d) and layer.bias is not None for layer in layers)


def _check(model: nn.Module, batches: Sequence[Tensor]) -> None:
    if sum(map(len, batches)) < LEAST:
        raise ConfigError("data", f"{sum(map(len, batches))} images", f"{LEAST} images or more")
    try:
        with torch.inference_mode():
            scores = model(batches[0][:1])
    except Exception as error:  # whatever a network raises about images that it does not take
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(
            "data", tuple(batches[0].shape[1:]), "images that the network takes", reason
        ) from error
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise ConfigError("model", type(model).__name__, "a classifier: it must give scores (N, classes)")
