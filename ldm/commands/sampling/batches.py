"""Sampling batches of images with the model in a slot: the loop that the commands and the Python API share."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from ldm.commands.sampling.job import Job, Sample
from ldm.diffusion.editing import edit_guidance
from ldm.diffusion.guidance import Guidance, classifier_free
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.prompt_encoding import same_length
from ldm.diffusion.sampling import decode_images, sample_latents
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot

Batch = Sequence[Sample]


@dataclass(frozen=True)
class SampledBatch:
    """The b images of one batch."""

    images: Tensor
    """(b 3 h w) float32 in [-1, 1], on the CPU."""
    latents: Tensor
    """(b 4 h/8 w/8) float32, scaled, on the model's device."""
    pred_x0: list[Tensor]
    """(b 4 h/8 w/8) float32 on the CPU, for each step; empty unless they are kept."""


def sample_batches(
    slot: ModelSlot,
    batches: Sequence[Batch],
    job: Job,
    compute: Compute,
    workers: WorkerPool,
    *,
    on_step: Callable[[], object],
    keep_steps: bool = False,
) -> Generator[SampledBatch, None, None]:
    """Samples the batches and yields them in order; `on_step` is called after each step, by the workers' threads.

    After an error, an interrupt or `close` the workers end before their next network call.
    """
    assert slot.ldm is not None, "use() comes first"
    if job.init is not None:
        with compute.autocast():  # encoded once for all images
            job = replace(job, init=job.init.encoded(slot.ldm))
    sample = partial(_sample, slot, job, compute, on_step, keep_steps)
    with closing(workers.map(batches, sample)) as results:
        for _, sampled in results:
            yield sampled


def _sample(
    slot: ModelSlot, job: Job, compute: Compute, on_step: Callable[[], object], keep_steps: bool, batch: Batch
) -> SampledBatch:
    """Samples a batch; one of prompts of several lengths or of several image scales in parts."""
    with compute.autocast():
        contexts = [_contexts(slot, job, one.prompt) for one in batch]
    sampled = []
    both = zip(contexts, batch, strict=True)
    for (_, image_scale), group in groupby(both, lambda one: (one[0][0].shape[1], one[1].image_scale)):
        pairs, images = zip(*group, strict=True)
        context, uncond_context = torch.cat([context for context, _ in pairs]), pairs[0][1]
        seeds = [one.seed for one in images]
        guidance = partial(_guidance, job, context, uncond_context, image_scale)
        sampled.append(_sample_together(slot, job, compute, on_step, keep_steps, guidance, seeds))
    if len(sampled) == 1:
        return sampled[0]
    steps = zip(*(one.pred_x0 for one in sampled), strict=True)
    return SampledBatch(
        torch.cat([one.images for one in sampled]),
        torch.cat([one.latents for one in sampled]),
        [torch.cat(step) for step in steps],
    )


def _contexts(slot: ModelSlot, job: Job, prompt: str) -> tuple[Tensor, Tensor]:
    """The contexts of a prompt and of the negative prompt, (1 n d) each and of one length."""
    context, uncond_context = slot.context(prompt, job.reading), slot.context(job.negative_prompt, job.reading)
    if context.shape == uncond_context.shape:
        return context, uncond_context
    return same_length(context, uncond_context, slot.context("", job.reading))


def _guidance(job: Job, context: Tensor, uncond_context: Tensor, image_scale: float | None) -> Guidance:
    """Towards the prompts, and for a model that edits also towards the initial image."""
    if image_scale is None:
        return classifier_free(context, uncond_context, job.sampling.guidance_scale)
    assert job.init is not None and job.init.posterior is not None, "job_from refuses a call without an image"
    return edit_guidance(
        context, uncond_context, job.init.posterior.mean.float(), job.sampling.guidance_scale, image_scale
    )


def _sample_together(
    slot: ModelSlot,
    job: Job,
    compute: Compute,
    on_step: Callable[[], object],
    keep_steps: bool,
    guidance: Callable[[], Guidance],
    seeds: Sequence[int],
) -> SampledBatch:
    assert slot.ldm is not None
    kept: list[Tensor] = []

    def after_step(step: int, latents: Tensor, pred_x0: Tensor) -> None:
        if keep_steps:
            kept.append(pred_x0.float().cpu())
        on_step()

    with compute.autocast():
        init = job.init if job.starts_from_image else None
        latents = sample_latents(slot.ldm, guidance(), seeds, job.sampling, init, after_step)
        return SampledBatch(decode_images(slot.ldm, latents, init), latents, kept)
