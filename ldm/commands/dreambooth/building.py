"""The training of a plan: its base model with encoded images, as a run and the measurement of its time begin."""

import gc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth.images import encode_images
from ldm.commands.dreambooth.plan import RunPlan
from ldm.data.images import read_ahead
from ldm.nn.autoencoder import AutoencoderKL
from ldm.processes import is_helper_process, own_rank
from ldm.progress import each
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot
from ldm.training.dreambooth import HOST, DreamBooth
from ldm.training.lora import store_frozen_in

Encode = Callable[[AutoencoderKL, Compute], tuple[Tensor, Tensor | None]]
"""(autoencoder, compute) -> moments of the photos, and of the class images if there are any."""


def build_module(plan: RunPlan, class_images: list[Path]) -> DreamBooth:
    """Loads the base model and encodes all images."""
    size, flip = (plan.sampling.height, plan.sampling.width), plan.config.flip

    def encode(autoencoder: AutoencoderKL, compute: Compute) -> tuple[Tensor, Tensor | None]:
        instance_moments = encode_images(autoencoder, plan.instance_images, size, flip, compute)
        if not class_images:
            return instance_moments, None
        with closing(read_ahead(class_images, *size)) as files:
            images = each(files, len(class_images), "encoding", "img", silent=is_helper_process())
            return instance_moments, encode_images(autoencoder, images, size, flip, compute)

    return _build(plan, encode)


def build_to_measure(plan: RunPlan) -> DreamBooth:
    """The same training with one photo in place of every photo and class image: the time of an update is the same."""
    size, flip = (plan.sampling.height, plan.sampling.width), plan.config.flip

    def encode(autoencoder: AutoencoderKL, compute: Compute) -> tuple[Tensor, Tensor | None]:
        one = encode_images(autoencoder, plan.instance_images[:1], size, flip, compute)
        photos = one.expand(len(plan.instance_images), *one.shape[1:])
        return photos, one if plan.config.class_img_count else None

    return _build(plan, encode)


def _build(plan: RunPlan, encode: Encode) -> DreamBooth:
    compute = replace(plan.compute, device=plan.devices[own_rank() % len(plan.devices)])
    in_half = plan.training_autocast_dtype if plan.config.fixes_networks else None
    # On the host first, if the device may be too small for all weights in float32.
    first = replace(compute, device=HOST) if in_half or plan.config.train_dtype != "fp32" else compute
    file = replace(read_checkpoint(plan.base), embeddings=plan.embeddings)
    ldm = ModelSlot(first).use(file, plan.settings, plan.tokenizer)
    if in_half:
        store_frozen_in(ldm, plan.config, in_half)
        ldm.to(compute.device)
    ldm.autoencoder.to(compute.device)
    moments = encode(ldm.autoencoder, compute)
    ldm.autoencoder.to(first.device)
    gc.collect()
    module = DreamBooth(ldm, plan.subject, *moments, plan.config, plan.options.seed, plan.prompts)
    for network in module.needed_networks:
        network.to(compute.device)
    return module
