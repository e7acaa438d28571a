"""The reference's training step over diffusers' networks, like that of diffusers' DreamBooth example, written anew.

A loader without workers reads and resizes a photo and a class image; the autoencoder encodes both, the text encoder
reads both prompts, accelerate's autocast runs over float32 weights, gradients are clipped, AdamW has its defaults, and
the loss is read back in every step.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.diffusers_peer.configs import scheduler_config
from benchmarks.diffusers_peer.networks import Networks
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError

MIXED = {None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class ReferenceOptions:
    """The flags of the reference that change speed or memory; the defaults are its own."""

    learning_rate: float = 5e-6
    train_text_encoder: bool = False
    precomputed_text: bool = False
    """Prompts are encoded once, and the text encoder leaves the device."""
    gradient_checkpointing: bool = False
    adam_8bit: bool = False
    tf32: bool = False
    """In matrix products; PyTorch allows it in convolutions anyway."""


class Images(Dataset[dict[str, Tensor]]):
    """Pairs of a photo and a class image, decoded, resized and normalised on access."""

    def __init__(self, photos: Path, class_images: Path, pixels: int, ids: Tensor) -> None:
        self.sets = [sorted(directory.iterdir()) for directory in (photos, class_images)]
        self.ids = ids
        self.transform = transforms.Compose(
            [
                transforms.Resize(pixels, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(pixels),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return max(map(len, self.sets))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        images = [Image.open(paths[index % len(paths)]).convert("RGB") for paths in self.sets]
        return {"pixels": torch.stack([self.transform(image) for image in images]), "ids": self.ids}


class Reference:
    """A training that can start again: `begin`, then any number of `step`."""

    def __init__(
        self,
        networks: Networks,
        scheduler: DDPMScheduler,
        options: ReferenceOptions,
        accelerator: Accelerator,
        prompts: tuple[str, str],
    ) -> None:
        self.networks, self.options, self.accelerator = networks, options, accelerator
        self.scheduler = scheduler
        self.scale_factor = networks.vae.config.scaling_factor
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
        self.frozen_dtype = half
        networks.vae.to(accelerator.device, half)
        self.ids = networks.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        self.trained: list[Any] = [networks.unet]
        if options.train_text_encoder:
            self.trained.append(networks.text_encoder)
        else:
            networks.text_encoder.to(accelerator.device, half)
        if options.gradient_checkpointing:
            networks.unet.enable_gradient_checkpointing()
            if options.train_text_encoder:
                networks.text_encoder.gradient_checkpointing_enable()
        self.context: Tensor | None = None
        if options.precomputed_text and not options.train_text_encoder:
            with torch.no_grad():
                self.context = networks.text_encoder(self.ids.to(accelerator.device))[0]
            networks.text_encoder.to("cpu")
        self.trained = [accelerator.prepare(network) for network in self.trained]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained weights."""
        return list(itertools.chain.from_iterable(network.parameters() for network in self.trained))

    def begin(self, photos: Path, class_images: Path, pixels: int) -> None:
        """A new optimizer, and the data from the start."""
        for network in self.trained:
            network.requires_grad_(True).train()
        optimizer = _optimizer_class(self.options.adam_8bit)(
            self.parameters, lr=self.options.learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
        )
        dataset = Images(photos, class_images, pixels, self.ids)
        loader = DataLoader(dataset, batch_size=1, shuffle=True, num_workers=0, collate_fn=_concatenated)
        self.optimizer, self.loader = self.accelerator.prepare(optimizer, loader)
        self._batches = self._endless()

    def end(self) -> None:
        """Frees the optimizer's state and the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for network in self.trained:
            network.requires_grad_(False)
        self.accelerator._optimizers.clear()
        self.accelerator._dataloaders.clear()
        del self.optimizer, self.loader, self._batches

    def step(self) -> float:
        """One update; the loss."""
        batch = next(self._batches)
        with torch.no_grad():
            posterior = self.networks.vae.encode(batch["pixels"].to(self.frozen_dtype)).latent_dist
        latents = posterior.sample() * self.scale_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(
            self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device, dtype=torch.int64
        )
        context = self._encode(batch["ids"])
        loss = self.loss(latents, noise, timesteps, context)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach().item())

    def loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Instance first, class second in the batch of 2: the sum of both mean squared errors."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        eps = self.trained[0](noisy, timesteps, context).sample
        instance, prior = eps.chunk(2)
        targets = noise.chunk(2)
        return F.mse_loss(instance.float(), targets[0].float()) + F.mse_loss(prior.float(), targets[1].float())

    def _encode(self, ids: Tensor) -> Tensor:
        if self.context is not None:
            return self.context
        if self.options.train_text_encoder:
            return self.trained[1](ids)[0]
        with torch.no_grad():
            return self.networks.text_encoder(ids)[0]

    def _endless(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.loader


def build_scheduler(config: LatentDiffusionConfig) -> DDPMScheduler:
    """The scheduler that adds the noise."""
    return DDPMScheduler(**scheduler_config(config))


def build_accelerator(device: torch.device, autocast_dtype: torch.dtype | None) -> Accelerator:
    """accelerate on one device; it allows one mixed precision per process. Raises `UserError` for a second GPU."""
    if device.index:
        raise UserError(f"accelerate takes the first GPU, not {device}: choose it by CUDA_VISIBLE_DEVICES")
    return Accelerator(mixed_precision=MIXED[autocast_dtype], cpu=device.type == "cpu")


def _concatenated(pairs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Photos first, then class images, so that one pass sees both."""
    pixels = torch.stack([pair["pixels"] for pair in pairs], dim=1).flatten(0, 1)
    ids = torch.stack([pair["ids"] for pair in pairs], dim=1).flatten(0, 1)
    return {"pixels": pixels.contiguous(), "ids": ids}


def _optimizer_class(adam_8bit: bool) -> Any:
    if not adam_8bit:
        return torch.optim.AdamW
    try:
        import bitsandbytes
    except ImportError:
        raise UserError("diffusers' 8-bit Adam needs bitsandbytes, which is not installed") from None
    return bitsandbytes.optim.AdamW8bit
