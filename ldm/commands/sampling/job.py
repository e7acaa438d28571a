"""What is to be drawn: flags and model defaults made into one description, and the text an image carries of it."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.commands.enough_memory import refuse_too_large_images
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.data.images import fit, read_image, to_tensor
from ldm.diffusion.samplers import SAMPLERS, img2img_steps
from ldm.diffusion.sampling import InitImage, SamplingConfig
from ldm.errors import UserError
from ldm.runtime.devices import Compute
from ldm.runtime.models import SamplingDefaults, Settings, snapped_size


@dataclass(frozen=True)
class Job:
    """Everything that the images of one call share."""

    prompts: list[str]
    """"{class}" in them is each checkpoint's class. Empty: each checkpoint draws its own subject."""
    negative_prompt: str
    seeds: list[int]
    sampling: SamplingConfig
    batch_size: int
    compile: str = "auto"
    init: InitImage | None = None
    init_path: Path | None = None

    @property
    def steps_run(self) -> int:
        """Of the sampler's steps, those that are run for each image."""
        num_steps = self.sampling.num_steps
        return num_steps if self.init is None else img2img_steps(num_steps, self.init.strength)


def job_from(options: argparse.Namespace, settings: Settings, compute: Compute) -> Job:
    """The job that the flags of txt2img or img2img ask for, with the model's defaults.

    Raises `UserError` if images of that size don't fit into the memory of the device.
    """
    defaults = settings.sampling
    init_path = getattr(options, "init_img", None)
    longest = max(options.hw or (defaults.height, defaults.width))
    photo = read_image(init_path, longest) if init_path else None
    default_size = (defaults.height, defaults.width) if photo is None else _size_like(photo, defaults)
    height, width = snapped_size(settings.model, options.hw, default_size)
    sampling = sampling_from(options, defaults, height, width)
    together = 1 if compute.device.type == "cpu" else options.batch_size or 1
    refuse_too_large_images(settings.model, sampling, together, compute.dtype, compute.device)
    return Job(
        prompts=options.prompt or [],
        negative_prompt=options.negative_prompt,
        seeds=[options.seed + i for i in range(options.variations)],
        sampling=sampling,
        batch_size=options.batch_size or defaults.batch_size,
        compile=options.compile,
        init=InitImage(to_tensor(fit(photo, height, width)), options.strength) if photo else None,
        init_path=init_path,
    )


def sampling_from(options: argparse.Namespace, defaults: SamplingConfig, height: int, width: int) -> SamplingConfig:
    """The flags where they were given, the model's defaults elsewhere."""
    given = {
        "sampler": options.sampler,
        "num_steps": options.ddim_steps,
        "guidance_scale": options.scale,
        "eta": options.ddim_eta,
    }
    base = SamplingConfig(height, width, defaults.sampler, defaults.num_steps, defaults.guidance_scale, defaults.eta)
    sampling = replace(base, **{name: value for name, value in given.items() if value is not None})
    takes_eta = SAMPLERS[sampling.sampler].default_eta is not None
    if options.ddim_eta and not takes_eta:
        able = " and ".join(name for name, sampler in SAMPLERS.items() if sampler.default_eta is not None)
        raise UserError(f"--ddim-eta is for the samplers {able}; {sampling.sampler} adds no noise")
    if options.ddim_eta is not None and takes_eta:
        return sampling
    return with_sampler(replace(sampling, sampler=defaults.sampler), sampling.sampler, sampling.num_steps)


def with_sampler(sampling: SamplingConfig, sampler: str, num_steps: int) -> SamplingConfig:
    """The same with another sampler, which then adds as much noise as it does by default."""
    default_eta = SAMPLERS[sampler].default_eta
    eta = sampling.eta if sampler == sampling.sampler and default_eta is not None else default_eta or 0.0
    return replace(sampling, sampler=sampler, num_steps=num_steps, eta=eta)


def sampling_flags(sampling: SamplingConfig) -> dict[str, Any]:
    """The flags that mean this."""
    return {
        "hw": [sampling.height, sampling.width],
        "sampler": sampling.sampler,
        "ddim_steps": sampling.num_steps,
        "scale": sampling.guidance_scale,
        "ddim_eta": sampling.eta,
    }


def _size_like(photo: Image.Image, defaults: SamplingDefaults) -> tuple[int, int]:
    """The photo's shape at about the area the model draws best."""
    scale = (defaults.height * defaults.width / (photo.height * photo.width)) ** 0.5
    return round(photo.height * scale), round(photo.width * scale)


def png_text(prompt: str, seed: int, job: Job, checkpoint: Checkpoint) -> dict[str, object]:
    """What an image says of itself: a key each, and `parameters` as other tools write and read it. No paths."""
    sampling = job.sampling
    size = f"{sampling.width}x{sampling.height}"
    negative = f"Negative prompt: {job.negative_prompt}\n" if job.negative_prompt else ""
    text: dict[str, object] = {
        "prompt": prompt,
        "negative_prompt": job.negative_prompt,
        "seed": seed,
        "sampler": sampling.sampler,
        "steps": sampling.num_steps,
        "scale": sampling.guidance_scale,
        "eta": sampling.eta,
        "size": size,
        "checkpoint": checkpoint.path.name,
        "checkpoint_step": checkpoint.info.step,
    }
    if job.init is not None:
        text |= {"init_img": job.init_path and job.init_path.name, "strength": job.init.strength}
    parameters = (
        f"{prompt}\n{negative}Steps: {sampling.num_steps}, Sampler: {sampling.sampler}, "
        f"CFG scale: {sampling.guidance_scale}, Seed: {seed}, Size: {size}, Model: {checkpoint.path.stem}"
    )
    return {**text, "parameters": parameters}
