"""Draw a grouping, or a block of a network, as it is wired: channels, groups, shuffles, kernels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from regroup.spec import ConvSpec


@dataclass(frozen=True)
class Options:
    """What to draw, and where to."""

    what: tyro.conf.Positional[str]
    """A strategy such as shuffled:groups=3, or a network's name; a run of `regroup train`; an ONNX file."""
    out: Path | None = None
    """File to write, .svg or .png; none: an SVG here, called like what is drawn."""
    channels: int | None = None
    """Of a strategy: channels of its convolution, none: 12. Of a network: channels of the input image."""
    outputs: int | None = None
    """Of a strategy: output channels of its convolution; none: as many as channels."""
    kernel: int | None = None
    """Of a strategy: height and width of its kernel; none: 3."""
    layers: int | None = None
    """Of a strategy: layers one after the other; none: 2 where one does not connect everything, else 1."""
    block: str | None = None
    """Of a network: which module, such as stages.1.0 or stage2.0; none: the first block with groups."""
    image: int | None = None
    """Height and width of the network's input image; none: what it expects."""
    progress: float | Literal["stages"] = 1.0
    """Of a strategy that learns: how far its training is, from 0 to 1 (as deployed); stages: a picture of
    each stage, side by side, of one that learns in stages (condensed, reactivated)."""
    most: int = 24
    """Channels to draw in a row; of more, some that show every way between groups."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies and networks."""


def run(options: Options) -> int:
    """Draw and write the picture, and say what it shows."""
    import re

    from regroup.cli._network import check_number, choose
    from regroup.cli._table import say
    from regroup.loading.plugins import load_plugins
    from regroup.report.draw import draw
    from regroup.report.picture import check_form
    from regroup.strategies import parse_strategy, strategies

    if options.out is not None:
        check_form(options.out)
    load_plugins(options.plugin)
    check_number("channels", options.channels)
    for name in ("image", "outputs", "kernel"):
        check_number(name, getattr(options, name))
    known = options.what.partition(":")[0] in strategies
    found = draw(
        parse_strategy(options.what) if known else choose(options.what, channels=options.channels).model,
        channels=options.channels,
        spec=_spec(options, known),
        layers=options.layers,
        block=options.block,
        image=options.image,
        progress=options.progress,
        most=options.most,
        name=options.what,
    )
    name = re.sub(r"[^\w.+=-]+", "-", found.title).strip("-")
    path = found.save(options.out or Path(f"{name}.svg"))
    say(f"{found.title}: {'; '.join(found.notes)}")
    say(f"drawn: {path}")
    return 0


def _spec(options: Options, known: bool) -> ConvSpec | None:
    """Return the convolution that the options describe, if they say more of it than its channels."""
    from regroup.errors import ConfigError
    from regroup.report.draw import spec_for
    from regroup.strategies import parse_strategy

    given = {n: v for n in ("outputs", "kernel") if (v := getattr(options, n)) is not None}
    for name, value in given.items():
        if not known:
            raise ConfigError(name, value, "left out for a network: it is of a strategy")
    return spec_for(parse_strategy(options.what), options.channels, **given) if given else None
