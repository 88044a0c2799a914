"""What a well-formed graph is: each rule, broken, is named; a pass that breaks one is named, too."""

from __future__ import annotations

import pytest
import torch

from regroup.engine import passes
from regroup.engine.graph import RULES, Graph, MalformedError, Node, Value
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.add import Add
from regroup.engine.operators.concat import Concat
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear
from regroup.engine.operators.multiply import Multiply
from regroup.engine.operators.reshape import Reshape
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select


def two_nodes() -> tuple[Graph, Node, Node]:
    """Return x -> relu -> conv, and the nodes."""
    x, y, z = Value((4, 5, 5), "x"), Value((4, 5, 5), "y"), Value((6, 3, 3), "z")
    relu, conv = Node(Activate("relu"), (x,), (y,)), Node(Conv(torch.ones(6, 4, 3, 3)), (y,), (z,))
    graph = Graph([x], [z], [relu, conv])
    graph.verify()
    return graph, relu, conv


def twice(graph: Graph, relu: Node, conv: Node) -> None:
    graph.nodes.insert(0, Node(Activate("relu"), relu.inputs, relu.outputs))


def out_of_order(graph: Graph, relu: Node, conv: Node) -> None:
    graph.nodes.reverse()


def foreign_output(graph: Graph, relu: Node, conv: Node) -> None:
    graph.outputs.append(Value((3,), "nowhere"))


def dead(graph: Graph, relu: Node, conv: Node) -> None:
    graph.nodes.append(Node(Activate("silu"), relu.outputs, (Value((4, 5, 5), "unread"),)))


def two_results(graph: Graph, relu: Node, conv: Node) -> None:
    relu.outputs = (*relu.outputs, Value((4, 5, 5)))


def one_operand(graph: Graph, relu: Node, conv: Node) -> None:
    relu.op = Add()


def integers(graph: Graph, relu: Node, conv: Node) -> None:
    relu.inputs[0].native = False


def frames(graph: Graph, relu: Node, conv: Node) -> None:
    relu.inputs[0].per = 3


def small(graph: Graph, relu: Node, conv: Node) -> None:
    conv.output.shape = (6, 5, 5)


def of_other_channels(graph: Graph, relu: Node, conv: Node) -> None:
    conv.op = Conv(torch.ones(6, 3, 3, 3))


BROKEN = {
    twice: "every value is made once",
    out_of_order: "a node reads what is there before it",
    foreign_output: "every output of the graph is a value of it",
    dead: "somebody reads what a node makes",
    two_results: "native code has one result",
    one_operand: "an op reads as many values as it takes",
    integers: "native code reads and makes what it can hold",
    frames: "a node's values are of as many images",
    small: "a result has the shape that its op gives it",
    of_other_channels: "a result has the shape that its op gives it",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_what_is_wrong_with_a_graph_is_said(breaks):
    graph, relu, conv = two_nodes()
    breaks(graph, relu, conv)
    with pytest.raises(MalformedError, match=BROKEN[breaks]):
        graph.verify()


def test_every_rule_is_tried():
    assert set(BROKEN.values()) == set(RULES)


@pytest.mark.parametrize("breaks", [out_of_order, small, two_results], ids=lambda breaks: breaks.__name__)
def test_the_pass_that_breaks_a_graph_is_named(breaks):
    graph, relu, conv = two_nodes()

    def faulty(graph: Graph) -> bool:
        breaks(graph, relu, conv)
        return True

    with pytest.raises(MalformedError, match="after faulty: "):
        passes.optimise(graph, (faulty,))


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (Add(), [(4, 5, 5), (4, 5, 6)]),
        (Add(scale=2), [(4, 6, 6), (4, 6, 6)]),
        (Multiply(), [(4, 5, 5), (4, 5, 1)]),
        (Concat(), [(4, 5, 5), (4, 5, 6)]),
        (Conv(torch.ones(6, 2, 3, 3), groups=2), [(6, 5, 5)]),
        (Conv(torch.ones(6, 2, 7, 7), groups=2), [(4, 5, 5)]),
        (Linear(torch.ones(3, 4)), [(5,)]),
        (Linear(torch.ones(3, 4)), [(4, 2, 1)]),
        (Reshape((7,)), [(2, 2, 2)]),
        (ScaleShift(torch.ones(3), torch.ones(3)), [(4, 5, 5)]),
        (Select((0, 4)), [(4, 5, 5)]),
    ],
    ids=lambda one: one.word if hasattr(one, "word") else str(one),
)
def test_shapes_that_do_not_fit_are_errors(op, inputs):
    with pytest.raises(ValueError, match=r"."):
        op.shape(*inputs)


def test_what_passes_did_adds_up():
    x, y, z = Value((4, 5, 5), "x"), Value((6, 3, 3), "y"), Value((6, 3, 3), "z")
    conv, relu = Node(Conv(torch.ones(6, 4, 3, 3)), (x,), (y,)), Node(Activate("relu"), (y,), (z,))
    graph, count = Graph([x], [z], [conv, relu]), 2
    for change in passes.optimise(graph):
        count += change.new.total() - change.gone.total()
        assert count == change.nodes
    assert count == len(graph.nodes) == 1
