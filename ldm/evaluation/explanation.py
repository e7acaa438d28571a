"""A recommendation in words: the verdict in a sentence, then the reasons, each with the figures that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm.evaluation.results import Recommendation
from ldm.evaluation.scores import GroupScores

THERE, NEARLY = 0.8, 0.65
"""Shares from which on the subject is there, or nearly."""
FOLLOWED, MOSTLY_FOLLOWED = 0.8, 0.5
"""Shares from which on prompts are followed, or mostly."""
NOTICED = 0.25
"""The share of copies from which on a checkpoint is said to copy."""
FEW = 4
"""With fewer images of the subject per checkpoint, the words say that they are few."""


@dataclass(frozen=True)
class Findings:
    """What is known of the rows. Shares are (rows) in [0, 1], as `recommendation.RULE` defines them."""

    names: Sequence[str]
    order: Sequence[int]
    """Rows, the earliest first."""
    runs: Sequence[str]
    base: int | None
    subject: Tensor
    prompt: Tensor
    copied: Tensor
    leaked: Tensor
    scores: GroupScores

    def mean(self, row: int, name: str) -> float:
        """Of a score that the row has."""
        return self.scores.rows[row][name].mean

    def subject_words(self, row: int) -> str:
        """Such as "0.71 of 0.78 possible"."""
        ceiling = self.scores.references["subject"].ceiling
        possible = f" of {ceiling:.2f} possible" if ceiling is not None else ""
        return f"{self.mean(row, 'subject'):.2f}{possible}"

    def images(self, row: int) -> int:
        """How many images of the subject the row has."""
        return int((~self.scores.cells["copy"][row].isnan()).sum())

    def copies(self, row: int) -> int:
        """How many of them are copies."""
        return int(self.scores.cells["copy"][row].nansum())

    def copied_photos(self, row: int) -> str:
        """Those that the copies are of, counted from 1, such as "photo 3" or "photos 3, 1 and others"."""
        copies = self.scores.cells["copy"][row] == 1
        photos = self.scores.cells["copy_photo"][row][copies].int().tolist()
        first, *more = sorted(set(photos), key=lambda photo: (-photos.count(photo), photo))
        if not more:
            return f"photo {first + 1}"
        return (
            f"photos {first + 1} and {more[0] + 1}"
            if len(more) == 1
            else f"photos {first + 1}, {more[0] + 1} and others"
        )


def not_learned(found: Findings, drawn: Sequence[int]) -> Recommendation:
    """No checkpoint has learned the subject."""
    best = max(drawn, key=lambda row: found.subject[row].item())
    verdict = (
        f"No checkpoint has learned the subject yet: at best it is {found.subject_words(best)}, at {found.names[best]}."
        " Train longer, or with a higher learning rate."
    )
    return Recommendation(None, verdict, _reasons(found, best))


def none_useful(found: Findings, learned: Sequence[int], mostly: float) -> Recommendation:
    """All that have learned the subject draw copies, or nothing of what prompts ask for."""
    best = max(learned, key=lambda row: (1.0 - found.copied[row].item(), found.prompt[row].item()))
    if all(found.copied[row] > mostly for row in learned):
        verdict = (
            f"Every checkpoint that knows the subject copies photos ({found.copies(best)} of {found.images(best)} "
            f"images at {found.names[best]}). Save earlier and more often, or train with more photos, more class "
            "images or a lower learning rate."
        )
    else:
        verdict = (
            "Every checkpoint that knows the subject has forgotten what prompts ask for. Save earlier and more often, "
            "or train with a lower learning rate."
        )
    return Recommendation(None, verdict, _reasons(found, best))


def first_copying(found: Findings, chosen: int) -> int | None:
    """The row of the chosen one's run from which on it and all later ones copy photos, if there is one."""
    first = None
    for row in reversed(found.order[found.order.index(chosen) + 1 :]):
        if found.runs[row] != found.runs[chosen] or row == found.base or found.copied[row].isnan():
            continue
        if found.copied[row] < NOTICED:
            break
        first = row
    return first


def explain(found: Findings, alike: Sequence[int]) -> Recommendation:
    """Recommends the first of those that are `alike`."""
    chosen = alike[0]
    copying = first_copying(found, chosen)
    verdict = (
        f"{_capital(found.names[chosen])}: the subject is {_how_much(found.subject[chosen])}there "
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
        reasons.append("They differ by less than other prompts and seeds could change, so the earliest is recommended.")
    elif found.images(chosen) >= FEW:
        reasons.append("No other checkpoint is about as good.")
    if (most := found.subject.nan_to_num(0.0).max()) < NEARLY:
        verdict += f" Longer training may bring more: no checkpoint has got further than {most:.0%} of the way."
    if found.images(chosen) < FEW:
        reasons.append(f"Images of the subject per checkpoint: only {found.images(chosen)}. Draw more to be sure.")
    return Recommendation(chosen, verdict, reasons)


def _reasons(found: Findings, row: int) -> list[str]:
    """What speaks for a row and against it."""
    references, reasons = found.scores.references, []
    before = references["subject"].base
    way = f" ({found.subject[row]:.0%} of the way from the base model's {before:.2f})" if before is not None else ""
    reasons.append(f"Subject: {found.subject_words(row)}{way}.")
    spoken = references["prompt"].base
    compared = f", the base model's {spoken:.2f}" if spoken is not None else ""
    reasons.append(f"Prompts: {found.mean(row, 'prompt'):.2f}{compared} ({found.prompt[row]:.0%} kept).")
    reasons.append(f"Copies: {found.copies(row) or 'none'} of {found.images(row)} images of the subject.")
    if "leakage" in found.scores.rows[row] and found.base is not None:
        reasons.append(f"Class: {found.leaked[row]:.0%} of what was learned also shows in images of the plain class.")
    if references["subject"].ceiling is None:
        reasons.append("With one photo nobody knows how near to it the subject can be: the nearest counts as there.")
    if found.base is None:
        reasons.append("Without the base model's images nobody knows how near to the photos any of the class is.")
    return reasons


def _how_much(share: Tensor) -> str:
    return "" if share >= THERE else "nearly " if share >= NEARLY else "only partly "


def _how_well(share: Tensor) -> str:
    return (
        "still followed" if share >= FOLLOWED else "mostly followed" if share >= MOSTLY_FOLLOWED else "hardly followed"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
