"""Follow labels through what a network ran: `Walk` holds them, `@follows` names the operators of a rule.

An operator without a rule fixes everything that it is given, by its name: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from regroup.conversion.structure.labels import Labels
from regroup.conversion.structure.trace import Op, Trace, Value
from regroup.ops.tags import Ints, Tag, broadcast

Rule = Callable[["Walk", Op], None]
_RULES: dict[str, Rule] = {}

CONVOLUTIONS = ("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")


def follows(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators of these names."""

    def register(rule: Rule) -> Rule:
        for name in names:
            _RULES[name] = rule
        return rule

    return register


@dataclass(frozen=True)
class Role:
    """What a layer does with channels: "makes", "reads" or "carries" them."""

    role: str
    module: str
    label: Ints


@dataclass(frozen=True, eq=False)
class OrderCall:
    """One call of a module that orders channels: its name, the tensors that enter and leave."""

    name: str
    entering: Value
    leaving: Value


class Walk:
    """The tags of every tensor while a trace is followed.

    Args:
        labels: where relations are noted.
        bundles: which kinds of groups move as wholes: "groups" of layers, "parts" of what is summed in parts.
            Otherwise channels move inside of them only.
    """

    def __init__(self, labels: Labels, bundles: frozenset[str], folded: frozenset[str] = frozenset()) -> None:
        self.labels, self.bundles, self.folded = labels, bundles, folded
        self.kinds: set[str] = set()
        """Kinds of groups that were met."""
        self.roles: list[Role] = []
        self.sides: dict[str, tuple[Tag | None, Tag]] = {}
        """Of each module that orders channels what enters and what leaves: two orders of their own."""
        self._known: dict[str, list[Tag]] = {}
        self._grouped: dict[str, tuple[int, Tag]] = {}
        self._tags: dict[Value, tuple[Tag, ...]] = {}
        self._placed: dict[tuple[int, int], Tag] = {}

    def follow(self, trace: Trace, orders: Mapping[int, OrderCall] | None = None) -> None:
        """Follow one run; parameters have the same labels in every one.

        Args:
            trace: the run.
            orders: calls of modules that order channels, which take the place of all that ran in them.
        """
        self._tags = {}
        grouped = _grouped_weights(trace)
        for name, value in trace.parameters.items():
            self._parameter(name, value, grouped)
        done: set[int] = set()
        for op in trace.ops:
            if orders and op.call in orders:
                if op.call not in done:
                    done.add(op.call)
                    self._order(orders[op.call])
                continue
            self._other_uses(op)
            rule = _RULES.get(op.name) or (_pointwise_rule if torch.Tag.pointwise in op.func.tags else None)
            if op.values and (rule is None or op.func.namespace not in ("aten", "regroup")):
                self.stop(op.values, f"{op.func} in {op.place} has no rule")
            elif rule is not None:
                rule(self, op)
        self.stop(trace.outputs, "it is what the network returns")
        self.stop(trace.looked_at, "Python code reads its numbers")

    def _parameter(self, name: str, value: Value, grouped: dict[Value, int]) -> None:
        groups = grouped.get(value, 1)
        if name not in self._known:
            dims = [0] if groups > 1 else range(len(value.shape))
            tags = [self.labels.home(name, d, value.shape[d]) for d in dims if value.shape[d] > 1]
            self._known[name] = tags
            if groups > 1:
                columns = self.labels.home(name, 1, groups * value.shape[1], groups)
                self._grouped[name] = groups, columns
        self.put(value, self._known[name])

    def columns(self, weight: Value) -> Tag | None:
        """Return the labels of a grouped weight's second dimension: those of all groups, one by one."""
        return self._grouped[weight.name][1] if weight.name in self._grouped else None

    def _other_uses(self, op: Op) -> None:
        """Fix the second dimension of grouped weights that are more than the weight of a convolution."""
        for value in op.values:
            groups, columns = self._grouped.get(value.name, (0, None))
            whole = op.name in CONVOLUTIONS and op.args[1] is value and groups_of(op) == groups
            if columns is not None and (not whole or op.values.count(value) > 1):
                self.pin([columns], f"{op.place} reads it in another way, too")

    def _order(self, call: OrderCall) -> None:
        x, y, name = call.entering, call.leaving, call.name
        entering = self.along(x, 1)
        if entering is not None and (entering.dims != (1,) or not entering.distinct):
            self.pin([entering], f"{name} orders what is no plain dimension of channels")
            entering = None
        if name not in self.sides:
            self.sides[name] = entering, self.labels.home("", 1, y.shape[1])
        elif entering is not None or self.sides[name][0] is not None:  # the same in training
            self.agree(entering, self.sides[name][0], f"the order before {name}")
        leaving = self.sides[name][1]
        self.put(y, [t for t in self.tags(x) if 1 not in t.dims] + [leaving])

    def tags(self, value: Value) -> tuple[Tag, ...]:
        """Return the tags of a tensor."""
        return self._tags.get(value, ())

    def along(self, value: Value, dim: int) -> Tag | None:
        """Return the tag that has a dimension of a tensor; None if nothing moves along it."""
        return next((t for t in self.tags(value) if dim in t.dims), None)

    def put(self, value: Value, tags: Sequence[Tag]) -> None:
        """Note the tags of a tensor; dimensions of size 1 have no order, what stands there alone is fixed."""
        kept = []
        for tag in tags:
            long = tuple(d for d, size in zip(tag.dims, tag.label.shape, strict=True) if size > 1)
            if not long:
                self.labels.pin(tag.label, "one of these channels is taken alone")
                continue
            if len(long) < len(tag.dims):
                tag = Tag(long, tag.label.squeeze(), tag.sub.squeeze())
            if (id(tag.label), id(tag.sub)) not in self._placed:
                self._placed[id(tag.label), id(tag.sub)] = tag  # held, so that the ids stay its own
                self.labels.site(tag)
            kept.append(tag)
        self._tags[value] = tuple(kept)

    def stop(self, values: Sequence[Value], reason: str) -> None:
        """Fix everything that moves in these tensors."""
        for value in values:
            self.pin(self.tags(value), reason)

    def pin(self, tags: Sequence[Tag], reason: str) -> None:
        """Fix all that these tags say."""
        for tag in tags:
            self.labels.pin(tag.label, reason)

    def agree(self, a: Tag | None, b: Tag | None, reason: str) -> None:
        """Let two orders be one; None stands for positions that are fixed."""
        if a is None or b is None:
            self.pin([t for t in (a, b) if t is not None], reason)
        elif a.label.shape != b.label.shape or not (a.distinct or b.distinct):
            self.pin([a, b], reason)
        else:
            self.labels.edges(a, b, reason)

    def groups(self, kind: str, label: Ints, sub: Ints) -> bool:
        """Note that rows (groups, width) are groups; return whether they move as wholes."""
        self.kinds.add(kind)
        if kind in self.bundles:
            self.labels.bundle(label, sub)
            return True
        self.labels.fix(
            Tag((0, 1), label, sub), 0, f"only channels of one of the {len(label)} groups change places"
        )
        return False

    def role(self, role: str, module: str, tag: Tag | None) -> None:
        """Note what a layer does with channels."""
        if tag is not None:
            self.roles.append(Role(role, module, tag.label.ravel()))

    def meet(self, values: Sequence[tuple[Value, int]], place: str, alone: bool = True) -> list[Tag]:
        """Let tensors agree as in an addition, and return the tags of the result.

        Args:
            values: tensors, and how many dimensions the result has before their first one.
            place: where, in words.
            alone: whether copies of one thing stay alike if nothing else is there.
        """
        tags = [t.at(d + shift for d in t.dims) for v, shift in values for t in self.tags(v)]
        result = []
        for dims in _overlapping(tags):
            among = [t for t in tags if set(t.dims) <= dims]
            single = alone and sum(any(_extends(v, d - shift) for d in dims) for v, shift in values) == 1
            whole = [t for t in among if set(t.dims) == dims]
            cover = next((t for t in whole if single or t.distinct), None)
            if cover is None:
                self.pin(among, f"orders meet in {place} that do not fit each other")
                continue
            for tag in among:
                if tag.label is not cover.label:
                    self.labels.edges(cover, broadcast(tag, cover), f"it meets what is fixed in {place}")
            stuck = [self._meet_fixed(value, shift, cover, place) for value, shift in values]
            if len(dims) > 1 or not any(stuck):
                result.append(cover)
        return result

    def _meet_fixed(self, value: Value, shift: int, cover: Tag, place: str) -> bool:
        """Fix an order along dimensions in which a tensor has none; tell whether there are such."""
        moving = {d for t in self.tags(value) for d in t.dims}
        stuck = [d for d in cover.dims if _extends(value, d - shift) and d - shift not in moving]
        for dim in stuck:
            self.labels.fix(cover, dim, f"it meets what is fixed in {place}")
        return bool(stuck)


def _extends(value: Value, dim: int) -> bool:
    """Tell whether a tensor has several positions along a dimension."""
    return dim >= 0 and value.shape[dim] > 1


def _overlapping(tags: Sequence[Tag]) -> list[set[int]]:
    """Return sets of dimensions: those of tags that have one in common are in one."""
    result: list[set[int]] = []
    for tag in tags:
        touching = [s for s in result if s & set(tag.dims)]
        result = [s for s in result if s not in touching] + [set(tag.dims).union(*touching)]
    return result


def _grouped_weights(trace: Trace) -> dict[Value, int]:
    """Return the parameters that are weights of grouped convolutions, those of one channel a group apart."""
    result: dict[Value, int] = {}
    for op in trace.ops:
        if op.name in CONVOLUTIONS:
            weight, groups = op.args[1], groups_of(op)
            if weight.name and groups > 1 and not is_depthwise(weight, groups):
                result[weight] = groups
    return result


def groups_of(op: Op) -> int:
    """Return the groups of a convolution."""
    return op.args[-1] if op.func.namespace == "regroup" else op.args[8]


def is_depthwise(weight: Value, groups: int) -> bool:
    """Tell whether each group is one channel in and out."""
    return groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1


_RANDOM = ("native_dropout", "bernoulli")


@follows(
    *(
        "_prelu_kernel",
        "native_dropout",
        "bernoulli",
        "where",
        "masked_fill",
        "lerp",
        "hardswish",
        "hardsigmoid",
    ),
    *(
        "hardtanh",
        "silu",
        "mish",
        "gelu",
        "elu",
        "celu",
        "selu",
        "leaky_relu",
        "softplus",
        "log_sigmoid_forward",
    ),
    *("rrelu_with_noise", "softshrink", "hardshrink", "threshold", "relu6", "clamp", "nan_to_num", "logit"),
)
def _pointwise_rule(walk: Walk, op: Op) -> None:
    """What is computed element by element."""
    for out in op.outputs:
        values = [(v, len(out.shape) - len(v.shape)) for v in op.values]
        if any(shift < 0 for _, shift in values):
            walk.stop(op.values, f"{op.func} in {op.place} has no rule")
            return
        walk.put(out, walk.meet(values, op.place, alone=op.name not in _RANDOM))
