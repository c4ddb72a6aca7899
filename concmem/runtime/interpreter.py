"""What interpreter this is."""

from __future__ import annotations

import sys


def has_gil() -> bool:
    """Whether only one thread at a time runs Python code."""
    return sys.version_info < (3, 13) or sys._is_gil_enabled()
