"""Results of an evaluation as plain data, without torch: scores, intervals, references, a recommendation."""

from dataclasses import dataclass

SUBJECT, CLASS, OTHER = "subject", "class", "other"
"""Kinds of prompts: of the subject ("sks bottle"), of its class ("a bottle"), of something else."""


@dataclass(frozen=True)
class PromptSpec:
    """The prompt and seed of a column; all its images start from the same noise."""

    prompt_index: int
    seed: int
    kind: str
    """SUBJECT, CLASS or OTHER."""
    prompt: str
    """The prompt with the class filled in."""


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Reference:
    """A score's best possible value and the base model's, for one group."""

    ceiling: float | None = None
    base: float | None = None


@dataclass(frozen=True)
class Score:
    """A number per image or row: its name in files, and how it is shown."""

    name: str
    title: str
    higher_is_better: bool
    explanation: str
    """One or two sentences."""


@dataclass(frozen=True)
class Recommendation:
    """Which row to use, in words, and the reasons, one sentence each."""

    row: int | None
    """Index into all rows; None if nothing can be recommended."""
    verdict: str
    reasons: list[str]
