"""What a machine without a leak detector has in its place: the same calls, which do nothing."""

from __future__ import annotations

from concmem.errors import BadArgument
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.statistics_kmemleak import UnreferencedObject


class NoKmemleak:
    """
    CONFIG_DEBUG_KMEMLEAK is off.

    So code that helps the detector runs on any machine; asking it for something raises `BadArgument`.
    """

    msecs_min_age = 0

    def alloc(
        self, pointer: int | None, size: int, min_count: int = 1, gfp: int = GFP_KERNEL
    ) -> None:
        """Nothing."""

    def alloc_recursive(
        self, pointer: int | None, size: int, min_count: int, flags: int, gfp: int = GFP_KERNEL
    ) -> None:
        """Nothing."""

    def free(self, pointer: int | None) -> None:
        """Nothing."""

    def free_recursive(self, pointer: int | None, flags: int) -> None:
        """Nothing."""

    def free_part(self, pointer: int | None, size: int) -> None:
        """Nothing."""

    def update_trace(self, pointer: int | None) -> None:
        """Nothing."""

    def not_leak(self, pointer: int | None) -> None:
        """Nothing."""

    def ignore(self, pointer: int | None) -> None:
        """Nothing."""

    def scan_area(self, pointer: int | None, size: int = 0, gfp: int = GFP_KERNEL) -> None:
        """Nothing."""

    def no_scan(self, pointer: int | None) -> None:
        """Nothing."""

    def erase(self, where: int) -> None:
        """Nothing."""

    def register_root(self, owner: object, words: object) -> None:
        """Nothing."""

    def unregister_root(self, owner: object) -> None:
        """Nothing."""

    def report(self) -> str:
        """Raises `BadArgument`."""
        raise self._off()

    def leaks(self) -> list[UnreferencedObject]:
        """Raises `BadArgument`."""
        raise self._off()

    def scan(self) -> int:
        """Raises `BadArgument`."""
        raise self._off()

    def write(self, command: str) -> None:
        """Raises `BadArgument`."""
        raise self._off()

    def statistics(self) -> None:
        """There are none."""

    @staticmethod
    def _off() -> BadArgument:
        return BadArgument(
            "kmemleak: this machine has no leak detector; boot it with kmemleak=True"
        )

    def __repr__(self) -> str:
        return "<kmemleak off>"
