"""Dynamic group convolution: heads that convolve those input channels which matter most in this image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operators.convolution import Windows
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.slots import slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, recognises
from regroup.kernels.problems import Problem
from regroup.kernels.problems import dynamic as kernels
from regroup.ops.dynamic import dynamic_conv, packed


@dataclass(frozen=True, eq=False)
class DynamicConv(Windows):
    """Convolution by heads of the `kept` channels whose saliencies, the second input, are the largest.

    `weight` is (out_channels, in_channels, height, width), heads one after another; saliencies are a vector,
    all channels' for one head after another. Each channel is multiplied by its saliency.
    """

    kept: int = 1

    arity = 2
    word = "chosen conv"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x, saliency), (top, _, left, _) = inputs, self.padding
        weight = packed(self.weight.to(x.dtype), saliency.shape[1] // x.shape[1])
        y = dynamic_conv(x, saliency, weight, self.kept, self.stride, (top, left), self.dilation)
        return y if self.bias is None else y + self.bias.to(x.dtype).view(-1, 1, 1)

    def shape(self, *inputs: Shape) -> Shape:
        image, saliency = inputs
        if self.weight.shape[1] != image[0] or saliency[0] % image[0] or self.kept > image[0]:
            raise ValueError(f"weights {list(self.weight.shape)}, {saliency[0]} saliencies")
        return super().shape(image)

    def lower(self, node: Node, tasks: Tasks) -> None:
        image, saliency = node.inputs[:2]
        heads, channels = saliency.shape[0] // image.shape[0], tuple(range(self.weight.shape[0]))
        scores = tasks.aligned(saliency, tuple(range(saliency.shape[0])))
        choice = Place(Slab(1, 1, 2 * heads * self.kept), tuple(range(2 * heads * self.kept)))
        tasks.add(
            "choose",
            (scores,),
            choice,
            lambda: kernels.Largest(scores.view(), choice.view(), heads),
            {},
            node,
        )
        x, y, work = tasks.place(image), tasks.settle(node, channels), slots_of(node)
        epilogue, operands, over = tasks.epilogue(work, channels)

        def problem() -> Problem:
            return kernels.DynamicConv(
                x.view(),
                y.view(),
                choice.view(),
                heads,
                self.kernel_size,
                self.stride,
                (self.padding[0], self.padding[2]),
                self.dilation,
                x.order,
                epilogue(self.bias is not None),
            )

        numbers = {"weight": self.weight, "bias": self.bias, **work.numbers(channels)}
        tasks.add(node.op.word, (x, choice, *operands), y, problem, numbers, node, over)


@recognises("regroup::dynamic_conv")
def _dynamic_conv(call: Call) -> Op | None:
    channels, (top, left) = call.shape(call.x)[0], call.padding
    heads = call.shape(call.saliency)[0] // channels
    weight = call.weight.unflatten(0, (heads, channels)).transpose(1, 2).flatten(0, 1)
    stride, dilation = tuple(call.stride), tuple(call.dilation)
    return DynamicConv(weight, None, stride, (top, top, left, left), dilation, call.kept)
