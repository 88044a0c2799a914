"""Choose a place for every value of a graph, so that channel orders, splits and concatenations are no work.

Values that are concatenated with one another share a slab, each where the concatenation wants it. What
channels are left to a reader's own loop to find is `Place.order`.
"""

from __future__ import annotations

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.placing.places import NO_HALO, Place, Slab
from regroup.kernels.machine.target import Target


class Layout:
    """Places of a graph's values.

    `place` is filled by the caller, node after node (`settle`): some outputs take the order of an input.

    Args:
        graph: what is to be computed.
        target: on which CPU.

    Attributes:
        place: per value that has been settled.
        copied_inputs: inputs that are to be copied into a slab first, out of PyTorch's layout.
    """

    def __init__(self, graph: Graph, target: Target) -> None:
        self._graph, self._target = graph, target
        self._producers, self._consumers = graph.producers(), graph.consumers()
        self._concatenated = [v for n in graph.nodes if _joins(n) for v in n.inputs]
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

    def is_put_beside(self, value: Value) -> bool:
        """Tell whether an image as one vector is concatenated: then it needs a place of its own."""
        return value in self._home

    def in_memory(self, node: Node, groups: int) -> tuple[int, ...]:
        """Return the channels of a convolution's output as they shall follow one another in memory.

        They are in order, unless a convolution of narrow groups is all that reads them: then the inputs of
        its neighbouring groups lie side by side, as far as the `groups` of `node` allow.
        """
        count = node.output.shape[0]
        rank = self._rank(node.output) if len(node.inputs) == 1 else {}
        if len(rank) < count:
            return tuple(range(count))
        each = count // groups
        ranges = [range(start, start + each) for start in range(0, count, each)]
        return tuple(c for mine in ranges for c in sorted(mine, key=rank.__getitem__))

    def _rank(self, value: Value) -> dict[int, tuple[int, ...]]:
        """Return how the only reader of `value` wants its channels sorted; nothing if it does not care."""
        channels: tuple[int, ...] | None = tuple(range(value.shape[0]))
        while channels is not None:
            readers = self._consumers[value]
            if len(readers) != 1 or readers[0].inputs != (value,) or value in self._graph.outputs:
                return {}
            op = readers[0].op
            if not op.main.is_alias:
                return {} if op.before else op.main.wishes(channels, self._target)
            channels, value = op.moved(channels), readers[0].output
        return {}

    def _read_in_place(self, value: Value) -> bool:
        if len(value.shape) != 3:  # a vector lies the same way in both layouts, but not beside others
            return not any(value in self._roots(v) for v in self._concatenated)
        readers = self._consumers[value]
        return (
            bool(readers)
            and _size(value) != (1, 1)  # one pixel lies the same way in both layouts: no kernel would pad it
            and all(
                node.op.main.reads_planar(value)
                and node.inputs.count(value) == 1
                and node.inputs[0] is value
                and not node.op.before
                for node in readers
            )
            and value not in self._graph.outputs
        )

    def _groups(self) -> list[list[Value]]:
        """Return the computed values that must share a slab, in the order of the concatenations."""
        joined = {root for value in self._concatenated for root in self._roots(value)}
        computed = [n.output for n in self._graph.nodes if not n.op.main.is_alias or n.output in joined]
        group = {value: [value] for value in (*self.copied_inputs, *computed)}
        for node in self._graph.nodes:
            if _joins(node):
                roots = [root for value in node.inputs for root in self._roots(value)]
                merged = list(dict.fromkeys(v for root in roots for v in group[root]))
                group.update(dict.fromkeys(merged, merged))
        return list({id(g): g for g in group.values()}.values())

    def _roots(self, value: Value) -> list[Value]:
        """Return the values in which the channels of `value` lie: not aliases, but for vectors of images."""
        node = self._producers.get(value)
        if node is None or not node.op.main.is_alias or node.op.makes_vector(node.inputs[0].shape):
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
            halo = node.op.main.halo(node.inputs[0], node.output)
            if halo == NO_HALO:
                continue
            for root in self._roots(node.inputs[0]):
                if root in self._home:
                    slab = self._home[root][0]
                    slab.halo = slab.halo.union(halo)


def _joins(node: Node) -> bool:
    """Tell whether the inputs of a node have to lie beside one another."""
    return node.op.main.is_alias and node.op.joins


def _size(value: Value) -> tuple[int, int]:
    return (value.shape[1], value.shape[2]) if len(value.shape) == 3 else (1, 1)


def _external(value: Value, buffer: int) -> Place:
    height, width = _size(value)
    planar = (height, width) != (1, 1)
    return Place(
        Slab(height, width, value.shape[0], buffer=buffer, planar=planar), tuple(range(value.shape[0]))
    )
