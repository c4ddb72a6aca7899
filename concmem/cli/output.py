"""What sub-commands share: exit statuses, messages, and JSON files that are whole or not there."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from concmem.errors import BadArgument

CLEAN: Final = 0
"""No rule was broken."""
BROKEN: Final = 1
"""A rule was broken."""
USAGE: Final = 2
"""An argument or a file cannot be used."""
PIPE: Final = 141
"""Whoever read the output went away before its end."""
INTERRUPTED: Final = 130
"""The user ended it; nothing was broken until then."""


def complain(error: object) -> None:
    """One line on standard error."""
    text = " ".join(str(error).split())
    print(f"concmem: error: {text}", file=sys.stderr)


def command_line(command: str, positional: str, options: Mapping[str, object]) -> str:
    """A line to paste, with those *options* that are not ``None``; of ``True``, the name only."""
    words = ["concmem", command, positional]
    for name, value in options.items():
        if value is not None:
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(str(value))
    return shlex.join(words)


class FileTarget:
    """
    Where an option writes to. Checked when made, so that a long run is not lost to a wrong path.

    A file is written beside its place and renamed, so that readers see it whole or not at all. What
    is no regular file (``/dev/null``, a pipe) is written directly.

    Args:
        option: for messages.
        path: a file, or ``-`` for standard output.

    Raises:
        BadArgument: *path* cannot be written.
    """

    def __init__(self, option: str, path: str) -> None:
        self.is_stdout = path == "-"
        self._option = option
        self._name = path
        if self.is_stdout:
            return
        # Through symbolic links: the rename must not replace the link.
        self._path = Path(os.path.realpath(path))
        try:
            self._is_special = self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode)
            if self._path.is_dir():
                raise IsADirectoryError("is a directory")
            if self._is_special:
                if not os.access(self._path, os.W_OK):
                    raise PermissionError("permission denied")
            else:
                self._temporary().write_bytes(b"")
                self._temporary().unlink()
        except (OSError, ValueError) as error:
            raise BadArgument(f"{option}: {path!r} cannot be written: {error}") from None

    def _temporary(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{os.getpid()}")

    def write_text(self, text: str) -> None:
        """
        Write *text*.

        Raises:
            BadArgument: the file cannot be written any more; an older one is as it was.
        """
        if self.is_stdout:
            sys.stdout.write(text)
            return
        try:
            if self._is_special:
                self._path.write_text(text, encoding="utf-8")
                return
            try:
                self._temporary().write_text(text, encoding="utf-8")
                self._temporary().replace(self._path)
            finally:
                self._temporary().unlink(missing_ok=True)
        except OSError as error:
            raise BadArgument(
                f"{self._option}: {self._name!r} cannot be written: {error}"
            ) from None


class JsonTarget(FileTarget):
    """Where ``--json`` goes."""

    def __init__(self, path: str) -> None:
        super().__init__("--json", path)

    def write(self, data: Mapping[str, Any]) -> None:
        """Write *data*; raises as `write_text`."""
        self.write_text(json.dumps(data, indent=2) + "\n")
