"""How many images are sampled at a time: as many as fit on a GPU; on a CPU one per worker, to fill its cores."""

import logging

import torch

from ldm.checkpoint.keys import PARTS
from ldm.diffusion.editing import is_edit_model, most_conditionings
from ldm.diffusion.latent_diffusion import DECODED_PIXELS, LatentDiffusion, LatentDiffusionConfig, count_weights
from ldm.diffusion.parallel import WorkerPool, threads_for
from ldm.diffusion.sampling import SamplingConfig
from ldm.disk import human_size
from ldm.nn.autoencoder import AutoencoderKL
from ldm.nn.memory import free_memory, peak_bytes
from ldm.nn.unet import UNet
from ldm.runtime.models import Settings

log = logging.getLogger(__name__)

MOST = 16
"""Images in a batch, at most: with these Stable Diffusion fills a large GPU."""

SHARE = 0.8
"""Share of the free memory. The rest is for allocations of kernels and gaps between blocks."""


def images_at_a_time(device: torch.device, batch_size: int) -> int:
    """How many images go through a network together: `batch_size` on a GPU, one on a CPU.

    On a CPU libraries choose their kernels by the size of a batch and round differently, so pixels would depend on the
    other images of the batch. In a comparison they must not.
    """
    return 1 if device.type == "cpu" else batch_size


def batch_that_fits(
    settings: Settings,
    sampling: SamplingConfig,
    dtype: torch.dtype,
    device: torch.device,
    images: int,
    loaded_bytes: int = 0,
) -> int:
    """The batch size: on CUDA as many of the images as fit into free memory beside the model, 1 to `MOST`.

    On other devices it is the model's default. `loaded_bytes`: of the model's weights that are on the device already.
    They are not free, and count once. Call it in the process that samples.
    """
    if (free := free_memory(device)) is None:
        return settings.sampling.batch_size
    if images <= 1:
        return 1
    one, two = (sampling_bytes(settings.model, sampling, count, dtype) for count in (1, 2))
    usable = int(SHARE * (free + loaded_bytes))
    fitting = max(1, min(MOST, images, 1 + (usable - one) // (two - one)))
    log.info("batch size: %d, with %s free on %s", fitting, human_size(free), device)
    return fitting


def is_scarce(settings: Settings, sampling: SamplingConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a CUDA device has too little free memory for a model, before it is loaded, and a captured call."""
    free = free_memory(device)
    return free is not None and sampling_bytes(settings.model, sampling, 1, dtype) > SHARE * free


def sampling_bytes(config: LatentDiffusionConfig, sampling: SamplingConfig, images: int, dtype: torch.dtype) -> int:
    """Bytes for the model, one UNet call for so many images, and decoding `DECODED_PIXELS` of them.

    Their sum, because a captured UNet keeps its memory while images are decoded.
    """
    resting = sum(count_weights(config, PARTS[part]) for part in ("autoencoder", "text_encoder"))
    alone = sampling.guidance_scale == 1.0 and not is_edit_model(config)
    batch = images if alone else most_conditionings(config) * images
    channels, *size = config.latent_shape(sampling.height, sampling.width)
    context = (batch, config.text_encoder.max_position_embeddings, config.unet.context_dim)

    def call() -> None:
        unet = UNet(config.unet).requires_grad_(False)
        unet(torch.zeros(batch, config.unet.in_channels, *size), torch.zeros(batch), torch.zeros(context))

    def decode() -> None:
        autoencoder = AutoencoderKL(config.autoencoder).requires_grad_(False)
        decoded = max(1, DECODED_PIXELS // (sampling.height * sampling.width))
        autoencoder.decode(torch.zeros(decoded, channels, *size))

    in_float32 = resting * torch.float32.itemsize + peak_bytes(call) + peak_bytes(decode)
    return in_float32 * dtype.itemsize // torch.float32.itemsize


def worker_pool(ldm: LatentDiffusion, sampling: SamplingConfig) -> WorkerPool:
    """Workers that together use a CPU's cores, each with as many threads as the UNet can use; one on other devices."""
    if ldm.device.type != "cpu" or ldm.graphed_unet is not None:
        return WorkerPool()
    cores = torch.get_num_threads()
    _, height, width = ldm.config.latent_shape(sampling.height, sampling.width)
    threads = threads_for(sum(weight.numel() for weight in ldm.unet.parameters()), height * width, cores)
    return WorkerPool(workers=cores // threads, threads=threads)
