"""Scores as a table for the terminal, and the recommendation below it."""

from ldm.report.comparison import ComparisonData, Row
from ldm.terminal import Lines, visible

MARK = "*"
"""Marks the recommended row."""


def summary(comparison: ComparisonData) -> Lines:
    """A line per checkpoint with its mean scores; per subject the verdict and its reasons."""
    scores = [score for score in comparison.scores if any(score.name in row.scores for row in comparison.rows)]
    chosen = {group.recommendation.row for group in comparison.groups if group.recommendation}
    lines = [[" ", "checkpoint", *(score.title.lower() for score in scores)]]
    for index, row in enumerate(comparison.rows):
        mark = MARK if index in chosen else ""
        lines.append([mark, visible(row.label), *(_mean(row, score.name) for score in scores)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = [
        "  ".join(text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    by = [f"scored by {comparison.scored_by}"] if comparison.scored_by else []
    notes = [f"note: {note}" for note in comparison.notes]
    return Lines([*by, *notes, *(line.rstrip() for line in table), *_verdicts(comparison)])


def _mean(row: Row, name: str) -> str:
    return f"{row.scores[name].mean:.3f}" if name in row.scores else "-"


def _verdicts(comparison: ComparisonData) -> list[str]:
    lines = []
    for group in comparison.groups:
        if group.recommendation:
            whose = f"{group.subject}: " if len(comparison.groups) > 1 else ""
            lines += ["", whose + group.recommendation.verdict]
            lines += [f"  {reason}" for reason in group.recommendation.reasons]
    return lines
