"""What a call sampled and how it scored: what the grid, `pictures.csv`, `comparison.json` and the page are made from.

Rows are checkpoints, columns are prompts x seeds, and for edits x image scales. Rows of one subject on one base model
form a group: they share their photos, their base row and their recommendation. File names are relative to the output
directory, separated by "/".
"""

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ldm.evaluation.results import OTHER, Interval, Recommendation, Reference, Score

CLASS_PLACEHOLDER = "{class}"
"""Stands in a prompt for the class name of each row's subject."""
MOST_NAMED = 3
"""Classes that a heading names; where there are more it says "[class]"."""


@dataclass(frozen=True)
class Column:
    """A prompt and a seed, for edits an image scale, and of several initial images one.

    All images of a column started from the same noise.
    """

    prompt: str
    """The prompt as given, with "{class}" where each row has its own class."""
    prompt_index: int
    seed: int
    kind: str = OTHER
    noise: str = ""
    """SHA-256 of the seed's initial noise, float32 (1 c h/8 w/8)."""
    image_scale: float | None = None
    """How closely the images keep to the one that they edit; None for models that don't edit."""
    init_image: str = ""
    """The image that the column started from, at the size of its images; empty if there is one for all, or none."""
    width: int = 0
    height: int = 0
    """Pixels, where columns have sizes of their own; else 0."""

    @property
    def label(self) -> str:
        """What tells it from the other columns of its prompt, for people."""
        scale = [] if self.image_scale is None else [f"image scale {self.image_scale:g}"]
        name = [PurePosixPath(self.init_image).stem] if self.init_image else []
        return ", ".join([*name, f"seed {self.seed}", *scale])


@dataclass(frozen=True)
class Cell:
    """One image."""

    file: str
    prompt: str
    """The prompt with the class filled in."""
    scores: dict[str, float] = field(default_factory=dict)
    """By the score's name, without those that don't apply to this image."""


@dataclass(frozen=True)
class Row:
    """The images of one checkpoint."""

    label: str
    group: int
    run: str
    """The run directory's name; empty for the base model."""
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
    """The class name; empty for a model without a subject."""
    photos: list[str] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    recommendation: Recommendation | None = None


@dataclass(frozen=True)
class RunOptions:
    """A run of dreambooth.py and its options."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class ComparisonData:
    """All images of one call, with prompts, scores and recommendations: the contents of `comparison.json`."""

    title: str
    command: str
    created: str
    columns: list[Column]
    rows: list[Row]
    groups: list[Group]
    runs: list[RunOptions] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    scored_by: str = ""
    """The encoder's name for people; empty without scores."""
    notes: list[str] = field(default_factory=list)
    """What to know before trusting scores and images, a sentence or two each."""
    rule: str = ""
    """The rule of the recommendation in words; empty without scores."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """The fields of `SamplingConfig`, and the negative prompt."""
    versions: dict[str, str] = field(default_factory=dict)
    init_image: str = ""
    """The image that img2img started from, at the size of the samples; empty for txt2img."""
    unfinished: str = ""
    """What is missing, a sentence; empty when all is there."""
    resume_command: str = ""
    """The command that continues an unfinished call."""
    digest: str = ""
    """SHA-256 of all that the results were made from; empty when unfinished. While it is the same, the results stay."""


def shown_prompt(comparison: ComparisonData, prompt_index: int) -> str:
    """A prompt for headings: as all rows have it, or where they differ or have none yet, with the classes filled in."""
    places = [place for place, column in enumerate(comparison.columns) if column.prompt_index == prompt_index]
    sampled = {cell.prompt for row in comparison.rows for place in places if (cell := row.cells[place])}
    if len(sampled) == 1:
        return sampled.pop()
    subjects = list(dict.fromkeys(group.subject for group in comparison.groups if group.subject))
    named = " / ".join(subjects) if 0 < len(subjects) <= MOST_NAMED else "[class]"
    return comparison.columns[places[0]].prompt.replace(CLASS_PLACEHOLDER, named)
