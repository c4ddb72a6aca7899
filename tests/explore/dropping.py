"""
Variants of the memory management code that do not take one of their locks, made from its source.

Each ``with LOCK:`` in ``concmem/mm`` is a *section*. In the variant the section's lock is not taken, and all
else is as it was: the module is compiled again with that one ``with`` replaced, and the functions that contain
it get the new code. It is put back at the end.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import concmem.mm

ROOT = Path(concmem.mm.__file__).parent

NO_LOCKS = ("suppress(KernelBug)", "suppress(KeyError)", "suppress(NotACpu)")
"""Context expressions that are no locks."""


class Section(NamedTuple):
    """One ``with`` statement's lock."""

    module: str
    line: int
    function: str
    lock: str

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line} {self.function} {self.lock}"


def sections() -> list[Section]:
    """Every section of ``concmem/mm``."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(["concmem", "mm", *path.relative_to(ROOT).with_suffix("").parts])
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in _own(function):
                if isinstance(node, ast.With):
                    found += [
                        Section(module, item.context_expr.lineno, function.name, text)
                        for item in node.items
                        if (text := ast.unparse(item.context_expr)) not in NO_LOCKS
                    ]
    return found


def _own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Nodes of *function*, without those of functions inside."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef):
            stack.extend(ast.iter_child_nodes(node))


class _Replace(ast.NodeTransformer):
    """Wraps the locks of the *wanted* sections: ``with _wrap_(number, LOCK):``."""

    def __init__(self, wanted: Sequence[Section]) -> None:
        self._wanted = {(section.line, section.lock): i for i, section in enumerate(wanted)}

    def visit_With(self, node: ast.With) -> ast.With:
        self.generic_visit(node)
        for item in node.items:
            number = self._wanted.get((item.context_expr.lineno, ast.unparse(item.context_expr)))
            if number is not None:
                name = ast.Name("_wrap_", ast.Load())
                call = ast.Call(name, [ast.Constant(number), item.context_expr], [])
                item.context_expr = ast.copy_location(call, item.context_expr)
        return node


def _is_changed(code: types.CodeType) -> bool:
    """Whether *code*, or a function inside of it, has a section that was replaced."""
    return "_wrap_" in code.co_names or any(map(_is_changed, _functions(code)))


def _functions(code: types.CodeType) -> Iterator[types.CodeType]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from _functions(const)


@contextlib.contextmanager
def wrapped(wanted: Sequence[Section], wrap: Callable[[Section, Any], Any]) -> Iterator[None]:
    """Meanwhile, the locks of the *wanted* sections, all of one module, go through *wrap*."""
    (module_name,) = {section.module for section in wanted}
    module = importlib.import_module(module_name)
    assert module.__file__ is not None
    tree = _Replace(wanted).visit(ast.parse(Path(module.__file__).read_text()))
    code = compile(ast.fix_missing_locations(tree), module.__file__, "exec", dont_inherit=True)
    changed = {(c.co_qualname, c.co_firstlineno): c for c in _functions(code) if _is_changed(c)}
    undo: list[tuple[types.FunctionType, types.CodeType]] = []
    for function in _all_functions(module):
        key = function.__code__.co_qualname, function.__code__.co_firstlineno
        new = changed.get(key)
        if new is not None and new.co_freevars == function.__code__.co_freevars:
            undo.append((function, function.__code__))
            function.__code__ = new
    assert undo, f"no function of {module_name} is changed by {wanted}"
    module._wrap_ = lambda number, lock: wrap(wanted[number], lock)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for function, old in undo:
            function.__code__ = old
        del module._wrap_  # type: ignore[attr-defined]


def _all_functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    for value in vars(module).values():
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
            yield value
        elif isinstance(value, type) and value.__module__ == module.__name__:
            for member in vars(value).values():
                if isinstance(member, property):
                    member = member.fget
                if isinstance(member, classmethod | staticmethod):
                    member = member.__func__
                if isinstance(member, types.FunctionType):
                    yield member


def without_lock(_section: Section, _lock: Any) -> Any:
    """The section runs, but takes nothing."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def all_wrapped(wanted: Sequence[Section], wrap: Callable[[Section, Any], Any]) -> Iterator[None]:
    """As `wrapped`, for sections of any modules."""
    by_module: dict[str, list[Section]] = {}
    for section in wanted:
        by_module.setdefault(section.module, []).append(section)
    with contextlib.ExitStack() as stack:
        for sections_of_one in by_module.values():
            stack.enter_context(wrapped(sections_of_one, wrap))
        yield
