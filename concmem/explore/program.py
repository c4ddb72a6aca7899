"""Programs: what the CPUs do in each execution, and how to tell whether it went well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from concmem.errors import BadArgument, BadArgumentType
from concmem.explore.schedule import Dropped

Body: TypeAlias = "Callable[[], Any] | Sequence[Callable[[], Any]] | None"
"""What one CPU does: a function, or a sequence of operations that can be left out one by one."""


class Program:
    """
    What the CPUs do in one execution.

    Args:
        bodies: body *i* runs on CPU *i*; ``None`` leaves a CPU idle. A sequence of functions is run in order,
            and shrinking may leave some of them out.
        after: called once all CPUs are done, on no CPU: the oracle. What it raises is a failure.
        interrupts: ``(cpu, handler)``: handlers that come to a CPU at a moment that the scheduler chooses.
        verify: check invariants, such as ``machine.verify``; called before *after*, and every ``verify_every``
            steps where :func:`explore.check` is asked to: then between any two operations.
    """

    def __init__(
        self,
        bodies: Sequence[Body],
        after: Callable[[], Any] | None = None,
        *,
        interrupts: Sequence[tuple[int, Callable[[], Any]]] = (),
        verify: Callable[[], Any] | None = None,
    ) -> None:
        if not isinstance(bodies, Sequence) or isinstance(bodies, str):
            raise BadArgumentType(f"bodies: expected a list of functions, got {bodies!r}")
        for body in bodies:
            if not (body is None or callable(body) or _is_operations(body)):
                raise BadArgumentType(
                    f"bodies: expected functions, lists of functions or None, got {body!r}"
                )
        for name, fn in (("after", after), ("verify", verify)):
            if fn is not None and not callable(fn):
                raise BadArgumentType(f"{name}: expected a function, got {fn!r}")
        self.bodies = list(bodies)
        self.after = after
        self.interrupts = list(interrupts)
        self.verify = verify

    def without(self, dropped: Sequence[Dropped]) -> Program:
        """
        The program with some parts left out.

        Raises:
            BadArgument: there is no such part.
        """
        bodies: list[Body] = list(self.bodies)
        for number, operation in dropped:
            if not 0 <= number < len(bodies):
                raise BadArgument(f"schedule: leaves out body {number} of {len(bodies)}")
            if operation < 0:
                bodies[number] = None
        gone: dict[int, set[int]] = {}
        for number, operation in dropped:
            if operation >= 0 and bodies[number] is not None:
                gone.setdefault(number, set()).add(operation)
        for number, operations in gone.items():
            body = bodies[number]
            if not isinstance(body, Sequence) or max(operations) >= len(body):
                raise BadArgument(f"schedule: body {number} has no operation {max(operations)}")
            bodies[number] = [fn for i, fn in enumerate(body) if i not in operations]
        return Program(bodies, self.after, interrupts=self.interrupts, verify=self.verify)

    def parts(self) -> list[Dropped]:
        """What can be left out, whole bodies first."""
        whole = [Dropped(i) for i, body in enumerate(self.bodies) if body is not None]
        operations = [
            Dropped(i, j)
            for i, body in enumerate(self.bodies)
            if isinstance(body, Sequence)
            for j in range(len(body))
        ]
        return whole + operations


def runnable(body: Body) -> Callable[[], Any] | None:
    """*body* as one function."""
    if body is None or callable(body):
        return body
    operations = tuple(body)

    def run() -> None:
        for operation in operations:
            operation()

    return run


def _is_operations(body: object) -> bool:
    return isinstance(body, Sequence) and all(callable(operation) for operation in body)
