"""What images scored, as it is told: a number with its interval, what it could be at best, which row to use."""

from dataclasses import dataclass

SUBJECT, CLASS, OTHER = "subject", "class", "other"
"""What a prompt asks for: the subject ("sks bottle"), any thing of its class ("a bottle"), something else."""


@dataclass(frozen=True)
class PromptSpec:
    """What a column's images were asked for; they all began as the same noise."""

    prompt_index: int
    seed: int
    kind: str
    """SUBJECT, CLASS or OTHER."""
    prompt: str
    """With the class filled in."""


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Reference:
    """What a score can be at best and was before training, for one group."""

    ceiling: float | None = None
    base: float | None = None


@dataclass(frozen=True)
class Score:
    """A number per image or row: its name in the tables, and how people read it."""

    name: str
    title: str
    higher_is_better: bool
    explanation: str
    """One or two sentences."""


@dataclass(frozen=True)
class Recommendation:
    """Which row to use, in words, and the words' reasons, one sentence each."""

    row: int | None
    """Index into all rows; None where nothing can be recommended."""
    verdict: str
    reasons: list[str]
