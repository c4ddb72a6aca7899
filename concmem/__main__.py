"""``python -m concmem``: the same as the ``concmem`` command."""

from __future__ import annotations

import sys

from concmem.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
