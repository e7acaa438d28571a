"""Scores of checkpoints, made up by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.evaluation.bootstrap import interval, resample
from ldm.evaluation.recommendation import Candidate
from ldm.evaluation.results import CLASS, SUBJECT, PromptSpec, Reference
from ldm.evaluation.scores import SCORES, GroupScores

CEILING, FLOOR = 0.8, 0.1
"""The photos compared with each other; the prompt score of a model that ignores prompts."""
BASE_SUBJECT, BASE_PROMPT = 0.3, 0.35

Values = float | Sequence[float]


def columns(prompts: int = 3, seeds: int = 4, of_class: int = 4) -> list[PromptSpec]:
    """Columns of the subject, and the last prompt's of its class."""
    specs = [PromptSpec(p, 100 + s, SUBJECT, f"a photo of sks dog {p}") for p in range(prompts) for s in range(seeds)]
    return specs + [PromptSpec(prompts, 100 + s, CLASS, "a photo of a dog") for s in range(of_class)]


def made_up(
    specs: Sequence[PromptSpec],
    rows: Sequence[dict[str, Values]],
    ceiling: float | None = CEILING,
    base: int | None = 0,
    noise: Tensor | None = None,
) -> GroupScores:
    """Each row's "subject", "prompt", "copy", "leakage" in the columns that they are about, plus `noise`."""
    of_subject = torch.tensor([one.kind == SUBJECT for one in specs])
    about = {"subject": of_subject, "prompt": of_subject, "copy": of_subject, "leakage": ~of_subject}
    cells = {}
    for name, chosen in about.items():
        default = {"copy": 0.0, "leakage": BASE_SUBJECT}
        values = torch.full((len(rows), len(specs)), torch.nan, dtype=torch.float64)
        for i, row in enumerate(rows):
            values[i, chosen] = torch.as_tensor(row.get(name, default.get(name)), dtype=torch.float64)
        cells[name] = values + noise if noise is not None and name != "copy" else values
    cells["copy_photo"] = torch.where(of_subject, 2.0, torch.nan).double().expand(len(rows), -1)
    weights = resample(specs, count=200)
    names = [score.name for score in SCORES if score.name in cells]
    means = [{n: found for n in names if (found := interval(cells[n][i], weights))} for i in range(len(rows))]
    references = {
        name: Reference(ceiling if name == "subject" else None, means[base][name].mean if base is not None else None)
        for name in names
    }
    return GroupScores(tuple(specs), cells, means, references, FLOOR)


BASE_ROW: dict[str, Values] = {"subject": BASE_SUBJECT, "prompt": BASE_PROMPT}


def steps(count: int, every: int = 200, base: bool = True, run: str = "dog-1") -> list[Candidate]:
    """The base model, unless `base` is False, and then `count` checkpoints."""
    first = [Candidate("the base model", 0, "", True)] if base else []
    return first + [Candidate(f"step {every * (i + 1)}", every * (i + 1), run) for i in range(count)]
