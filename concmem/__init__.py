"""
Linux memory management as a multi-threaded concurrency model with real CPU threads.

    import concmem

    with concmem.Machine(cpus=4, memory="256M") as m:
        m.run([lambda: m.free_pages(m.alloc_pages(0), 0)] * 4)
        m.verify()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from concmem import errors
from concmem.units import KERNEL_VERSION

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.page import Page
    from concmem.mm.reclaim import Shrinker
    from concmem.runtime.api import Runtime
    from concmem.runtime.free import FreeRuntime
    from concmem.runtime.jitter import JitterRuntime

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

_HOMES = {
    "FreeRuntime": "runtime.free",
    "JitterRuntime": "runtime.jitter",
    "Machine": "machine",
    "Page": "mm.page",
    "Runtime": "runtime.api",
    "Shrinker": "mm.reclaim",
}
"""Imported when first used: pytest loads the plugin of this package in every run, which need not have them."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
