"""What is wrong with a photo of the subject, and what reading it changes: a verdict for each file, with advice."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.data.images import FileFacts

ENLARGED = 2
"""A photo that is enlarged more than this many times is too small."""
LONG = 4
"""A photo of which cropping leaves less than 1 / LONG is too long."""
MENTIONED_CROP = 0.95
"""Cropping that leaves less is mentioned."""
BLURRED = 0.65
"""A larger `blur_of` is blurred: sharp images have 0.2 to 0.5, after a Gaussian blur of two pixels 0.57 to 0.75."""
DARK, BRIGHT = 64, 160
"""Too dark: 95 % of the pixels are below `DARK`. Too bright: 95 % are above `BRIGHT`, and a fourth is white."""
WHITE, MOST_WHITE = 250, 0.25
SAME_BITS, SAME_LEVELS = 8, 24
"""Near-duplicates: at most so many of 63 bits of their hashes differ, and at most so many levels of their colours."""
HASHED, KEPT = 32, 8
"""Sides of the image that is hashed, and of its lowest frequencies, which are."""
BOX = 9
"""Pixels of the mean that `blur_of` compares with."""
FLAT = 3.0
"""Standard deviation in levels below which nothing can be said about blur."""


class Severity(IntEnum):
    """How bad a finding is. Errors: the file is not used. Warnings: the training will be worse. Notes: all is well."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


ADVICE = {
    "unreadable": "save it again as JPEG or PNG, or remove it",
    "no image": "it can't be trained on: save it as an image, or remove it",
    "small": "take a larger photo: what is enlarged is trained on as blur",
    "long": "crop it to the subject yourself, about square",
    "blurred": "take a sharper photo",
    "dark": "take it with more light, or brighten it",
    "bright": "take it with less light",
    "duplicate": "keep one of them: several that are alike teach their viewpoint, not the subject",
}
"""Kinds of errors and warnings, and what would be better."""


@dataclass(frozen=True)
class Finding:
    """One thing about a file, in words; `kind` is a key of `ADVICE`, or empty for a note."""

    severity: Severity
    words: str
    kind: str = ""


@dataclass(frozen=True)
class Verdict:
    """What was found about one file. Without a `crop` it is not used."""

    path: Path
    findings: tuple[Finding, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height, upright."""
    crop: Image.Image | None = None
    """What is trained on."""

    @property
    def severity(self) -> Severity:
        """That of the worst finding."""
        return max((one.severity for one in self.findings), default=Severity.NOTE)

    @property
    def is_good(self) -> bool:
        """Used, and without a warning."""
        return self.crop is not None and self.severity == Severity.NOTE


def verdict_of(path: Path, facts: FileFacts, size: tuple[int, int], crop: Image.Image) -> Verdict:
    """The verdict on a photo by itself. `size`: width and height of the upright photo, of which `crop` is used."""
    findings = [*_conversions(facts), *_shape(size, crop.size)]
    grey = np.asarray(crop.convert("L"))
    if not any(one.kind == "small" for one in findings) and (blur := blur_of(grey)) > BLURRED:
        findings.append(_warning("blurred", f"blurred ({blur:.2f} of 1)"))
    if np.percentile(grey, 95) < DARK:
        findings.append(_warning("dark", f"dark: 95% of it below {np.percentile(grey, 95):.0f} of 255"))
    elif np.percentile(grey, 5) > BRIGHT and (white := float((grey >= WHITE).mean())) > MOST_WHITE:
        findings.append(_warning("bright", f"over-exposed: {white:.0%} of it white, and nothing dark"))
    return Verdict(path, tuple(findings), size, crop)


def shape_of(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """How many times an image (width, height) is enlarged to cover the target, and which share of it is used."""
    enlarged = max(target[0] / size[0], target[1] / size[1])
    return enlarged, (target[0] / enlarged) * (target[1] / enlarged) / (size[0] * size[1])


def with_near_duplicates(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, with a warning for each photo that is nearly the same as an earlier one."""
    looks = {one.path: _Look.of(one.crop) for one in verdicts if one.crop is not None}
    found = []
    for number, one in enumerate(verdicts):
        earlier = (other.path for other in verdicts[:number] if one.path in looks and other.path in looks)
        if (same := next((path for path in earlier if looks[path].is_like(looks[one.path])), None)) is not None:
            warning = _warning("duplicate", f"nearly the same as {same.name}")
            one = Verdict(one.path, (*one.findings, warning), one.size, one.crop)
        found.append(one)
    return found


def blur_of(grey: np.ndarray) -> float:
    """How blurred an image (h w) in [0, 255] is, from 0 to 1: how little a further blur takes from its edges.

    Crété et al., "The blur effect", 2007, of the more blurred direction. 0 for an image without edges.
    """
    return max(_blur_down(grey.astype(np.float64)), _blur_down(grey.astype(np.float64).T))


def _blur_down(grey: np.ndarray) -> float:
    """The blur of edges between rows."""
    padded = np.pad(grey, ((BOX // 2, BOX // 2), (0, 0)), mode="edge")
    sums = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    edges, softer = np.abs(np.diff(grey, axis=0)), np.abs(np.diff((sums[BOX:] - sums[:-BOX]) / BOX, axis=0))
    if edges.sum() == 0 or grey.std() < FLAT:
        return 0.0
    return float(1 - np.maximum(0, edges - softer).sum() / edges.sum())


@dataclass(frozen=True)
class _Look:
    """What two near-duplicates share: a perceptual hash, which ignores brightness, and the colours of a small image."""

    bits: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, image: Image.Image) -> "_Look":
        small = image.resize((HASHED, HASHED), Image.Resampling.BOX)
        grey = np.asarray(small.convert("L"), np.float64)
        place = np.arange(HASHED)
        cosines = np.cos(np.pi / HASHED * (place + 0.5) * place[:KEPT, None])
        low = (cosines @ grey @ cosines.T).ravel()[1:]  # without the mean
        return cls(low > np.median(low), np.asarray(small, np.float64))

    def is_like(self, other: "_Look") -> bool:
        different_bits = int((self.bits != other.bits).sum())
        return different_bits <= SAME_BITS and float(np.abs(self.colours - other.colours).mean()) <= SAME_LEVELS


def _warning(kind: str, words: str) -> Finding:
    return Finding(Severity.WARNING, words, kind)


def _conversions(facts: FileFacts) -> list[Finding]:
    """Notes on what reading the file has changed."""
    words = []
    if facts.orientation != 1:
        words.append(f"turned upright (EXIF {facts.orientation})")
    if facts.transparent:
        words.append(f"{facts.transparent:.0%} transparent, on white")
    if facts.mode not in ("RGB", "RGBA"):
        words.append(f"{facts.mode} made sRGB")
    if facts.frames > 1:
        words.append(f"the first of {facts.frames} images in the file")
    return [Finding(Severity.NOTE, one) for one in words]


def _shape(size: tuple[int, int], target: tuple[int, int]) -> list[Finding]:
    """How much a photo is enlarged and cropped."""
    enlarged, remaining = shape_of(size, target)
    findings = []
    if enlarged > ENLARGED:
        findings.append(_warning("small", f"enlarged {enlarged:.3g} times"))
    elif enlarged > 1:
        findings.append(Finding(Severity.NOTE, f"enlarged {enlarged:.3g} times"))
    if remaining < MENTIONED_CROP:
        lost = "left and right" if size[0] * target[1] > size[1] * target[0] else "top and bottom"
        words = f"{remaining:.3g}" if remaining < 0.01 else f"{remaining:.0%}"
        words = f"{words} used: {lost} are cropped"
        findings.append(_warning("long", words) if remaining < 1 / LONG else Finding(Severity.NOTE, words))
    return findings
