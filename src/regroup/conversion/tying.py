"""Which channels of a network share an order, and how to give them another.

>>> model = torchvision.models.resnet18().double().eval()
>>> x = torch.randn(1, 3, 64, 64).double()
>>> ties = tied_sets(model, x)
>>> inner = ties.of("layer1.0.conv1.weight", dim=0)[0]
>>> print(inner)
64 channels: made by layer1.0.conv1, read by layer1.0.conv2
>>> before = model(x)
>>> reorder(model, inner, torch.randperm(64))
>>> bool((model(x) - before).abs().max() < 1e-9)  # sums in another order round in another way
True

The channels between two convolutions can stand in any order, if the rows of the first weight, the columns
of the second and the norm between are in the same. Additions, concats, depthwise and grouped convolutions,
gates and shared layers tie more of them together. What is found here is each set of channels that can be
reordered in any way, with every tensor that has to be. Training mode is followed too, so that auxiliary
classifiers agree.

What is not certain is left alone, and named: an operator without a rule fixes all channels that reach it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import regroup.conversion.structure.arithmetic  # noqa: F401 (registers its rules)
from regroup.conversion.structure.labels import Cells, Labels
from regroup.conversion.structure.trace import Trace, trace
from regroup.conversion.structure.walk import Walk
from regroup.errors import ConversionError, ParameterError
from regroup.ops.tags import Ints

_CONFIGURATIONS = (
    frozenset[str](),
    frozenset({"groups"}),
    frozenset({"parts"}),
    frozenset({"groups", "parts"}),
)
"""Which kinds of groups move as wholes; channels inside of groups, if none."""


@dataclass(frozen=True, eq=False)
class Carrier:
    """A dimension of a parameter or buffer that has the order of a tied set.

    Args:
        name: of the tensor in the state dict.
        dim: the dimension.
        positions: (n, block): where on that dimension each of the n channels stands. A channel has a block
            of several where it is flattened pixels, or a whole group of channels.
        groups: 1, or of a grouped convolution's second dimension its groups: then positions count the
            channels of all groups one after the other.
    """

    name: str
    dim: int
    positions: Ints
    groups: int = 1

    @property
    def block(self) -> int:
        """Positions of one channel."""
        return self.positions.shape[1]

    @property
    def offset(self) -> int:
        """The first position."""
        return int(self.positions.min())

    def __str__(self) -> str:
        """Say it in words."""
        n, block = self.positions.shape
        regular = (self.positions.ravel() == self.offset + np.arange(n * block)).all()
        place = f"[{self.offset}:{self.offset + n * block}]" if regular else f"[{n * block} of them]"
        return f"{self.name} dim {self.dim} {place}" + (f" in blocks of {block}" if block > 1 else "")


@dataclass(frozen=True, eq=False)
class TiedSet:
    """Channels that can stand in any order, if all that carries them is in the same.

    Args:
        size: number of channels; of whole groups, if these are what moves.
        carriers: the dimensions of all tensors with this order.
        made_by: layers whose outputs they are.
        read_by: layers that sum over them.
        carried_by: layers that treat each for itself, as a depthwise convolution.
    """

    size: int
    carriers: tuple[Carrier, ...]
    made_by: tuple[str, ...] = ()
    read_by: tuple[str, ...] = ()
    carried_by: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that are reordered."""
        return tuple(dict.fromkeys(c.name for c in self.carriers))

    @property
    def whole(self) -> bool:
        """Whether what moves are blocks of channels, such as whole groups."""
        return any(c.block > 1 for c in self.carriers)

    def __str__(self) -> str:
        """Say it in words."""
        roles = (("made by", self.made_by), ("carried by", self.carried_by), ("read by", self.read_by))
        said = [f"{word} {_few(layers)}" for word, layers in roles if layers]
        return f"{self.size} channels: " + (", ".join(said) or f"of {_few(self.names)}")


@dataclass(frozen=True)
class Left:
    """Channels that cannot be reordered.

    Args:
        name: of the tensor.
        dim: its dimension.
        channels: how many of its positions.
        reason: why.
    """

    name: str
    dim: int
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class Tying:
    """The tied sets of a network.

    Args:
        sets: all of them.
        left: what is in none, and why.
        notes: what else is to be known, as that training mode could not be followed.
    """

    sets: tuple[TiedSet, ...]
    left: tuple[Left, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def of(self, name: str, dim: int = 0) -> tuple[TiedSet, ...]:
        """Return the sets that a dimension of a tensor is in: one or, if it has parts, several."""
        return tuple(s for s in self.sets if any(c.name == name and c.dim == dim for c in s.carriers))

    def __str__(self) -> str:
        """Say it in words, a line a set, then what is left and why."""
        lines = [str(s) for s in self.sets]
        lines += [f"left: {e.name} dim {e.dim}, {e.channels} channels: {e.reason}" for e in self.left]
        return "\n".join([*lines, *self.notes])


def tied_sets(model: nn.Module, *inputs: Any) -> Tying:
    """Find which channels of a network share an order, and can be given another.

    Args:
        model: any PyTorch model; is left as it was.
        inputs: what it is called with. The sizes of images play no part where the network takes any.

    Returns:
        The sets, and what is left alone and why. Each set can be given any order by `reorder`, and the others
        are then still what they were.

    Raises:
        ConversionError: the network cannot be traced: its flow depends on numbers in a tensor.
    """
    traces, notes = traces_of(model, inputs)
    found: list[TiedSet] = []
    reasons: dict[tuple[str, int, int], dict[int, str]] = {}
    kinds: set[str] = set()
    for bundles in _CONFIGURATIONS:
        if bundles <= kinds or not bundles:
            walk = follow(traces, bundles)
            kinds |= walk.kinds
            cells = walk.labels.cells()
            found += sets_of(walk, cells, bundled=bool(bundles))
            reasons = reasons or _reasons(walk, cells)
    unique = {_identity(s): s for s in reversed(found)}
    sets = tuple(reversed(unique.values()))
    return Tying(sets, _left(sets, reasons), tuple(notes))


def traces_of(model: nn.Module, inputs: Sequence[Any]) -> tuple[list[Trace], list[str]]:
    """Return what a model does as it infers and as it trains, and a note if the latter cannot be had."""
    traces = [trace(model, inputs, training=False)]
    try:
        return [*traces, trace(model, inputs, training=True)], []
    except ConversionError as error:
        return traces, [f"training mode is not followed: {error}"]


def follow(traces: Sequence[Trace], bundles: frozenset[str]) -> Walk:
    """Return a walk through all runs of a model."""
    walk = Walk(Labels(), bundles)
    for one in traces:
        walk.follow(one)
    return walk


def reorder(model: nn.Module, tied: TiedSet, permutation: Tensor | Sequence[int]) -> None:
    """Give the channels of a tied set another order, in place; what the model computes stays the same.

    Sums over channels are added up in another order, so that results differ by their rounding; with numbers
    for which sums are exact they are the same bit for bit. An optimiser's state is not reordered.

    Args:
        model: the one whose set it is, or another of the same structure.
        tied: a set of `tied_sets`.
        permutation: of the new channels each the old one that it is: (tied.size,).

    Raises:
        ParameterError: it is no permutation, or the set is of another model.
    """
    order = np.asarray(torch.as_tensor(permutation).cpu())
    if order.shape != (tied.size,) or not (np.sort(order) == np.arange(tied.size)).all():
        raise ParameterError("permutation", tuple(order.shape), f"a permutation of {tied.size} channels")
    state = tensors_of(model)
    for name in tied.names:
        if name not in state:
            raise ParameterError("tied", name, "a set of this model", "it has no such tensor")
    with torch.no_grad():
        for name in tied.names:
            _reorder(state[name], [c for c in tied.carriers if c.name == name], order)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by their first names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _reorder(tensor: Tensor, carriers: Sequence[Carrier], order: Ints) -> None:
    """Give one tensor the order, in all of its dimensions that have it."""
    moves: dict[tuple[int, int], Ints] = {}
    for c in carriers:
        size = tensor.shape[c.dim] * c.groups
        move = np.arange(size)
        move[c.positions] = c.positions[order]
        moves[c.dim, c.groups] = move
    permute(tensor, moves)


def permute(tensor: Tensor, moves: dict[tuple[int, int], Ints]) -> None:
    """Reorder a tensor in place.

    Args:
        tensor: any.
        moves: by dimension and groups: of each new position the old one. Of a grouped weight's second
            dimension positions count the channels of all groups.
    """
    old = tensor.detach().clone()
    grouped = next(((groups, move) for (_, groups), move in moves.items() if groups > 1), None)
    if grouped is not None:
        groups, columns = grouped
        width, per = old.shape[1], old.shape[0] // groups
        rows = moves.get((0, 1), np.arange(old.shape[0]))
        of_row = np.arange(old.shape[0]) // per
        columns = columns.reshape(groups, width)[of_row]
        if (columns // width != (rows // per)[:, None]).any():
            raise ParameterError("permutation", "this one", "one that keeps groups together")
        old = old[torch.from_numpy(rows)[:, None], torch.from_numpy(columns % width)]
        moves = {key: move for key, move in moves.items() if key[0] > 1}
    for (dim, _), move in moves.items():
        old = old.index_select(dim, torch.from_numpy(move).to(old.device))
    tensor.copy_(old)


def sets_of(walk: Walk, cells: Cells, bundled: bool) -> list[TiedSet]:
    """Return the tied sets of all cells; if asked for, only those of groups that move as wholes."""
    labels = walk.labels
    component = cells.component
    cell = cells.cell[component]
    order = np.lexsort((np.arange(labels.count), cells.rank, component, cell))
    order = order[cell[order] >= 0]
    bounds = np.searchsorted(cell[order], np.arange(cells.count + 1))
    home_of = np.repeat(np.arange(len(labels.homes)), [h.size for h in labels.homes])
    roles = _roles(walk, cell, cells.count)
    result = []
    first = np.full(cells.count, labels.count)
    np.minimum.at(first, cell[cell >= 0], np.flatnonzero(cell >= 0))
    for i in np.argsort(first):  # as the network has them
        members = order[bounds[i] : bounds[i + 1]]
        if bundled and not cells.touched[component[members[0]]]:
            continue
        carriers = _carriers(walk, members, component[members], cells.rank[members], home_of[members])
        if carriers:
            size = len(np.unique(component[members]))
            result.append(TiedSet(size, carriers, *(tuple(sorted(r[i])) for r in roles)))
    return result


def _carriers(walk: Walk, members: Ints, component: Ints, rank: Ints, home: Ints) -> tuple[Carrier, ...]:
    components = np.unique(component)
    found = {}
    for h in np.unique(home):
        here = home == h
        place = members[here] - walk.labels.homes[h].first
        block = len(place) // len(components)
        found[h] = place[np.lexsort((rank[here], component[here]))].reshape(len(components), block)
    if not found:
        return ()
    first = next((p for h, p in found.items() if walk.labels.homes[h].name), None)
    if first is None:
        return ()
    natural = np.argsort(first.min(1), kind="stable")
    homes = walk.labels.homes
    return tuple(
        Carrier(homes[h].name, homes[h].dim, p[natural], homes[h].groups)
        for h, p in found.items()
        if homes[h].name
    )


def _roles(walk: Walk, cell: Ints, count: int) -> list[list[set[str]]]:
    """Return the layers that make, read and carry the channels of each cell."""
    result: dict[str, list[set[str]]] = {
        r: [set() for _ in range(count)] for r in ("makes", "reads", "carries")
    }
    for role in walk.roles:
        for i in np.unique(cell[role.label[role.label >= 0]]):
            if i >= 0:
                result[role.role][i].add(role.module)
    return [result["makes"], result["reads"], result["carries"]]


def _reasons(walk: Walk, cells: Cells) -> dict[tuple[str, int, int], dict[int, str]]:
    """Return, of each dimension of a parameter, the positions that cannot move and why."""
    labels, component = walk.labels, cells.component
    reason_of: dict[int, str] = {}
    for label, reason in sorted(labels.reasons, key=lambda told: not told[1]):
        for c in np.unique(component[label[label >= 0]]):
            reason_of.setdefault(int(c), reason)
    result = {}
    for home in labels.homes:
        here = component[home.first : home.first + home.size]
        stuck = np.flatnonzero(cells.cell[here] < 0)
        result[home.name, home.dim, home.groups] = {
            int(i): reason_of.get(int(here[i]), "no other channel is used as it is") for i in stuck
        }
    return result


def _left(sets: Sequence[TiedSet], reasons: dict[tuple[str, int, int], dict[int, str]]) -> tuple[Left, ...]:
    """Return what is in no set; a reason that is "" is not worth telling."""
    for tied in sets:
        for c in tied.carriers:
            for i in c.positions.ravel():
                reasons.get((c.name, c.dim, c.groups), {}).pop(int(i), None)
    result = []
    for (name, dim, _), stuck in reasons.items():
        counts = Counter(reason for reason in stuck.values() if reason and name)
        result += [Left(name, dim, n, reason) for reason, n in counts.items()]
    return tuple(result)


def _identity(tied: TiedSet) -> tuple:
    return tied.size, tuple((c.name, c.dim, c.groups, c.positions.tobytes()) for c in tied.carriers)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
