"""Programs of others: where they are, and the right to use them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def lacking(what: str) -> None:
    """*what* this machine lacks fails a test in CI, and skips it elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; CI installs what these tests need (.ci/run)")
    pytest.skip(what)


def program(*names: str) -> str:
    """The path of the first of *names* that is installed."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    lacking(f"{names[0]} is not installed")
    raise AssertionError("not reached")


def in_place_of_proc(tree: Path, files: Sequence[str], command: Sequence[str]) -> str:
    """What *command* prints where *files* of *tree* are in the place of the host's ``/proc``."""
    unshare = program("unshare")
    probe = subprocess.run([unshare, "--mount", "true"], capture_output=True, text=True)
    if probe.returncode:
        lacking(f"mount namespaces are not allowed here: {probe.stderr.strip()}")
    script = "".join(f'mount --bind "$0/{name}" "/proc/{name}" && ' for name in files) + 'exec "$@"'
    done = subprocess.run(
        [unshare, "--mount", "--propagation", "private", "sh", "-c", script, str(tree), *command],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
