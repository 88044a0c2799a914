"""Which output channels a vector holds, where groups are narrower than it, and where their inputs lie."""

from __future__ import annotations

from dataclasses import dataclass, replace

from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv


@dataclass(frozen=True)
class Block:
    """Output channels that one vector holds, and where their inputs come from.

    Attributes:
        groups: how many.
        outputs: output channels.
        limit: input channels from the block's first on that may be read.
        picks: for each input j, the channel that each group reads, counted from the block's first.
    """

    groups: int
    outputs: int
    limit: int
    picks: tuple[tuple[int, ...], ...]

    @property
    def repeats(self) -> bool:
        """Tell whether the j-th inputs of all groups are one load, to be repeated over the lanes."""
        together = all(row == tuple(range(row[0], row[0] + self.groups)) for row in self.picks)
        return together and self.groups in (1, 2, 4, 8) and self.outputs > self.groups

    @property
    def lanes(self) -> list[int]:
        """The output channel of each lane."""
        if not self.repeats:
            return list(range(self.outputs))
        each = self.outputs // self.groups
        return [g * each + k for k in range(each) for g in range(self.groups)]

    @property
    def looped(self) -> bool:
        """Tell whether inputs are taken in a loop, which keeps the code short."""
        return self.repeats and len(self.picks) > 4

    def spread(self, row: tuple[int, ...]) -> list[int]:
        """Return the channel that each lane reads, of an input whose channels in each group are `row`."""
        return [pick for pick in row for _ in range(self.outputs // self.groups)]


@dataclass(frozen=True)
class BlockRun:
    """Equal blocks: the first one's input and output channel, the way to the next one's inputs, how many."""

    block: Block
    input: int
    stride: int
    output: int
    count: int


def block_runs(conv: Conv, whole: int) -> list[BlockRun]:
    """Return runs of equal blocks, at equal distances; `whole` groups fit a vector."""
    found: list[BlockRun] = []
    for first in range(0, conv.groups, whole):
        block, start = _block(conv, first, min(whole, conv.groups - first))
        last = found[-1] if found else None
        if last and last.block == block:
            stride = start - last.input - (last.count - 1) * last.stride
            if last.count == 1 or stride == last.stride:
                found[-1] = replace(last, stride=stride, count=last.count + 1)
                continue
        found.append(BlockRun(block, start, 0, first * conv.group_out, 1))
    return found


def _block(conv: Conv, first: int, count: int) -> tuple[Block, int]:
    """Return the block of `count` groups from group `first` on, and its first input channel."""
    order, each = conv.order or range(conv.in_channels), conv.group_in
    rows = [[order[g * each + j] for g in range(first, first + count)] for j in range(each)]
    start = min(map(min, rows))
    limit = max(map(max, rows)) - start + 1
    picks = tuple(tuple(c - start for c in row) for row in rows)
    return Block(count, count * conv.group_out, limit, picks), start


def side_by_side(groups: int, group_out: int, target: Target) -> int:
    """Return of how many groups the j-th inputs had better lie side by side; 1 if it does not matter.

    Permuting what is in registers costs nothing where the inputs of a pixel fit: many groups in a vector.
    """
    whole = min(groups, target.lanes // group_out)
    halves = 2 * groups * group_out <= target.lanes
    return whole if group_out > 1 and (whole == 2 or (halves and whole in (4, 8))) else 1
