"""A comparison for tests of its page: a base model and two runs, four prompts with two seeds, plain images."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ldm.evaluation.results import CLASS, OTHER, SUBJECT, Interval, Recommendation, Reference, Score
from ldm.report.comparison import Cell, Column, ComparisonData, Group, Row, RunOptions

WritePage = Callable[[ComparisonData], str]

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> "\'`&amp; $title ${1} 🦆'
"""Text that would do something if any of it became markup or code."""

PROMPTS = [
    "a photo of sks {class}",
    "a photo of sks {class} in the snow",
    "a photo of a {class}",
    f"a photo of {HOSTILE}",
]
KINDS = [SUBJECT, SUBJECT, CLASS, OTHER]
SEEDS = [42, 43]
STEPS = [200, 400, 600]
RUNS = ["can-1", "can-2"]
ROWS = 1 + len(RUNS) * len(STEPS)
MISSING = (3, 1)
"""Row and column of the one image that was not sampled."""
COPY = (ROWS - 1, 1)
"""Of the one image that is a copy, of the second photo."""

SCORES = [
    Score("subject", "Subject fidelity", True, "How much it looks like the one in the photos."),
    Score("copy", "Likeness to a photo", False, "How near it is to its nearest photo."),
]
COLUMNS = [Column(prompt, i, seed, KINDS[i]) for i, prompt in enumerate(PROMPTS) for seed in SEEDS]


def file_of(row: int, column: int) -> str:
    """A name that a URL can't hold as it is."""
    return f"images/row {row}, #{column} 100%.png"


def cells_of(row: int) -> list[Cell | None]:
    return [
        None
        if (row, index) == MISSING
        else Cell(
            file_of(row, index),
            column.prompt.replace("{class}", "tin can"),
            {"subject": 0.1 * row, "copy": float((row, index) == COPY), "copy_photo": float(index % 2)},
        )
        for index, column in enumerate(COLUMNS)
    ]


def row_of(index: int, run: str, step: int) -> Row:
    """With scores that rise with the step, and faster in the second run."""
    mean = step / 1000 + 0.05 * RUNS.index(run) if run else 0.02
    return Row(
        label=f"{run} step {step}" if run else "base model",
        group=0,
        run=run,
        step=step,
        checkpoint=f"ckpts/{run}/step-{step:05d}.safetensors" if run else "weights/base.safetensors",
        is_base=not run,
        cells=cells_of(index),
        scores={
            "subject": Interval(mean, mean - 0.05, mean + 0.05),
            "copy": Interval(0.9 - mean, 0.85 - mean, 0.95 - mean),
        },
    )


def sample_comparison() -> ComparisonData:
    checkpoints = [("", 0), *((run, step) for run in RUNS for step in STEPS)]
    return ComparisonData(
        title="Tin can, 6 checkpoints",
        command="python txt2img.py --ckpt-path ckpts/",
        created="2026-01-02 03:04",
        columns=COLUMNS,
        rows=[row_of(index, run, step) for index, (run, step) in enumerate(checkpoints)],
        groups=[
            Group(
                "tin can",
                ["photos/1 one.png", "photos/2 two.png"],
                {"subject": Reference(0.8, 0.02)},
                Recommendation(
                    2, "Step 400 of can-1: it is there.", ["The subject is there.", "Prompts are still followed."]
                ),
            )
        ],
        runs=[
            RunOptions("can-1", {"learning_rate": 1e-4, "seed": 42, "ckpt_path": None, "hw": [64, 64]}),
            RunOptions("can-2", {"learning_rate": 5e-4, "seed": 42, "ckpt_path": None, "hw": [64, 64], "flip": True}),
        ],
        scores=SCORES,
        rule="The earliest of the best.",
        sampling={"hw": [64, 64], "sampler": "dpm-solver"},
        versions={"ldm": "0.1.0"},
    )


def write_images(directory: Path, comparison: ComparisonData) -> None:
    """Writes every file that the comparison names, 64 x 64, each of another colour."""
    cells = [cell for row in comparison.rows for cell in row.cells if cell is not None]
    files = [cell.file for cell in cells] + [photo for group in comparison.groups for photo in group.photos]
    for index, file in enumerate(files):
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (index * 4 % 256, 200 - index, 40 + index)).save(path)
