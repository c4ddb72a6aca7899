"""The directories ``/proc/<pid>``: which there are, and which files are in them."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

from concmem.reports.export import replace_tree
from concmem.reports.pid_maps import render_maps, render_smaps, render_smaps_rollup
from concmem.reports.pid_status import (
    render_cmdline,
    render_pid_stat,
    render_statm,
    render_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from concmem.mm.statistics import MachineStatistics
    from concmem.mm.statistics_process import ProcessStatistics


def directories(stats: MachineStatistics) -> dict[str, ProcessStatistics]:
    """The processes by directory."""
    if stats.user is None:
        return {}
    return {str(process.pid): process for process in stats.user.processes}


def links(stats: MachineStatistics) -> dict[str, str]:
    """None: which process is ``self`` depends on who asks."""
    return {}


def process_files(process: ProcessStatistics) -> dict[str, Callable[[], str]]:
    """The files of one directory."""
    renderers = {
        "cmdline": render_cmdline,
        "maps": render_maps,
        "smaps": render_smaps,
        "smaps_rollup": render_smaps_rollup,
        "stat": render_pid_stat,
        "statm": render_statm,
        "status": render_status,
    }
    return {name: partial(render, process) for name, render in renderers.items()}


def replace_processes(root: Path, files: Mapping[str, str]) -> None:
    """
    Put a directory for each process below *root*, and remove those of others.

    *files* is ``pid/file`` and text. Each directory is replaced as a whole.
    """
    processes: dict[str, dict[str, str]] = {}
    for name, text in files.items():
        pid, _, file = name.partition("/")
        processes.setdefault(pid, {})[file] = text
    for pid, texts in processes.items():
        replace_tree(root / pid, texts, {})
    for path in root.iterdir():
        if path.name.isdigit() and path.name not in processes and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
