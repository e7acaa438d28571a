"""Refuses sizes that do not fit into the memory of the device, before anything is made. A CPU gives no such error.

Three numbers, from the cheapest: a lower bound refuses absurd sizes, an upper bound passes nearly every call at once,
and in between fake tensors are counted (`ldm.nn.memory`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

import torch

from ldm.checkpoint.keys import PARTS
from ldm.diffusion.editing import most_conditionings
from ldm.diffusion.latent_diffusion import DECODED_PIXELS, LatentDiffusionConfig, count_weights
from ldm.diffusion.parallel import threads_for
from ldm.diffusion.sampling import SamplingConfig
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.host_memory import available_memory
from ldm.nn.autoencoder import AutoencoderConfig
from ldm.nn.memory import total_memory
from ldm.nn.unet import UNetConfig
from ldm.runtime.batching import sampling_bytes
from ldm.training.dreambooth_config import DreamBoothConfig

if TYPE_CHECKING:  # it imports Lightning, which imports torchvision: over a second that sampling does not need
    from ldm.training.memory import Workload

FLOAT = 4
"""Bytes."""
FEATURES = 12
"""Feature maps of the largest level that are alive at once in inference, at most."""
KEPT = 100
"""Feature maps that one residual block and its attention keep for the backward pass, at most."""
STATE = 24
"""Bytes of a trained weight with its gradient, moments and average, at most."""
SIDES = [n / 8 for n in range(7, 0, -1)] + [1 / 2**n for n in range(4, 12)]
"""Shares of a side that are tried to suggest a size that fits."""


@dataclass(frozen=True)
class Need:
    """Bytes of memory: a lower bound, an upper bound, and a count between them."""

    least: int
    most: int
    counted: Callable[[], int]

    def more_than(self, limit: int) -> int | None:
        """The bytes needed if they are more than `limit`, else None."""
        if self.least > limit:
            return self.least
        if self.most <= limit:
            return None
        return needed if (needed := self.counted()) > limit else None


def memory_of(device: torch.device, processes: int = 1) -> int | None:
    """Bytes that a process can have on a device at most; None if unknown."""
    if device.type == "cuda":
        return total_memory(device)
    free = available_memory()
    return free // processes if free is not None else None


def refuse_too_large_images(
    model: LatentDiffusionConfig, sampling: SamplingConfig, batch_size: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises `UserError` if sampling a batch of images of this size takes more than the device's memory."""
    if (limit := memory_of(device)) is None:
        return
    if needed := _sampling_need(model, sampling, batch_size, dtype, device).more_than(limit):
        fits = _side_that_fits(
            model,
            sampling,
            lambda smaller: _sampling_need(model, smaller, 1, dtype, device).most <= limit,
        )
        what = f"{batch_size} images" if batch_size > 1 else "an image"
        raise UserError(
            f"{what} of {sampling.height} x {sampling.width} would take {human_size(needed)} of memory, and "
            f"{human_size(limit)} are available. {fits or 'A smaller --hw or --batch-size'} would fit"
        )


def refuse_too_large_training(need: Need, devices: list[torch.device], training: str, remedy: str) -> None:
    """Raises `UserError` if the memory of each device, or its share of the host's, is less than a training needs.

    For the message: `training` would take too much, and `remedy` needs less.
    """
    limit = memory_of(devices[0], len(devices) if devices[0].type == "cpu" else 1)
    if limit is not None and (needed := need.more_than(limit)):
        raise UserError(
            f"{training} would take {human_size(needed)} of memory, and {human_size(limit)} are available. "
            f"{remedy} needs less"
        )


def dreambooth_need(workload: "Workload", config: DreamBoothConfig) -> Need:
    """The memory that a fine-tuning needs on a device."""
    from ldm.training.memory import predict

    model = workload.model
    latents = workload.height * workload.width // model.autoencoder.downsampling_factor**2
    samples = config.batch_size * (2 if workload.with_class else 1)
    return training_need(model.unet, samples * latents, count_weights(model), lambda: predict(workload, config).step)


def training_need(network: AutoencoderConfig | UNetConfig, pixels: int, weights: int, count: Callable[[], int]) -> Need:
    """The memory for training a network. `pixels`: of all images of a step at full resolution; `count` counts bytes."""
    if isinstance(network, UNetConfig):
        channels, mult = network.model_channels, network.channel_mult
    else:
        channels, mult = network.ch, network.ch_mult
    widest = _widest(channels, mult)
    return Need(
        least=pixels * channels * 2,
        most=STATE * weights + pixels * widest * KEPT * (network.num_res_blocks + 1) * FLOAT,
        counted=count,
    )


def _sampling_need(
    model: LatentDiffusionConfig, sampling: SamplingConfig, batch_size: int, dtype: torch.dtype, device: torch.device
) -> Need:
    """The memory for sampling a batch of images; on a CPU each of several workers samples one."""
    weights, pixels = count_weights(model), sampling.height * sampling.width
    latents = pixels // model.autoencoder.downsampling_factor**2
    workers = 1
    if device.type == "cpu":
        cores = torch.get_num_threads()
        workers = cores // threads_for(count_weights(model, PARTS["unet"]), latents, cores)
    autoencoder, unet = model.autoencoder, model.unet
    decoded = max(pixels, DECODED_PIXELS) * _widest(autoencoder.ch, autoencoder.ch_mult) * FEATURES + 3 * latents**2
    batch = most_conditionings(model) * batch_size
    called = batch * latents * _widest(unet.model_channels, unet.channel_mult) * FEATURES
    called *= ceil(len(unet.channel_mult) * (unet.num_res_blocks + 1) / 4)  # skips that wait for the way up
    size = dtype.itemsize
    return Need(
        # The autoencoder's attention has two matrices of all pairs of pixels.
        least=size * (max(pixels * autoencoder.ch, 2 * latents**2) + batch_size * latents * unet.model_channels),
        most=size * (2 * weights + workers * (decoded + called)),
        counted=lambda: _counted_bytes(model, sampling, batch_size, dtype, workers),
    )


def _counted_bytes(
    model: LatentDiffusionConfig, sampling: SamplingConfig, batch_size: int, dtype: torch.dtype, workers: int
) -> int:
    whole = sampling_bytes(model, sampling, batch_size, dtype)
    weights = count_weights(model) * dtype.itemsize
    return weights + workers * max(0, whole - weights)


def _side_that_fits(
    model: LatentDiffusionConfig, sampling: SamplingConfig, fits: Callable[[SamplingConfig], bool]
) -> str:
    """The flag for the largest of some smaller sizes that fits; empty if none does."""
    multiple = model.size_multiple
    for share in SIDES:
        height, width = (int(side * share) // multiple * multiple for side in (sampling.height, sampling.width))
        if min(height, width) < multiple:
            break
        if fits(replace(sampling, height=height, width=width)):
            return f"--hw {height} {width}"
    return ""


def _widest(channels: int, mult: tuple[int, ...]) -> int:
    """Numbers per pixel that the largest level holds; a level's first block also reads the one below."""
    levels = [max(pair) for pair in pairwise(mult)] + [mult[-1]]
    return ceil(max(channels * factor / 4**level for level, factor in enumerate(levels)))
