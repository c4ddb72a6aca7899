"""
a8b169afbf06 ``Avoid page waitqueue race leaving possible page locker waiting`` (2020).

An unlock wakes one waiter, who is expected to lock the page and to wake the next one when it unlocks. The one who
is woken may not want the page any more.

    CPU 0                                   CPU 1                                   CPU 2
    holds the lock of the page
                                            waits for it, to look only
                                                                                    waits for it, to lock it
    unlock_page: wakes CPU 1
                                            has seen enough: goes away
                                                                                    sleeps for ever

Symptom: a page that nobody holds, and a process that waits for it. Fix: who is woken and goes away takes care that
the next one is woken; here everybody is.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.wait_table import Bucket, WaitTable


class _WakesOne(WaitTable):
    """As if all waiters were exclusive."""

    def _wake_waiters(self, bucket: Bucket) -> None:
        bucket.queue.wake_up()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One holds a page's lock, one waits for it to be unlocked, one to lock it."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    page = m.pfn_to_page(1)
    m.run([lambda: m.lock_page(page)])

    def unlock() -> None:
        m.unlock_page(page)

    def look() -> None:
        m.wait_on_page_locked(page)

    def lock() -> None:
        m.lock_page(page)
        m.unlock_page(page)

    def unlocked() -> None:
        assert not page.flags

    return Program([unlock, look, lock], unlocked)


BUG = Bug(
    name="page-waiter-gives-up",
    number="B75",
    title="one waiter for a page is woken, and goes away without waking the next",
    fixed_by='a8b169afbf06 ("Avoid page waitqueue race leaving possible page locker waiting")',
    subsystem="page_alloc",
    kind="lost wake-up",
    depth=3,
    cpus=3,
    replaces={WaitTable: _WakesOne},
    expect=frozenset({"Deadlock"}),
    workload=_workload,
    witness="v1:0.1,3.0",
    executions={"pb": 30, "random": 50},  # random: seeds 0 to 4 need 2 at the median
    note="In Linux a signal makes the waiter go away; here it is one that never wanted the lock.",
)
