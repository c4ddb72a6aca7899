"""State machines whose operations run concurrently, on top of Hypothesis's rule-based ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program
from concmem.explore.runner import Limits
from concmem.testing.recording import (
    Marked,
    Operation,
    Preemption,
    Recording,
    Result,
    raise_failure,
    run_once,
)
from concmem.testing.strategies import placed

RESERVED = frozenset(("cpu", "preempt"))


@st.composite
def _cpus(draw: st.DrawFn) -> int:
    """Draws the preemptions, too; see `placed`. Arguments are drawn by name, so ``cpu`` is before ``preempt``."""
    machine: ConcurrentStateMachine = draw(st.runner())
    place = placed(machine.cpus, machine.preemptions, machine.points, 2)
    cpu, machine.drawn_preemptions = draw(place)
    return cpu


@st.composite
def _preemptions(draw: st.DrawFn) -> list[Preemption]:
    machine: ConcurrentStateMachine = draw(st.runner())
    return machine.drawn_preemptions


def operation(
    *,
    target: Bundle[Any] | None = None,
    targets: Sequence[Bundle[Any]] = (),
    **arguments: st.SearchStrategy[Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """
    Decorator for a method of a `ConcurrentStateMachine` that CPUs call, as ``rule`` is for other state machines.

    Besides *arguments*, the CPU and its preemptions are drawn.

    Args:
        target, targets: bundles that the result goes to. Another operation that draws it from there gets the
            result itself, and waits for it if another CPU makes it.
        arguments: strategies; bundles and ``consumes(bundle)`` among them.
    """
    taken = RESERVED & set(arguments)
    if taken:
        raise BadArgument(f"operation: {', '.join(sorted(taken))} are drawn anyway")

    has_target = target is not None or bool(targets)

    def accept(function: Callable[..., Any]) -> Callable[..., Any]:
        def record(
            self: ConcurrentStateMachine,
            cpu: int = 0,
            preempt: Sequence[Preemption] = (),
            **given: Any,
        ) -> Result | None:
            result = self.record(Operation(cpu, function, given, tuple(preempt)))
            return result if has_target else None

        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(record, name, getattr(function, name))
        where: dict[str, Any] = {"targets": targets} if target is None else {"target": target}
        drawn: dict[str, Any] = {**arguments, "cpu": _cpus(), "preempt": _preemptions()}
        make_rule: Any = rule
        made: Callable[..., Any] = make_rule(**where, **drawn)(record)
        return made

    return accept


class ConcurrentStateMachine(RuleBasedStateMachine):
    """
    A state machine whose operations run on several CPUs, under preemptions that are drawn, too.

    Hypothesis draws operations, which are recorded. When it has no more, they run under control: `setup` makes
    what they work on, then they run in order, each on its CPU; where one is preempted, others come in between.
    At the end the invariants are checked.
    Everything that :func:`concmem.explore.check` finds is a failure. Shrinking leaves out operations and
    preemptions; the example database keeps both.

    Write `setup`, methods with `operation`, and methods with Hypothesis's ``invariant()``, which are called when
    all CPUs are done. State is made in `setup`, never in ``__init__``: one example may run several times.
    Preconditions and plain rules see no state, as nothing has run yet.

    A failing example is printed as a program. As such it can be kept: its ``state.program`` is a program for
    :func:`concmem.explore.replay` and ``check``.
    """

    cpus: ClassVar[int] = 2
    """How many CPUs there are."""
    preemptions: ClassVar[int] = 2
    """The most preemptions of one operation."""
    points: ClassVar[int] = 25
    """A preemption comes before one of the first so many points of an operation."""
    limits: ClassVar[dict[str, Any]] = {}
    """``max_steps``, ``early_timeouts``, ``spurious_wakeups``, ``detectors``, as of `explore.check`."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()
        self.drawn_preemptions: list[Preemption] = []
        """Of the operation that is being drawn."""

    def setup(self, rt: ControlledRuntime) -> None:
        """Make what the operations work on, from scratch. On no CPU."""

    def record(self, operation: Operation) -> Result:
        """Add *operation* to the program; what stands for its result."""
        if not 0 <= operation.cpu < self.cpus:
            raise BadArgument(f"cpu: there is no CPU {operation.cpu}, only 0 to {self.cpus - 1}")
        return self.recording.add(operation)

    def program(self, rt: ControlledRuntime) -> Program:
        """What was recorded, without its preemptions; for `concmem.explore`."""
        return self._program(rt, None)

    def _program(self, rt: ControlledRuntime, marked: Marked | None) -> Program:
        self.setup(rt)
        bodies = self.recording.bodies(rt, self, self.cpus, marked)
        return Program(bodies, self._check_all_invariants)

    def _check_all_invariants(self) -> None:
        for invariant in self.invariants:
            if all(precondition(self) for precondition in invariant.preconditions):
                invariant.function(self)

    def check_invariants(self, *_args: Any, **_kwargs: Any) -> None:
        """Called by Hypothesis after each rule, when nothing has run yet."""

    def teardown(self) -> None:
        """Run what was recorded."""
        if not self.recording.operations:
            return
        marked = Marked()
        failure = run_once(
            lambda rt: self._program(rt, marked), marked, self.cpus, Limits(**self.limits)
        )
        if failure is not None:
            raise_failure(self.program, failure)
