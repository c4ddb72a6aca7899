"""Fixtures for the tests of malloc."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_garbage_is_left() -> Iterator[None]:
    """These tests make thousands of small machines; without a GIL nobody collects them for long."""
    yield
    gc.collect()
