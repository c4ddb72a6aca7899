"""``concmem top``: plain tables, keys on a terminal, Ctrl-C, and what is refused."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios

import pytest

from concmem.cli.main import main
from concmem.reports.top import VIEWS

from .test_slabtop import read_until, start

pytestmark = pytest.mark.timeout(60)

FAST = ["churn", "--cpus", "2", "--memory", "16M", "--runtime", "free"]

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("view", VIEWS)
def test_plain_tables(capsys: Capture, view: str) -> None:
    """Where standard output is no terminal: one after each delay, and the verdict."""
    assert main(["top", *FAST, "--seconds", "0.4", "--delay", "0.01", "--view", view]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.split()[:1] == [VIEWS[view].columns[0]]]
    assert len(titles) > 1
    assert lines[-1].startswith("clean: ")
    assert "again with: concmem stress churn --cpus 2 --memory 16M --seconds 0.4" in lines[-1]


def test_a_run_shorter_than_the_delay_shows_its_end(capsys: Capture) -> None:
    """With rates since its beginning."""
    assert main(["top", *FAST, "--ops", "500", "--delay", "1000"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("cpu")]
    assert [row[0] for row in rows] == ["cpu0", "cpu1"]
    assert all(int(row[2].replace(",", "")) > 0 for row in rows)


def test_once(capsys: Capture) -> None:
    """The table is alone on standard output."""
    arguments = ["--view", "zones", "--sort", "f", "--once", "--delay", "0.05"]
    assert main(["top", *FAST, "--seconds", "1000", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ZONE")
    assert "clean" not in out
    assert err.splitlines()[-1].startswith("clean: ")


def test_keys_on_a_terminal() -> None:
    """Views, order and sort keys at once; q ends the run, and the terminal is as it was."""
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    arguments = ["top", *FAST, "--seconds", "1000", "--delay", "1000"]
    with start(arguments, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        read_until(controller, "cpus by CPU, tab for more; q ends")
        for keys, words in (
            (b"\t", "caches by allocations"),
            (b"w", "caches by wasted"),
            (b"4", "locks by waiting"),
            (b"3f", "zones by free"),
            (b"2", "caches by wasted"),  # as it was left
            (b"\t\t\t", "cpus by CPU"),
        ):
            os.write(controller, keys)
            assert words in read_until(controller, f"{words}, tab for more")
        os.write(controller, b"r ")
        seen = read_until(controller, "cpu0")
        assert seen.rindex("cpu1") < seen.rindex("cpu0")
        os.write(controller, b"q")
        end = read_until(controller, "; again with: ")
        os.set_blocking(controller, False)
        process.wait(30)
    assert process.returncode == 0
    assert "clean: " in end
    assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)


def test_ctrl_c_ends_with_a_result() -> None:
    """A real SIGINT: status 130, the verdict, and no traceback."""
    arguments = ["top", *FAST, "--seconds", "1000", "--delay", "0.1"]
    with start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"CPU")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert err == b""
    assert out.decode().splitlines()[-1].startswith("clean, but interrupted: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "none of the names churn"),
        (["--view", "nope"], "invalid choice"),
        (["--sort", "x"], "--sort: cpus are sorted by one of c (CPU)"),
        (["--delay", "0"], "--delay: must be 0.01 to"),
        (["--cpus", "0"], "cpus: must be 1 to 256, got 0"),
    ],
)
def test_bad_usage_is_one_clear_line(capsys: Capture, arguments: list[str], words: str) -> None:
    """Status 2, nothing on standard output."""
    assert main(["top", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_help_teaches(capsys: Capture) -> None:
    """All views with their keys, examples, exit statuses."""
    assert main(["top", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("1  cpus", "4  locks", "tab", "r turns", "examples:", "exit status"):
        assert words in out
