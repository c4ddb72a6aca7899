"""Programs and the CPUs that they are given."""

from __future__ import annotations

import pytest

from concmem import explore
from concmem.errors import BadArgument

from .programs import counter


def test_fewer_cpus_than_bodies() -> None:
    """Is an error: no body is left out without a word."""
    with pytest.raises(BadArgument, match="cpus: the program has 2 bodies, but only 1 CPUs"):
        explore.check(counter, cpus=1)
