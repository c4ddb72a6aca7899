"""For tests of what is built on concmem: conformance tests of runtimes and of schedulers."""

from concmem.testing.conformance import run_runtime_conformance_test
from concmem.testing.conformance_schedulers import run_scheduler_conformance_test

__all__ = ["run_runtime_conformance_test", "run_scheduler_conformance_test"]
