"""What a call drew and how it scored: what the grid, `pictures.csv`, `comparison.json` and the page are made from.

Rows are checkpoints, columns are prompts x seeds. Rows of one subject on one base model form a group: they share their
photos, their base row and their recommendation. File names are relative to the output directory, with "/" in between.
"""

from dataclasses import dataclass, field
from typing import Any

from ldm.evaluation.results import CLASS, OTHER, SUBJECT, Interval, Recommendation, Reference, Score

__all__ = [
    "CLASS",
    "OTHER",
    "SUBJECT",
    "Cell",
    "Column",
    "Comparison",
    "Group",
    "Interval",
    "Recommendation",
    "Reference",
    "Row",
    "Run",
    "Score",
]


@dataclass(frozen=True)
class Column:
    """A prompt and a seed: all images of a column began as the same noise."""

    prompt: str
    """As it was asked for; "{class}" stands for each row's class."""
    prompt_index: int
    seed: int
    kind: str = OTHER
    noise: str = ""
    """SHA-256 of the noise that the seed begins with, in float32 (1 c h/8 w/8)."""


@dataclass(frozen=True)
class Cell:
    """One image."""

    file: str
    prompt: str
    """With the class filled in."""
    scores: dict[str, float] = field(default_factory=dict)
    """By the name of a score; a score that says nothing about this image is absent."""


@dataclass(frozen=True)
class Row:
    """What one checkpoint drew."""

    label: str
    group: int
    run: str
    """The run's directory name; empty for the base model."""
    step: int
    checkpoint: str
    is_base: bool
    cells: list[Cell | None]
    """One per column."""
    scores: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The rows of one subject on one base model."""

    subject: str
    """The class name, empty for a model that was taught none."""
    photos: list[str] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    recommendation: Recommendation | None = None


@dataclass(frozen=True)
class Run:
    """A run of dreambooth.py and its options."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Everything that one call drew."""

    title: str
    command: str
    created: str
    columns: list[Column]
    rows: list[Row]
    groups: list[Group]
    runs: list[Run] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    scored_by: str = ""
    """What the encoder that scored is called; empty where nothing was scored."""
    notes: list[str] = field(default_factory=list)
    """What to know before the scores and images are trusted, a sentence or two each."""
    rule: str = ""
    """How the recommendation was made, in words; empty where nothing was scored."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """The flags that the images were drawn with."""
    versions: dict[str, str] = field(default_factory=dict)
