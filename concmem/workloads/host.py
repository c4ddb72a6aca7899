"""What the host says about the threads of the simulated CPUs: time used and context switches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.machine import Machine


class HostUse(NamedTuple):
    """What one OS thread has used so far."""

    user: float = 0.0
    """Seconds of host CPU time in user mode."""
    system: float = 0.0
    """Seconds of host CPU time in the host's kernel."""
    voluntary_switches: int = 0
    """Times it gave its host CPU up, mostly to sleep."""
    involuntary_switches: int = 0
    """Times it was put off its host CPU."""

    def since(self, before: HostUse) -> HostUse:
        """The difference to an earlier sample of the same thread."""
        return HostUse(
            self.user - before.user,
            self.system - before.system,
            self.voluntary_switches - before.voluntary_switches,
            self.involuntary_switches - before.involuntary_switches,
        )


def sample(machine: Machine) -> dict[int, HostUse]:
    """
    The use of each CPU's thread, by CPU number.

    All zero where the host does not tell; context switches of threads are known on Linux only.
    """
    import psutil

    native_ids = {cpu.cpu: cpu.native_id for cpu in machine.statistics().cpus}
    try:
        times = {thread.id: thread for thread in psutil.Process().threads()}
    except psutil.Error:
        return dict.fromkeys(native_ids, HostUse())
    uses = {}
    for cpu, native_id in native_ids.items():
        # A thread that has only just started may not know its id yet: it has used nothing.
        user = system = 0.0
        voluntary = involuntary = 0
        if native_id in times:
            user, system = times[native_id].user_time, times[native_id].system_time
            if sys.platform == "linux":  # where a thread id will do as a process id
                try:
                    voluntary, involuntary = psutil.Process(native_id).num_ctx_switches()
                except psutil.Error:
                    pass
        uses[cpu] = HostUse(user, system, voluntary, involuntary)
    return uses
