"""Batches for training from scratch; each is a function of (seed, step, device) alone."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ldm.data.images import fit, read_image, to_tensor
from ldm.data.latents import moments_at
from ldm.data.order import ShuffledOrder
from ldm.diffusion.noise import derived_generator
from ldm.errors import UserError
from ldm.nn.tokenizer import PromptTokenizer

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """What one of several devices takes of each step, from `start_step` on."""

    seed: int
    batch_size: int
    start_step: int = 0
    rank: int = 0
    world_size: int = 1


class StepBatches(IterableDataset[Item], Generic[Item]):
    """Yields `batch(indices, generator)` for the steps from `share.start_step` on, without end.

    Worker processes of a DataLoader take turns, so that the order is the same with any number of them. A `UserError` in
    one of them comes in place of the batch; torch would bury it in a traceback.
    """

    def __init__(self, size: int, share: Share) -> None:
        self.order = ShuffledOrder(size, share.seed)
        self.share = share

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        step, stride = self.share.start_step, 1
        if worker is not None:
            step, stride = step + worker.id, worker.num_workers
        while True:
            yield self.step(step) if worker is None else self._step_or_error(step)
            step += stride

    def _step_or_error(self, step: int) -> Item:
        try:
            return self.step(step)
        except UserError as error:
            return error  # type: ignore[return-value]

    def step(self, step: int) -> Item:
        """The batch of one step on this device."""
        share = self.share
        first = (step * share.world_size + share.rank) * share.batch_size
        indices = [self.order(position) for position in range(first, first + share.batch_size)]
        return self.batch(indices, derived_generator(share.seed, step, share.rank))

    def batch(self, indices: list[int], generator: torch.Generator) -> Item:
        """A batch of these items; all chance comes from the generator."""
        raise NotImplementedError


def batch_loader(batches: StepBatches[Item], workers: int, pinned: bool = False) -> DataLoader[Item]:
    """Prepares the batches in this process, or ahead in `workers` others; `pinned` where a GPU copies them."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=pinned,
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal, and the training needs its workers until it has stopped by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # a second one ends it


class ImageBatch(TypedDict):
    """Images and the noise to draw their latents with."""

    images: Tensor
    """(b 3 size size) in [-1, 1]"""
    noise: Tensor
    """(b c size/f size/f)"""


class LatentBatch(TypedDict):
    """What a step of the diffusion model is made of."""

    moments: Tensor
    """Parameters of the posterior (b 2c h w)."""
    posterior_noise: Tensor
    """(b c h w)"""
    noise: Tensor
    """(b c h w)"""
    timesteps: Tensor
    """(b,) int64"""
    input_ids: Tensor
    """(b m) int64"""


class ImageBatches(StepBatches[ImageBatch]):
    """Images read from their files, for the autoencoder."""

    def __init__(
        self, paths: Sequence[Path], size: int, latent_shape: tuple[int, int, int], flip: bool, share: Share
    ) -> None:
        super().__init__(len(paths), share)
        self.paths = paths
        self.size = size
        self.latent_shape = latent_shape
        self.flip = flip

    def batch(self, indices: list[int], generator: torch.Generator) -> ImageBatch:
        size = self.size
        images = torch.stack([to_tensor(fit(read_image(self.paths[index], size), size, size)) for index in indices])
        mirrored = torch.rand(len(indices), generator=generator) < (0.5 if self.flip else 0.0)
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return ImageBatch(images=images, noise=torch.randn(len(indices), *self.latent_shape, generator=generator))


class LatentBatches(StepBatches[LatentBatch]):
    """Latents encoded beforehand, each with one of its captions or none.

    moments (n v 2c h w); captions[n] are those of image n.
    """

    def __init__(
        self,
        moments: np.ndarray,
        captions: Sequence[Sequence[str]],
        tokenizer: PromptTokenizer,
        num_timesteps: int,
        caption_dropout: float,
        share: Share,
    ) -> None:
        super().__init__(len(captions), share)
        self.moments = moments
        self.captions = captions
        self.tokenizer = tokenizer
        self.num_timesteps = num_timesteps
        self.caption_dropout = caption_dropout

    def batch(self, indices: list[int], generator: torch.Generator) -> LatentBatch:
        def draw(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        moments = torch.stack([moments_at(self.moments, index, draw(self.moments.shape[1])) for index in indices])
        chosen = [self.captions[index][draw(len(self.captions[index]))] for index in indices]
        dropped = (torch.rand(len(indices), generator=generator) < self.caption_dropout).tolist()
        shape = moments.chunk(2, dim=1)[0].shape
        return LatentBatch(
            moments=moments,
            posterior_noise=torch.randn(shape, generator=generator),
            noise=torch.randn(shape, generator=generator),
            timesteps=torch.randint(self.num_timesteps, (len(indices),), generator=generator),
            input_ids=self.tokenizer(["" if drop else text for drop, text in zip(dropped, chosen, strict=True)]),
        )
