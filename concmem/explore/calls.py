"""What callers did and when: the calls that a history consists of."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Pending:
    """The result of a call that had none when the history ended."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "?"


PENDING: Final = Pending()


class Raised:
    """The result of a call that raised. Equal if the exceptions are of the same class."""

    __slots__ = ("error", "kind")

    def __init__(self, error: BaseException | type[BaseException]) -> None:
        self.error = error
        self.kind = error if isinstance(error, type) else type(error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raised) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return self.kind.__name__


class Call(NamedTuple):
    """One operation, from its call to its return."""

    cpu: int
    """Who called; -1 for a thread that is no CPU."""
    op: str
    args: tuple[Any, ...]
    result: Any
    """What came back, a `Raised`, or `PENDING`."""
    start: int
    """Where in the history it was called. All starts and ends differ."""
    end: int | None
    """Where it returned; ``None`` if it did not."""
    obj: object = None
    """Which object it was called on, where there are several."""
    kwargs: tuple[tuple[str, Any], ...] = ()
    """Keyword arguments, by name."""

    def __str__(self) -> str:
        return f"{self.invocation()} -> {self.result!r}"

    def invocation(self) -> str:
        """As ``push(1)``."""
        arguments = [repr(value) for value in self.args]
        arguments += [f"{name}={value!r}" for name, value in self.kwargs]
        on = "" if self.obj is None else f"{self.obj}."
        return f"{on}{self.op}({', '.join(arguments)})"
