"""Which checkpoint to use: the rule (`RULE`). `explanation` puts its result into words.

A pure function of the scores: the bootstrap's seed is fixed, and the order of rows and columns does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.bootstrap import quantiles, resample, weighted_means
from ldm.evaluation.explanation import Findings, explain, none_useful, not_learned
from ldm.evaluation.results import SUBJECT, Recommendation
from ldm.evaluation.scores import GroupScores

LEARNED = 0.5
"""The least subject share of a checkpoint that has learned the subject."""
USEFUL = 0.2
"""The least utility of a recommended checkpoint."""
NEAR = 0.9
"""The least utility of a recommended checkpoint as a share of the best one's, even if the difference is not clear."""
LEAST_RANGE = 0.2
"""The least distance from the photos' prompt score to the base model's, as a share of the latter: the photos may happen
to fit the prompts."""
MOSTLY_COPIES = 0.5
"""If no checkpoint is useful: the share of copies beyond which copies are named as the reason."""
LEAKAGE_COUNTS = 0.25
"""The weight of leakage in the utility. It is less than that of copies: prompts for the subject still work."""

NO_IMAGES = "Nothing to recommend: no checkpoint has images of the subject."

RULE = (
    "Every checkpoint gets a utility between 0 and 1: the harmonic mean of its subject share and its prompt share, "
    "times the share of images that are not copies of a photo, times one minus a quarter of its leaked share. The "
    "subject share is where the subject score lies between the base model's (0) and that of the photos compared with "
    "each other (1). The prompt share is where the prompt score lies between that of the photos themselves (0), which "
    f"ignore the prompt, and the base model's (1); this range is at least {LEAST_RANGE:.0%} of the latter. The leaked "
    "share is how much nearer to the photos images of the plain class have come, relative to images of the subject. "
    f"All shares are clamped to 0 and 1. A checkpoint with a subject share under {LEARNED:g} has not learned the "
    "subject. Of those that have, the earliest that is about as good as the best is recommended: its utility is at "
    f"least {NEAR:.0%} of the best one's, and not clearly lower: the 95 % interval of the difference, from a "
    "bootstrap over prompts and seeds that all checkpoints share, includes 0. None is recommended if none has learned "
    f"the subject, or if the best utility is under {USEFUL:g}."
)


@dataclass(frozen=True)
class Candidate:
    """A row of the scores: a checkpoint, or the base model, which is never recommended."""

    name: str
    """A unique name, such as "step 600"."""
    step: int
    run: str = ""
    is_base: bool = False


@dataclass(frozen=True)
class Shares:
    """The parts of the utility, in [0, 1]: of each row in each resample (rows resamples)."""

    subject: Tensor
    prompt: Tensor
    copied: Tensor
    leaked: Tensor
    prompt_scale: tuple[Tensor, Tensor]
    """The prompt scores that are the prompt shares 0 and 1, (resamples) each."""

    @property
    def utility(self) -> Tensor:
        """The utility as `RULE` defines it."""
        both = 2.0 * self.subject * self.prompt / (self.subject + self.prompt).clamp_min(1e-9)
        return both * (1.0 - self.copied) * (1.0 - LEAKAGE_COUNTS * self.leaked)


def shares(scores: GroupScores, base: int | None, weights: Tensor) -> Shares:
    """The shares for (rows columns) scores under (resamples columns) weights: (rows resamples) each.

    Where a reference is unknown, as with one photo or without a base row, the best row replaces it.
    """
    means = {name: weighted_means(values, weights) for name, values in scores.cells.items()}
    subject, prompt = means["subject"], means["prompt"]
    ceiling = scores.references["subject"].ceiling
    before = subject[base] if base is not None else torch.zeros_like(subject[0])
    top = torch.full_like(before, ceiling) if ceiling is not None else _best(subject)
    base_prompt = prompt[base] if base is not None else _best(prompt)
    floor = ((1.0 - LEAST_RANGE) * base_prompt).clamp_max(scores.prompt_floor or 0.0)
    leaked = torch.zeros_like(subject)
    if "leakage" in means and base is not None:
        # Relative to what was learned: otherwise a checkpoint that has learned less seems to keep the class better.
        gained, leaking = subject - before, means["leakage"] - means["leakage"][base]
        leaked = torch.where(gained > 1e-6, leaking / gained, 0.0).clamp(0.0, 1.0).nan_to_num(0.0)
    return Shares(
        subject=_share(subject, before, top),
        prompt=_share(prompt, floor, base_prompt),
        copied=means["copy"],
        leaked=leaked,
        prompt_scale=(floor, base_prompt),
    )


def _best(means: Tensor) -> Tensor:
    return means.nan_to_num(-torch.inf).max(dim=0).values


def _share(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where values lie between `low` (0) and `high` (1); if these are equal, 1 from `high` on, else 0."""
    span = high - low
    share = torch.where(span > 1e-6, (values - low) / span.clamp_min(1e-6), (values >= high).to(values))
    return torch.where(values.isnan(), values, share.clamp(0.0, 1.0))


def recommend(candidates: Sequence[Candidate], scores: GroupScores) -> Recommendation:
    """Which of the candidates, one per row of `scores`, to use. The row it names is an index into them."""
    if "subject" not in scores.cells or not any(spec.kind == SUBJECT for spec in scores.specs):
        return Recommendation(None, "Nothing to recommend: no prompt is for a subject with known photos.", [])
    if not any("subject" in row for row in scores.rows):
        return Recommendation(None, NO_IMAGES, [])
    base = next((row for row, one in enumerate(candidates) if one.is_base and "subject" in scores.rows[row]), None)
    mean = shares(scores, base, torch.ones(1, len(scores.specs), dtype=torch.float64))
    resampled = shares(scores, base, resample(scores.specs)).utility
    utility = mean.utility[:, 0]
    rows = [row for row, one in enumerate(candidates) if not one.is_base and not utility[row].isnan()]
    if not rows:
        return Recommendation(None, NO_IMAGES, [])
    found = Findings(
        names=[one.name for one in candidates],
        order=sorted(range(len(candidates)), key=lambda row: (candidates[row].step, candidates[row].name)),
        runs=[one.run for one in candidates],
        base=base,
        subject=mean.subject[:, 0],
        prompt=mean.prompt[:, 0],
        copied=mean.copied[:, 0],
        leaked=mean.leaked[:, 0],
        prompt_scale=(mean.prompt_scale[0].item(), mean.prompt_scale[1].item()),
        scores=scores,
    )
    learned = [row for row in found.order if row in rows and found.subject[row] >= LEARNED]
    if not learned:
        return not_learned(found, rows)
    best = max(learned, key=lambda row: (utility[row].item(), -found.order.index(row)))
    if utility[best] < USEFUL:
        return none_useful(found, learned, MOSTLY_COPIES)
    alike = [
        row
        for row in learned
        if row == best
        or (utility[row] >= NEAR * utility[best] and quantiles(resampled[best] - resampled[row])[0] <= 0.0)
    ]
    return explain(found, alike)
