"""Fixtures for every test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest

PLUGIN = "concmem.testing.pytest_plugin"

INSTALLED = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
"""Whether pytest loads the plugin by itself, as it does unless the tests run in a bare checkout."""

pytest_plugins = ["pytester"] if INSTALLED else ["pytester", PLUGIN]


def cpu_threads() -> list[threading.Thread]:
    """The threads of simulated CPUs and kernel threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("concmem-")]


def ends(thread: threading.Thread) -> bool:
    """Whether a thread comes to its end by itself, as one that was just told to does."""
    thread.join(10)
    return not thread.is_alive()


@pytest.fixture(autouse=True)
def no_cpu_thread_is_left() -> Iterator[None]:
    """Every machine that a test starts must have ended with it."""
    before = set(cpu_threads())
    yield
    left = [thread.name for thread in cpu_threads() if thread not in before and not ends(thread)]
    assert not left, f"the test left threads behind: {left}"
