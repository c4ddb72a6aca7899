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
from collections.abc import Callable, Iterator
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
    """Wraps the context expressions that *wanted* names: ``with _wrap_(line, LOCK):``."""

    def __init__(self, wanted: Callable[[int, str], bool]) -> None:
        self._wanted = wanted

    def visit_With(self, node: ast.With) -> ast.With:
        self.generic_visit(node)
        for item in node.items:
            text = ast.unparse(item.context_expr)
            if text not in NO_LOCKS and self._wanted(item.context_expr.lineno, text):
                line = ast.Constant(item.context_expr.lineno)
                name = ast.Name("_wrap_", ast.Load())
                call = ast.Call(name, [line, item.context_expr], [])
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
def wrapped(module_name: str, lines: set[int], wrap: Callable[[int, Any], Any]) -> Iterator[None]:
    """Meanwhile, the locks of the sections at *lines* of a module go through *wrap*."""
    module = importlib.import_module(module_name)
    assert module.__file__ is not None
    tree = _Replace(lambda line, _: line in lines).visit(
        ast.parse(Path(module.__file__).read_text())
    )
    code = compile(ast.fix_missing_locations(tree), module.__file__, "exec", dont_inherit=True)
    changed = {(c.co_qualname, c.co_firstlineno): c for c in _functions(code) if _is_changed(c)}
    undo: list[tuple[types.FunctionType, types.CodeType]] = []
    for function in _all_functions(module):
        key = function.__code__.co_qualname, function.__code__.co_firstlineno
        new = changed.get(key)
        if new is not None and new.co_freevars == function.__code__.co_freevars:
            undo.append((function, function.__code__))
            function.__code__ = new
    assert undo, f"no function of {module_name} has a section at {lines}"
    module._wrap_ = wrap  # type: ignore[attr-defined]
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


def without_lock(_line: int, lock: Any) -> Any:
    """The section runs, but takes nothing."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def seen_sections(seen: set[tuple[str, int]]) -> Iterator[None]:
    """Meanwhile, note every section that is entered on a CPU."""
    by_module: dict[str, set[int]] = {}
    for section in sections():
        by_module.setdefault(section.module, set()).add(section.line)

    def noting(module: str) -> Callable[[int, Any], Any]:
        def wrap(line: int, lock: Any) -> Any:
            seen.add((module, line))
            return lock

        return wrap

    with contextlib.ExitStack() as stack:
        for module, lines in by_module.items():
            with contextlib.suppress(AssertionError):
                stack.enter_context(wrapped(module, lines, noting(module)))
        yield
