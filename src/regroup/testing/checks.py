"""The checks: each holds one promise of a strategy against what its modules do."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.errors import SpecError, StrategyError
from regroup.ops.counting import count
from regroup.ops.layers import NORMS
from regroup.ops.reach import measured_reach, positive
from regroup.spec import ConvSpec, Extent
from regroup.strategies import Strategy, parse_strategy, sample_size
from regroup.strategies.learning import deploy, groupings, learned_modules, load_groupings, set_progress
from regroup.testing.specs import ODD_SPECS, SPECS, conv_specs, sizes
from regroup.testing.starting import starts_from_dense


@dataclass(frozen=True)
class Result:
    """What one check found: passed, failed, noted (nothing to hold it against) or refused (by `check`)."""

    check: str
    outcome: str
    message: str = ""
    spec: ConvSpec | None = None

    def __str__(self) -> str:
        """Say it in one line."""
        where = f" on {self.spec}" if self.spec else ""
        return f"{self.check}{where}: {self.message or self.outcome}"


@dataclass(frozen=True)
class Check:
    """A check by name. Call it with a strategy: it raises AssertionError if the strategy does not conform.

    `function` takes the strategy, and a spec if `per_spec`; it returns a note, or None, or raises.
    """

    name: str
    function: Callable
    per_spec: bool

    def results(self, strategy: Strategy, specs: Sequence[ConvSpec] = SPECS) -> list[Result]:
        """Return what the check finds, a failure being one of the results."""
        if not self.per_spec:
            return [self._one(None, strategy)]
        results = []
        for spec in specs:
            try:
                reason = strategy.why_not(spec)
            except Exception as error:
                message = f"check(spec) raises {_named(error)}, not a StrategyError"
                results.append(Result(self.name, "failed", message, spec))
                continue
            results.append(
                Result(self.name, "refused", reason, spec) if reason else self._one(spec, strategy, spec)
            )
        return results

    def _one(self, spec: ConvSpec | None, *arguments: object) -> Result:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                note = self.function(*arguments)
            except AssertionError as error:
                return Result(self.name, "failed", str(error), spec)
            except Exception as error:
                return Result(self.name, "failed", f"raises {_named(error)}", spec)
        return Result(self.name, "noted" if note else "passed", note or "", spec)

    def __call__(self, strategy: Strategy, specs: Sequence[ConvSpec] = SPECS) -> list[Result]:
        """Return what the check finds, or raise AssertionError saying what is wrong."""
        return raise_failures(strategy, self.results(strategy, specs))

    def __repr__(self) -> str:
        return self.name


CHECKS: list[Check] = []
"""All checks, in the order in which `check_strategy` runs them."""


def _once(function: Callable) -> Callable:
    """Make a function (strategy) -> note or None a check."""
    CHECKS.append(Check(function.__name__.removeprefix("_"), function, per_spec=False))
    return function


def _for_each_spec(function: Callable) -> Callable:
    """Make a function (strategy, spec) -> note or None a check."""
    CHECKS.append(Check(function.__name__.removeprefix("_"), function, per_spec=True))
    return function


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _agree(result: Tensor, expected: Tensor, what: str) -> None:
    """Require that two float64 results differ by no more than 2^-30 of the largest.

    That is 2^23 times the rounding of float64, and far less than any mistake makes.
    """
    _require(
        result.shape == expected.shape, f"{what}: shape {tuple(result.shape)}, not {tuple(expected.shape)}"
    )
    error, scale = float((result - expected).abs().max()), float(expected.abs().max())
    _require(error <= 2.0**-30 * scale, f"{what}: differs by {error:.3g} where values reach {scale:.3g}")


def _input(spec: ConvSpec, images: int = 2, size: Extent | None = None, double: bool = False) -> Tensor:
    dtype = torch.float64 if double else torch.float32
    return torch.randn(images, spec.in_channels, *(size or sample_size(spec)), dtype=dtype)


def _built(strategy: Strategy, spec: ConvSpec) -> nn.Module:
    """Build in eval mode, with batch norms that are not the identity."""
    module = strategy.build(spec).eval()
    for layer in module.modules():
        if isinstance(layer, NORMS):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[bad-argument-type]
    return module


def _learned(strategy: Strategy, spec: ConvSpec) -> nn.Module:
    """Build what is there when training is over; a strategy that learns nothing is as it was built."""
    module = strategy.build(spec)
    set_progress(module, 1)
    return deploy(module)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def raise_failures(strategy: Strategy, results: list[Result]) -> list[Result]:
    """Return the results, or raise AssertionError if some are failures."""
    failures = [str(r) for r in results if r.outcome == "failed"]
    if failures:
        raise AssertionError(f"{strategy} does not conform:\n  " + "\n  ".join(failures))
    return results


@_once
def _documented(strategy: Strategy) -> None:
    cls = type(strategy)
    automatic = f"{cls.__name__}("  # the docstring that dataclasses write
    _require(bool(cls.__doc__) and not str(cls.__doc__).startswith(automatic), "the class has no docstring")
    _require(bool(getattr(cls, "paper", "")), "paper is empty: say where it was published")


@_once
def _label_is_read_back(strategy: Strategy) -> None:
    again = parse_strategy(strategy.label)
    _require(again == strategy, f"parse_strategy({strategy.label!r}) gives {again!r}, not {strategy!r}")
    _require(hash(again) == hash(strategy), "equal strategies have different hashes")
    _require(dataclasses.is_dataclass(strategy), "it is no dataclass: decorate it with @strategy")


@_once
def _variants_can_be_built(strategy: Strategy) -> None:
    variants = type(strategy).variants()
    _require(len(variants) > 0, "variants() is empty")
    _require(len(set(variants)) == len(variants), "variants() names one twice")
    for variant in variants:
        reasons = [variant.why_not(spec) for spec in SPECS]
        _require(None in reasons, f"variant {variant} refuses every convolution: {reasons[0]}")


@_once
def _impossible_is_refused_clearly(strategy: Strategy) -> None:
    for spec in (*SPECS, *ODD_SPECS):
        _refused_or_right(strategy, spec)


def _refused_or_right(strategy: Strategy, spec: ConvSpec) -> bool:
    """Require that `check` and `build` agree on `spec`; return whether it can be built."""
    refusal = _refusal(strategy.check, spec)
    if refusal is None:
        refusal_of_build = _refusal(strategy.build, spec)
        _require(refusal_of_build is None, f"check accepts {spec}, but build refuses it: {refusal_of_build}")
        return True
    _require(bool(refusal.parameter and refusal.allowed), f"refuses {spec} without saying what is allowed")
    _require(_refusal(strategy.build, spec) is not None, f"check refuses {spec}, but build accepts it")
    return False


def _refusal(function: Callable, spec: ConvSpec) -> StrategyError | SpecError | None:
    try:
        function(spec)
    except (StrategyError, SpecError) as error:
        return error
    except Exception as error:
        unusual = min(spec.before) < 0 or spec.before != spec.after
        hint = "; padding that no convolution has: use regroup.ops.layers.conv" if unusual else ""
        raise AssertionError(
            f"{function.__name__} raises {_named(error)} for {spec}, not a StrategyError{hint}"
        ) from error
    return None


@_once
def _any_convolution(strategy: Strategy) -> str | None:
    """Try random convolutions, and shrink the one that fails."""
    try:
        import hypothesis
    except ModuleNotFoundError:
        return "hypothesis is not installed: no random convolutions tried"

    @hypothesis.settings(max_examples=25, derandomize=True, database=None, deadline=None)
    @hypothesis.given(conv_specs())
    def holds(spec: ConvSpec) -> None:
        if _refused_or_right(strategy, spec):
            for check in (_shape, _cost, _reference):
                try:
                    check(strategy, spec)
                except AssertionError as error:
                    raise AssertionError(f"{check.__name__.removeprefix('_')} on {spec}: {error}") from None

    holds()
    return None


@_for_each_spec
def _shape(strategy: Strategy, spec: ConvSpec) -> None:
    module = _built(strategy, spec)
    for size in sizes(spec):
        shape = tuple(module(_input(spec, 1, size)).shape)
        right = (1, spec.out_channels, *spec.output_size(size))
        _require(shape == right, f"gives {shape} for an input of {size}, where dense gives {right}")


@_for_each_spec
def _cost(strategy: Strategy, spec: ConvSpec) -> str | None:
    if type(strategy).cost is Strategy.cost:
        return "cost is counted, not given by a formula"
    for size in sizes(spec):
        formula, counted = strategy.cost(spec, size), count(_learned(strategy, spec), size, spec.in_channels)
        _require(formula == counted, f"formula says {formula} for {size}, counted are {counted}")
    return None


@_for_each_spec
def _reach(strategy: Strategy, spec: ConvSpec) -> str | None:
    if type(strategy).reach is Strategy.reach:
        return "reach is measured, not given by a formula"
    formula = strategy.reach(spec)
    measured = measured_reach(strategy.build(spec), spec.in_channels, sample_size(spec))
    shape = (spec.out_channels, spec.in_channels)
    _require(tuple(formula.shape) == shape, f"formula gives shape {tuple(formula.shape)}, not {shape}")
    wrong = (formula.bool() != measured).nonzero()
    if len(wrong):
        k, c = wrong[0].tolist()
        says = "depends" if formula[k, c] else "does not depend"
        raise AssertionError(f"formula says that output {k} {says} on input {c}: {len(wrong)} such mistakes")
    return None


@_for_each_spec
def _reference(strategy: Strategy, spec: ConvSpec) -> str | None:
    if type(strategy).reference is Strategy.reference:
        return "reference is not given: equality to a definition was not checked"
    module = _built(strategy, spec).double()
    with torch.no_grad():
        for size in sizes(spec):
            x = _input(spec, 2, size, double=True)
            _agree(module(x), strategy.reference(module, x), f"module and reference for {size}")
    return None


@_for_each_spec
def _gradients(strategy: Strategy, spec: ConvSpec) -> None:
    module = positive(strategy.build(spec))
    y = module(_input(spec, double=True).abs() + 0.5)
    (y * (torch.rand_like(y) + 0.5)).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            used = parameter.grad is not None and bool(parameter.grad.any())
            _require(used, f"parameter {name} gets no gradient")


@_for_each_spec
def _trains(strategy: Strategy, spec: ConvSpec) -> None:
    module = strategy.build(spec).train()
    module(_input(spec)).square().mean().backward()
    for name, parameter in module.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        _require(finite, f"parameter {name} gets a gradient that is not finite in training")


@_for_each_spec
def _deterministic(strategy: Strategy, spec: ConvSpec) -> None:
    twins = []
    for _ in range(2):
        torch.manual_seed(1)
        twins.append(strategy.build(spec).eval())
    x = _input(spec)
    before, first = x.clone(), twins[0](x)
    _require(torch.equal(x, before), "changes its input")
    _require(torch.equal(twins[0](x), first), "gives another result the second time")
    _require(torch.equal(twins[1](x), first), "built twice from one seed, it gives two results")


@_for_each_spec
def _state_is_complete(strategy: Strategy, spec: ConvSpec) -> None:
    module, x = _built(strategy, spec), _input(spec)
    y = module(x)
    again = strategy.build(spec).eval()
    again.load_state_dict(module.state_dict())
    _require(torch.equal(again(x), y), "a new module with the same state dict gives another result")
    _require(torch.equal(copy.deepcopy(module)(x), y), "a deep copy gives another result")


@_for_each_spec
def _formats(strategy: Strategy, spec: ConvSpec) -> None:
    module, x = _built(strategy, spec), _input(spec)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            _require(
                bool(module(x).isfinite().all()), "gives values that are not finite in bfloat16 autocast"
            )
        module, x = module.double(), x.double()
        y = module(x)
        _require(y.dtype == torch.float64, f"gives {y.dtype} after .double()")
        last = (None, torch.channels_last, torch.channels_last_3d)[spec.dims - 1]
        if last is None:  # PyTorch has no such format for sequences
            return
        for parameter in module.parameters():  # a format is of one number of dimensions
            if parameter.dim() == x.dim():
                parameter.data = parameter.data.to(memory_format=last)
        x = x.to(memory_format=last)
        _agree(module(x), y, "channels_last and contiguous")


@_for_each_spec
def _deploys(strategy: Strategy, spec: ConvSpec) -> None:
    module, x = _built(strategy, spec).double(), _input(spec, double=True)
    for progress in (0.3, 1):
        set_progress(module, progress)
        plain = deploy(module)
        _require(not learned_modules(plain), f"deploy leaves a learned module at progress {progress}")
        with torch.no_grad():
            _agree(plain(x), module(x), f"deployed and trained at progress {progress}")


@_for_each_spec
def _grouping_is_kept_as_json(strategy: Strategy, spec: ConvSpec) -> None:
    module, again = strategy.build(spec), strategy.build(spec)
    set_progress(module, 1)
    table = json.loads(json.dumps(groupings(module)))
    load_groupings(again, table)
    _require(groupings(again) == table, "a grouping that is saved and loaded is another one")
    set_progress(again, 1)
    _require(groupings(again) == table, "learning goes on after a grouping was loaded")


@_for_each_spec
def _images_do_not_mix(strategy: Strategy, spec: ConvSpec) -> None:
    module, x = _built(strategy, spec).double(), _input(spec, 3, double=True)
    with torch.no_grad():
        _agree(torch.cat([module(image[None]) for image in x]), module(x), "one image at a time and a batch")


@_for_each_spec
def _looks_no_further_ahead(strategy: Strategy, spec: ConvSpec) -> None:
    """Require that what is causal stays so: outputs see no input after the last that the convolution sees."""
    module, x = _built(strategy, spec).double(), _input(spec, double=True)
    for axis in (i for i, looks_back in enumerate(spec.looks_back) if looks_back):
        there = x.shape[2 + axis] // 2
        last = (there - 1 - spec.span[axis] + spec.before[axis]) // spec.stride[axis]
        later = x.clone()
        later.narrow(2 + axis, there, x.shape[2 + axis] - there).normal_()
        with torch.no_grad():
            seen, unseen = (module(z).narrow(2 + axis, 0, last + 1) for z in (x, later))
        _agree(seen, unseen, f"outputs before and after inputs from {there} on change")


@_for_each_spec
def _exports(strategy: Strategy, spec: ConvSpec) -> None:
    module, x = _built(strategy, spec).double(), _input(spec, double=True)
    with torch.no_grad():
        exported = torch.export.export(module, (x,)).module()
        _agree(exported(x), module(x), "torch.export and the module")


_for_each_spec(starts_from_dense)
