"""How many images are drawn at a time where nobody says: on a GPU as many as fit, on a CPU one on each core."""

import logging

import torch

from ldm.checkpoint.keys import PARTS
from ldm.diffusion.latent_diffusion import DECODED_PIXELS, LatentDiffusion, LatentDiffusionConfig, count_weights
from ldm.diffusion.parallel import WorkerPool, threads_for
from ldm.diffusion.sampling import SamplingConfig
from ldm.nn.autoencoder import AutoencoderKL
from ldm.nn.memory import free_memory, peak_bytes
from ldm.nn.unet import UNet
from ldm.runtime.models import Settings

log = logging.getLogger(__name__)

MOST = 16
"""Stable Diffusion fills a large GPU with these."""

SHARE = 0.8
"""Of the free memory. The rest is for what kernels allocate for themselves, and for gaps between blocks."""


def batch_that_fits(
    settings: Settings, sampling: SamplingConfig, dtype: torch.dtype, device: torch.device, images: int
) -> int:
    """On CUDA as many of the images as fit into the free memory together with the model, 1 to `MOST`.

    Elsewhere the model's default. To be called before the weights are there, by the process that is to draw.
    """
    if (free := free_memory(device)) is None:
        return settings.sampling.batch_size
    if images <= 1:
        return 1
    one, two = (sampling_bytes(settings.model, sampling, count, dtype) for count in (1, 2))
    fitting = max(1, min(MOST, images, 1 + (int(SHARE * free) - one) // (two - one)))
    log.info("batch size: %d, with %.1f GiB free on %s", fitting, free / 2**30, device)
    return fitting


def sampling_bytes(config: LatentDiffusionConfig, sampling: SamplingConfig, images: int, dtype: torch.dtype) -> int:
    """What the model, one UNet call for so many images and the decoding of a slice of them take.

    Together, because a captured UNet keeps its memory while the images are decoded.
    """
    resting = sum(count_weights(config, PARTS[part]) for part in ("autoencoder", "text_encoder"))
    batch = images if sampling.guidance_scale == 1.0 else 2 * images
    latents = (batch, *config.latent_shape(sampling.height, sampling.width))
    context = (batch, config.text_encoder.max_position_embeddings, config.unet.context_dim)

    def call() -> None:
        unet = UNet(config.unet).requires_grad_(False)
        unet(torch.zeros(latents), torch.zeros(batch), torch.zeros(context))

    def decode() -> None:
        autoencoder = AutoencoderKL(config.autoencoder).requires_grad_(False)
        some = max(1, DECODED_PIXELS // (sampling.height * sampling.width))
        autoencoder.decode(torch.zeros(some, *latents[1:]))

    in_float32 = resting * torch.float32.itemsize + peak_bytes(call) + peak_bytes(decode)
    return in_float32 * dtype.itemsize // torch.float32.itemsize


def worker_pool(ldm: LatentDiffusion, sampling: SamplingConfig) -> WorkerPool:
    """On a CPU as many workers as its cores are good for, each with the threads that the UNet can use."""
    if ldm.device.type != "cpu" or ldm.graphed_unet is not None:
        return WorkerPool()
    cores = torch.get_num_threads()
    _, height, width = ldm.config.latent_shape(sampling.height, sampling.width)
    threads = threads_for(sum(weight.numel() for weight in ldm.unet.parameters()), height * width, cores)
    return WorkerPool(workers=cores // threads, threads=threads)
