"""``concmem flows``: charts of a run or of a result, JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from concmem.cli.main import main
from concmem.reports.flows import FLOWS, mermaid

pytestmark = pytest.mark.timeout(60)

FAST = ["--cpus", "2", "--memory", "16M", "--ops", "200", "--runtime", "free", "--no-progress"]

Capture = pytest.CaptureFixture[str]


def test_charts_of_a_run(tmp_path: Path, capsys: Capture) -> None:
    """All five on standard output, then what was not taken; the verdict apart; the JSON agrees."""
    path = tmp_path / "flows.json"
    assert main(["flows", "slab-churn", *FAST, "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    data = json.loads(path.read_text())
    for name, flow in FLOWS.items():
        assert mermaid(flow, data["event_totals"]) in out
        edges = [(edge["from"], edge["to"]) for edge in data["flows"][name]["edges"]]
        assert edges == [(edge.source, edge.target) for edge in flow.edges]
        found = data["coverage"][name]
        assert f"%% {name}: {found['taken']} of {found['arrows']} arrows taken" in out.splitlines()
        for arrow in found["never"]:
            assert f"%%   never taken: {arrow}: " in out
    assert "never taken: M->O: Object size? -> vmalloc allocation (>= 2MB)" in out
    assert err.startswith("clean: ")
    assert set(data["flows"]["allocation"]["nodes"]["A"]) == {"label", "count"}
    assert set(data["flows"]["free"]["edges"][0]) == {"from", "to", "label", "count"}


def test_one_chart(tmp_path: Path, capsys: Capture) -> None:
    """Only that one, in the JSON too, which may go to standard output."""
    assert main(["flows", "churn", *FAST, "--flow", "free", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["flows"]) == ["free"]
    assert err.count("flowchart TD") == 1


def test_charts_of_a_result(tmp_path: Path, capsys: Capture) -> None:
    """What `stress --json` wrote gives the same counts again, and so does what `flows --json` wrote."""
    run, first, second = tmp_path / "run.json", tmp_path / "1.json", tmp_path / "2.json"
    assert main(["stress", "vmalloc-churn", *FAST, "--json", str(run)]) == 0
    summary = capsys.readouterr().out
    assert "arrows of the flowcharts taken: allocation " in summary
    result = json.loads(run.read_text())
    assert main(["flows", "--from", str(run), "--json", str(first)]) == 0
    assert main(["flows", "--from", str(first), "--json", str(second)]) == 0
    one, two = (json.loads(path.read_text()) for path in (first, second))
    assert one["flows"] == two["flows"]
    assert one["coverage"] == result["coverage"]
    counts = {
        edge["from"] + edge["to"]: edge["count"] for edge in one["flows"]["allocation"]["edges"]
    }
    assert counts["OZ"] == result["events"]["vmalloc_map"] > 0


def test_a_run_counts_its_own_steps_only(tmp_path: Path) -> None:
    """Totals are those of the run: the areas mapped are those that its owners had."""
    path = tmp_path / "run.json"
    assert main(["stress", "vmalloc-churn", *FAST, "--json", str(path)]) == 0
    data = json.loads(path.read_text())
    totals = data["event_totals"]
    # Read at the end, and when memory was fullest; both each time.
    assert totals["proc.meminfo"] == totals["proc.buddyinfo"] >= 1
    assert totals["vmalloc_map"] == data["events"]["vmalloc_map"] > 0
    assert data["meminfo"].startswith("MemTotal:")


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--from", "nowhere.json"], "--from: 'nowhere.json' cannot be read"),
        (["--from", "{}"], "is no result"),
        (["--from", "[1]"], "is no result"),
        (["--from", '{"event_totals": {"a": "b"}}'], "is no result"),
        (["--from", "no json"], "cannot be read"),
        (["--from", '{"event_totals": {}}', "--cpus", "2"], "cpus: is for a run"),
        (["smoke", "--from", '{"event_totals": {}}'], "scenario: is for a run"),
        (["no-such-scenario"], "no such scenario file"),
        (["churn", "--cpus", "0"], "cpus"),
        (["churn", "--json", "/nonexistent/file"], "--json: "),
    ],
)
def test_what_is_refused(
    argv: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """Status 2, one line that says why."""
    monkeypatch.chdir(tmp_path)
    for number, word in enumerate(argv):
        if argv[number - 1] == "--from" and word != "nowhere.json":
            (tmp_path / "result.json").write_text(word)
            argv = [*argv[:number], "result.json", *argv[number + 1 :]]
    assert main(["flows", *argv]) == 2
    out, err = capsys.readouterr()
    assert what in err
    assert out == ""


def test_an_empty_result_has_taken_nothing(tmp_path: Path, capsys: Capture) -> None:
    """All counts are 0."""
    path = tmp_path / "result.json"
    path.write_text('{"event_totals": {}}')
    assert main(["flows", "--from", str(path), "--flow", "performance"]) == 0
    assert "%% performance: 0 of 29 arrows taken" in capsys.readouterr().out
