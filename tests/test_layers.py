"""The floors of the package: imports go downwards only, and the top of it is cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import concmem

ROOT = Path(concmem.__file__).parent

FLOORS = {
    "errors": set[str](),
    "units": {"errors"},
    "runtime": {"errors", "units"},
    "mm": {"errors", "units", "runtime.api"},
    # Besides the seam, what knows no mode: guards, per-CPU offsets, the interpreter, the lock validator.
    "explore": {"errors", "units", "runtime.api"}
    | {"runtime.guarded", "runtime.interpreter", "runtime.percpu"}
    | {"runtime.lockdep", "runtime.lockdep_classes"},
    "user": {"errors", "units", "runtime.api", "mm"},
    "reports": {"errors", "units", "mm.statistics", "mm.migratetype", "mm.slab_flags"}
    | {"mm.statistics_process"},
    "config": {"errors", "units"},
    "kernel": {"errors", "units", "runtime.api", "mm", "config"},
    "machine": {"errors", "units", "runtime", "mm", "reports", "config", "kernel", "user"},
}
"""What each package may import, besides itself; floors above may import all below."""

EXCEPTIONS = {
    # Types only: rows of lock statistics and of the validator, which the machine passes through.
    ("mm.statistics", "runtime.lockstat"),
    ("mm.statistics", "runtime.lockdep_statistics"),
    ("reports.lock_stat", "runtime.lockstat"),
    ("reports.lockdep", "runtime.lockdep_statistics"),
    ("reports.top", "runtime.lockstat"),
}

ABOVE = ("cli", "testing", "workloads", "bugs", "traces", "sct")
"""Packages that nothing below them may know."""

FORBIDDEN_IN_MM = ("threading", "time", "random", "_thread", "multiprocessing", "asyncio")


def module_name(path: Path) -> str:
    """``mm.zone`` for concmem/mm/zone.py, ``mm`` for concmem/mm/__init__.py."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """All modules that a file imports anywhere, also for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            # `from concmem.mm import gfp` imports concmem.mm.gfp
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {f"concmem.{name}" for name in MODULES}
            found |= (submodules & known) or {node.module}
    return found


def internal(path: Path) -> set[str]:
    """Imported modules of this package, without its name."""
    return {
        name.removeprefix("concmem").removeprefix(".") or "__init__"
        for name in imports(path)
        if name == "concmem" or name.startswith("concmem.")
    }


def is_in(module: str, package: str) -> bool:
    """Whether *module* is *package* or inside it."""
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in FLOORS])
def test_imports_go_down(module: str) -> None:
    """A module of a floor imports that floor and what is listed below it only."""
    package = module.split(".")[0]
    allowed = FLOORS[package] | {package}
    for imported in internal(MODULES[module]):
        assert (module, imported) in EXCEPTIONS or any(is_in(imported, each) for each in allowed), (
            f"{module} imports {imported}"
        )


@pytest.mark.parametrize("module", [name for name in MODULES if is_in(name, "mm")])
def test_mm_has_no_host(module: str) -> None:
    """The kernel side gets threads, time and chance from its runtime, never from the host."""
    roots = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not roots & set(FORBIDDEN_IN_MM)


def test_the_seam_knows_no_runtime() -> None:
    """runtime.api is an interface: it imports errors only."""
    assert internal(MODULES["runtime.api"]) <= {"errors", "units"}


def test_nobody_below_imports_the_top() -> None:
    """Workloads, tests helpers and the command line are above everything else."""
    for module, path in MODULES.items():
        if not module or module.split(".")[0] in ABOVE or module == "__main__":
            continue
        top = {name for name in internal(path) if name.split(".")[0] in ABOVE}
        assert not top, f"{module} imports {top}"


def test_cli_is_imported_by_nobody() -> None:
    """Argument parsing and display are the end of the line."""
    for module, path in MODULES.items():
        if not is_in(module, "cli") and module != "__main__":
            assert not any(is_in(name, "cli") for name in internal(path)), module


def test_the_checker_sees_imports_of_all_kinds(tmp_path: Path) -> None:
    """The oracle itself: plain, from, nested and type-checking imports are found."""
    source = tmp_path / "module.py"
    source.write_text(
        "import threading\nfrom concmem.mm import gfp\n"
        "if TYPE_CHECKING:\n    from concmem.machine import Machine\n"
        "def f():\n    import concmem.cli\n"
    )
    assert imports(source) == {"threading", "concmem.mm.gfp", "concmem.machine", "concmem.cli"}
    assert internal(source) == {"mm.gfp", "machine", "cli"}


def test_import_needs_the_standard_library_only() -> None:
    """``import concmem`` loads neither display nor test libraries."""
    code = (
        "import sys, concmem\n"
        "bad = {'rich', 'hypothesis', 'psutil', 'pytest', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert result.returncode == 0, result.stderr


def test_import_starts_no_thread() -> None:
    """Threads belong to machines, not to the module."""
    code = "import threading, concmem, sys; sys.exit(threading.active_count() - 1)"
    result = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)
    assert result.returncode == 0
