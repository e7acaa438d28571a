"""Trains the judge on renders: four questions, captions, and which photographs show the same thing."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ldm.data.batches import Share, batch_loader
from ldm.nn.tokenizer import PromptTokenizer
from ldm.toyworld.judge.data import HEADS, NO_LABEL, Images, JudgeBatch, JudgeBatches
from ldm.toyworld.judge.network import Judge, JudgeConfig
from ldm.training.config import JudgeTrainingConfig
from ldm.training.contrastive import caption_loss, pair_loss
from ldm.training.module import TrainingModule


def build_judge_training(
    directories: Sequence[Path], tokenizer: PromptTokenizer, config: JudgeTrainingConfig, seed: int, workers: int = 0
) -> "JudgeTraining":
    """The training of a new judge on all images below the directories; some things have to be seen twice.

    The tokenizer should be loaded for captions of `JudgeConfig.max_length` tokens. `workers` processes read images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(JudgeConfig(HEADS, vocab_size=len(tokenizer.clip_tokenizer), max_length=tokenizer.max_length))
    return JudgeTraining(judge, tokenizer, Images(directories), config, seed, workers)


class JudgeTraining(TrainingModule):
    """Everything at once, on the features of one pass."""

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
        """All of it."""
        return {"judge": self.judge}

    @property
    def images_per_step(self) -> int:
        """Two of each thing, and as many lone ones if there are any."""
        return self.config.batch_size * (4 if self.images.lone else 2)

    def losses(self, batch: JudgeBatch) -> dict[str, Tensor]:
        """Cross entropies of the answers, the captions' and the things' contrastive losses, and their sum."""
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

    def train_dataloader(self) -> DataLoader[JudgeBatch]:
        """Batches from the step that training stands at, which is not 0 in a resumed run."""
        share = Share(
            self.seed,
            self.config.batch_size,
            start_step=self.trainer.global_step,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        batches = JudgeBatches(self.images, self.tokenizer, self.judge.config.size, share)
        return batch_loader(batches, self.workers, self.pin_batches)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of (b n) over the images that have a label; zero if none has."""
    answered = (labels != NO_LABEL).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") / answered
