"""One face for both kinds of models: see :mod:`concmem.explore.models`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import ChainMap, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.explore.calls import PENDING, Call, Raised
from concmem.explore.models import Sequential


class Model(ABC):
    """A sequential object, to be asked for one step after the other."""

    def __init__(self, name: str, partition: Callable[[Call], Any] | None) -> None:
        self.name: Final = name
        self.partition: Final[Callable[[Call], Any]] = partition or (lambda call: None)

    @abstractmethod
    def init(self) -> Any:
        """The first state."""

    @abstractmethod
    def step(self, state: Any, call: Call) -> tuple[bool, Any]:
        """Whether *call* may come next, with its result, and the state after it."""

    @abstractmethod
    def key(self, state: Any) -> Hashable:
        """Equal for equal states."""

    @abstractmethod
    def why(self, state: Any, call: Call) -> str:
        """What it has against *call*, which it does not accept."""


class _StepModel(Model):
    def __init__(self, model: Any) -> None:
        super().__init__(type(model).__name__, getattr(model, "partition", None))
        self._model = model

    def init(self) -> Any:
        return self._model.init()

    def step(self, state: Any, call: Call) -> tuple[bool, Any]:
        args = (*call.args, dict(call.kwargs)) if call.kwargs else call.args
        accepted, new = self._model.step(state, call.op, args, call.result)
        return bool(accepted), new

    def key(self, state: Any) -> Hashable:
        key: Hashable = state
        return key

    def why(self, state: Any, call: Call) -> str:
        return f"not allowed with {state!r}"


class _SequentialModel(Model):
    def __init__(self, factory: Callable[[], Any], first: Any, calls: Iterable[Call]) -> None:
        super().__init__(type(first).__name__, getattr(first, "partition", None))
        self._factory = factory
        # What callers pass in is theirs: it is not copied with the state that it is in.
        values = (value for call in calls for value in (*call.args, *dict(call.kwargs).values()))
        self._values = {id(value): value for value in values}

    def init(self) -> Any:
        return self._factory()

    def step(self, state: Any, call: Call) -> tuple[bool, Any]:
        result, new = self._do(state, call)
        return call.result is PENDING or bool(result == call.result), new

    def _do(self, state: Any, call: Call) -> tuple[Any, Any]:
        if isinstance(state, Sequential):
            new = state.copy()
        else:
            new = copy.deepcopy(state, ChainMap({}, self._values))  # type: ignore[arg-type]
        method = getattr(new, call.op, None)
        if method is None:
            raise BadArgument(f"op: the model {self.name} has no method {call.op!r}")
        try:
            return method(*call.args, **dict(call.kwargs)), new
        except Exception as error:
            return Raised(error), new

    def key(self, state: Any) -> Hashable:
        try:
            return self._hashable(state.key() if hasattr(state, "key") else vars(state))
        except (RecursionError, TypeError) as error:
            raise BadArgumentType(
                f"model: the states of {self.name} cannot be compared; give it a key(): {error}"
            ) from error

    def _hashable(self, value: Any) -> Hashable:
        """*value*, or something that is equal for equal values only."""
        if isinstance(value, dict):
            items = value.items()
            return "dict", tuple((self._hashable(k), self._hashable(v)) for k, v in items)
        if isinstance(value, set | frozenset):
            return "set", frozenset(self._hashable(each) for each in value)
        if isinstance(value, tuple | list | deque):
            return type(value).__name__, tuple(self._hashable(each) for each in value)
        if _is_node(value) and id(value) not in self._values:
            return type(value).__name__, self._hashable(vars(value))
        hash(value)
        key: Hashable = value
        return key

    def why(self, state: Any, call: Call) -> str:
        return f"it would be {self._do(state, call)[0]!r}"


def _is_node(value: Any) -> bool:
    """Whether it is a part of a structure, which is what it contains: its class knows no equality."""
    if isinstance(value, type) or callable(value) or not hasattr(value, "__dict__"):
        return False
    hash_of: Any = type(value).__hash__
    return hash_of in (None, object.__hash__)


def as_model(model: Any, calls: Iterable[Call]) -> Model:
    """
    What users pass as a model, with one face, to be asked about *calls*.

    Args:
        model: a class, or a function that makes an object; or an object with ``init`` and ``step``.

    Raises:
        BadArgumentType: none of these.
    """
    first = model() if callable(model) else model
    if hasattr(first, "init") and hasattr(first, "step"):
        return _StepModel(first)
    if not callable(model):
        raise BadArgumentType(f"model: expected a class or what makes an object, got {model!r}")
    return _SequentialModel(model, first, calls)
