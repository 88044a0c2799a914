"""Choose a place for every value of a graph, so that channel orders, splits and concatenations are no work.

Values that are concatenated with one another share a slab, each where the concatenation wants it. What
channels are left to a reader's own loop to find is `Place.order`.
"""

from __future__ import annotations

from regroup.engine.graph import (
    Activate,
    Add,
    Concat,
    Conv,
    DynamicConv,
    Fused,
    Graph,
    Multiply,
    Node,
    Op,
    Reshape,
    ScaleShift,
    Select,
    Value,
)
from regroup.engine.places import Place, Slab
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv as ConvProblem
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.parts.blocks import side_by_side

_ALIASES = (Select, Concat, Reshape)
_PLANAR_CHANNELS = 4
"""Inputs with more channels are brought into the engine's layout first."""


class Layout:
    """Places of a graph's values.

    `place` is filled by the caller, node after node (`settle`): some outputs take the order of an input.

    Attributes:
        place: per value that has been settled.
        copied_inputs: inputs that are to be copied into a slab first, out of PyTorch's layout.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._producers, self._consumers = graph.producers(), graph.consumers()
        self._concatenated = [v for n in graph.nodes if isinstance(n.op, Concat) for v in n.inputs]
        self._home: dict[Value, tuple[Slab, int]] = {}
        self.place: dict[Value, Place] = {}
        self.copied_inputs = [v for v in graph.inputs if not self._read_in_place(v)]
        for group in self._groups():
            self._make_slab(group)
        self._widen_halos()
        for position, value in enumerate(graph.inputs):
            self.place[value] = _external(value, 2 + position)

    def home(self, value: Value) -> Place:
        """Return the place that is kept for a computed value, its channels in order."""
        slab, start = self._home[value]
        return Place(slab, tuple(range(start, start + value.shape[0])))

    def alias(self, node: Node) -> Place:
        """Return the place of a `Select`, `Concat` or `Reshape`: where its input lies already."""
        places = [self.place[value] for value in node.inputs]
        if isinstance(node.op, Select):
            return places[0].select(node.op.channels)
        if isinstance(node.op, Concat):
            return Place(places[0].slab, sum((p.channels for p in places), ()))
        return places[0].flattened() if _flattens(node) else places[0]

    def is_put_beside(self, value: Value) -> bool:
        """Tell whether an image as one vector is concatenated: then it needs a place of its own."""
        return value in self._home

    def in_memory(self, node: Node) -> tuple[int, ...]:
        """Return the channels of a convolution's output as they shall follow one another in memory.

        They are in order, unless a convolution of narrow groups is all that reads them: then the inputs of
        its neighbouring groups lie side by side, as far as the groups of `node` allow.
        """
        op, count = _main(node.op), node.output.shape[0]
        assert isinstance(op, Conv)
        rank = self._rank(node.output) if len(node.inputs) == 1 else {}
        if len(rank) < count:
            return tuple(range(count))
        each = count // op.groups
        ranges = [range(start, start + each) for start in range(0, count, each)]
        return tuple(c for mine in ranges for c in sorted(mine, key=rank.__getitem__))

    def _rank(self, value: Value) -> dict[int, tuple[int, int, int]]:
        """Return how the only reader of `value` wants its channels sorted; nothing if it does not care."""
        channels = tuple(range(value.shape[0]))
        while True:
            readers = self._consumers[value]
            if len(readers) != 1 or readers[0].inputs != (value,) or value in self._graph.outputs:
                return {}
            (reader,) = readers
            if not isinstance(reader.op, Select):
                break
            channels, value = tuple(channels[c] for c in reader.op.channels), reader.output
        op = _main(reader.op)
        if not isinstance(op, Conv) or getattr(reader.op, "before", ()):
            return {}
        beside = side_by_side(op.groups, op.weight.shape[0] // op.groups, Target.host())
        each = len(channels) // op.groups
        if beside == 1:
            return {}
        return {c: (i // each // beside, i % each, i // each % beside) for i, c in enumerate(channels)}

    def _read_in_place(self, value: Value) -> bool:
        if len(value.shape) != 3:  # a vector lies the same way in both layouts, but not beside others
            return not any(value in self._roots(v) for v in self._concatenated)
        readers = self._consumers[value]
        return (
            bool(readers)
            and _size(value) != (1, 1)  # one pixel lies the same way in both layouts: no kernel would pad it
            and all(
                isinstance(op := _main(node.op), Conv)
                and op.groups == 1
                and value.shape[0] <= _PLANAR_CHANNELS
                and node.inputs.count(value) == 1
                and node.inputs[0] is value
                and not getattr(node.op, "before", ())
                for node in readers
            )
            and value not in self._graph.outputs
        )

    def _groups(self) -> list[list[Value]]:
        """Return the computed values that must share a slab, in the order of the concatenations."""
        joined = {root for value in self._concatenated for root in self._roots(value)}
        computed = [
            n.output for n in self._graph.nodes if not isinstance(n.op, _ALIASES) or n.output in joined
        ]
        group = {value: [value] for value in (*self.copied_inputs, *computed)}
        for node in self._graph.nodes:
            if isinstance(node.op, Concat):
                roots = [root for value in node.inputs for root in self._roots(value)]
                merged = list(dict.fromkeys(v for root in roots for v in group[root]))
                group.update(dict.fromkeys(merged, merged))
        return list({id(g): g for g in group.values()}.values())

    def _roots(self, value: Value) -> list[Value]:
        """Return the values in which the channels of `value` lie: not aliases, but for vectors of images."""
        node = self._producers.get(value)
        if node is None or not isinstance(node.op, _ALIASES) or _flattens(node):
            return [value]
        return [root for v in node.inputs for root in self._roots(v)]

    def _make_slab(self, group: list[Value]) -> None:
        height, width = _size(group[0])
        slab = Slab(height, width)
        for value in group:
            self._home[value] = (slab, slab.channels)
            slab.channels += value.shape[0]

    def _widen_halos(self) -> None:
        for node in self._graph.nodes:
            op = _main(node.op)
            if isinstance(op, (Conv, DynamicConv)):
                for root in self._roots(node.inputs[0]):
                    if root in self._home:
                        slab = self._home[root][0]
                        slab.halo = slab.halo.union(_needed_halo(op, node.inputs[0], node.output))


def _flattens(node: Node) -> bool:
    """Tell whether a node makes a vector of an image of several pixels."""
    before = node.inputs[0].shape
    return isinstance(node.op, Reshape) and before != node.op.shape and before[1:] not in ((), (1, 1))


def _main(op: Op) -> Op:
    return op.op if isinstance(op, Fused) else op


def is_elementwise(op: Op) -> bool:
    """Tell whether a step is elementwise, whatever is fused into it."""
    return isinstance(_main(op), (Activate, Add, Multiply, ScaleShift))


def is_alias(op: Op) -> bool:
    """Tell whether `op` only gives what is there another name."""
    return isinstance(op, _ALIASES)


def _size(value: Value) -> tuple[int, int]:
    return (value.shape[1], value.shape[2]) if len(value.shape) == 3 else (1, 1)


def _external(value: Value, buffer: int) -> Place:
    height, width = _size(value)
    planar = (height, width) != (1, 1)
    return Place(
        Slab(height, width, value.shape[0], buffer=buffer, planar=planar), tuple(range(value.shape[0]))
    )


def _needed_halo(op: Conv | DynamicConv, x: Value, y: Value) -> Halo:
    problem = ConvProblem(
        View.nhwc(*_size(x), x.shape[0]),
        View.nhwc(*_size(y), y.shape[0]),
        kernel_size=op.kernel_size,
        stride=op.stride,
        padding=(op.padding[0], op.padding[2]),
        dilation=op.dilation,
    )
    return problem.x_halo
