"""
Linux memory management as a multi-threaded concurrency model with real CPU threads.

    import concmem

    with concmem.Machine(cpus=4, memory="256M") as m:
        m.run([lambda: m.free_pages(m.alloc_pages(0), 0)] * 4)
        m.verify()
"""

from concmem import errors
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.reclaim import Shrinker
from concmem.runtime.api import Runtime
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime
from concmem.units import KERNEL_VERSION

__version__ = "0.1.0"

__all__ = [
    "KERNEL_VERSION",
    "FreeRuntime",
    "JitterRuntime",
    "Machine",
    "Page",
    "Runtime",
    "Shrinker",
    "errors",
]
