"""What learns in stages, as the figures of CondenseNet have it: a picture of each stage, side by side.

Outputs, or inputs, stand by the groups that they are in from the beginning; what a group has dropped is
drawn thinner with every stage, and the last picture is of what is deployed.
"""

from __future__ import annotations

from torch import Tensor

from regroup.profiling.schematic import Link, Part, Schematic, schematic
from regroup.profiling.wiring import wiring
from regroup.report import text
from regroup.report.diagram import diagram
from regroup.report.shapes import SMALL, Diagram, Words, side_by_side
from regroup.strategies.learning import Learned

_WIDTH = 780.0
"""Of pictures side by side."""
_NUMBER = 10.0
"""Height of the numbers of channels."""


def panels(module: Learned, image: Tensor) -> Diagram:
    """Return the pictures of all stages of a module's training, and of what is deployed.

    Args:
        module: one that has `stages`, at its beginning; is trained no further than by `set_progress`.
        image: (1, C, *size), for what it takes.
    """
    found, lost, before = list[Diagram](), list[Tensor](), None
    for progress, name in module.stages():
        module.set_progress(progress)
        link = schematic(wiring(module, image)).rows[1][0].links[0]
        if before is not None:
            lost.append(before & ~link.matrix)
        before = link.matrix
        counts = sorted({*link.matrix.sum(1).tolist()})
        said = f"an output reads {' to '.join(map(str, counts[:: max(1, len(counts) - 1)]))} inputs"
        stage = diagram(by_group(link, lost, module), labelled=False)
        found.append(_headed(stage, name, f"from {text.percent(progress)} of the training", said))
    deployed = schematic(wiring(module.deploy(), image))
    for part, side in ((deployed.rows[0][0], "inputs"), (deployed.rows[-1][0], "outputs")):
        part.groups = _groups(module, side, len(part.channels))
    found.append(_headed(diagram(deployed), "as deployed", "", ""))
    return side_by_side(found, _WIDTH)


def _groups(module: Learned, side: str, channels: int) -> list[int | None]:
    """Return the one group that each channel is in; None where it is in several, or in none."""
    found = [
        [g for g, group in enumerate(module.grouping()["groups"]) if c in group[side]]
        for c in range(channels)
    ]
    return [own[0] if len(own) == 1 else None for own in found]


def by_group(link: Link, lost: list[Tensor], module: Learned) -> Schematic:
    """Return the schematic of one convolution whose channels stand by the groups that they are in."""
    outs, ins = link.matrix.shape
    outputs, inputs = _groups(module, "outputs", outs), _groups(module, "inputs", ins)
    rows, columns = _order(outputs), _order(inputs)
    source = Part("input", "", link.source.size, columns, groups=[inputs[c] for c in columns])
    target = Part("convolution", link.label, link.source.size, rows, row=1, groups=[outputs[c] for c in rows])
    tables = [table[rows][:, columns] for table in (link.matrix, *lost)]
    target.links = [Link(source, tables[0], link.label, link.step, tables[1:])]
    return Schematic([[source], [target]])


def _order(groups: list[int | None]) -> list[int]:
    """Return the channels by group, if each is in one."""
    told = [group for group in groups if group is not None]
    everywhere = len(told) == len(groups)
    return sorted(range(len(groups)), key=lambda c: (groups[c] if everywhere else 0, c))


def _headed(found: Diagram, name: str, when: str, below: str) -> Diagram:
    """Add numbers to the inputs, what the stage is called above, and a line below."""
    inputs = [dot for dot in found.dots if dot.y == 0]
    numbers = [Words(d.x, -15, d.title.removeprefix("channel "), size=_NUMBER, soft=True) for d in inputs]
    middle = (min(dot.x for dot in inputs) + max(dot.x for dot in inputs)) / 2
    found.words += [*numbers, Words(middle, -51 if when else -36, name)]
    if when:
        found.words.append(Words(middle, -35, when, size=SMALL, soft=True))
    if below:
        found.words.append(Words(middle, max(dot.y for dot in found.dots) + 22, below, size=SMALL, soft=True))
    return found
