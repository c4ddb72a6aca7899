"""The kernel's own memory: static data, per-CPU data, stacks."""

from __future__ import annotations

import pytest

from concmem.errors import BadArgument, KernelBug, NotACpu
from concmem.machine import Machine
from concmem.mm.sections import DATA_SIZE, PERCPU_SIZE, THREAD_SIZE

from .helpers import on_cpu


def test_variables_are_words_of_memory() -> None:
    """All 0 at first, none in another, each at its address."""
    with Machine(cpus=2, memory="16M") as m:
        first, second = m.data(2), m.data()
        assert list(first) == [0, 0]
        first[0], first[1], second[0] = 1, 2, (1 << 64) - 1
        assert [*first, *second] == [1, 2, (1 << 64) - 1]
        assert m.memory.read_u64(first.address + 8) == 2
        first[1] = None
        assert m.memory.read_u64(first.address + 8) == 0
        m.verify()


def test_each_cpu_has_its_own() -> None:
    """By number, or of the CPU that asks."""
    with Machine(cpus=2, memory="16M") as m:
        variable = m.percpu_data(3)
        for cpu in range(2):
            variable.of(cpu)[2] = cpu + 10
        assert [on_cpu(m, lambda: variable.this()[2], cpu=cpu) for cpu in range(2)] == [10, 11]
        with pytest.raises(NotACpu):
            variable.this()
        with pytest.raises(BadArgument):
            variable.of(10**6)


def test_frames() -> None:
    """One below the other, cleared, and gone after the block."""
    with Machine(cpus=1, memory="16M") as m:

        def body() -> None:
            with m.stack_frame(2) as outer:
                outer[1] = 7
                with m.stack_frame(4) as inner:
                    assert inner.address == outer.address - 4 * 8
                    inner[3] = 9
                with m.stack_frame(4) as again:
                    assert list(again) == [0, 0, 0, 0]
                assert outer[1] == 7
            with pytest.raises(KernelBug, match="outside of its"):
                outer[1]

        on_cpu(m, body)
        with pytest.raises(NotACpu), m.stack_frame(1):
            pass


def test_wrong_use_of_frames() -> None:
    """Too large, entered twice, left in the wrong order: refused, and the stack is as it was."""
    with Machine(cpus=1, memory="16M") as m:

        def body() -> None:
            with m.stack_frame(1) as frame:
                with pytest.raises(KernelBug, match="stack guard page was hit on cpu0"):
                    m.stack_frame(THREAD_SIZE // 8).__enter__()
                with pytest.raises(KernelBug, match="entered already"):
                    frame.__enter__()
                inner = m.stack_frame(1).__enter__()
                with pytest.raises(KernelBug, match="is left, but the last"):
                    frame.__exit__(None, None, None)
                inner.__exit__(None, None, None)
            with m.stack_frame(THREAD_SIZE // 8):
                pass

        on_cpu(m, body)


def test_limits() -> None:
    """No more than there is room for; no index outside; no value that is no word."""
    with Machine(cpus=1, memory="16M") as m:
        for make, size in ((m.data, DATA_SIZE), (m.percpu_data, PERCPU_SIZE)):
            make(size // 8 - 1)
            with pytest.raises(BadArgument, match="is full"):
                make(2)
            make(1)
            for wrong in (0, -1, True, "1", 1.5):
                with pytest.raises(BadArgument):
                    make(wrong)  # type: ignore[arg-type]
    with Machine(cpus=1, memory="16M") as m:
        words = m.data(2)
        for index in (-1, 2, "0"):
            with pytest.raises(BadArgument, match="index"):
                words[index]  # type: ignore[index]
        for value in (-1, 1 << 64, "x"):
            with pytest.raises(BadArgument, match="value"):
                words[0] = value  # type: ignore[assignment]
        assert list(words) == [0, 0]
