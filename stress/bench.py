#!/usr/bin/env python3
"""The benchmark, as `concmem bench` runs it: ratios measured in one run, nothing judged."""

import sys

from concmem.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
