"""Graph -> tasks: which kernel problems do it, on which slabs. `schedule.py` makes steps of them.

Each operator says by itself which tasks do it (`operator.Operator.lower`); here is what stands around: the
network's inputs and outputs, and what is no work.
"""

from __future__ import annotations

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.tasks import Task, Tasks
from regroup.kernels import problems as kernels
from regroup.kernels.machine.target import Target


def lower(graph: Graph, target: Target) -> list[Task]:
    """Return the tasks that compute `graph` on a CPU; its outputs go to buffers after the inputs."""
    tasks = Tasks(graph, target)
    for value in tasks.layout.copied_inputs:  # out of PyTorch's layout into the engine's
        _put_home(tasks, value, "read")
    for node in graph.nodes:
        if node.op.main.is_alias:
            _alias(tasks, node)
        else:
            node.op.main.lower(node, tasks)
    for position, value in enumerate(graph.outputs):
        _write_output(tasks, value, 2 + len(graph.inputs) + position)
    return tasks.done


def _alias(tasks: Tasks, node: Node) -> None:
    """Find the result of a node that is no work where its inputs lie, or put it beside others."""
    tasks.layout.place[node.output] = node.op.place(node, [tasks.place(value) for value in node.inputs])
    if tasks.layout.is_put_beside(node.output):
        _put_home(tasks, node.output, "put beside")


def _put_home(tasks: Tasks, value: Value, word: str) -> None:
    """Copy a value to the place that is kept for it."""
    home = tasks.layout.home(value)
    _copy(tasks, f"{word} {value.name}", tasks.place(value), home)
    tasks.layout.place[value] = home


def _copy(tasks: Tasks, name: str, source: Place, place: Place) -> None:
    tasks.add(
        name,
        (source,),
        place,
        lambda: kernels.Pointwise(source.view(), place.view(), order=source.order),
    )


def _write_output(tasks: Tasks, value: Value, buffer: int) -> None:
    """Bring an output into PyTorch's layout."""
    source = tasks.place(value)
    slab = Slab(source.slab.height, source.slab.width, len(source.channels), buffer=buffer)
    slab.planar = (slab.height, slab.width) != (1, 1) and not source.flat
    if source.flat:
        slab.height = slab.width = 1
    place = Place(slab, tuple(range(len(source.channels))))
    if not _written_directly(source, place):
        _copy(tasks, f"write {value.name}", source, place)


def _written_directly(source: Place, place: Place) -> bool:
    """Let a vector be written into the output instead of into the arena, if it is alone there."""
    slab = source.slab
    alone = slab.channels == len(source.channels) and source.is_in_order and slab.buffer == 0
    if place.slab.planar or source.flat or slab.halo or not alone:
        return False
    slab.buffer = place.slab.buffer
    return True
