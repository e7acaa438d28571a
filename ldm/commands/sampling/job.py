"""`Job`: the options that all images of a call share, from flags and the model's defaults; the text in image files."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

import ldm
from ldm.commands.enough_memory import refuse_too_large_images
from ldm.commands.sampling.adapters import LoraFile
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.masks import Margins, init_from, margins_from, mask_text, refuse_other_inputs
from ldm.commands.sampling.parameters import ETA_NAMES, SAMPLER_NAMES, SCHEDULE_NAMES, Parameters
from ldm.commands.sampling.prompts import reading_from
from ldm.data.images import read_image
from ldm.diffusion.prompt_encoding import PromptReading
from ldm.diffusion.samplers import SAMPLERS, img2img_steps
from ldm.diffusion.sampling import InitImage, SamplingConfig
from ldm.errors import UserError
from ldm.evaluation.protocol import dreambooth_prompts, is_live
from ldm.nn.tokenizer import whole_words
from ldm.report.comparison import CLASS_PLACEHOLDER
from ldm.runtime.batching import batch_that_fits, images_at_a_time
from ldm.runtime.devices import Compute
from ldm.runtime.models import SamplingDefaults, Settings, snapped_size
from ldm.sampling_options import SAMPLING_OPTIONS
from ldm.training.dreambooth_config import Subject

CLASS_PROMPT = Subject(CLASS_PLACEHOLDER).class_prompt
"""The prompt of the class alone, by which scores measure how the class has changed."""


@dataclass(frozen=True)
class Job:
    """Everything that the images of one call share."""

    prompts: list[str]
    """"{class}" in them is each checkpoint's class. Empty: each checkpoint samples its own subject."""
    negative_prompt: str
    seeds: list[int]
    sampling: SamplingConfig
    batch_size: int
    """Recorded, so that a resumed call has the same batches."""
    compile: str = "auto"
    init: InitImage | None = None
    init_path: Path | None = None
    loras: tuple[LoraFile, ...] = ()
    """The files of `--lora`."""
    margins: Margins = (0, 0, 0, 0)
    """Pixels by which the initial image is extended."""
    mask_text: dict[str, object] = field(default_factory=dict)
    """What the text of an image file says of mask and margins."""
    reading: PromptReading = PromptReading()

    @property
    def steps_run(self) -> int:
        """How many of the sampler's steps each image takes."""
        num_steps = self.sampling.num_steps
        return num_steps if self.init is None else img2img_steps(num_steps, self.init.strength)


def job_from(
    options: argparse.Namespace,
    settings: Settings,
    compute: Compute,
    loaded_bytes: int = 0,
    loras: tuple[LoraFile, ...] = (),
) -> Job:
    """The job of the given flags, with the model's defaults for the others.

    `loras`: those of `--lora`, with their hashes. `loaded_bytes`: as in `batch_that_fits`. Raises `UserError` if images
    of that size don't fit into the memory of the device.
    """
    defaults = settings.sampling
    init_path, init_image, default_size = getattr(options, "init_img", None), None, (defaults.height, defaults.width)
    if init_path and not options.hw:
        init_image = read_image(init_path, max(default_size))
        default_size = _size_like(init_image, defaults)
    photo_height, photo_width = snapped_size(settings.model, options.hw, default_size)
    left, top, right, bottom = margins = margins_from(options, settings.model.size_multiple)
    height, width = photo_height + top + bottom, photo_width + left + right
    sampling = sampling_from(options, defaults, height, width)
    together = images_at_a_time(compute.device, options.batch_size or 1)
    refuse_too_large_images(settings.model, sampling, together, compute.dtype, compute.device)
    if init_path and init_image is None:
        init_image = read_image(init_path, max(options.hw))
    init = init_from(options, init_image, (photo_height, photo_width), margins) if init_image else None
    refuse_other_inputs(settings.model, init)
    prompts = options.prompt or []
    images = max(1, len(prompts)) * options.variations
    batch_size = options.batch_size or batch_that_fits(
        settings, sampling, compute.dtype, compute.device, images, loaded_bytes
    )
    return Job(
        prompts=prompts,
        negative_prompt=options.negative_prompt,
        seeds=[options.seed + i for i in range(options.variations)],
        sampling=sampling,
        batch_size=batch_size,
        compile=options.compile,
        init=init,
        init_path=init_path,
        loras=loras,
        margins=margins,
        mask_text=mask_text(options),
        reading=reading_from(options, settings.model.text_encoder),
    )


def _size_like(image: Image.Image, defaults: SamplingDefaults) -> tuple[int, int]:
    """(height, width) of the image's shape, at about the model's default area."""
    scale = (defaults.height * defaults.width / (image.height * image.width)) ** 0.5
    return round(image.height * scale), round(image.width * scale)


# Sampling options


def sampling_from(options: argparse.Namespace, defaults: SamplingConfig, height: int, width: int) -> SamplingConfig:
    """The given flags, and the model's defaults for the others."""
    flags = {option.field: getattr(options, option.flag) for option in SAMPLING_OPTIONS}
    own = {option.field: getattr(defaults, option.field) for option in SAMPLING_OPTIONS}
    base = SamplingConfig(height, width, **own)
    sampling = replace(base, **{name: value for name, value in flags.items() if value is not None})
    takes_eta = SAMPLERS[sampling.sampler].default_eta is not None
    if options.ddim_eta and not takes_eta:
        able = " and ".join(name for name, sampler in SAMPLERS.items() if sampler.default_eta is not None)
        raise UserError(f"--ddim-eta is for the samplers {able}; {sampling.sampler} takes none")
    if options.ddim_eta is not None and takes_eta:
        return sampling
    return with_sampler(replace(sampling, sampler=defaults.sampler), sampling.sampler, sampling.num_steps)


def with_sampler(sampling: SamplingConfig, sampler: str, num_steps: int) -> SamplingConfig:
    """The same with another sampler and that sampler's default noise."""
    default_eta = SAMPLERS[sampler].default_eta
    eta = sampling.eta if sampler == sampling.sampler and default_eta is not None else default_eta or 0.0
    return replace(sampling, sampler=sampler, num_steps=num_steps, eta=eta)


def sampling_flags(sampling: SamplingConfig) -> dict[str, Any]:
    """The same as flags, for `run.yaml`."""
    flags = {option.flag: getattr(sampling, option.field) for option in SAMPLING_OPTIONS}
    return {"hw": [sampling.height, sampling.width], **flags}


def png_text(prompt: str, seed: int, job: Job, checkpoint: Checkpoint, sha256: str = "") -> dict[str, object]:
    """The text chunks of an image file by key; `parameters` has the form that other tools read. Names no directory.

    `sha256`: that of the checkpoint's file, if known; of a LoRA, "Model" and its hash are those of its base model.
    """
    if checkpoint.base_file:
        sha256 = checkpoint.info.base_sha256 if checkpoint.base_file.is_file() else ""
    sampling = job.sampling
    size = f"{sampling.width}x{sampling.height}"
    text: dict[str, object] = {
        "prompt": prompt,
        "negative_prompt": job.negative_prompt,
        "seed": seed,
        **{option.column: getattr(sampling, option.field) for option in SAMPLING_OPTIONS},
        "size": size,
        "checkpoint": checkpoint.path.name,
        "checkpoint_step": checkpoint.info.step,
    }
    text |= job.reading.key()
    if job.init is not None:
        text |= {"init_img": job.init_path and job.init_path.name, "strength": job.init.strength, **job.mask_text}
    if checkpoint.base_file:
        text["base"] = checkpoint.base_file.name
    if job.loras:
        text["lora"] = ", ".join(map(str, job.loras))
    if embeddings := [one for one in checkpoint.embeddings if one.path != checkpoint.path]:
        text["embedding"] = ", ".join(map(str, embeddings))
    used = [one for one in checkpoint.embeddings if whole_words([one.token]).search(f"{prompt}\n{job.negative_prompt}")]
    loras = [*([checkpoint.adapter] if checkpoint.adapter else []), *job.loras]
    default_eta = SAMPLERS[sampling.sampler].default_eta
    eta = f"{sampling.eta:g}" if default_eta is not None and sampling.eta != default_eta else ""
    values = {
        "Steps": str(sampling.num_steps),
        "Sampler": SAMPLER_NAMES.get(sampling.sampler, sampling.sampler),
        "Schedule type": SCHEDULE_NAMES.get(sampling.spacing, ""),
        "CFG scale": f"{sampling.guidance_scale:g}",
        "Seed": str(seed),
        "Size": size,
        "Model hash": sha256[:10],
        "Model": (checkpoint.base_file or checkpoint.path).stem,
        "VAE": checkpoint.vae,
        "Denoising strength": f"{job.init.strength:g}" if job.init else "",
        ETA_NAMES.get(sampling.sampler, "Eta"): eta,
        "Clip skip": str(job.reading.clip_skip) if job.reading.clip_skip > 1 else "",
        "Lora hashes": ", ".join(f"{one.path.stem}: {one.short_hash}" for one in loras if one.short_hash),
        "TI hashes": ", ".join(f"{one.token}: {one.short_hash}" for one in used if one.short_hash),
        "Version": f"ldm {ldm.__version__}",
    }
    tagged = " ".join([prompt, *(one.tag for one in loras)])
    return {**text, "parameters": Parameters(tagged, job.negative_prompt, values).to_text()}


# Prompts for scores


def prompts_to_score(given_prompts: list[str] | None, protocol: str, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The given prompts or those of the protocol, with "{class}" not filled in, and always the class's own prompt.

    Raises `UserError` if there are neither prompts nor a subject.
    """
    classes = {one.info.class_name for one in checkpoints if one.info.class_name}
    if given_prompts is None and not classes:
        raise UserError(
            f"{checkpoints[0].path} has no subject: give checkpoints of dreambooth.py (--ckpt-path ckpts/), "
            "or your own prompts (-p)"
        )
    short_list = checkpoints[0].settings.evaluation.prompts
    prompts = given_prompts or (_dreambooth_protocol(classes) if protocol == "dreambooth" else short_list)
    has_class_prompt = CLASS_PROMPT in prompts or all(Subject(name).class_prompt in prompts for name in classes)
    return [*prompts] if has_class_prompt else [*prompts, CLASS_PROMPT]


def _dreambooth_protocol(classes: set[str]) -> tuple[str, ...]:
    """The DreamBooth paper's 25 prompts. Raises `UserError` for live subjects and objects together."""
    live = {name for name in classes if is_live(name)}
    if live and live != classes:
        raise UserError(
            f"--protocol dreambooth has other prompts for {', '.join(sorted(live))} than for "
            f"{', '.join(sorted(classes - live))}: evaluate their runs apart"
        )
    return dreambooth_prompts(live=bool(live))
