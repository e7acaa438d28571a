"""A model in memory: sampling, encoding, decoding, and what a researcher looks at."""

import reprlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ldm.api.calls import shown_messages
from ldm.api.checks import raise_unless_seed, whole_numbers
from ldm.api.flags import as_path, parsed_keywords
from ldm.api.images import ImageLike, PathOrText, encoded_size, file_of, image_tensor
from ldm.api.samples import Samples
from ldm.bounds import LARGEST_SIDE
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.commands.enough_memory import refuse_too_large_images
from ldm.commands.options.sampling import img2img_parser, txt2img_parser
from ldm.commands.sampling.adapters import changes_of
from ldm.commands.sampling.batches import Batch, sample_batches
from ldm.commands.sampling.checkpoints import Checkpoint, checkpoints_to_sample
from ldm.commands.sampling.job import Job, job_from
from ldm.commands.sampling.loop import ReadAhead
from ldm.commands.sampling.masks import with_inpainting_strength
from ldm.commands.sampling.prompts import with_all_prompts
from ldm.commands.sampling.rows import prompt_for
from ldm.commands.unfamiliar import warn_of_unknown_words
from ldm.data.images import to_image
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import SamplingConfig, decode_images
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import UserError
from ldm.nn.tokenizer import PromptTokenizer
from ldm.progress import Progress
from ldm.prompt_syntax import plain_text
from ldm.runtime.batching import images_at_a_time, worker_pool
from ldm.runtime.compiling import compile_unet
from ldm.runtime.devices import Compute, explain_out_of_memory, parse_device, sampling_compute
from ldm.runtime.models import ModelSlot, Settings, base_weights, snapped_size
from ldm.user_files import is_diffusers_directory

Result = TypeVar("Result")


def load(
    path: PathOrText | None = None,
    *,
    device: str | torch.device | None = None,
    precision: str = "auto",
    config: PathOrText | None = None,
    lora: PathOrText | Sequence[PathOrText] | None = None,
    embedding: PathOrText | Sequence[PathOrText] | None = None,
    base: PathOrText | None = None,
    vae: PathOrText | None = None,
) -> "Model":
    """Loads a checkpoint, any that `txt2img.py --ckpt-path` takes, also a LoRA file or an embedding.

    Without a path: the downloaded Stable Diffusion, else the embedded tiny model.

    `device`: auto, cpu, mps, cuda, cuda:1. `precision`: auto (half precision on CUDA, else float32), full, autocast,
    bf16, fp16. `config`: the model's YAML, for a checkpoint that doesn't carry its own. `lora`: LoRA files to
    merge into it, "my.safetensors" or with a weight, "my.safetensors:0.8". `embedding`: textual inversions, "cat.pt" or
    with the word that stands for it in prompts, "cat.pt:<cat>". `base`: the base model of a LoRA file or an embedding
    at `path` that doesn't name its own. `vae`: another autoencoder. Raises `UserError` for a file that is no whole
    model.
    """
    device = None if device is None else str(device)
    path = None if path is None else as_path("path", path)
    given = {
        "path": path,
        "device": device,
        "precision": precision,
        "config": config,
        "lora": lora,
        "embedding": embedding,
        "base": base,
        "vae": vae,
    }
    with shown_messages(), parsed_keywords(txt2img_parser(), given, {"path": "ckpt_path"}) as (options, _):
        compute = sampling_compute(parse_device(options.device), options.precision)
        weights = base_weights(options.ckpt_path)
        if weights.is_dir() and not is_diffusers_directory(weights):
            raise UserError(f"{weights} is a directory: name one of its checkpoints; ldm.compare compares all of them")
        with explain_out_of_memory("another device or precision='bf16' needs less"):
            return Model(checkpoints_to_sample(weights, options.config, changes_of(options), options.base)[0], compute)


class Model:
    """A checkpoint in memory.

    Latents (b 4 h/8 w/8) are scaled by the model's `scale_factor` wherever they appear, and are returned as float32 on
    the CPU.
    """

    def __init__(self, checkpoint: Checkpoint, compute: Compute) -> None:
        self._checkpoint, self._compute = checkpoint, compute
        self._slot = ModelSlot(compute)
        with ReadAhead([checkpoint]) as reader:
            file = reader.take()
        self.latent_diffusion: LatentDiffusion = self._slot.use(file, checkpoint.settings, checkpoint.tokenizer)
        """The three networks and the schedule, an `nn.Module`."""

    def __repr__(self) -> str:
        name = f"{self.path.parent.name}/{self.path.name}"
        dtype = str(self.latent_diffusion.unet.dtype).removeprefix("torch.")
        defaults = self.settings.sampling
        return f"Model({name}, {defaults.height} x {defaults.width} pixels, {dtype} on {self.device})"

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self._checkpoint.path

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.latent_diffusion.device

    @property
    def config(self) -> LatentDiffusionConfig:
        """The shapes of the networks, the schedule and the scale factor."""
        return self._checkpoint.settings.model

    @property
    def settings(self) -> Settings:
        """The model's whole YAML: also its defaults for sampling, fine-tuning and evaluation."""
        return self._checkpoint.settings

    @property
    def metadata(self) -> CheckpointInfo:
        """What the file says of itself: `class_name`, `instance_prompt`, `step`, `base`, `options` and more."""
        return self._checkpoint.info

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule: `betas` and `alphas_cumprod`, (1000,) float32."""
        return self.latent_diffusion.schedule

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Turns prompts into token ids: `model.tokenizer(["a photo"])` is (1 77) int64, the tiny model's (1 32)."""
        assert self.latent_diffusion.tokenizer is not None
        return self.latent_diffusion.tokenizer

    def sample(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | None = None,
        prompt_syntax: str | None = None,
        clip_skip: int | None = None,
        variations: int = 1,
        seed: int = 42,
        steps: int | None = None,
        sampler: str | None = None,
        scale: float | None = None,
        eta: float | None = None,
        spacing: str | None = None,
        guidance_rescale: float | None = None,
        hw: int | Sequence[int] | None = None,
        init_img: ImageLike | None = None,
        strength: float | None = None,
        mask: ImageLike | None = None,
        invert_mask: bool | None = None,
        mask_blur: float | None = None,
        extend: Sequence[int] | None = None,
        batch_size: int | None = None,
        compile: str | None = None,
        keep_steps: bool = False,
    ) -> Samples:
        """Samples `variations` images per prompt, with the seeds `seed`, `seed` + 1, ...; on a CPU the same bits as
        txt2img.py and img2img.py write. Arguments are called as their flags are; None is the model's default.

        `prompt`: "{class}" in it is the checkpoint's class; None is "a photo of sks <class>", or the model's own.
        `steps` 1 to 1000 (`--ddim-steps`). `sampler`: ddim, plms, dpm-solver and more (`txt2img.py --help`). `scale`:
        classifier-free guidance, 1 is none. `eta` 0 to 1 (`--ddim-eta`): fresh noise in each step, of ddim and other
        samplers with noise. `spacing`, `guidance_rescale`: as in docs/samplers.md. `hw`: height and width in pixels.
        `init_img`, with `strength` 0 (keeps it) to 1: the image to start from. `batch_size`: images at a time on a GPU.
        `keep_steps`: keep what each step predicts in `pred_x0`. `prompt_syntax`, `clip_skip`:
        as in docs/prompts.md. `mask`, `invert_mask`, `mask_blur`, `extend` (4 numbers): as in docs/inpainting.md.
        """
        if init_img is None and strength is not None:
            raise UserError("strength is for images that start from another one: give init_img, too")
        if init_img is None and (mask is not None or extend is not None):
            raise UserError("mask and extend are for images that start from another one: give init_img, too")
        if isinstance(prompt, bytes):
            raise UserError("a prompt should be text, not bytes")
        given = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "prompt_syntax": prompt_syntax,
            "clip_skip": clip_skip,
            "variations": variations,
            "seed": seed,
            "steps": steps,
            "sampler": sampler,
            "scale": scale,
            "eta": eta,
            "spacing": spacing,
            "guidance_rescale": guidance_rescale,
            "hw": hw,
            "batch_size": batch_size,
            "compile": compile,
            "strength": strength,
            "invert_mask": invert_mask,
            "mask_blur": mask_blur,
            "extend": None if extend is None else ",".join(map(str, extend)),
        }
        with (
            shown_messages(),
            file_of(init_img) as path,
            file_of(mask) as mask_path,
            parsed_keywords(img2img_parser(), {**given, "init_img": path, "mask": mask_path}) as (options, _),
            explain_out_of_memory("a smaller batch_size or hw needs less"),
        ):
            options = with_inpainting_strength(with_all_prompts(options))
            job = job_from(options, self.settings, self._compute, self._loaded_bytes())
            templates: Sequence[str | None] = job.prompts or [None]
            prompts = [self._own(template) for template in templates]
            words = map(plain_text, prompts) if job.reading.with_syntax else prompts
            warn_of_unknown_words(self.settings, self.tokenizer, words)
            return self._sample([(one, seed) for one in prompts for seed in job.seeds], job, keep_steps)

    def _own(self, template: str | None) -> str:
        prompt = prompt_for(template, self._checkpoint)
        if prompt is None:
            raise UserError(f"the prompt '{template}' asks for a class, and {self.path} was fine-tuned on none")
        return prompt

    def _loaded_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return sum(weight.nbytes for weight in self.latent_diffusion.parameters())

    def _sample(self, images: Batch, job: Job, keep_steps: bool) -> Samples:
        ldm, batch_size = self.latent_diffusion, images_at_a_time(self.device, job.batch_size)
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        compile_unet(ldm, job.compile, len(batches) * job.steps_run)
        workers = worker_pool(ldm, job.sampling)
        by_step = workers.workers == 1  # else several images are sampled at the same time, and their steps mix
        total, unit = (len(batches) * job.steps_run, "step") if by_step else (len(images), "img")
        sampled = []
        with Progress(total, "sampling", unit) as progress:
            on_step = progress.update if by_step else _nothing
            results = sample_batches(
                self._slot, batches, job, self._compute, workers, on_step=on_step, keep_steps=keep_steps
            )
            with closing(results):
                for batch in results:
                    sampled.append(batch)
                    if not by_step:
                        progress.update(len(batch.images))
        latents = torch.cat([batch.latents for batch in sampled]).cpu()
        pred_x0 = [torch.stack(batch.pred_x0) for batch in sampled if batch.pred_x0]
        return Samples(
            [to_image(image) for batch in sampled for image in batch.images],
            [prompt for prompt, _ in images],
            [seed for _, seed in images],
            latents,
            (torch.cat(pred_x0, dim=1) if pred_x0 else latents.new_empty(0, *latents.shape)) if keep_steps else None,
        )

    @torch.no_grad()
    def encode(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        hw: int | Sequence[int] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Images -> latents (b 4 h/8 w/8): the mean of the posterior, or with a `seed` a sample of it.

        Files and images are resized and cropped at the centre to `hw`, by default the model's own size. Tensors (3 h w)
        or (b 3 h w) in [-1, 1] are encoded as they are.
        """
        if seed is not None:
            raise_unless_seed(seed)
        with shown_messages(), parsed_keywords(txt2img_parser(), {"hw": hw}) as (options, _):
            tensors = self._tensors(images, options.hw)
            noise = torch.zeros(len(tensors), *self.config.latent_shape(*tensors.shape[2:]))
            if seed is not None:
                noise = draw_noise(noise.shape, image_generators([seed + i for i in range(len(tensors))]))

            def encode_one(index: int) -> Tensor:
                with torch.no_grad(), self._compute.autocast():
                    posterior = self.latent_diffusion.encode_posterior(tensors[index : index + 1])
                    return self.latent_diffusion.sample_posterior(posterior, noise[index : index + 1]).float().cpu()

            return torch.cat(self._each(len(tensors), encode_one, *tensors.shape[2:]))

    def _tensors(self, images: ImageLike | Sequence[ImageLike], hw: list[int] | None) -> Tensor:
        """Images (b 3 h w) in [-1, 1]."""
        if isinstance(images, Tensor) and images.ndim == 4:
            images = list(images)
        several = isinstance(images, Sequence) and not isinstance(images, str)
        listed: Sequence[ImageLike] = images if several else [images]  # type: ignore[assignment, list-item]
        if not listed:
            raise UserError("there is no image to encode")
        defaults = self.settings.sampling
        size, factor = snapped_size(self.config, hw, (defaults.height, defaults.width)), self._factor
        sizes = [encoded_size(one, size, factor) for one in listed]
        for height, width in dict.fromkeys(sizes):  # before files of that size are read
            self._refuse_too_large(height, width)
        tensors = [image_tensor(one, *size) for one, size in zip(listed, sizes, strict=True)]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise UserError(f"images of different sizes can't be encoded together: {[(*t.shape,) for t in tensors]}")
        return torch.stack(tensors)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents (b 4 h/8 w/8) or (4 h/8 w/8) -> images. `samples.pred_x0[:, 0]` is every step of the first image."""
        if not isinstance(latents, Tensor):
            raise UserError(f"latents should be a tensor, not {type(latents).__name__}")
        several = latents[None] if latents.ndim == 3 else latents
        if several.ndim != 4 or several.shape[1] != self.config.autoencoder.embed_dim or not several.numel():
            channels = self.config.autoencoder.embed_dim
            raise UserError(f"latents should be (b {channels} h w) or ({channels} h w), not {(*latents.shape,)}")
        height, width = several.shape[2] * self._factor, several.shape[3] * self._factor

        def decode_one(index: int) -> Image.Image:
            with self._compute.autocast():
                latent = several[index : index + 1].to(self.device)
                return to_image(decode_images(self.latent_diffusion, latent)[0])

        with shown_messages(), parsed_keywords(txt2img_parser(), {}):
            self._refuse_too_large(height, width)
            return self._each(len(several), decode_one, height, width)

    @property
    def _factor(self) -> int:
        """Pixels of an image per latent, on a side."""
        return self.config.autoencoder.downsampling_factor

    def _refuse_too_large(self, height: int, width: int) -> None:
        """Raises `UserError` for images too large for the memory. Encoding takes about as much as sampling."""
        if max(height, width) > LARGEST_SIDE:
            raise UserError(f"the sides of an image should be at most {LARGEST_SIDE:,} pixels, not {height} x {width}")
        size = SamplingConfig(height, width)
        refuse_too_large_images(self.config, size, 1, self._compute.dtype, self._compute.device)

    def _each(self, count: int, compute: Callable[[int], Result], height: int, width: int) -> list[Result]:
        """What is computed of each image, one image at a time: so the bits are those of sampling."""
        pool = worker_pool(self.latent_diffusion, SamplingConfig(height, width))
        with explain_out_of_memory("smaller images need less"), closing(pool.map(range(count), compute)) as results:
            return [result for _, result in results]

    def encode_prompts(self, prompts: str | Sequence[str]) -> Tensor:
        """Prompts -> context (b 77 d), what the UNet attends to; the tiny model's is (b 32 d)."""
        listed = [prompts] if isinstance(prompts, str) else prompts
        if not (isinstance(listed, Sequence) and listed and all(isinstance(one, str) for one in listed)):
            raise UserError(f"prompts should be a text or a list of texts, not {reprlib.repr(prompts)}")
        with self._compute.autocast():
            return torch.cat([self._slot.context(prompt) for prompt in listed])

    def add_noise(
        self, latents: Tensor, timesteps: int | Sequence[int] | Tensor, *, noise: Tensor | None = None, seed: int = 42
    ) -> Tensor:
        """A sample of q(x_t | x_0) for latents (b 4 h/8 w/8), DDPM eq. 4: sqrt(a) x_0 + sqrt(1 - a) noise, where a is
        `schedule.alphas_cumprod` at the timesteps, 0 (one step of noise) to 999 (almost pure noise).

        `timesteps`: one for all, one for each, or several for the latents (1 4 h/8 w/8) of one image. `noise`: of the
        shape of `latents`, by default that of the seeds `seed`, `seed` + 1, ...: what `sample` begins with.
        """
        if not isinstance(latents, Tensor) or latents.ndim != 4:
            found = (*latents.shape,) if isinstance(latents, Tensor) else type(latents).__name__
            raise UserError(f"latents should be a tensor (b {self.config.autoencoder.embed_dim} h w), not {found}")
        steps = whole_numbers(timesteps).to(latents.device)
        if len(steps) != len(latents) and 1 not in (len(steps), len(latents)):
            raise UserError(f"there are {len(steps)} timesteps for the latents of {len(latents)} images")
        last = self.schedule.num_timesteps - 1
        if not ((steps >= 0) & (steps <= last)).all():
            raise UserError(f"timesteps should be from 0 to {last}, not {steps.tolist()}")
        if noise is not None and not (isinstance(noise, Tensor) and noise.shape == latents.shape):
            found = (*noise.shape,) if isinstance(noise, Tensor) else type(noise).__name__
            raise UserError(f"noise should be a tensor of the shape of the latents, {(*latents.shape,)}, not {found}")
        if noise is None:
            raise_unless_seed(seed)
            generators = image_generators([seed + i for i in range(len(latents))])
            noise = draw_noise(latents.shape, generators, latents.device)
        return self.schedule.add_noise(latents, noise, steps)


def _nothing() -> None:
    """After a step that is not reported."""
