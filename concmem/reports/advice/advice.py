"""One piece of advice, with what it rests on."""

from __future__ import annotations

from typing import Final, NamedTuple

PROBLEM: Final = "problem"
"""Something is wrong."""
ADVICE: Final = "advice"
"""Something could be better."""
NOTE: Final = "note"
"""Something to know about the run itself."""

LEVELS: Final = (PROBLEM, ADVICE, NOTE)
"""The gravest first."""


class Advice(NamedTuple):
    """What a rule has to say of a run."""

    rule: str
    """The rule's module."""
    level: str
    finding: str
    """One sentence: what is so, of what."""
    evidence: tuple[str, ...]
    """The numbers behind it."""
    action: str
    """What to do about it."""
