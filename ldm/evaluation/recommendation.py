"""Which checkpoint to use, and why, by a rule that is written down.

It is a pure function of the scores: the bootstrap's draws are fixed, and the order of rows and columns doesn't matter.
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
"""The least share of the way to the photos that counts as having learned the subject."""
USEFUL = 0.2
"""The least utility that is recommended."""
NEAR = 0.9
"""The least share of the best's utility that is recommended, however unsure the difference is."""
LEAST_WAY = 0.2
"""Of the base model's prompt score: photos that happen to fit the prompts leave no shorter way to lose."""
MOSTLY_COPIES = 0.5
LEAKAGE_COUNTS = 0.25
"""What a class that has become the subject costs: less than copies do, since prompts for the subject still work."""

NOBODY_DREW_IT = "Nothing to recommend: no checkpoint has drawn the subject."

RULE = (
    "Every checkpoint gets a utility between 0 and 1: the harmonic mean of a subject share and a prompt share, times "
    "the share of images that are no copies of a photo, times one minus a quarter of the leaked share. The subject "
    "share is how much of the way the subject score has gone from the base model's to that of the photos among "
    "themselves. The prompt share is how much the prompt score has kept of the way from the photos' own, which show "
    f"nothing that was asked for, to the base model's (a way of at least {LEAST_WAY:.0%} of the latter). The leaked "
    "share is how much images of the plain class have come nearer to the photos, compared with those of the "
    f"subject. All are cut off at 0 and 1. A checkpoint with a subject share under {LEARNED:g} has not learned the "
    "subject. Of those that have, recommended is the earliest that is about as good as the best: its utility is at "
    f"least {NEAR:.0%} of the best one's, and not clearly lower, which means that the 95 % interval of the "
    "difference, by a bootstrap over prompts and seeds that all checkpoints share, reaches 0. None is recommended if "
    f"none has learned the subject, or if the best utility is under {USEFUL:g}."
)


@dataclass(frozen=True)
class Candidate:
    """A row that competes."""

    name: str
    """Such as "step 600"; unique."""
    step: int
    run: str = ""
    is_base: bool = False


@dataclass(frozen=True)
class Shares:
    """What utility is made of, in [0, 1]: of each row in the mean (rows), or in each resample (rows resamples)."""

    subject: Tensor
    prompt: Tensor
    copied: Tensor
    leaked: Tensor

    @property
    def utility(self) -> Tensor:
        """As `RULE` says."""
        both = 2.0 * self.subject * self.prompt / (self.subject + self.prompt).clamp_min(1e-9)
        return both * (1.0 - self.copied) * (1.0 - LEAKAGE_COUNTS * self.leaked)


def shares(scores: GroupScores, base: int | None, weights: Tensor) -> Shares:
    """Of (rows columns) scores under (resamples columns) weights: (rows resamples) each.

    Where a reference is not known, such as with one photo or without a base row, the best row takes its place.
    """
    means = {name: weighted_means(values, weights) for name, values in scores.cells.items()}
    subject, prompt = means["subject"], means["prompt"]
    ceiling = scores.references["subject"].ceiling
    before = subject[base] if base is not None else torch.zeros_like(subject[0])
    top = torch.full_like(before, ceiling) if ceiling is not None else _best(subject)
    heard = prompt[base] if base is not None else _best(prompt)
    floor = ((1.0 - LEAST_WAY) * heard).clamp_max(scores.prompt_floor or 0.0)
    leaked = torch.zeros_like(subject)
    if "leakage" in means and base is not None:
        # Compared with what was learned: else who has learned less would seem to have kept the class better.
        gained, leaking = subject - before, means["leakage"] - means["leakage"][base]
        leaked = torch.where(gained > 1e-6, leaking / gained, 0.0).clamp(0.0, 1.0).nan_to_num(0.0)
    return Shares(_share(subject, before, top), _share(prompt, floor, heard), means["copy"], leaked)


def _best(means: Tensor) -> Tensor:
    return means.nan_to_num(-torch.inf).max(dim=0).values


def _share(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which share of the way from `low` to `high`; without a way, whether it is there."""
    way = high - low
    share = torch.where(way > 1e-6, (values - low) / way.clamp_min(1e-6), (values >= high).to(values))
    return torch.where(values.isnan(), values, share.clamp(0.0, 1.0))


def recommend(candidates: Sequence[Candidate], scores: GroupScores) -> Recommendation:
    """Which of the candidates, one per row of `scores`, to use. The recommendation's row is an index into them."""
    if "subject" not in scores.cells or not any(one.kind == SUBJECT for one in scores.asked):
        return Recommendation(None, "Nothing to recommend: no prompt asks for a subject whose photos are known.", [])
    if not any("subject" in row for row in scores.rows):
        return Recommendation(None, NOBODY_DREW_IT, [])
    base = next((row for row, one in enumerate(candidates) if one.is_base and "subject" in scores.rows[row]), None)
    at_once = shares(scores, base, torch.ones(1, len(scores.asked), dtype=torch.float64))
    resampled = shares(scores, base, resample(scores.asked)).utility
    utility = at_once.utility[:, 0]
    drawn = [
        row for row, one in enumerate(candidates) if not one.is_base and not utility[row].isnan()
    ]  # an empty row competes with nobody
    if not drawn:
        return Recommendation(None, NOBODY_DREW_IT, [])
    found = Findings(
        names=[one.name for one in candidates],
        order=sorted(range(len(candidates)), key=lambda row: (candidates[row].step, candidates[row].name)),
        runs=[one.run for one in candidates],
        base=base,
        subject=at_once.subject[:, 0],
        prompt=at_once.prompt[:, 0],
        copied=at_once.copied[:, 0],
        leaked=at_once.leaked[:, 0],
        scores=scores,
    )
    learned = [row for row in found.order if row in drawn and found.subject[row] >= LEARNED]
    if not learned:
        return not_learned(found, drawn)
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
