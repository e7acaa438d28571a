"""The embedded judge of the toy world as an evaluator: what an image shows, whether it fits a caption or a thing.

It was trained on renders, never on sampled images. A made-up word such as "sks" means nothing to it: leave it out of
captions. It takes 64 x 64 pixels; images of other sizes are resized.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import UserError
from ldm.files import ROOT
from ldm.nn.memory import apply_in_batches
from ldm.nn.tokenizer import PromptTokenizer, load_tokenizer
from ldm.toyworld.judge.file import load_judge
from ldm.toyworld.judge.network import Judge

ASSETS = ROOT / "ldm" / "assets"
EMBEDDED_JUDGE, EMBEDDED_TOKENIZER = ASSETS / "judge.safetensors", ASSETS / "tokenizer"
AT_A_TIME = 256
SURE, ALIKE = 0.95, 0.75
"""Least mean probability of the setting of renders, and least mean cosine of embeddings of one rendered thing. The
lowest of 36 rendered subjects were 0.99 and 0.88; three subjects in real photos had 0.78 to 0.89 and 0.34 to 0.61."""


@dataclass(frozen=True)
class Answer:
    """What an image shows, and its probability in [0, 1]."""

    label: str
    probability: float


class Evaluator:
    """A judge applied to images (b 3 h w) in [-1, 1] of any size; results are on the CPU."""

    def __init__(self, judge: Judge, tokenizer: PromptTokenizer, device: torch.device) -> None:
        self.judge = judge.to(device).eval()
        self.tokenizer = tokenizer
        self.device = device

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """By head, such as "class": the possible answers."""
        return {head.name: head.labels for head in self.judge.config.heads}

    def name(self, images: Tensor) -> list[dict[str, Answer]]:
        """For each image and head the most probable answer."""
        found: list[dict[str, Answer]] = [{} for _ in images]
        for head, probabilities in self.probabilities(images).items():
            best, index = probabilities.max(dim=1)
            for answers, probability, i in zip(found, best.tolist(), index.tolist(), strict=True):
                answers[head] = Answer(self.labels[head][i], probability)
        return found

    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """By head: the probability of each answer (b labels)."""
        sizes = [len(labels) for labels in self.labels.values()]
        logits = self._each(images, lambda part: torch.cat([*self.judge(part).logits.values()], dim=1))
        return {head: part.softmax(1) for head, part in zip(self.labels, logits.split(sizes, dim=1), strict=True)}

    def is_familiar(self, images: Tensor) -> bool:
        """Whether images, of one thing if there are several, look like renders of the toy world."""
        sure = self.probabilities(images)["setting"].amax(dim=1).mean() >= SURE
        count = len(images)
        near = self.subject_similarity(images, images)
        alike = count == 1 or (near.sum() - near.trace()) / (count * (count - 1)) >= ALIKE
        return bool(sure and alike)

    def caption_similarity(self, images: Tensor, captions: list[str]) -> Tensor:
        """Cosines of b images and c captions (b c), in the place of CLIP-T."""
        return self.embed_images(images) @ self.embed_captions(captions).mT

    def subject_similarity(self, images: Tensor, others: Tensor) -> Tensor:
        """Cosines (b c) of the things in b and in c images, in the place of DINO."""
        return self.embed_subjects(images) @ self.embed_subjects(others).mT

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (b d), near those of fitting captions."""
        return self._each(images, self.judge.embed_images)

    def embed_subjects(self, images: Tensor) -> Tensor:
        """Unit vectors (b d), near those of other photos of the same thing."""
        return self._each(images, self.judge.embed_subjects)

    @torch.inference_mode()
    def embed_captions(self, captions: list[str]) -> Tensor:
        """Unit vectors (c d)."""
        ids = self.tokenizer(captions)
        return apply_in_batches(ids, AT_A_TIME, lambda part: self.judge.embed_captions(part.to(self.device)).cpu())

    @torch.inference_mode()
    def _each(self, images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        return apply_in_batches(images, AT_A_TIME, lambda part: network(self._resized(part)).cpu())

    def _resized(self, images: Tensor) -> Tensor:
        size = (self.judge.config.size,) * 2
        images = images.to(self.device, torch.float32)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return images


def load_evaluator(
    device: torch.device, path: Path = EMBEDDED_JUDGE, tokenizer_directory: Path = EMBEDDED_TOKENIZER
) -> Evaluator:
    """The embedded judge, or another one. Raises `UserError` if its file is bad or the tokenizer is not the judge's."""
    judge, digest = load_judge(path)
    tokenizer = load_tokenizer(tokenizer_directory, judge.config.max_length)
    if digest != tokenizer.digest:
        raise UserError(f"{path} was trained with another tokenizer than the one in {tokenizer_directory}")
    return Evaluator(judge, tokenizer, device)
