"""Passes: each makes the graph smaller and leaves what it computes as it is.

>>> [p.__name__ for p in PASSES][:2]
['fold_padding', 'vectors_to_linear']
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from regroup.engine.graph import Graph, MalformedError
from regroup.engine.passes.channel_orders import simplify_channel_orders
from regroup.engine.passes.concat import push_above_concat
from regroup.engine.passes.fuse import fuse_after, fuse_before
from regroup.engine.passes.linear import vectors_to_linear
from regroup.engine.passes.padding import fold_padding
from regroup.engine.passes.resize import fuse_resize_and_add
from regroup.engine.passes.scale_shift import fold_scale_shift

Pass = Callable[[Graph], bool]

PASSES: tuple[Pass, ...] = (
    fold_padding,
    vectors_to_linear,
    simplify_channel_orders,
    push_above_concat,
    fold_scale_shift,
    fuse_resize_and_add,
)
"""Passes that make room for one another: they run in turn until none finds anything to do."""

LAST_PASSES: tuple[Pass, ...] = (fuse_after, fuse_before)
"""Passes that run once, when everything is folded."""


@dataclass(frozen=True)
class Change:
    """What a pass did to a graph.

    Attributes:
        name: of the pass.
        nodes: how many there are afterwards.
        gone: how many of each kind of node are there no more, by their words.
        new: how many of each kind are there instead.
    """

    name: str
    nodes: int
    gone: Counter[str]
    new: Counter[str]


def optimise(
    graph: Graph, passes: Sequence[Pass] = PASSES, last: Sequence[Pass] = LAST_PASSES
) -> list[Change]:
    """Run all passes, and return what those that found something did.

    Args:
        graph: what they change.
        passes: those that run in turn until none finds anything to do.
        last: those that run once afterwards.

    Raises:
        MalformedError: the graph is none, or a pass left none, which it names.
    """
    _verify(graph, "recognition")
    changes: list[Change] = []
    while sum(_run(one, graph, changes) for one in passes):
        pass
    for one in last:
        _run(one, graph, changes)
    return changes


def _run(one: Pass, graph: Graph, changes: list[Change]) -> bool:
    before = _words(graph)
    if not one(graph):
        return False
    graph.remove_dead()
    _verify(graph, one.__name__)
    after = _words(graph)
    changes.append(Change(one.__name__, len(graph.nodes), before - after, after - before))
    return True


def _words(graph: Graph) -> Counter[str]:
    return Counter(node.op.word for node in graph.nodes)


def _verify(graph: Graph, name: str) -> None:
    try:
        graph.verify()
    except MalformedError as error:
        raise MalformedError(f"after {name}: {error}") from None
