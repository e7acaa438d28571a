"""A recommendation in words: a verdict in one sentence, then the reasons, each with its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm.evaluation.results import Recommendation
from ldm.evaluation.scores import GroupScores

FULLY, NEARLY = 0.8, 0.65
"""Least subject shares of a learned and of a nearly learned subject."""
FOLLOWED, MOSTLY_FOLLOWED = 0.8, 0.5
"""Least prompt shares of a model that follows prompts, and that mostly does."""
NOTICED = 0.25
"""The least share of copies that a verdict mentions."""
FEW = 4
"""With fewer images of the subject per checkpoint, a reason says that they are few."""


@dataclass(frozen=True)
class Findings:
    """What the scores say about the rows. Shares are (rows) in [0, 1], as `recommendation.RULE` defines them."""

    names: Sequence[str]
    order: Sequence[int]
    """Rows, the earliest first."""
    runs: Sequence[str]
    base: int | None
    subject: Tensor
    prompt: Tensor
    copied: Tensor
    leaked: Tensor
    prompt_scale: tuple[float, float]
    """The prompt scores that are the prompt shares 0 and 1."""
    scores: GroupScores

    def mean(self, row: int, name: str) -> float:
        """The mean of a score that the row has."""
        return self.scores.rows[row][name].mean

    def subject_words(self, row: int) -> str:
        """The subject score of a row in words: "0.71 of 0.78 possible"."""
        ceiling = self.scores.references["subject"].ceiling
        possible = f" of {ceiling:.2f} possible" if ceiling is not None else ""
        return f"{self.mean(row, 'subject'):.2f}{possible}"

    def prompt_words(self, row: int) -> str:
        """Such as "0.33; on a scale from 0.10 (the photos, which ignore prompts) to 0.35 (the base model): 92%"."""
        low, high = self.prompt_scale
        whose = "the base model" if self.base is not None else "the best checkpoint"
        photos = self.scores.prompt_floor is not None and abs(low - self.scores.prompt_floor) < 1e-6
        least = "the photos, which ignore prompts" if photos else "counted as 0%"
        scale = f"on a scale from {low:.2f} ({least}) to {high:.2f} ({whose})"
        return f"{self.mean(row, 'prompt'):.2f}; {scale}: {self.prompt[row]:.0%}"

    def images(self, row: int) -> int:
        """The number of images of the subject in a row."""
        return int((~self.scores.cells["copy"][row].isnan()).sum())

    def copies(self, row: int) -> int:
        """The number of copies among the images of the subject in a row."""
        return int(self.scores.cells["copy"][row].nansum())

    def copied_photos(self, row: int) -> str:
        """The photos that are copied, counted from 1: "photo 3", "photos 3 and 1" or "photos 3, 1 and others"."""
        copies = self.scores.cells["copy"][row] == 1
        photos = self.scores.cells["copy_photo"][row][copies].int().tolist()
        first, *more = sorted(set(photos), key=lambda photo: (-photos.count(photo), photo))
        if not more:
            return f"photo {first + 1}"
        if len(more) == 1:
            return f"photos {first + 1} and {more[0] + 1}"
        return f"photos {first + 1}, {more[0] + 1} and others"


def not_learned(found: Findings, rows: Sequence[int]) -> Recommendation:
    """Recommends no checkpoint: none of the `rows` has learned the subject."""
    best = max(rows, key=lambda row: found.subject[row].item())
    verdict = (
        f"No checkpoint has learned the subject yet: the best score is {found.subject_words(best)}, at "
        f"{found.names[best]}. Train longer, or with a higher learning rate."
    )
    return Recommendation(None, verdict, _reasons(found, best, learned=False))


def none_useful(found: Findings, learned: Sequence[int], mostly: float) -> Recommendation:
    """Recommends no checkpoint: those that have `learned` the subject copy photos or ignore prompts."""
    best = max(learned, key=lambda row: (1.0 - found.copied[row].item(), found.prompt[row].item()))
    if all(found.copied[row] > mostly for row in learned):
        verdict = (
            f"Every checkpoint that has learned the subject copies photos ({found.copies(best)} of "
            f"{found.images(best)} images at {found.names[best]}). Save earlier and more often, or train with more "
            "photos, more class images or a lower learning rate."
        )
    else:
        verdict = (
            "Every checkpoint that has learned the subject ignores the rest of the prompt. Save earlier and more "
            "often, or train with a lower learning rate."
        )
    return Recommendation(None, verdict, _reasons(found, best))


def first_copying(found: Findings, chosen: int) -> int | None:
    """The first later row of the chosen one's run from which on all rows copy photos; None if there is none."""
    first = None
    for row in reversed(found.order[found.order.index(chosen) + 1 :]):
        if found.runs[row] != found.runs[chosen] or row == found.base or found.copied[row].isnan():
            continue
        if found.copied[row] < NOTICED:
            break
        first = row
    return first


def explain(found: Findings, alike: Sequence[int]) -> Recommendation:
    """Recommends the first of the rows that are `alike`."""
    chosen = alike[0]
    copying = first_copying(found, chosen)
    verdict = (
        f"{_capital(found.names[chosen])}: the subject is {_how_much(found.subject[chosen])} "
        f"({found.subject_words(chosen)}), prompts are {_how_well(found.prompt[chosen])}"
    )
    reasons = _reasons(found, chosen)
    if found.copied[chosen] >= NOTICED:
        copies = f"{found.copies(chosen)} of {found.images(chosen)} images copy {found.copied_photos(chosen)}"
        verdict += f"; {copies}"
    elif copying is not None:
        verdict += f"; from {found.names[copying]} on, images copy {found.copied_photos(copying)}"
        copies = f"{found.copies(copying)} of {found.images(copying)} images of the subject are copies"
        reasons.append(f"At {found.names[copying]}, {copies}.")
    verdict += "."
    if len(alike) > 1:
        names = [found.names[row] for row in alike]
        verdict += f" No clear difference between {', '.join(names[:-1])} and {names[-1]}."
        reasons.append(
            "Their difference is smaller than what other prompts and seeds could change: the earliest is recommended."
        )
    elif found.images(chosen) >= FEW:
        reasons.append("No other checkpoint is about as good.")
    if (most := found.subject.nan_to_num(0.0).max()) < NEARLY:
        verdict += f" Longer training may help: the best checkpoint has gone {most:.0%} of the way to the photos."
    if found.images(chosen) < FEW:
        reasons.append(f"Only {found.images(chosen)} images of the subject per checkpoint: sample more to be sure.")
    return Recommendation(chosen, verdict, reasons)


def _reasons(found: Findings, row: int, *, learned: bool = True) -> list[str]:
    """The scores of a row, and what they were compared with. `learned`: it has learned the subject."""
    references, reasons = found.scores.references, []
    before = references["subject"].base
    way = f" ({found.subject[row]:.0%} of the way from the base model's {before:.2f})" if before is not None else ""
    reasons.append(f"Subject: {found.subject_words(row)}{way}.")
    reasons.append(f"Prompts: {found.prompt_words(row)}.")
    reasons.append(f"Copies: {found.copies(row) or 'none'} of {found.images(row)} images of the subject.")
    if "leakage" in found.scores.rows[row] and found.base is not None:
        shown = f"images of the plain class show {found.leaked[row]:.0%} of what was learned"
        reasons.append(f"Class: {shown if learned else 'not judged before the subject is learned'}.")
    if references["subject"].ceiling is None:
        reasons.append("With one photo no upper bound is known; the best checkpoint counts as 100 %.")
    if found.base is None:
        reasons.append("Without the base model's images no lower bound is known; a subject score of 0 counts as 0 %.")
    return reasons


def _how_much(share: Tensor) -> str:
    return "learned" if share >= FULLY else "nearly learned" if share >= NEARLY else "only partly learned"


def _how_well(share: Tensor) -> str:
    return (
        "still followed" if share >= FOLLOWED else "mostly followed" if share >= MOSTLY_FOLLOWED else "hardly followed"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
