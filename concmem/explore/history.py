"""
Histories: what concurrent callers did with an object, and whether some order explains it.

::

    h = History(rt)
    stack = h.wrap(MyStack(rt))
    rt.run([lambda: stack.push(1), stack.pop])
    check_linearizable(h, models.Stack)  # or NotLinearizable, with the history in columns

An object is linearizable if each operation seems to happen at one moment between its call and its
return: there is an order of all operations that a sequential object would allow, and in which one
that had returned before another was called comes before it. So "correct under concurrency" needs no
more to be said than what is correct without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

from concmem.errors import BadArgument, NotACpu, NotLinearizable
from concmem.explore.calls import PENDING, Call, Raised
from concmem.explore.explain import columns
from concmem.explore.linearizable import Linearization, check_linearizable, linearizable

__all__ = [
    "PENDING",
    "Call",
    "History",
    "Linearization",
    "NotLinearizable",
    "Raised",
    "check_linearizable",
    "linearizable",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class HasCpus(Protocol):
    """What a history needs of a runtime."""

    @property
    def smp_processor_id(self) -> Callable[[], int]: ...


class Token:
    """A call that has begun."""

    __slots__ = ("args", "cpu", "kwargs", "obj", "op", "result")

    def __init__(
        self, cpu: int, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], obj: object
    ) -> None:
        self.cpu = cpu
        self.op = op
        self.args = args
        self.kwargs = kwargs
        self.obj = obj
        self.result: Any = PENDING


class History:
    """
    A record of calls and returns, in the order in which they happened.

    Recording is no scheduling point, and takes no lock: each event is one ``list.append``, which is
    indivisible on every interpreter. Arguments and results are kept, not copied.

    Args:
        rt: a runtime, or anything else with ``smp_processor_id()``.
    """

    def __init__(self, rt: HasCpus) -> None:
        self._rt = rt
        self._events: list[Token] = []
        """Each call twice: when it began and when it returned."""

    # -- record

    def call(self, op: str, /, *args: Any, **kwargs: Any) -> Token:
        """An operation begins; to be given to `returns`."""
        return self._call(op, args, kwargs, None)

    def _call(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], obj: object) -> Token:
        try:
            cpu = self._rt.smp_processor_id()
        except NotACpu:
            cpu = -1
        token = Token(cpu, op, args, kwargs, obj)
        self._events.append(token)
        return token

    def returns(self, token: Token, result: Any = None) -> None:
        """
        It has returned *result*, or raised (`Raised`).

        Raises:
            BadArgument: it had returned before.
        """
        if token.result is not PENDING:
            raise BadArgument(f"token: {token.op} has returned {token.result!r} already")
        token.result = result
        self._events.append(token)

    def run(self, op: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``fn(*args)``, recorded as *op*. What it raises is a result too, and is raised."""
        return self._run(self._call(op, args, kwargs, None), fn)

    def _run(self, token: Token, fn: Callable[..., T]) -> T:
        # What is no Exception ends the caller from outside: whether fn did anything is not known.
        try:
            result = fn(*token.args, **token.kwargs)
        except Exception as error:
            self.returns(token, Raised(error))
            raise
        self.returns(token, result)
        return result

    def record(self, fn: F) -> F:
        """Decorator: every call of *fn* is recorded, under its name."""

        @wraps(fn)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self.run(fn.__name__, fn, *args, **kwargs)

        return recorded  # type: ignore[return-value]

    def wrap(self, obj: T, name: object = None) -> T:
        """
        Something to use instead of *obj*: every call of a public method is recorded.

        Not those of operators (``len(obj)``): they do not go through attributes.

        Args:
            name: tells objects apart that share a history. Each is judged alone, as linearizability
                allows.
        """
        return _Wrapped(self, obj, name)  # type: ignore[return-value]

    # -- read

    def calls(self) -> list[Call]:
        """What was recorded, in the order of the calls. Nobody may be recording meanwhile."""
        starts: dict[Token, int] = {}
        ends: dict[Token, int] = {}
        for position, token in enumerate(self._events):
            (ends if token in starts else starts)[token] = position
        return [
            Call(
                *(token.cpu, token.op, token.args, token.result, start, ends.get(token)),
                token.obj,
                tuple(token.kwargs.items()),
            )
            for token, start in starts.items()
        ]

    def __str__(self) -> str:
        """In columns, one for each CPU."""
        return "\n".join(columns(self.calls(), {}))


class _Wrapped:
    """See `History.wrap`."""

    def __init__(self, history: History, obj: Any, name: object) -> None:
        self.__history = history
        self.__obj = obj
        self.__name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self.__obj, attribute)
        if attribute.startswith("_") or not callable(value):
            return value

        @wraps(value)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            token = self.__history._call(attribute, args, kwargs, self.__name)
            return self.__history._run(token, value)

        return recorded
