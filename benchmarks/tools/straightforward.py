"""DreamBooth as a straightforward loop over this project's networks, whose optimizations can be switched off.

    python benchmarks/tools/straightforward.py --output out --photos data/bottle

Without optimizations (as here, with all of the quick start's work) it is the reference's loop: class images one at a
time with 50 steps of DDIM and two passes for guidance; in every step photos and class images are read and encoded, the
prompt of each is encoded, instance and class go through the UNet one after the other, AdamW has its defaults.
`quick_start.py` measures it, whole and by optimization.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from ldm.checkpoint.metadata import CheckpointInfo  # noqa: E402
from ldm.checkpoint.reading import read_checkpoint  # noqa: E402
from ldm.checkpoint.saving import checkpoint_writer  # noqa: E402
from ldm.data.images import fit_image, read_image, save_png, to_image, to_tensor  # noqa: E402
from ldm.data.latents import encode_moments  # noqa: E402
from ldm.diffusion.guidance import Conditioning, EpsFn, classifier_free, guided_eps  # noqa: E402
from ldm.diffusion.latent_diffusion import LatentDiffusion  # noqa: E402
from ldm.diffusion.loss import eps_loss  # noqa: E402
from ldm.diffusion.noise import draw_noise, image_generators  # noqa: E402
from ldm.diffusion.parallel import WorkerPool  # noqa: E402
from ldm.diffusion.samplers import SAMPLERS  # noqa: E402
from ldm.diffusion.sampling import SamplingConfig  # noqa: E402
from ldm.nn.autoencoder import DiagonalGaussian  # noqa: E402
from ldm.runtime.batching import worker_pool  # noqa: E402
from ldm.runtime.devices import Compute  # noqa: E402
from ldm.runtime.models import EMBEDDED, ModelSlot, Settings, settings_of  # noqa: E402
from ldm.training.dreambooth_config import Subject  # noqa: E402


@dataclass(frozen=True)
class SamplingOptimizations:
    """Optimizations of class images."""

    fewer_steps: bool = True
    """The model's own sampler of class images, DPM-Solver++ with 20 steps, not DDIM with 50."""
    guidance_in_one_pass: bool = True
    context_projected_once: bool = True
    """The prompt's keys and values are not computed again in each step."""
    several_at_a_time: bool = True
    """As `dreambooth.py` does: in batches, on a CPU a batch on each core."""


@dataclass(frozen=True)
class TrainingOptimizations:
    """Optimizations of a step."""

    latents_kept: bool = True
    """Images are read and encoded once, before training."""
    prompts_encoded_once: bool = True
    """Each of the two prompts once a step, as the text encoder trains; not one for each image."""
    instance_and_class_in_one_pass: bool = True
    fused_optimizer: bool = True


NO_SAMPLING_OPTIMIZATIONS = SamplingOptimizations(*[False] * 4)
NO_TRAINING_OPTIMIZATIONS = TrainingOptimizations(*[False] * 4)
PLAIN_STEPS = 50


def load(checkpoint: Path) -> tuple[LatentDiffusion, Settings]:
    """The model on the CPU in float32, and its settings."""
    file = read_checkpoint(checkpoint)
    settings = settings_of(file, None)[1]
    return ModelSlot(Compute(torch.device("cpu"))).use(file, settings), settings


class ClassImages:
    """Samples images of a prompt."""

    def __init__(
        self, ldm: LatentDiffusion, settings: Settings, prompt: str, optimizations: SamplingOptimizations
    ) -> None:
        self.ldm, self.optimizations, self.prompt = ldm, optimizations, prompt
        sampling = settings.sampling
        plain = SamplingConfig(sampling.height, sampling.width, "ddim", PLAIN_STEPS, sampling.guidance_scale)
        training_run = settings.dreambooth
        fewer = replace(plain, sampler=training_run.class_sampler, num_steps=training_run.class_steps)
        self.sampling = fewer if optimizations.fewer_steps else plain
        self.batch_size = sampling.batch_size if optimizations.several_at_a_time else 1
        self.pool = worker_pool(ldm, self.sampling) if optimizations.several_at_a_time else WorkerPool()

    @torch.inference_mode()
    def write(self, directory: Path, count: int) -> None:
        """Writes the first `count` images."""
        context, unconditional = self.ldm.encode_prompts([self.prompt]), self.ldm.encode_prompts([""])
        batches = [list(range(count))[start : start + self.batch_size] for start in range(0, count, self.batch_size)]

        @torch.inference_mode()
        def sample(batch: list[int]) -> Tensor:
            eps_fn = self._eps_fn(context.expand(len(batch), -1, -1), unconditional.expand(len(batch), -1, -1))
            shape = (len(batch), *self.ldm.config.latent_shape(self.sampling.height, self.sampling.width))
            noise = draw_noise(shape, image_generators(batch))
            sampler = SAMPLERS[self.sampling.sampler]
            latents = sampler.sample(eps_fn, noise, self.ldm.schedule, num_steps=self.sampling.num_steps)
            return self.ldm.decode_latents(latents)

        for batch, images in self.pool.map(batches, sample):
            for number, image in zip(batch, images, strict=True):
                save_png(directory / f"{number:05d}.png", to_image(image))

    def _eps_fn(self, context: Tensor, unconditional: Tensor) -> EpsFn:
        ldm, scale = self.ldm, self.sampling.guidance_scale

        def projected_each_time(conditioning: Conditioning) -> EpsFn:
            return lambda latents, timesteps: ldm.predict_eps(latents, timesteps, conditioning.context)

        predictor = ldm.predictor if self.optimizations.context_projected_once else projected_each_time
        if self.optimizations.guidance_in_one_pass:
            return guided_eps(predictor, classifier_free(context, unconditional, scale))
        with_prompt, without = predictor(Conditioning(context)), predictor(Conditioning(unconditional))

        def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
            eps_uncond = without(latents, timesteps)
            return eps_uncond + scale * (with_prompt(latents, timesteps) - eps_uncond)

        return eps_fn


class Training:
    """Steps of the model's default batch size, photos and as many class images; the text encoder trains."""

    def __init__(
        self,
        ldm: LatentDiffusion,
        settings: Settings,
        subject: Subject,
        images: tuple[Sequence[Path], Sequence[Path]],
        optimizations: TrainingOptimizations,
    ) -> None:
        self.ldm, self.settings, self.subject = ldm, settings, subject
        self.images, self.optimizations = images, optimizations
        config = settings.dreambooth
        self.parameters = [*ldm.unet.parameters(), *ldm.text_encoder.parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True if optimizations.fused_optimizer else None,
        )
        self.moments = [self._encode(paths) for paths in images] if optimizations.latents_kept else None
        self.generator = torch.Generator().manual_seed(0)

    def end(self) -> None:
        """Frees the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
            parameter.requires_grad_(False)

    def step(self) -> float:
        """One update; the loss."""
        if self.optimizations.instance_and_class_in_one_pass:
            moments = torch.cat([self._choose(0), self._choose(1)])
            loss = 2 * self._loss(moments, self._context([0, 1])).mean()  # two means of halves: their sum
        else:
            loss = sum(self._loss(self._choose(kind), self._context([kind])).mean() for kind in (0, 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.dreambooth.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def _choose(self, kind: int) -> Tensor:
        """Moments of the batch's photos (0) or class images (1)."""
        chosen = torch.randint(
            len(self.images[kind]), (self.settings.dreambooth.batch_size,), generator=self.generator
        ).tolist()
        if self.moments is not None:
            return self.moments[kind][chosen]
        return self._encode([self.images[kind][index] for index in chosen])

    def _encode(self, paths: Sequence[Path]) -> Tensor:
        """Reads and encodes images: (n 2c h w)."""
        size = self.settings.sampling.height, self.settings.sampling.width
        images = torch.stack([to_tensor(fit_image(read_image(path), *size)) for path in paths])
        return encode_moments(self.ldm.autoencoder, images, flip=False)[:, 0]

    def _context(self, kinds: list[int]) -> Tensor:
        count = self.settings.dreambooth.batch_size
        prompts = [(self.subject.instance_prompt, self.subject.class_prompt)[kind] for kind in kinds]
        if self.optimizations.prompts_encoded_once:
            return self.ldm.encode_prompts(prompts).repeat_interleave(count, dim=0)
        return self.ldm.encode_prompts([prompt for prompt in prompts for _ in range(count)])

    def _loss(self, moments: Tensor, context: Tensor) -> Tensor:
        mean = moments.chunk(2, dim=1)[0]
        posterior_noise, noise = (torch.randn(mean.shape, generator=self.generator) for _ in range(2))
        latents = self.ldm.config.scale_factor * DiagonalGaussian(moments).sample(posterior_noise)
        timesteps = torch.randint(self.ldm.schedule.num_timesteps, (len(mean),), generator=self.generator)
        noisy = self.ldm.schedule.add_noise(latents, noise, timesteps)
        return eps_loss(self.ldm.unet(noisy, timesteps, context), noise)


def photos_of(directory: Path) -> list[Path]:
    """The images of a directory."""
    return sorted(path for path in directory.iterdir() if path.suffix in (".png", ".jpg"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The quick start's work without optimizations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--photos", type=Path, default=ROOT / "data" / "bottle")
    parser.add_argument("--class-name", default="water bottle")
    parser.add_argument("--ckpt-path", type=Path, default=EMBEDDED)
    parser.add_argument("--iterations", type=int, help="default: the model's")
    parser.add_argument("--class-images", type=int, help="default: the model's")
    options = parser.parse_args(arguments)

    ldm, settings = load(options.ckpt_path)
    config, subject = settings.dreambooth, Subject(options.class_name)
    class_images = options.output / "class"
    count = options.class_images or config.class_img_count
    ClassImages(ldm, settings, subject.class_prompt, NO_SAMPLING_OPTIMIZATIONS).write(class_images, count)
    images = photos_of(options.photos), photos_of(class_images)
    training = Training(ldm, settings, subject, images, NO_TRAINING_OPTIMIZATIONS)
    for step in itertools.islice(itertools.count(1), options.iterations or config.iterations):
        training.step()
        if step % config.save_every == 0:
            checkpoint_writer(options.output / f"step-{step:05d}.safetensors", ldm, CheckpointInfo(), torch.float32)()
            torch.save(training.optimizer.state_dict(), options.output / "optimizer.pt")


if __name__ == "__main__":
    main()
