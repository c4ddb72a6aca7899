"""``concmem report``: text, JSON and page of a result, and files that are of no use."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concmem.cli.main import main
from concmem.reports.report import EVENTS

pytestmark = pytest.mark.timeout(60)

FAST = ["--cpus", "2", "--memory", "16M", "--ops", "300", "--runtime", "free", "--no-progress"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of slabs and processes has written, with nothing missing."""
    path = tmp_path_factory.mktemp("run") / "run.json"
    assert main(["stress", "smoke", *FAST, "--json", str(path)]) == 0
    data: dict[str, Any] = json.loads(path.read_text())
    assert data["caches"]
    assert data["busiest"]
    assert data["processes"]
    return {**data, "leaks": [], "bad_accesses": []}


Write = Callable[..., str]


@pytest.fixture
def write(result: dict[str, Any], tmp_path: Path) -> Write:
    """Write that result, with changes, and return the path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "run.json"
        path.write_text(json.dumps({**result, **changes}))
        return str(path)

    return write


def test_it_says_what_is_missing_then_advises(
    write: Write, result: dict[str, Any], capsys: Capture
) -> None:
    """With the evidence, what to do, and tables."""
    slab = {**result["slabs"][0], "name": "request", "free_fastpath": 390, "free_slowpath": 610}
    cache = {**result["caches"][0], "name": "request"}
    lock = {**result["locks"][0], "contentions": 1}
    assert main(["report", write(leaks=None, slabs=[slab], caches=[cache], locks=[lock])]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    operations = f"{result['operations']:,}"
    assert lines[0].startswith(f"report of smoke: clean; {operations} operations on 2 CPUs in ")
    assert lines[1] == "  not known: kmemleak was not on: no leak report"
    assert "advice: cache request: 61.0% of frees are remote" in lines
    assert "    request: 61.0% of 1,000 frees are remote, per-CPU hit rate of allocations " in out
    assert "  -> Free objects on the CPU that allocated them" in out
    for words in (
        *("memory when least was free", "node 0 DMA, fullest", "caches, each when"),
        *("frees of what another CPU", "locks by time waited", "processes when they had most"),
        *("mixed page blocks, at most", "memory pools: ", "found no illegal access"),
    ):
        assert words in out


def test_a_quiet_run_says_so(write: Write, capsys: Capture) -> None:
    """Nothing to advise is a result."""
    nothing: dict[str, Any] = {"slabs": [], "caches": [], "locks": [], "mixed": [], "cpus": []}
    assert main(["report", write(**nothing, events={}, event_totals={}, busiest=None)]) == 0
    assert "nothing to advise" in capsys.readouterr().out


def test_json_and_page(write: Write, tmp_path: Path, capsys: Capture) -> None:
    """Both at once, with lanes of a failure."""
    file = write(slabs=[], locks=[])
    lanes = tmp_path / "lanes.html"
    lanes.write_text("<p>cpu0 | cpu1</p>")
    out, page = tmp_path / "report.json", tmp_path / "report.html"
    arguments = ["--json", str(out), "--html", str(page), "--lanes", str(lanes)]
    assert main(["report", file, *arguments]) == 0
    data = json.loads(out.read_text())
    assert data["command"].startswith("concmem stress smoke ")
    assert data["locks"] == []
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "<p>cpu0 | cpu1</p>" in page.read_text()
    capsys.readouterr()
    assert main(["report", file, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == data
    assert "report of smoke" in captured.err
    assert main(["report", file, "--html", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    # A report is no result: one cannot be made of it.
    assert main(["report", str(out)]) == 2
    assert "a file of `concmem report --json`" in capsys.readouterr().err


def test_of_a_run_that_was_cut_off(write: Write, tmp_path: Path, capsys: Capture) -> None:
    """What is known is reported."""
    file = write(interrupted=True, phases=[], busiest=None, caches=[], seconds=10.0)
    page = tmp_path / "report.html"
    assert main(["report", file, "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "report of smoke: clean, interrupted;" in out
    assert "not known: the run was interrupted after 10.0 s; never begun: local, producer-" in out
    assert "frees of what another CPU" in out
    assert "never begun" in page.read_text()


def test_standard_input(write: Write, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path(write()).read_text()))
    assert main(["report", "-"]) == 0
    assert "report of smoke" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, [], "cannot be read: "),
        ("", [], "the file is empty"),
        ('{"verdict": "clean", "cpus": [{', [], "the file was cut off"),
        ("# a comment", [], "the file is no JSON"),
        ('{"flows": {}}', [], "a file of `concmem flows --json`"),
        ("{}", [], "no result of `concmem stress --json`"),
        ("\udcff", [], "cannot be read: "),
        ("{}", ["--json", "/nonexistent/x"], "--json: '/nonexistent/x' cannot be written"),
        ("{}", ["--html", "/nonexistent/x"], "--html: '/nonexistent/x' cannot be written"),
        ("{}", ["--html", "/"], "--html: '/' cannot be written"),
        ("{}", ["--lanes", "x"], "--lanes: is for a page"),
        ("{}", ["--html", "/dev/null", "--lanes", "/nonexistent"], "--lanes: '/nonexistent'"),
        ("{}", ["--html", "-", "--json", "-"], "--html: standard output is for the JSON"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: Capture, content: str | None, arguments: list[str], words: str
) -> None:
    """One line, status 2, nothing on standard output."""
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert main(["report", str(file), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_page_needs_the_extra(
    write: Write, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how to get it, before a run is made for nothing."""
    monkeypatch.setattr("concmem.cli.report.find_spec", lambda name: None)
    file = write()
    assert main(["report", file, "--html", str(tmp_path / "x.html")]) == 2
    assert "pip install 'concmem[report]'" in capsys.readouterr().err
    assert main(["report", file]) == 0
    assert main(["stress", "churn", *FAST, "--html", str(tmp_path / "x.html")]) == 2


# -- at the end of a run


def test_stress_reports(tmp_path: Path, capsys: Capture) -> None:
    """The same as of its JSON; that the report was made is among the run's events."""
    out, page = tmp_path / "run.json", tmp_path / "run.html"
    arguments = ["--report", "--json", str(out), "--html", str(page)]
    assert main(["stress", "smoke", *FAST, *arguments]) == 0
    text = capsys.readouterr().out
    assert "report of smoke: clean; " in text
    assert text.splitlines()[-1].startswith("clean: ")
    assert "<h1>smoke: " in page.read_text()
    data = json.loads(out.read_text())
    assert data["event_totals"]["report_advice"] == 1
    assert data["coverage"]["debugging"]["taken"] > 3
    assert main(["report", str(out)]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[0] in text


def test_stress_without_a_report_counts_none(tmp_path: Path, capsys: Capture) -> None:
    """The arrows to advice are not taken."""
    out = tmp_path / "run.json"
    assert main(["stress", "churn", *FAST, "--json", str(out)]) == 0
    assert not set(json.loads(out.read_text())["event_totals"]) & set(EVENTS)
    assert "report of" not in capsys.readouterr().out


def test_stress_page_on_standard_output(tmp_path: Path, capsys: Capture) -> None:
    """It is alone there."""
    assert main(["stress", "churn", *FAST, "--html", "-"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("<!DOCTYPE html>")
    assert out.endswith("</html>\n")
    assert "clean: " in err
    assert main(["stress", "churn", *FAST, "--html", "-", "--json", "-"]) == 2


def test_stress_keeps_a_tree_of_proc_files(tmp_path: Path, capsys: Capture) -> None:
    """From the beginning to the end, of which it shows what the run says."""
    out, tree = tmp_path / "run.json", tmp_path / "proc"
    assert main(["stress", "churn", *FAST, "--procfs", str(tree), "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert (tree / "buddyinfo").read_text() == data["buddyinfo"]
    assert (tree / "sys/kernel/slab/kmalloc-64/order").read_text() == "0\n"
    assert not list(tmp_path.rglob(".*"))


def test_a_tree_that_cannot_be_kept(tmp_path: Path, capsys: Capture) -> None:
    """Known before the run: nothing is run."""
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["stress", "churn", *FAST, "--procfs", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--procfs: directory: " in captured.err
    assert file.read_text() == "mine"


def test_a_tree_that_cannot_be_kept_to_the_end(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run and its result are there all the same, and the status says that something is wrong."""
    from concmem.reports.procfs import ProcFs

    export, calls = ProcFs.export, []

    def full_disk(self: ProcFs, directory: str, skip: Any = ()) -> object:
        calls.append(directory)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return export(self, directory, skip)

    monkeypatch.setattr(ProcFs, "export", full_disk)
    out = tmp_path / "run.json"
    arguments = ["--procfs", str(tmp_path / "proc"), "--json", str(out)]
    assert main(["stress", "churn", *FAST, *arguments]) == 2
    captured = capsys.readouterr()
    assert "clean: " in captured.out
    assert "--procfs: not kept up to date to the end: OSError: [Errno 28]" in captured.err
    assert json.loads(out.read_text())["verdict"] == "clean"


def test_help_teaches(capsys: Capture) -> None:
    """Examples, the extra, exit statuses."""
    assert main(["report", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("examples:", "--html", "concmem[report]", "exit status:", "interrupted"):
        assert words in out
    assert main(["stress", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("--report", "--procfs DIR", "--path.procfs"):
        assert words in out
