"""What a DreamBooth step is made of: photos encoded once, and batches that are a function of (seed, step) alone.

Because nothing is drawn from a running random state, a training that continues at step n sees what it would have seen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import IterableDataset

from ldm.data.order import ShuffledOrder
from ldm.diffusion.noise import derived_generator
from ldm.nn.autoencoder import AutoencoderKL


class Batch(TypedDict):
    """Instance samples first, then class samples; b of them together."""

    moments: Tensor
    """Parameters of the posterior (b 2c h w)."""
    posterior_noise: Tensor
    """(b c h w)"""
    noise: Tensor
    """(b c h w)"""
    timesteps: Tensor
    """(b,) int64"""


@torch.inference_mode()
def encode_moments(autoencoder: AutoencoderKL, images: Iterable[Tensor], flip: bool, together: int = 1) -> Tensor:
    """Posterior parameters of images (3 h w): (n v 2c h/8 w/8) float32 on the CPU; v = 2 with their mirror images.

    So many views are encoded `together`. One by one, an image's parameters don't depend on its neighbours.
    """
    weight = autoencoder.quant_conv.weight
    singles = (image[None] for image in images)
    views = (view for single in singles for view in ((single, single.flip(-1)) if flip else (single,)))
    encoded = []  # stays on the device, which computes while the next images are read
    while batch := list(islice(views, together)):
        encoded.append(autoencoder.encode(torch.cat(batch).to(weight)).parameters.float())
    parameters = torch.cat([one.cpu() for one in encoded])
    return rearrange(parameters, "(n v) c h w -> n v c h w", v=1 + flip)


@dataclass(frozen=True)
class BatchPlan:
    """How many samples of each kind a device takes per step, and which of several devices this one is."""

    seed: int
    batch_size: int
    num_timesteps: int
    rank: int = 0
    world_size: int = 1


class DreamBoothBatches(IterableDataset[Batch]):
    """Yields the batches of step `start_step`, `start_step` + 1, ... without end.

    instance_moments (n v 2c h w), class_moments (m v 2c h w) or None without prior preservation.
    """

    def __init__(
        self, instance_moments: Tensor, class_moments: Tensor | None, plan: BatchPlan, start_step: int = 0
    ) -> None:
        self.sets = [instance_moments] if class_moments is None else [instance_moments, class_moments]
        self.orders = [ShuffledOrder(len(moments), plan.seed, which) for which, moments in enumerate(self.sets)]
        self.plan = plan
        self.start_step = start_step

    def __iter__(self) -> Iterator[Batch]:
        step = self.start_step
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> Batch:
        """The batch of one step on this device."""
        plan = self.plan
        generator = derived_generator(plan.seed, step, plan.rank)
        first = (step * plan.world_size + plan.rank) * plan.batch_size
        moments = torch.stack(
            [
                moments[order(position), self._draw(moments.shape[1], generator)]
                for order, moments in zip(self.orders, self.sets, strict=True)
                for position in range(first, first + plan.batch_size)
            ]
        )
        mean = moments.chunk(2, dim=1)[0]
        return Batch(
            moments=moments,
            posterior_noise=torch.randn(mean.shape, generator=generator),
            noise=torch.randn(mean.shape, generator=generator),
            timesteps=torch.randint(plan.num_timesteps, (len(moments),), generator=generator),
        )

    @staticmethod
    def _draw(count: int, generator: torch.Generator) -> int:
        return int(torch.randint(count, (), generator=generator))
