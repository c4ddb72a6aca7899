"""Runtimes for the tests of this folder, shut down after each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from concmem.runtime.free import FreeRuntime

from .helpers import Make


@pytest.fixture
def make() -> Iterator[Make]:
    """``make(4, seed=1, runtime=JitterRuntime)`` is a runtime that ends with the test."""
    with ExitStack() as stack:

        def make_runtime(
            nr_cpus: int = 2, *, runtime: type[FreeRuntime] = FreeRuntime, **options: Any
        ) -> FreeRuntime:
            rt = runtime(nr_cpus, **options)
            stack.callback(rt.shutdown)
            return rt

        yield make_runtime
