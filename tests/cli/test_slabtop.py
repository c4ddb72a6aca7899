"""``concmem slabtop``: a file, a run as plain text, a run on a terminal with keys, and Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from concmem import Machine
from concmem.cli.main import main
from concmem.workloads import Scenario

pytestmark = pytest.mark.timeout(60)

FAST = ["--scenario", "churn", "--cpus", "2", "--memory", "16M", "--runtime", "free"]

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
kmalloc-64          2878   3712     64   64    1 : tunables    0    0    0 : slabdata     58     58      0
task_struct          124    135   5824    5    8 : tunables    0    0    0 : slabdata     27     27      0
"""

HEADER = "  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME"

Capture = pytest.CaptureFixture[str]


def names(table: str) -> list[str]:
    """The caches of a table, in order."""
    lines = table.splitlines()
    title = next(number for number, line in enumerate(lines) if line.startswith(HEADER))
    return [line.split()[-1] for line in lines[title + 1 :] if line.strip()]


def test_a_file_is_shown_once(tmp_path: Path, capsys: Capture) -> None:
    """Sorted by objects unless told otherwise; nothing but the table."""
    file = tmp_path / "slabinfo"
    file.write_text(SLABINFO)
    assert main(["slabtop", "--file", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(" Active / Total Objects (% used)    : 3002 / 3847 (78.0%)\n")
    assert names(out) == ["kmalloc-64", "task_struct"]
    assert main(["slabtop", "--file", str(file), "--once", "-s", "c"]) == 0
    assert names(capsys.readouterr().out) == ["task_struct", "kmalloc-64"]


def test_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe."""
    stdin = SimpleNamespace(buffer=io.BytesIO(SLABINFO.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["slabtop", "--file", "-", "--sort", "n"]) == 0
    assert names(capsys.readouterr().out) == ["kmalloc-64", "task_struct"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file", "/nonexistent"], "--file: '/nonexistent': cannot be read: "),
        (["--file", "/dev/null"], "--file: '/dev/null': slabinfo: line 1: expected"),
        (["--file", "/"], "--file: '/': cannot be read: "),
        (["--file", "a", "--cpus", "2"], "--cpus: is for a run"),
        (["--file", "a", "--scenario", "smoke"], "--scenario: is for a run"),
        (["--sort", "z"], "invalid choice"),
        (["--delay", "0"], "--delay: must be 0.01 to"),
        (["--delay", "nan"], "--delay: must be 0.01 to"),
        (["--scenario", "nope"], "none of the names churn"),
        (["--cpus", "0"], "cpus: must be 1 to 256, got 0"),
    ],
)
def test_bad_usage_is_one_clear_line(capsys: Capture, arguments: list[str], words: str) -> None:
    """Status 2, nothing on standard output, no traceback."""
    assert main(["slabtop", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_a_run_ends_with_its_verdict(capsys: Capture) -> None:
    """A run shorter than the delay shows one table all the same."""
    assert main(["slabtop", *FAST, "--ops", "100", "--delay", "1000"]) == 0
    out = capsys.readouterr().out
    assert out.count(HEADER) == 1
    last = out.splitlines()[-1]
    assert last.startswith("clean: ")
    assert "; again with: concmem stress churn --cpus 2 --memory 16M --ops 100 " in last


def test_the_caches_of_the_machine_are_in_the_table(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is allocated from them, in the order that is asked for."""
    boot = Scenario.boot

    def boot_with_objects(self: Scenario, **arguments: Any) -> Machine:
        machine = boot(self, **arguments)
        machine.run([lambda: [machine.kmalloc(size) for size in (64, 2048) for _ in range(65)]])
        return machine

    monkeypatch.setattr(Scenario, "boot", boot_with_objects)
    main(["slabtop", *FAST, "--ops", "100", "--sort", "c"])
    out = capsys.readouterr().out
    assert names(out)[:2] == ["kmalloc-2k", "kmalloc-64"]
    assert "    80     65  81%    2.00K      5       16       160K kmalloc-2k" in out
    assert "   128     65  50%    0.06K      2       64         8K kmalloc-64" in out
    assert " Active / Total Objects (% used)    : 130 / 208 (62.5%)\n" in out


def test_a_table_after_each_delay(capsys: Capture) -> None:
    """Where standard output is no terminal."""
    assert main(["slabtop", *FAST, "--seconds", "0.5", "--delay", "0.01"]) == 0
    assert capsys.readouterr().out.count(HEADER) > 1


def test_once_ends_a_long_run_and_keeps_the_verdict_apart(capsys: Capture) -> None:
    """The table is alone on standard output, and the run was as long as wanted: status 0."""
    assert main(["slabtop", *FAST, "--seconds", "1000", "--once", "--delay", "0.01"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count(HEADER) == 1
    assert "clean" not in captured.out
    assert captured.err.splitlines()[-1].startswith("clean: ")


def start(arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own, in which Ctrl-C works."""
    code = (
        # Whoever runs the tests may ignore SIGINT, and children inherit that.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from concmem.cli.main import main; sys.exit(main({arguments!r}))"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **streams)


def read_until(fd: int, words: str) -> str:
    """What comes from *fd* up to and with *words*."""
    seen = b""
    while words.encode() not in seen:
        assert select.select([fd], [], [], 30)[0], seen
        seen += os.read(fd, 65536)
    return seen.decode()


def test_keys_on_a_terminal() -> None:
    """A key sorts at once, q ends the run with status 0, and the terminal is as it was."""
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    arguments = ["slabtop", *FAST, "--seconds", "1000", "--delay", "1000"]
    with start(arguments, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        assert "by objects; q ends" in read_until(controller, "q ends")
        assert not termios.tcgetattr(terminal)[3] & termios.ICANON
        os.write(controller, b"c ")
        read_until(controller, "by cache size; q ends")
        os.write(controller, b"Q")
        end = read_until(controller, "; again with: ")
        # Somebody has to read the rest, or the process waits for room.
        os.set_blocking(controller, False)
        process.wait(30)
    assert process.returncode == 0
    assert "clean: " in end
    assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)


def test_ctrl_c_ends_with_a_result() -> None:
    """A real SIGINT: status 130, the verdict, and no traceback."""
    arguments = ["slabtop", *FAST, "--seconds", "1000", "--delay", "0.1"]
    with start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"Active / Total" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert err == b""
    assert out.decode().splitlines()[-1].startswith("clean, but interrupted: ")


def test_a_reader_that_goes_away_ends_it() -> None:
    """As ``| head``: status 141, and nothing is said."""
    arguments = ["slabtop", *FAST, "--seconds", "1000", "--delay", "0.1"]
    with start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, b"")


def test_help_teaches(capsys: Capture) -> None:
    """All sort keys, the keys while it runs, examples and exit statuses."""
    assert main(["slabtop", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("  u  use", "space", "q ends the run", "examples:", "--file -", "exit status"):
        assert words in out
