"""Which device holds which channels.

>>> towers = Division.even(6, devices=2)
>>> towers.held
(array([0, 1, 2]), array([3, 4, 5]))
>>> shuffled = towers.taken(np.array([0, 3, 1, 4, 2, 5]))  # moves nothing: the channels have other numbers
>>> shuffled.held
(array([0, 2, 4]), array([1, 3, 5]))
>>> shuffled.moved_to(towers)  # from row to column: channels that change the device
array([[0, 1], [1, 0]])
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from regroup.ops.tags import Ints


@dataclass(frozen=True, eq=False)
class Division:
    """Channels of a tensor, or rows of a weight, on devices.

    Args:
        held: of each device the channels that it has, in the order in which they lie there. Mostly each is
            on one device; where neighbours are needed too, on several.
    """

    held: tuple[Ints, ...]

    @classmethod
    def even(cls, channels: int, devices: int, block: int = 1) -> Division:
        """Return consecutive channels on each device, in whole blocks, as evenly as it goes."""
        blocks = np.array_split(np.arange(channels).reshape(-1, block), devices)
        return cls(tuple(part.ravel() for part in blocks))

    @property
    def devices(self) -> int:
        """How many."""
        return len(self.held)

    @cached_property
    def counts(self) -> list[int]:
        """Channels of each device."""
        return [len(part) for part in self.held]

    @cached_property
    def key(self) -> tuple[bytes, ...]:
        """The same for equal divisions."""
        return tuple(part.astype(np.int64).tobytes() for part in self.held)

    @cached_property
    def is_plain(self) -> bool:
        """Whether the devices have consecutive channels, one after the other."""
        together = np.concatenate(self.held)
        return bool((together == np.arange(len(together))).all())

    @cached_property
    def owners(self) -> tuple[Ints, Ints]:
        """Of each channel the device that has it, and its place there."""
        together = np.concatenate(self.held)
        owner, place = np.empty_like(together), np.empty_like(together)
        for device, part in enumerate(self.held):
            owner[part], place[part] = device, np.arange(len(part))
        return owner, place

    def expanded(self, block: int) -> Division:
        """Return the division when each channel becomes `block` consecutive ones."""
        return Division(tuple((part[:, None] * block + np.arange(block)).ravel() for part in self.held))

    def taken(self, index: Ints) -> Division:
        """Return the division of a choice of channels, each of which stays where it is.

        A permutation leaves them in their places on the device, too; otherwise they follow the choice.
        """
        owner, place = self.owners
        order = np.arange(len(index))
        if len(index) == len(owner) == len(np.unique(index)):
            order = np.lexsort((place[index], owner[index]))
        return Division(tuple(order[owner[index][order] == d] for d in range(self.devices)))

    def joined(self, *others: Division) -> Division:
        """Return the division of a concat; the channels of each device lie there one part after the other."""
        parts, first = [[] for _ in self.held], 0
        for division in (self, *others):
            for mine, part in zip(parts, division.held, strict=True):
                mine.append(part + first)
            first += sum(division.counts)
        return Division(tuple(np.concatenate(mine) for mine in parts))

    def moved_to(self, other: Division) -> Ints:
        """Return how many channels go from each device (row) to each (column) to be divided like `other`."""
        owner, _ = self.owners
        moved = np.stack([np.bincount(owner[part], minlength=self.devices) for part in other.held], 1)
        np.fill_diagonal(moved, 0)
        return moved
