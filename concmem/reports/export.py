"""Writing files and directory trees so that readers see them whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from concmem.errors import BadArgument

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_directory(path: Path) -> None:
    """Make *path* and what is above it. Raises `BadArgument` when something there is a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadArgument(f"directory: {os.fspath(path)!r} is a file or below one") from error


def check_place(path: Path) -> None:
    """Raise `BadArgument` when there is something at *path* that is no directory."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise BadArgument(f"directory: {os.fspath(path)!r} is a file")


def replace_file(path: Path, text: str) -> None:
    """Write *path* under another name, then rename."""
    temporary = _beside(path)
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_tree(path: Path, files: Mapping[str, str], links: Mapping[str, str]) -> None:
    """
    Put a new directory in the place of *path*, which is a directory or not there.

    Between the old one and the new one there is an instant with neither. Of several threads that do
    this at once, one comes last.

    Args:
        files: ``subdirectory/file`` and text.
        links: symbolic link and target, both in the directory.
    """
    new, old = _beside(path), _beside(path, "old")
    try:
        for subdirectory in {str(Path(name).parent) for name in files}:
            (new / subdirectory).mkdir(parents=True)
        for name, text in files.items():
            (new / name).write_bytes(text.encode())
        for link, target in links.items():
            (new / link).symlink_to(target)
        while True:
            with suppress(FileNotFoundError):
                path.rename(old)
                _remove(old)
            try:
                new.rename(path)
                return
            except OSError as error:
                # Another thread's is in the place meanwhile.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove(directory: Path) -> None:
    if directory.is_symlink():
        directory.unlink()
    else:
        shutil.rmtree(directory)


def _beside(path: Path, what: str = "new") -> Path:
    """A name in the same directory, unique among live threads."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.{what}")
