"""How much of a GPU's memory a DreamBooth training takes, told before it begins, and the fastest way that fits.

A step of the real module with its real optimizer runs on fake tensors (`ldm.nn.footprint`): nothing is computed.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.checkpoint.keys import PARTS
from ldm.choices import CHECKPOINTING_LEVELS
from ldm.data.dreambooth import Batch
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.outline import count_weights
from ldm.nn.footprint import Footprint
from ldm.nn.tokenizer import PromptTokenizer
from ldm.nn.weightless import NoInitialisation
from ldm.training.config import DreamBoothConfig, Subject
from ldm.training.dreambooth import DreamBooth
from ldm.training.module import cast

GIB = 2**30
CUDA_OVERHEAD = int(1.25 * GIB)
"""What no tensor shows: CUDA's own context, the libraries' workspaces, what the allocator loses between blocks."""
CUDA_CONTEXT = int(0.4 * GIB)
"""The context's share of it."""


@dataclass(frozen=True)
class Combination:
    """What makes a training small; the names are `DreamBoothConfig`'s."""

    optimizer: str
    train_dtype: str
    gradient_checkpointing: str

    def __str__(self) -> str:
        optimizer = {"adamw": "AdamW", "adamw8bit": "8-bit AdamW"}[self.optimizer]
        weights = {"fp32": "float32", "bf16": "bfloat16"}[self.train_dtype]
        return f"{optimizer} on {weights} weights, gradient checkpointing {self.gradient_checkpointing}"

    def applied_to(self, config: DreamBoothConfig) -> DreamBoothConfig:
        """The config with this in it."""
        return replace(config, **vars(self))


COMBINATIONS = tuple(
    Combination(optimizer, train_dtype, level)
    for level in CHECKPOINTING_LEVELS
    for optimizer, train_dtype in (("adamw", "fp32"), ("adamw8bit", "fp32"), ("adamw8bit", "bf16"))
)
"""From the fastest and most exact to the smallest."""


@dataclass(frozen=True)
class Workload:
    """What the memory of a training depends on, beside its config."""

    model: LatentDiffusionConfig
    height: int
    width: int
    """In pixels."""
    with_class: bool = True
    autocast_dtype: torch.dtype | None = None
    like_cuda: bool = True
    """Autocast as CUDA does it, which differs from the CPU's."""
    devices: int = 1
    previews: bool = True
    """Whether images are drawn between the steps."""


@dataclass(frozen=True)
class Prediction:
    """Bytes of tensors alive at once, at most, while a step is made and while a preview is drawn."""

    step: int
    preview: int

    @property
    def peak(self) -> int:
        """The larger one."""
        return max(self.step, self.preview)


def predict(workload: Workload, config: DreamBoothConfig, limit: float = math.inf) -> Prediction:
    """What a training needs on each device once it runs steadily, without `CUDA_OVERHEAD`.

    Where weights, gradients and the optimizer's state alone are more than `limit` bytes, it is not looked further: it
    is more than that.
    """
    # Weights in bfloat16 need no autocast to be computed with in bfloat16.
    autocast_dtype = workload.autocast_dtype if config.train_dtype == "fp32" else None
    with FakeTensorMode():
        with NoInitialisation():
            module = _Module.of(workload, config)
        if workload.like_cuda:
            _normalise_in_float32(module)
            if config.train_dtype == "bf16":  # what doesn't train comes in this type from the host
                cast(module.ldm, torch.bfloat16)
        # Float16's gradients are scaled, so that steps are not recorded, and the optimizer is one of large temporaries.
        scaled = autocast_dtype == torch.float16
        optimizer = module.build_optimizer(foreach=True) if scaled else module.build_optimizer(fused=True)
        weights = module.trained_parameters()
        with Footprint() as footprint:
            # On CUDA the networks that don't train are elsewhere.
            footprint.watch(list(module.buffers()), weights if workload.like_cuda else list(module.parameters()))
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            optimizer.step()  # makes its state
            if footprint.live > limit:
                return Prediction(footprint.live, 0)
            optimizer.zero_grad()

            footprint.restart()
            with _autocast(autocast_dtype):
                loss = module.training_step(_batch(workload, module.images_per_step), 0)
            loss.backward()
            del loss
            step = footprint.peak
            footprint.restart()
            updating = footprint.live
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            # A recorded step keeps the memory of its activations for itself.
            recorded = workload.like_cuda and not scaled
            step = step + footprint.peak - updating if recorded else max(step, footprint.peak)
            if workload.devices > 1:
                step += sum(weight.nbytes for weight in weights)  # gradients on their way to the other devices
            optimizer.zero_grad()

            footprint.restart()
            if workload.previews:
                if config.train_dtype == "bf16":  # beside which the host keeps what they were
                    cast(module.ldm, torch.bfloat16)
                footprint.watch(list(module.parameters()))
                with _autocast(autocast_dtype), torch.no_grad():
                    _draw(module.ldm, workload)
            return Prediction(step, footprint.peak)


def plenty(workload: Workload, config: DreamBoothConfig) -> int:
    """Bytes with which any combination fits by far, so that nothing needs to be predicted.

    16 bytes a weight, a quarter of that for each image of 512 x 512 (Stable Diffusion keeps less than a fifth of it),
    and three times that much.
    """
    weights = sum(count_weights(workload.model, PARTS[part]) for part in ("unet", "text_encoder"))
    images = config.batch_size * (2 if workload.with_class else 1) * workload.height * workload.width / 512**2
    return int(3 * 16 * weights * (1 + max(images, 1) / 4))


def choose(
    workload: Workload, config: DreamBoothConfig, candidates: Iterable[Combination], budget: int
) -> tuple[Combination, Prediction] | None:
    """The first combination whose predicted peak is at most `budget` bytes; None if there is none."""
    for candidate in candidates:
        prediction = predict(workload, candidate.applied_to(config), budget)
        if prediction.peak <= budget:
            return candidate, prediction
    return None


def _normalise_in_float32(network: nn.Module) -> None:
    """What autocast does on CUDA and not on the CPU: normalisations in float32."""

    def widen(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return tuple(one.float() for one in inputs) if torch.is_autocast_enabled("cpu") else None

    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(widen)


class _AnyPrompt(PromptTokenizer):
    """Gives any prompt the same ids, without a vocabulary."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def __call__(self, prompts: list[str]) -> Tensor:
        return torch.zeros(len(prompts), self.max_length, dtype=torch.int64)


class _Module(DreamBooth):
    """The real one on images of which nothing matters but the size."""

    @classmethod
    def of(cls, workload: Workload, config: DreamBoothConfig) -> "_Module":
        """To be called where tensors are fake."""
        channels, height, width = workload.model.latent_shape(workload.height, workload.width)
        ldm = LatentDiffusion(workload.model, _AnyPrompt(workload.model.text_encoder.max_position_embeddings))
        moments = torch.zeros(1, 1, 2 * channels, height, width)
        return cls(ldm, Subject("thing"), moments, moments if workload.with_class else None, config, seed=0)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Nobody reads it."""


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()


def _batch(workload: Workload, count: int) -> Batch:
    channels, height, width = workload.model.latent_shape(workload.height, workload.width)
    return Batch(
        moments=torch.zeros(count, 2 * channels, height, width),
        posterior_noise=torch.zeros(count, channels, height, width),
        noise=torch.zeros(count, channels, height, width),
        timesteps=torch.zeros(count, dtype=torch.int64),
    )


def _draw(ldm: LatentDiffusion, workload: Workload) -> None:
    """A denoising step with guidance, and the decoding."""
    latents = torch.zeros(2, *workload.model.latent_shape(workload.height, workload.width))
    encoder = workload.model.text_encoder
    context = torch.zeros(2, encoder.max_position_embeddings, encoder.hidden_size)
    ldm.predict_eps(latents, torch.zeros(2, dtype=torch.int64), context)
    ldm.decode_latents(latents[:1])
