"""From prompts and seeds to images: the one path through which every command samples."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ldm.bounds import LARGEST_SCALE, LARGEST_SIDE, MOST_STEPS, check_range
from ldm.choices import SPACINGS
from ldm.diffusion.guidance import Guidance, guided_eps
from ldm.diffusion.inpainting import MASK_CHANNELS, covering_mask, keep_known, paste, with_mask_channels
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.samplers import SAMPLERS, Callback, img2img_start
from ldm.diffusion.spacing import ORIGINAL
from ldm.errors import UserError
from ldm.nn.autoencoder import DiagonalGaussian


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample an image; height and width in pixels."""

    height: int = 512
    width: int = 512
    sampler: str = "ddim"
    num_steps: int = 50
    guidance_scale: float = 7.5
    eta: float = 0.0
    spacing: str = ORIGINAL
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler should be one of {', '.join(SAMPLERS)}, not {self.sampler!r:.60}")
        check_range(self, 1, LARGEST_SIDE, "height", "width")
        check_range(self, 1, MOST_STEPS, "num_steps")
        check_range(self, -LARGEST_SCALE, LARGEST_SCALE, "guidance_scale")
        check_range(self, 0, 1, "eta", "guidance_rescale")
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing should be one of {', '.join(SPACINGS)}, not {self.spacing!r:.60}")

    def key(self) -> dict[str, Any]:
        """For keys of images: options of later versions only where they are used, so that earlier keys stay valid."""
        later = {"spacing": ORIGINAL, "guidance_rescale": 0.0}
        return {name: value for name, value in asdict(self).items() if later.get(name) != value}


@dataclass(frozen=True)
class InitImage:
    """The image that img2img starts from, (3 h w) in [-1, 1], and the share of steps to run on it."""

    image: Tensor
    strength: float
    posterior: DiagonalGaussian | None = None
    """The encoded image, if it was encoded beforehand."""
    mask: Tensor | None = None
    """(1 h w), 1 where the image is to be painted; elsewhere its pixels stay. None: all of it is changed."""
    feather: Tensor | None = None
    """(1 h w) in [0, 1]: how much of the new image is seen within the mask, less towards its edge."""

    @torch.inference_mode()
    def encoded(self, ldm: LatentDiffusion) -> "InitImage":
        """The same with its posterior: encoded once for any number of samples."""
        return self if self.posterior else replace(self, posterior=ldm.encode_posterior(self.image[None]))


@torch.inference_mode()
def sample_latents(
    ldm: LatentDiffusion,
    guidance: Guidance,
    seeds: Sequence[int],
    config: SamplingConfig,
    init: InitImage | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Samples latents (b c h/8 w/8) float32, one image's per seed; `callback` is called after each step.

    Each conditioning of `guidance` is for b images. Image i depends on its own seed and conditioning, not on the batch.
    Raises `UserError` if numbers overflow.
    """
    if config.num_steps > ldm.schedule.num_timesteps:
        raise UserError(f"{config.num_steps} steps are more than the model's {ldm.schedule.num_timesteps} timesteps")
    sampler = SAMPLERS[config.sampler]
    generators = image_generators(seeds)
    shape = (len(seeds), *ldm.config.latent_shape(config.height, config.width))
    latents = draw_noise(shape, generators, ldm.device)
    start_step = 0
    if init is not None:
        start_step, alpha = img2img_start(sampler, ldm.schedule, config.num_steps, init.strength, config.spacing)
        posterior_noise = draw_noise(shape, generators, ldm.device)
        posterior = init.encoded(ldm).posterior
        assert posterior is not None
        clean = ldm.sample_posterior(posterior, posterior_noise).float()
        latents = alpha**0.5 * clean + (1.0 - alpha) ** 0.5 * latents  # DDPM, eq. 4
        if init.mask is not None and ldm.config.concat_channels == MASK_CHANNELS:
            guidance = _with_mask(ldm, guidance, init, draw_noise(shape, generators, ldm.device))

    finite: list[Tensor] = []  # checked once at the end, so that no step waits for the device

    def after_step(step: int, latents: Tensor, pred_x0: Tensor) -> None:
        finite.append(latents.isfinite().all())
        if callback:
            callback(step, latents, pred_x0)

    noise_options: dict[str, Any] = {} if sampler.default_eta is None else {"eta": config.eta}
    if sampler.stochastic:
        noise_options["generator"] = generators
    eps_fn = guided_eps(ldm.predictor, guidance, config.guidance_rescale)
    if init is not None and init.mask is not None and ldm.config.concat_channels != MASK_CHANNELS:
        mask = covering_mask(init.mask, ldm.config.autoencoder.downsampling_factor)
        eps_fn = keep_known(eps_fn, clean, mask, ldm.schedule)
    latents = sampler.sample(
        eps_fn,
        latents,
        ldm.schedule,
        num_steps=config.num_steps,
        spacing=config.spacing,
        start_step=start_step,
        callback=after_step,
        **noise_options,
    )
    if finite and not (ok := torch.stack(finite).cpu()).all():
        step = start_step + int(ok.int().argmin())
        where = f"the UNet's output is not finite from step {step + 1} of {config.num_steps} on"
        raise UserError(f"{where}; {_remedy(ldm, 'model.', 'cond_stage_model.')}")
    return latents


@torch.inference_mode()
def sample_images(
    ldm: LatentDiffusion,
    guidance: Guidance,
    seeds: Sequence[int],
    config: SamplingConfig,
    init: InitImage | None = None,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Samples one image per seed: images (b 3 h w) float32 in [-1, 1], on the CPU; otherwise as `sample_latents`."""

    def callback(step: int, latents: Tensor, pred_x0: Tensor) -> None:
        if on_step:
            on_step()

    return decode_images(ldm, sample_latents(ldm, guidance, seeds, config, init, callback), init)


@torch.inference_mode()
def decode_images(ldm: LatentDiffusion, latents: Tensor, init: InitImage | None = None) -> Tensor:
    """Latents (b c h/8 w/8) -> images (b 3 h w) float32 in [-1, 1], on the CPU. Raises `UserError` if not finite.

    Outside the mask of `init` they have its pixels.
    """
    images = ldm.decode_latents(latents).float().cpu()
    if not images.isfinite().all():
        raise UserError(f"the autoencoder's images are not finite; {_remedy(ldm, 'first_stage_model.')}")
    images = images.clamp(-1.0, 1.0)
    if init is None or init.mask is None:
        return images
    return paste(images, init.image, init.mask, init.mask if init.feather is None else init.feather)


def _with_mask(ldm: LatentDiffusion, guidance: Guidance, init: InitImage, noise: Tensor) -> Guidance:
    """The guidance for a model for inpainting."""
    assert init.mask is not None
    hidden = (init.image * (init.mask < 0.5))[None]
    masked_latents = ldm.sample_posterior(ldm.encode_posterior(hidden), noise).float()
    return with_mask_channels(guidance, init.mask, masked_latents)


def _remedy(ldm: LatentDiffusion, *parts: str) -> str:
    """Advice for numbers that are not finite: another file, if weights of these parts are not finite either."""
    for name, weight in ldm.named_parameters():
        if name.startswith(parts) and not weight.isfinite().all():
            if weight.isnan().any() or weight.dtype not in (torch.float16, torch.bfloat16):
                return f"the checkpoint is broken: its {name} holds NaN or infinite numbers; use another file"
            return f"{name} is too large for half precision; try --precision full"
    return "try --precision full"
