"""``concmem bench``: every measure is taken, and told to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from concmem.cli.main import main
from concmem.workloads import bench, bench_explore


@pytest.mark.parametrize(("command", "suite"), [([], bench), (["explore"], bench_explore)])
def test_every_measure(
    command: list[str],
    suite: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row for each, and the same in the file; here with the least effort."""
    for name in ("rounds", "boots"):
        monkeypatch.setattr(bench.EFFORT, name, 1)
    for name in ("pairs", "churn_pairs"):
        monkeypatch.setattr(bench.EFFORT, name, 80)
    out = tmp_path / "out.json"
    assert main(["bench", *command, "--json", str(out)]) == 0
    measures = json.loads(out.read_text())["measures"]
    assert len(measures) == len(suite.BENCHMARKS)
    printed = capsys.readouterr().out
    assert all(measure["name"] in printed for measure in measures)
    assert all(measure["low"] <= measure["ratio"] <= measure["high"] for measure in measures)
