"""Training batches; each is a function of (seed, step, device) alone, so a resumed training needs no random state."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ldm.data.drawn_prompts import DrawnPrompts
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.data.latents import moments_at
from ldm.data.noising import Noising
from ldm.diffusion.noise import derived_generator
from ldm.errors import UserError
from ldm.nn.tokenizer import PromptTokenizer

Item = TypeVar("Item")


@dataclass(frozen=True)
class ShuffledOrder:
    """`order(position) -> index`, without end: a newly shuffled permutation of `size` indices follows another.

    A function of (seed, position) alone. Orders of one seed differ in `stream`.
    """

    size: int
    seed: int
    stream: int = 0

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        return _permutation(self, epoch)[place]


@lru_cache(maxsize=4)
def _permutation(order: ShuffledOrder, epoch: int) -> list[int]:
    generator = derived_generator(order.seed, 1 + order.stream, epoch, order.size)
    permutation: list[int] = torch.randperm(order.size, generator=generator).tolist()
    return permutation


@dataclass(frozen=True)
class DeviceShare:
    """The part of each training step that one of several devices computes, from `start_step` on."""

    seed: int
    batch_size: int
    """Items of each set, per device."""
    start_step: int = 0
    rank: int = 0
    world_size: int = 1


class StepBatches(IterableDataset[Item], Generic[Item]):
    """Yields `batch(indices, generator)` for the steps from `share.start_step` on, without end.

    `sizes` are those of the sets of items that a batch is made of, usually one. Worker processes of a DataLoader take
    turns, so the order doesn't depend on their number. A worker sends a `UserError` in place of the batch; torch would
    wrap it in a traceback.
    """

    def __init__(self, share: DeviceShare, *sizes: int) -> None:
        self.share = share
        self.orders = [ShuffledOrder(size, share.seed, stream) for stream, size in enumerate(sizes)]

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
        positions = self.positions(step)
        indices = [order(position) for order in self.orders for position in positions]
        return self.batch(indices, derived_generator(self.share.seed, step, self.share.rank))

    def positions(self, step: int) -> range:
        """The places of the step's items on this device, in the order of all items of a set."""
        share = self.share
        first = (step * share.world_size + share.rank) * share.batch_size
        return range(first, first + share.batch_size)

    def batch(self, indices: list[int], generator: torch.Generator) -> Item:
        """The batch of these items: `share.batch_size` of each set, one set after the other.

        All random numbers come from the generator.
        """
        raise NotImplementedError


def batch_loader(batches: StepBatches[Item], workers: int = 0, pinned: bool = False) -> DataLoader[Item]:
    """Prepares the batches in this process, or ahead in `workers` others; `pinned`: in page-locked memory."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=pinned,
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the training needs its workers until its step has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # a second one ends it


class ImageBatch(TypedDict):
    """Images and the noise to sample their latents with."""

    images: Tensor
    """(b 3 size size) in [-1, 1]"""
    noise: Tensor
    """(b c size/f size/f)"""


class NoisyLatents(TypedDict):
    """Latents as moments, and what they are noised with."""

    moments: Tensor
    """Parameters of the posterior (b 2c h w)."""
    posterior_noise: Tensor
    """(b c h w)"""
    noise: Tensor
    """(b c h w)"""
    timesteps: Tensor
    """(b,) int64"""


class LatentBatch(NoisyLatents):
    """A step of the diffusion model."""

    input_ids: Tensor
    """(b m) int64"""


class EditBatch(LatentBatch):
    """A step of a model that edits: the latents are those of the edited images."""

    image_latents: Tensor
    """(b c h w), of the images to edit, unscaled; zeros where the image is left out"""


class NoisedLatents(NoisyLatents):
    """A step of DreamBooth in which the UNet's input has another noise than the one to predict."""

    input_noise: Tensor
    """(b c h w)"""


class PromptedLatents(NoisyLatents):
    """A step of DreamBooth in which prompts are drawn."""

    prompts: Tensor
    """(b,) int64, indices of the prompts"""


class ImageBatches(StepBatches[ImageBatch]):
    """Images read from files, for the autoencoder."""

    def __init__(
        self, paths: Sequence[Path], size: int, latent_shape: tuple[int, int, int], flip: bool, share: DeviceShare
    ) -> None:
        super().__init__(share, len(paths))
        self.paths = paths
        self.size = size
        self.latent_shape = latent_shape
        self.flip = flip

    def batch(self, indices: list[int], generator: torch.Generator) -> ImageBatch:
        size = self.size
        images = torch.stack(
            [to_tensor(fit_image(read_image(self.paths[index], size), size, size)) for index in indices]
        )
        mirrored = torch.rand(len(indices), generator=generator) < (0.5 if self.flip else 0.0)
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return ImageBatch(images=images, noise=torch.randn(len(indices), *self.latent_shape, generator=generator))


class LatentBatches(StepBatches[LatentBatch]):
    """Encoded images, each with one of its captions or an empty one.

    moments (n v 2c h w); captions[n] are those of image n.
    """

    def __init__(
        self,
        moments: np.ndarray,
        captions: Sequence[Sequence[str]],
        tokenizer: PromptTokenizer,
        num_timesteps: int,
        caption_dropout: float,
        share: DeviceShare,
    ) -> None:
        super().__init__(share, len(captions))
        self.moments = moments
        self.captions = captions
        self.tokenizer = tokenizer
        self.num_timesteps = num_timesteps
        self.caption_dropout = caption_dropout

    def batch(self, indices: list[int], generator: torch.Generator) -> LatentBatch:
        views = self.moments.shape[1]
        moments = torch.stack([moments_at(self.moments, index, random_index(views, generator)) for index in indices])
        captions = [self.captions[index] for index in indices]
        chosen = [some[random_index(len(some), generator)] for some in captions]
        dropped = (torch.rand(len(indices), generator=generator) < self.caption_dropout).tolist()
        noisy = noisy_latents(moments, self.num_timesteps, generator)
        prompts = ["" if drop else text for drop, text in zip(dropped, chosen, strict=True)]
        return LatentBatch(**noisy, input_ids=self.tokenizer(prompts))


class EditBatches(StepBatches[EditBatch]):
    """Encoded pairs of images, each with one of its instructions; some without instruction, image or both.

    moments (2n v 2c h w): first those of the n edited images, then of the images to edit; both have the same view.
    With `dropout` 0.05, as in arXiv 2211.09800, section 3.2.1: 5 % of the pairs have no instruction, 5 % no image and
    5 % neither.
    """

    def __init__(
        self,
        moments: np.ndarray,
        instructions: Sequence[Sequence[str]],
        tokenizer: PromptTokenizer,
        num_timesteps: int,
        dropout: float,
        share: DeviceShare,
    ) -> None:
        super().__init__(share, len(instructions))
        self.moments = moments
        self.instructions = instructions
        self.tokenizer = tokenizer
        self.num_timesteps = num_timesteps
        self.dropout = dropout

    def batch(self, indices: list[int], generator: torch.Generator) -> EditBatch:
        views = [random_index(self.moments.shape[1], generator) for _ in indices]
        first = len(self.instructions)
        edited, given = (
            torch.stack([moments_at(self.moments, start + i, view) for i, view in zip(indices, views, strict=True)])
            for start in (0, first)
        )
        chosen = [some[random_index(len(some), generator)] for some in (self.instructions[i] for i in indices)]
        drawn = torch.rand(len(indices), generator=generator)
        without_text = (drawn < 2 * self.dropout).tolist()
        without_image = (drawn >= self.dropout) & (drawn < 3 * self.dropout)
        noisy = noisy_latents(edited, self.num_timesteps, generator)
        prompts = ["" if drop else text for drop, text in zip(without_text, chosen, strict=True)]
        image_latents = given.chunk(2, dim=1)[0] * (~without_image)[:, None, None, None]
        return EditBatch(**noisy, input_ids=self.tokenizer(prompts), image_latents=image_latents)


class DreamBoothBatches(StepBatches[NoisyLatents]):
    """`share.batch_size` instance images, then as many class images, if there are any.

    instance_moments (n v 2c h w), class_moments (m v 2c h w) or None without prior preservation. With `prompts` a batch
    also has a prompt for each image; with `noising` that isn't plain, another noise in the UNet's input.
    """

    def __init__(
        self,
        instance_moments: Tensor,
        class_moments: Tensor | None,
        num_timesteps: int,
        share: DeviceShare,
        prompts: DrawnPrompts | None = None,
        noising: Noising = Noising(),
    ) -> None:
        self.sets = [instance_moments] if class_moments is None else [instance_moments, class_moments]
        super().__init__(share, *map(len, self.sets))
        self.num_timesteps = num_timesteps
        self.prompts = prompts
        self.noising = noising

    def step(self, step: int) -> NoisyLatents:
        positions = [self.positions(step)] * len(self.sets)
        return with_noising(super().step(step), self.noising, self.share.seed, positions)

    def batch(self, indices: list[int], generator: torch.Generator) -> NoisyLatents:
        sets = [moments for moments in self.sets for _ in range(self.share.batch_size)]
        moments = torch.stack(
            [
                moments[index, random_index(moments.shape[1], generator)]
                for moments, index in zip(sets, indices, strict=True)
            ]
        )
        noisy = noisy_latents(moments, self.num_timesteps, generator)
        if self.prompts is None:
            return noisy
        drawn = [self.prompts.draw(index, generator) for index in indices[: self.share.batch_size]]
        of_class = [0] * (len(indices) - len(drawn))
        return PromptedLatents(**noisy, prompts=torch.tensor([*drawn, *of_class]))


def with_noising(batch: NoisyLatents, noising: Noising, seed: int, positions: Sequence[Sequence[int]]) -> NoisyLatents:
    """The batch with the noise and the timesteps of `noising`; its items beyond the `positions` keep their own."""
    if noising.is_plain:
        return batch
    count, noise, timesteps = sum(map(len, positions)), batch["noise"], batch["timesteps"]
    drawn = noising.draw(noise[:count], timesteps[:count], seed, positions)
    changed = {
        "noise": torch.cat([drawn.noise, noise[count:]]),
        "input_noise": torch.cat([drawn.input_noise, noise[count:]]),
        "timesteps": torch.cat([drawn.timesteps, timesteps[count:]]),
    }
    return NoisedLatents(**{**batch, **changed})  # type: ignore[typeddict-item]


def noisy_latents(moments: Tensor, num_timesteps: int, generator: torch.Generator) -> NoisyLatents:
    """Random noise and timesteps for moments (b 2c h w)."""
    shape = moments.chunk(2, dim=1)[0].shape
    return NoisyLatents(
        moments=moments,
        posterior_noise=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        timesteps=torch.randint(num_timesteps, (len(moments),), generator=generator),
    )


def random_index(count: int, generator: torch.Generator) -> int:
    """A random number from 0 to `count` - 1."""
    return int(torch.randint(count, (), generator=generator))
