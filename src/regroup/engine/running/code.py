"""The generated code of a step of a compiled network."""

from __future__ import annotations

from regroup.engine.running.plan import NativeSegment, Plan
from regroup.errors import EngineError
from regroup.kernels.program.code import Form, code_of_step, step_number


def code(plan: Plan, step: int | str, form: Form = "listing") -> str:
    """Return the code of a step, counted and named as in `explain`.

    Raises:
        EngineError: nothing runs natively.
        ParameterError: there is no such step, or form.
    """
    parts = () if plan.parts is None else plan.parts.shown()
    segments = [*plan.segments, *(segment for _, of, _ in parts for segment in of.segments)]
    layouts = [s.program.layout for s in segments if isinstance(s, NativeSegment)]
    places = [(layout, number) for layout in layouts for number in range(len(layout.names))]
    if not places:
        raise EngineError("no step runs natively, so there is no code: explain() says why")
    layout, number = places[step_number([layout.names[i] for layout, i in places], step)]
    return code_of_step(layout, number, form)
