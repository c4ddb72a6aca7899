"""What the planted bugs override, and a digest of each original."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

from concmem.bugs import Bug, all_bugs

FILE = Path(__file__).parent / "bases.tsv"


def overrides(bug: Bug) -> dict[str, tuple[Any, Any]]:
    """By ``Class.method``: the original, and the bug's."""
    found = {}
    for base, planted in bug.replaces.items():
        for cls in planted.__mro__:
            if cls is base:
                break
            for name, method in vars(cls).items():
                callee = inspect.unwrap(getattr(method, "fget", None) or method)
                if isinstance(callee, staticmethod | classmethod):
                    callee = callee.__func__
                if not inspect.isfunction(callee) or not hasattr(base, name):
                    continue
                original = inspect.getattr_static(base, name)
                original = getattr(original, "fget", None) or original
                if isinstance(original, staticmethod | classmethod):
                    original = original.__func__
                found.setdefault(f"{base.__name__}.{name}", (original, callee))
    return found


def digests(bug: Bug) -> dict[str, str]:
    """By ``Class.method``: a digest of the original's code, without comments and docstrings."""
    return {key: _digest(original) for key, (original, _) in overrides(bug).items()}


def _digest(function: Any) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def recorded() -> dict[str, str]:
    lines = FILE.read_text().splitlines()
    return {key: digest for key, _, digest in (line.partition("\t") for line in lines)}


if __name__ == "__main__":
    rows = {key: digest for bug in all_bugs() for key, digest in digests(bug).items()}
    FILE.write_text("".join(f"{key}\t{digest}\n" for key, digest in sorted(rows.items())))
