"""Long traces are folded; what matters stays."""

from __future__ import annotations

from concmem.explore.render.fold import MOST, kept_steps

from .handmade import trace


def steps(cpu: int, name: str, n: int) -> str:
    return f"cpu{cpu} r {name} 0\n" * n


def test_short_traces_are_not_folded() -> None:
    """Not even by one step."""
    assert kept_steps(trace(steps(0, "a", MOST)), ()) is None
    assert kept_steps(trace(steps(0, "a", MOST + 1)), ()) is not None


def test_what_is_kept() -> None:
    """Key steps, both sides of each forced switch, and accesses near it that conflict; nothing else."""
    text = (
        steps(0, "a", 50)  # 0 to 49
        + "cpu0 r x 0\n"  # 50
        + steps(0, "b", 5)  # 51 to 55
        + "cpu1 w x 0 1 !\n"  # 56
        + steps(1, "c", 60)  # 57 to 116
        + "cpu0 w x 1 1 !\n"  # 117
        + steps(0, "d", 50)  # 118 to 167
    )
    kept = kept_steps(trace(text), ())
    assert kept is not None
    # First, last two, before and after both switches, and the accesses of x.
    assert kept == {0, 50, 55, 56, 116, 117, 166, 167}
    assert kept_steps(trace(text), (30, 60)) == kept | {30, 60}


def test_accesses_under_one_lock_are_in_order_and_not_kept() -> None:
    """Both hold the lock: whatever comes first, no third one comes in between."""
    text = (
        "cpu0 a lock\ncpu0 w x 0 1\ncpu0 rel lock\n"
        + steps(0, "a", 50)
        + "cpu1 a lock !\ncpu1 w x 1 2\ncpu1 rel lock\n"
        + steps(1, "b", 50)
    )
    made = trace(text)
    kept = kept_steps(made, ())
    assert kept is not None
    assert not [step for step in made if step.object == "x" and step.at in kept]
    unlocked = trace(
        text.replace("cpu1 a lock !\n", "cpu1 r y 0 !\n").replace("cpu1 rel lock\n", "")
    )
    near = kept_steps(unlocked, (2, 54))
    assert near is not None
    assert 54 in near


def test_too_much_that_conflicts() -> None:
    """A window that is small enough is taken, so the picture stays short."""
    text = "".join(f"cpu0 w x{i} 0 1\n" for i in range(60))
    text += "cpu1 r z 0 !\n" + "".join(f"cpu1 w x{i} 1 2\n" for i in range(60))
    kept = kept_steps(trace(text), ())
    assert kept is not None
    assert len(kept) <= MOST
