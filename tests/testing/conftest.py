"""A throw-away project with the plugin, in a pytest of its own."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import pytest

import concmem
import concmem.explore
import concmem.machine  # once, not in each run in this process


class Run(Protocol):
    """Runs pytest in the throw-away project."""

    def __call__(self, *args: str, process: bool = False) -> pytest.RunResult: ...


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest with the plugin, in this process or one of its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(concmem.__file__).parents[1]))
    installed = any(point.name == "concmem" for point in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "concmem.testing.pytest_plugin"]
    options = [*plugin, "-p", "no:cacheprovider", "--strict-markers", "-W", "error"]

    def run(*args: str, process: bool = False) -> pytest.RunResult:
        if process:
            return pytester.runpytest_subprocess(*options, *args)
        return pytester.runpytest_inprocess(*options, *args)

    return run
