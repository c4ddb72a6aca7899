"""From JSON to rows, with a message that says where the two disagree."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from concmem.errors import BadArgument

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def decode(kind: type[T], data: object, where: str) -> T:
    """
    *data*, as `json.loads` makes it, as a *kind*: a named tuple or a dataclass.

    Keys that *kind* does not have are passed over: a newer version may write more.

    Args:
        where: what *data* is, for messages.

    Raises:
        BadArgument: a field is missing that has no default, or something has the wrong type.
    """
    found: T = _decode(kind, data, where)
    return found


def _decode(kind: Any, data: object, where: str) -> Any:
    if kind in _WORDS:
        return _number_or_text(kind, data, where)
    origin = get_origin(kind)
    if origin in (UnionType, Union):
        if data is None and NoneType in get_args(kind):
            return None
        (other,) = (part for part in get_args(kind) if part is not NoneType)
        return _decode(other, data, where)
    if origin is tuple:
        return _decode_tuple(get_args(kind), data, where)
    if origin is dict:
        _, value = get_args(kind)
        items = _expect(dict, data, where)
        return {key: _decode(value, part, f"{where}.{key}") for key, part in items.items()}
    if kind is Any:
        return data
    return _decode_row(kind, data, where)


def _number_or_text(kind: type, data: object, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if type(data) is not kind:
        raise BadArgument(f"{where}: expected {_WORDS[kind]}, got {_show(data)}")
    return data


def _decode_tuple(kinds: tuple[Any, ...], data: object, where: str) -> tuple[Any, ...]:
    items = _expect(list, data, where)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    elif len(items) != len(kinds):
        raise BadArgument(f"{where}: expected {len(kinds)} elements, got {len(items)}")
    return tuple(
        _decode(kind, part, f"{where}[{number}]")
        for number, (kind, part) in enumerate(zip(kinds, items, strict=True))
    )


def _decode_row(kind: type, data: object, where: str) -> Any:
    fields = _expect(dict, data, where)
    hints, defaults = _fields(kind)
    values = {}
    for name, hint in hints.items():
        if name in fields:
            values[name] = _decode(hint, fields[name], f"{where}.{name}" if where else name)
        elif name not in defaults:
            raise BadArgument(f"{where or 'the file'}: has no {name!r}")
    return kind(**values)


@cache
def _fields(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """The type of each field, and the names of those with a default."""
    hints = get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        with_default = {
            field.name
            for field in dataclasses.fields(kind)
            if field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        }
        return hints, frozenset(with_default)
    return hints, frozenset(kind._field_defaults)  # type: ignore[attr-defined]


def _expect(kind: type[T], data: object, where: str) -> T:
    if not isinstance(data, kind):
        word = "an object" if kind is dict else "a list"
        raise BadArgument(f"{where or 'the file'}: expected {word}, got {_show(data)}")
    return data


def _show(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 40 else f"{text[:37]}..."
