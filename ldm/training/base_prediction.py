"""Prior preservation by the base model's own predictions, without images of the class.

"Learning without Forgetting" (arXiv 1606.09282, section 3): what the old network answers on the new task's data is
the target that keeps it from forgetting. Here the class half of a batch are the photos, noised, with the class prompt:
where the class would become the subject. The target of the loss is not the noise but what the base model predicts.

The predictions are made before the training begins, when the network still is the base model, for a fixed set of
photos, noise and timesteps: no second network is ever in memory. They are kept on the host, 64 KiB each for an image
of 512 x 512; their inputs are a function of the seed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ldm.data.batches import (
    DeviceShare,
    DreamBoothBatches,
    NoisyLatents,
    StepBatches,
    noisy_latents,
    random_index,
    with_noising,
)
from ldm.data.drawn_prompts import DrawnPrompts
from ldm.data.noising import Noising
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.noise import derived_generator
from ldm.nn.autoencoder import DiagonalGaussian

INPUTS = 0xBA5E
"""Tells the generators of the predictions' inputs from those of the steps."""


Autocast = Callable[[], AbstractContextManager[object]]
"""The context in which a training step computes."""


@dataclass(frozen=True)
class PredictionInputs:
    """What the base model predicts the noise of: `count` noised photos, each a function of (seed, index)."""

    moments: Tensor
    """Of the photos (n v 2c h w)."""
    num_timesteps: int
    count: int
    seed: int

    def of(self, indices: Iterable[int]) -> NoisyLatents:
        """The inputs with these indices; all photos in turn."""
        parts = [self._one(index) for index in indices]
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}  # type: ignore[literal-required]
        return cast(NoisyLatents, batch)

    def _one(self, index: int) -> NoisyLatents:
        generator = derived_generator(self.seed, INPUTS, index)
        photo = self.moments[index % len(self.moments)]
        moments = photo[random_index(len(photo), generator)]
        return noisy_latents(moments[None], self.num_timesteps, generator)


@dataclass(frozen=True)
class BasePredictions:
    """Inputs, and the base model's prediction for each: the targets (count c h w), float32 on the host."""

    inputs: PredictionInputs
    targets: Tensor


@torch.no_grad()
def predict_with_base(
    ldm: LatentDiffusion,
    context: Tensor,
    inputs: PredictionInputs,
    batch_size: int,
    autocast: Autocast,
) -> Iterator[Tensor]:
    """The predictions of a model that has not been trained yet, a batch at a time; context (1 77 d) of the prompt."""
    device = ldm.device
    for start in range(0, inputs.count, batch_size):
        batch = inputs.of(range(start, min(start + batch_size, inputs.count)))
        on_device = {name: value.to(device) for name, value in batch.items()}  # type: ignore[attr-defined]
        timesteps = on_device["timesteps"]
        with autocast():
            latents = ldm.sample_posterior(DiagonalGaussian(on_device["moments"]), on_device["posterior_noise"])
            noisy = ldm.schedule.add_noise(latents, on_device["noise"], timesteps)
            eps = ldm.predict_eps(noisy, timesteps, context.to(device).expand(len(timesteps), -1, -1))
        yield eps.float().cpu()


class PredictedBatches(StepBatches[NoisyLatents]):
    """`share.batch_size` photos, then as many inputs of predictions; `class_targets` (b c h w) are the predictions.

    `noising` is of the photos: the inputs' noise belongs to their predictions.
    """

    def __init__(
        self,
        instance_moments: Tensor,
        predictions: BasePredictions,
        num_timesteps: int,
        share: DeviceShare,
        prompts: DrawnPrompts | None = None,
        noising: Noising = Noising(),
    ) -> None:
        super().__init__(share, len(instance_moments), predictions.inputs.count)
        self.noising = noising
        self._photos = DreamBoothBatches(instance_moments, None, num_timesteps, share, prompts)
        self._predictions = predictions

    def step(self, step: int) -> NoisyLatents:
        return with_noising(super().step(step), self.noising, self.share.seed, [self.positions(step)])

    def batch(self, indices: list[int], generator: torch.Generator) -> NoisyLatents:
        size = self.share.batch_size
        photos = self._photos.batch(indices[:size], generator)
        inputs = self._predictions.inputs.of(indices[size:])
        batch = {name: torch.cat([photos[name], inputs[name]]) for name in inputs}  # type: ignore[literal-required]
        if (drawn := photos.get("prompts")) is not None:
            batch["prompts"] = torch.cat([cast(Tensor, drawn), torch.zeros(size, dtype=torch.int64)])
        return cast(NoisyLatents, {**batch, "class_targets": self._predictions.targets[indices[size:]]})
