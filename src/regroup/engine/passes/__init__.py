"""Passes: each makes the graph smaller and leaves what it computes as it is.

>>> [p.__name__ for p in PASSES][:2]
['fold_padding', 'vectors_to_linear']
"""

from __future__ import annotations

from collections.abc import Callable

from regroup.engine.graph import Graph
from regroup.engine.passes.channel_orders import simplify_channel_orders
from regroup.engine.passes.concat import push_above_concat
from regroup.engine.passes.fuse import fuse_after, fuse_before
from regroup.engine.passes.linear import vectors_to_linear
from regroup.engine.passes.padding import fold_padding
from regroup.engine.passes.resize import fuse_resize_and_add
from regroup.engine.passes.scale_shift import fold_scale_shift

PASSES: tuple[Callable[[Graph], bool], ...] = (
    fold_padding,
    vectors_to_linear,
    simplify_channel_orders,
    push_above_concat,
    fold_scale_shift,
    fuse_resize_and_add,
)
"""Passes that make room for one another: they run in turn until none finds anything to do."""

LAST_PASSES: tuple[Callable[[Graph], bool], ...] = (fuse_after, fuse_before)
"""Passes that run once, when everything is folded."""


def optimise(graph: Graph) -> None:
    """Run all passes; each returns whether it changed the graph."""
    changed = True
    while changed:
        changed = False
        for run in PASSES:
            changed |= run(graph)
            graph.remove_dead()
    for run in LAST_PASSES:
        run(graph)
        graph.remove_dead()
