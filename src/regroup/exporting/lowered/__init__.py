"""The *lowered* form of a network: plain operators on folded weights, for runtimes without channel orders.

It is the engine's graph before its fusion: batch norms are in the weights of convolutions, and so are channel
orders, as far as weights can hold them (`orders.py`). `nodes.py` writes it as ONNX.
"""

from __future__ import annotations

from torch import Tensor, nn

from regroup.engine.frontend.recognise import record
from regroup.engine.graph import Graph, Torch
from regroup.engine.passes import PASSES, fuse_resize_and_add, optimise
from regroup.errors import EngineError, RegroupError
from regroup.exporting.lowered.orders import fold_into_readers, fold_into_writers, sink_below_channelwise


class LoweredError(RegroupError):
    """A network that has no lowered form; says why."""


_PASSES = (
    *(one for one in PASSES if one is not fuse_resize_and_add),
    sink_below_channelwise,
    fold_into_readers,
    fold_into_writers,
)


def lowered(model: nn.Module, images: Tensor) -> Graph:
    """Return the graph of a network with one input and one result.

    Args:
        model: the network.
        images: an example of its input.

    Raises:
        LoweredError: it has no such form.
    """
    try:
        recorded = record(model, [images], len(images))
    except EngineError as error:
        raise LoweredError(str(error)) from error
    graph, leaves = recorded.graph, recorded.results.leaves
    if [leaf.kind for leaf in leaves] != ["output"] or len(graph.inputs) != 1:
        raise LoweredError("what it returns is not one result of its input")
    for node in graph.nodes:
        if isinstance(node.op, Torch):
            raise LoweredError(f"there is {node.op.why}")
    for value in graph.values():
        if not value.native or value.per != 1:
            raise LoweredError(f"{value} is no tensor of one image for each that is given")
    optimise(graph, _PASSES, last=())
    graph.outputs = [graph.outputs[leaves[0].what]]
    graph.remove_dead()
    return graph
