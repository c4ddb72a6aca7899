"""What the tests of malloc share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime
from concmem.user.malloc import Malloc
from concmem.user.validate_malloc import validate_malloc

from .flat import HEAP, PAGE, FlatProcess

T = TypeVar("T")

WAIT = 50.0
FIRST = HEAP + 0x2A0
"""What the first malloc of a process returns: behind the tcache's structure."""


class World:
    """One naive process with a malloc."""

    def __init__(self, rt: FreeRuntime, **options: Any) -> None:
        self.rt = rt
        sizes = {key: options.pop(key) for key in ("size", "heap") if key in options}
        self.p = FlatProcess(rt, **sizes)
        self.m = Malloc(rt, self.p, **options)
        self.load = self.m.libc.load

    def on(self, fn: Callable[..., T], *args: Any, cpu: int = 0) -> T:
        """``fn(*args)`` on a CPU; its result."""
        return self.rt.submit(cpu, fn, *args).result(WAIT)

    def malloc(self, size: int, cpu: int = 0) -> int:
        """An allocation that does not fail."""
        address = self.on(self.m.malloc, size, cpu=cpu)
        assert address is not None
        return address

    def mallocs(self, size: int, nr: int, cpu: int = 0) -> list[int]:
        return [self.malloc(size, cpu) for _ in range(nr)]

    def free(self, *addresses: int, cpu: int = 0) -> None:
        for address in addresses:
            self.on(self.m.free, address, cpu=cpu)

    def check(self) -> None:
        """All structures agree."""
        self.rt.stop_machine(lambda: validate_malloc(self.m))

    @property
    def main(self) -> Any:
        return self.m.arenas.main_arena


@contextmanager
def world(cpus: int = 1, runtime: str = "free", seed: int = 0, **options: Any) -> Iterator[World]:
    """A naive process on a runtime of its own."""
    rt = (JitterRuntime if runtime == "jitter" else FreeRuntime)(cpus, seed=seed)
    try:
        yield World(rt, **options)
    finally:
        rt.shutdown()


Classes = Mapping[type, type]

__all__ = ["FIRST", "HEAP", "PAGE", "WAIT", "Classes", "World", "world"]
