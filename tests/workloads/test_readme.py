"""``stress/README.md`` says what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from concmem.workloads import WORKLOADS, find_scenarios

README = Path(__file__).parents[2] / "stress" / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="the tests are not in a checkout")


def test_it_lists_every_scenario() -> None:
    """One row each."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (?!`|one)", README.read_text(), re.MULTILINE)
    assert set(rows) == set(find_scenarios())


def test_it_lists_every_option_with_its_default() -> None:
    """As the workloads define them."""
    text = README.read_text()
    for name, cls in WORKLOADS.items():
        row = re.search(rf"^\| `{name}` \| ((?:`|one).*)\|$", text, re.MULTILINE)
        assert row is not None, name
        stated = dict(re.findall(r"`(\w+)` \((\d+)\)", row[1]))
        assert stated == {field.name: str(field.default) for field in fields(cls)}
