"""The images that a DreamBooth run trains on: class images, sampled on one device or several, and their encoding."""

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth.plan import RunPlan
from ldm.data.latents import encode_moments
from ldm.leftovers import remove_leftovers
from ldm.nn.autoencoder import AutoencoderKL
from ldm.processes import is_helper_process, run_together
from ldm.progress import Progress
from ldm.runtime.batching import batch_that_fits, images_at_a_time, is_scarce, worker_pool
from ldm.runtime.compiling import compile_unet
from ldm.runtime.devices import Compute, explain_out_of_memory, sampling_compute
from ldm.runtime.models import ModelSlot

log = logging.getLogger(__name__)

ADVICE = "a smaller --generation-batch-size or --hw needs less"
ENCODED_PIXELS = 2 * 512 * 512
"""Pixels per batch on a GPU: an image of 512 x 512 and its mirror image keep it busy."""


def sample_class_images(plan: RunPlan) -> list[Path]:
    """The class images' files; missing ones are sampled. Each of several devices gets a process of its own."""
    cache, count, devices = plan.class_images, plan.config.class_img_count, plan.devices
    if count == 0:
        return []
    if plan.own_class_images:
        return list(plan.own_class_images)
    if not is_helper_process():
        remove_leftovers(cache.root)
    missing = cache.missing(count)
    if not missing or is_helper_process():
        log.info("%d class images '%s' from %s", count, cache.prompt, cache.directory)
        return cache.paths(count)
    log.info("sampling %d of %d class images '%s' into %s", len(missing), count, cache.prompt, cache.directory)
    with Progress(len(missing), "class images", "img") as progress:
        if len(devices) == 1:
            _sample_share(0, progress.update, plan, missing, show_steps=True)
        else:
            sent = replace(
                plan, instance_images=plan.instance_images[:0], photo_verdicts=[]
            )  # the processes need no photos
            run_together(_sample_share, len(devices), sent, missing, False, on_done=progress.update)
    return cache.paths(count)


def _sample_share(rank: int, done: Callable[[int], None], plan: RunPlan, missing: list[int], show_steps: bool) -> None:
    """Device `rank` samples every n-th missing image of n devices. Image i has the same seed on each of them."""
    cache, device = plan.class_images, plan.devices[rank]
    indices = missing[rank :: len(plan.devices)]
    with explain_out_of_memory(ADVICE):
        compute = sampling_compute(device, plan.class_precision)
        batch_size = plan.options.generation_batch_size or batch_that_fits(
            plan.settings, cache.sampling, compute.dtype, device, len(indices)
        )
        scarce = is_scarce(plan.settings, cache.sampling, compute.dtype, device)
        file = replace(read_checkpoint(plan.base), embeddings=plan.words_of_class)
        ldm = ModelSlot(compute).use(file, plan.settings, plan.tokenizer)
        # A captured UNet keeps its memory, and can't be moved.
        compile_unet(
            ldm, "off" if scarce else plan.options.compile, -(-len(indices) // batch_size) * cache.sampling.num_steps
        )
        pool = worker_pool(ldm, cache.sampling)
        alone = show_steps and pool.workers == 1
        with (
            Progress(cache.sampling.num_steps, "denoising", "step", inner=True, silent=not alone) as steps,
            contextlib.closing(
                cache.sample(ldm, indices, batch_size, on_step=steps.update, workers=pool, one_network_at_a_time=scarce)
            ) as paths,
        ):
            for sampled, _ in enumerate(paths, 1):
                done(1)
                if sampled % batch_size == 0:
                    steps.restart()


def encode_images(
    autoencoder: AutoencoderKL, images: Iterable[Tensor], size: tuple[int, int], flip: bool, compute: Compute
) -> Tensor:
    """Moments (n v 2c h/8 w/8) of images (3 h w) in [-1, 1] of this size (height, width), in the training's precision.

    In float32 instead of float16, in which some autoencoders overflow.
    """
    exact = compute.autocast_dtype == torch.float16
    with contextlib.nullcontext() if exact else compute.autocast():
        return encode_moments(autoencoder, images, flip, views_together(compute.device, *size))


def views_together(device: torch.device, height: int, width: int) -> int:
    """How many images or mirror images are encoded in a batch."""
    return images_at_a_time(device, max(1, ENCODED_PIXELS // (height * width)))
