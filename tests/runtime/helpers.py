"""What the tests of this folder share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

Make: TypeAlias = Callable[..., Any]
"""The `make` fixture."""


def cpu_threads() -> list[str]:
    """Names of the threads of simulated CPUs and kernel threads that are alive."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("concmem-")]


def eventually(condition: Callable[[], object]) -> None:
    """On a thread that is no CPU: wait for something that is bound to come."""
    while not condition():
        time.sleep(0.0005)


def error_of(fn: Callable[[], object]) -> BaseException | None:
    """What *fn* raises, or None."""
    try:
        fn()
    except Exception as error:
        return error
    return None
