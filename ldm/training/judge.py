"""Trains the toy world's judge on its renders: four classifications, captions, and which images show one object."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.data.batches import DeviceShare
from ldm.nn.tokenizer import PromptTokenizer
from ldm.toyworld.judge.data import HEADS, NO_LABEL, Images, JudgeBatch, JudgeBatches
from ldm.toyworld.judge.network import Judge, JudgeConfig
from ldm.training.config import JudgeTrainingConfig
from ldm.training.module import TrainingModule


def build_judge_training(
    directories: Sequence[Path], tokenizer: PromptTokenizer, config: JudgeTrainingConfig, seed: int, workers: int = 0
) -> "JudgeTraining":
    """The training of a new judge on all images below the directories. Some objects need two images or more.

    The tokenizer should be loaded for captions of `JudgeConfig.max_length` tokens. `workers` processes read images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(JudgeConfig(HEADS, vocab_size=len(tokenizer.clip_tokenizer), max_length=tokenizer.max_length))
    return JudgeTraining(judge, tokenizer, Images(directories), config, seed, workers)


class JudgeTraining(TrainingModule):
    """All losses are computed on the features of one forward pass."""

    config: JudgeTrainingConfig

    def __init__(
        self,
        judge: Judge,
        tokenizer: PromptTokenizer,
        images: Images,
        config: JudgeTrainingConfig,
        seed: int,
        workers: int = 0,
    ) -> None:
        super().__init__(config, seed)
        self.workers = workers
        self.judge = judge
        self.tokenizer = tokenizer
        self.images = images

    def trained_parts(self) -> dict[str, nn.Module]:
        """The judge."""
        return {"judge": self.judge}

    @property
    def images_per_step(self) -> int:
        """Two of each object, and as many single ones if there are any."""
        return self.config.batch_size * (4 if self.images.lone else 2)

    def losses(self, batch: JudgeBatch) -> dict[str, Tensor]:
        """Cross entropies of the classifications, contrastive losses of captions and objects; their weighted sum."""
        config, pairs = self.config, batch["pairs"]
        opinion = self.judge(batch["images"])
        captions = self.judge.embed_captions(batch["input_ids"])
        answers = {name: answer_loss(opinion.logits[name], labels) for name, labels in batch["labels"].items()}
        caption = caption_loss(opinion.image, captions, self.judge.scale())
        subject = pair_loss(
            opinion.subject[:pairs], opinion.subject[pairs : 2 * pairs], temperature=config.subject_temperature
        )
        total = sum(answers.values()) + config.caption_weight * caption + config.subject_weight * subject
        return {**answers, "caption": caption, "subject": subject, "total": total}

    def batches(self, share: DeviceShare) -> JudgeBatches:
        """Degraded images with captions and labels."""
        return JudgeBatches(self.images, self.tokenizer, self.judge.config.size, share)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits (b n) over the images that have a label; zero if none has."""
    answered = (labels != NO_LABEL).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") / answered


def caption_loss(images: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3) of images (b d) and their captions (b d), of length 1."""
    logits = scale * images @ captions.mT
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def pair_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (arXiv 2002.05709, eq. 1) of two images (p d) each of p objects, of length 1.

    Each image is to be matched with the other one of its object among the 2p - 1 others.
    """
    embeddings = torch.cat([first, second])
    similarity = embeddings @ embeddings.mT / temperature
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    twin = torch.arange(len(embeddings), device=embeddings.device).roll(len(first))
    return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), twin)
