"""
kmemleak: finds memory that is allocated, but that nothing in memory leads to any more.

Whatever is allocated becomes a `KmemleakObject`. A scan looks at all memory that may hold addresses, beginning with
the kernel's own (:mod:`concmem.mm.sections`), and reports the objects that it found no address of. An address that
only a variable of Python holds is, so to speak, in a register: it does not count. Put it into static data, into a
frame on the stack, or into another object.

The parts, each on top of the one before: structs (`KmemleakStructs`), what is allocated (`KmemleakTrack`), what is
told of it (`KmemleakPaint`), roots (`KmemleakRoots`), scan (`KmemleakScan`), report (`KmemleakReport`), calls
(`KmemleakCalls`), and here commands, and the end. What has the allocators call is in `kmemleak_hooks`.

Follows ``mm/kmemleak.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.debug.kmemleak_calls import KmemleakCalls
from concmem.mm.debug.kmemleak_object import (
    KMEMLEAK_GREY,
    OBJECT_REPORTED,
    KmemleakObject,
)
from concmem.mm.debug.kmemleak_report import print_unreferenced
from concmem.mm.debug.kmemleak_thread import KmemleakThread
from concmem.mm.debug.kmemleak_track import SIZE_MAX
from concmem.mm.statistics_kmemleak import KmemleakStatistics, UnreferencedObject
from concmem.mm.workqueue import Work

if TYPE_CHECKING:
    from concmem.mm.slab_common import SlabCommon
    from concmem.mm.vm_area import VmAreas
    from concmem.mm.workqueue import WorkQueue

UINT_MAX: Final = (1 << 32) - 1


class Kmemleak(KmemleakCalls):
    """
    The leak detector of a machine that was booted with ``kmemleak=True``.

    Every method that is told of memory is as the kernel's function ``kmemleak_<name>``. `report`, which reads it,
    and `write` are ``/sys/kernel/debug/kmemleak``; they work on any thread.
    """

    # Set by `start`, at boot.
    _workqueue: WorkQueue
    _cleanup_work: Work

    def start(self, slab: SlabCommon, vm_areas: VmAreas, workqueue: WorkQueue) -> None:
        """``kmemleak_init`` and ``kmemleak_late_init``."""
        self._rt.watch(self)
        self._vm_areas = vm_areas
        self._workqueue = workqueue
        self._cleanup_work = Work(self._do_cleanup, "kmemleak cleanup_work")
        self.create_caches(slab)
        self._warn(
            f"Kernel memory leak detector initialized (mem pool available: {self.MEM_POOL_SIZE})"
        )
        self._thread = KmemleakThread(
            self._rt, self._automatic_scan, lambda: self._events.count("kmemleak_on")
        )

    # -- /sys/kernel/debug/kmemleak

    def report(self) -> str:
        """The report: each unreferenced object that scans have found so far. May sleep."""
        return "".join(map(print_unreferenced, self.leaks()))

    def leaks(self) -> list[UnreferencedObject]:
        """The same as data."""

        def read() -> list[UnreferencedObject]:
            self._events.count("kmemleak_read")
            with self.scan_mutex:
                return self._unreferenced()

        return self._on_a_cpu(read)

    def scan(self) -> int:
        """As ``write("scan")``; the number of new leaks."""
        return self._on_a_cpu(lambda: self._command("scan"))

    def write(self, command: str) -> None:
        """
        Do one of:

        ``scan``, now; ``clear``: forget what was reported so far; ``off``: stop for good;
        ``scan=on``, ``scan=off``, ``scan=<secs>``: automatic scans, 0 for none;
        ``stack=on``, ``stack=off``: stacks are scanned, or not;
        ``dump=<address>``: what is known of the block that the address is in goes to the kernel log.

        May sleep.

        Raises:
            BadArgument: it is something else; or the detector is off, and it is not ``clear``.
        """
        if not isinstance(command, str):
            raise BadArgumentType(f"command: expected text, got {command!r}")
        self._on_a_cpu(lambda: self._command(command.removesuffix("\n")))

    def _command(self, command: str) -> int:
        """Do *command*. For a scan, the number of new leaks."""
        key, equals, value = command.partition("=")
        with self.scan_mutex:
            if command == "clear":
                self._clear()
            elif not self._enabled.value:
                raise BadArgument(
                    f"command: kmemleak is off, only 'clear' is possible: {command!r}"
                )
            elif command == "scan":
                return self.kmemleak_scan()
            elif command == "off":
                self.disable()
            elif key == "scan" and equals:
                self._set_automatic_scan(value)
            elif key == "stack" and value in ("on", "off"):
                self._stack_scan.value = value == "on"
            elif key == "dump" and equals:
                self._dump(value)
            else:
                raise BadArgument(
                    "command: expected scan, scan=on, scan=off, scan=<secs>, clear, off, stack=on, "
                    f"stack=off or dump=<address>; got {command!r}"
                )
        return 0

    def _set_automatic_scan(self, value: str) -> None:
        seconds = None if value in ("on", "off") else _kstrtouint("scan", value)
        if value == "off" or seconds == 0:
            self._thread.stop_scanning()
        else:
            self._thread.start_scanning(seconds)

    def _dump(self, value: str) -> None:
        pointer = _kstrtouint("dump", value, SIZE_MAX)
        obj = self._find_and_get_object(pointer, alias=True)
        if obj is None:
            self._warn(f"Unknown object at {pointer:#010x}")
            raise BadArgument(f"dump: no object is known at {pointer:#x}")
        self._warn(*self._dump_object_info(obj))
        self._put_object(obj)

    def _clear(self) -> None:
        """What was reported is grey from now on. Caller holds scan_mutex."""
        if not self._enabled.value:
            self._remove_all()
            return
        self._for_each_object(self._clear_object)
        self._found_leaks.value = False

    def _clear_object(self, obj: KmemleakObject) -> None:
        with obj.lock:
            if obj.flags & OBJECT_REPORTED and self._unreferenced_object(obj):
                self._paint_it(obj, KMEMLEAK_GREY)

    # -- automatic scans, and the end

    def _automatic_scan(self) -> None:
        with self.scan_mutex:
            if self._enabled.value and self._thread.scanning():
                self.kmemleak_scan()

    def _scan_should_stop(self) -> bool:
        return not self._enabled.value

    def disable(self) -> None:
        if self._error.cmpxchg(0, 1):
            return
        self._stop_tracking()
        self._workqueue.queue_work(self._cleanup_work)
        self._warn("Kernel memory leak detector disabled")

    def _stop_tracking(self) -> None:
        """New blocks are not looked after any more, and a scan that is under way ends soon."""
        self._enabled.value = False

    def _do_cleanup(self) -> None:
        """On a kernel thread: when no scan runs any more, nothing has to be known of frees either."""
        self._thread.stop_scanning()
        with self.scan_mutex:
            self._free_enabled.value = False
            if not self._found_leaks.value:
                self._remove_all()
                return
        self._warn(
            "Kmemleak disabled without freeing internal data. Reclaim the memory with "
            '"echo clear > /sys/kernel/debug/kmemleak".'
        )

    def _remove_all(self) -> None:
        """Forget everything. The detector is off."""
        while True:
            with self.kmemleak_lock:
                obj = self.object_list.first()
                if obj is not None:
                    self._remove_object(obj)
            if obj is None:
                return
            self._delete_object(obj)
            self._rt.cond_resched()

    # -- report and check

    def objects(self) -> list[KmemleakObject]:
        """All that are in the search tree, lowest address first. The caller has parked all CPUs."""
        return list(self._tree)

    def blocks(self) -> set[tuple[int, int]]:
        """Address of each block that it knows at the moment, and jiffies when it was allocated."""
        with self.kmemleak_lock:
            return {(obj.pointer, obj.jiffies) for obj in self._tree}

    def follows_frees(self) -> bool:
        """Whether it is told of what is freed."""
        return self._free_enabled.value

    def statistics(self) -> KmemleakStatistics:
        """A copy of its counters."""
        with self.kmemleak_lock:
            nr_objects = len(self._tree)
        return KmemleakStatistics(self._enabled.value, nr_objects, self.nr_scans.value)

    def __repr__(self) -> str:
        return f"<kmemleak enabled:{self._enabled.value}>"


def _kstrtouint(name: str, text: str, limit: int = UINT_MAX) -> int:
    """A number as the kernel reads it: decimal, or with 0x or 0 in front."""
    digits = text.strip()
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[:1] == "0" and digits != "0" else 10
    try:
        if not digits[:1].isdigit() or "_" in digits:
            raise ValueError(text)
        number = int(digits, base)
    except ValueError:
        raise BadArgument(f"{name}: expected a number, got {text!r}") from None
    if number > limit:
        raise BadArgument(f"{name}: at most {limit}, got {text}")
    return number
