"""Predicts how much memory of a GPU a DreamBooth training takes, and finds the fastest profile that fits.

A step of the real module with its real optimizer runs on fake tensors, which have no data; `ldm.nn.memory.Footprint`
counts their bytes.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.checkpoint.keys import PARTS
from ldm.choices import CHECKPOINTING_LEVELS, OPTIMIZERS
from ldm.data.batches import NoisyLatents
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, count_weights
from ldm.nn.memory import Footprint, NoInitialisation
from ldm.nn.tokenizer import PromptTokenizer
from ldm.training.dreambooth import DreamBooth, cast_weights
from ldm.training.dreambooth_config import DreamBoothConfig, Subject
from ldm.training.lora import store_frozen_in
from ldm.training.optimizers import OptimizerKind

GIB = 2**30
CUDA_OVERHEAD = int(1.25 * GIB)
"""Memory outside of tensors: CUDA's context, the libraries' workspaces, fragmentation."""
CUDA_CONTEXT = int(0.4 * GIB)
"""The context's share of `CUDA_OVERHEAD`."""


WEIGHTS = {
    "fp32": "float32 weights",
    "bf16": "bfloat16 weights",
    "bf16-rounded": "bfloat16 weights without further bits",
}


COSTS = {
    "adamw8bit": "moments have 8 bits",
    "adafactor": "there is no first moment, and the second is a row times a column",
    "bf16": "weights have 24 bits, and activations 16",
    "bf16-rounded": "weights and activations have 16 bits: rounding weights at random adds noise to each update",
    "attention": "the transformers' part of the forward pass is computed twice",
    "all": "the forward pass is computed twice: about a third more time",
}
"""What the settings of a profile cost."""


@dataclass(frozen=True)
class MemoryProfile:
    """The settings by which a training saves memory (docs/memory.md); the names are `DreamBoothConfig`'s."""

    optimizer: str
    train_dtype: str
    gradient_checkpointing: str
    fused_backward: bool = False

    def __str__(self) -> str:
        optimizer = OPTIMIZERS[self.optimizer].load().label
        weights = WEIGHTS[self.train_dtype]
        when = ", updates in the backward pass" if self.fused_backward else ""
        return f"{optimizer} on {weights}{when}, gradient checkpointing {self.gradient_checkpointing}"

    @property
    def without_checkpointing(self) -> "MemoryProfile":
        """The profile that differs only in gradient checkpointing, and has none."""
        return replace(self, gradient_checkpointing="none")

    @property
    def costs(self) -> list[str]:
        """What it costs in time and fidelity, compared with float32 AdamW; a line for each reason."""
        found = [COSTS[setting] for setting in (self.optimizer, self.train_dtype) if setting in COSTS]
        if self.fused_backward:
            found.append(
                "each gradient is clipped alone (--clip global: all together, in twice the time), and steps are not "
                "captured as a CUDA graph"
            )
        return found + [COSTS[level] for level in (self.gradient_checkpointing,) if level in COSTS]

    def applied_to(self, config: DreamBoothConfig) -> DreamBoothConfig:
        """The config with these settings."""
        return replace(config, **vars(self))


MEMORY_PROFILES = tuple(
    MemoryProfile(optimizer, train_dtype, level)
    for level in CHECKPOINTING_LEVELS
    for optimizer, train_dtype in (("adamw", "fp32"), ("adamw8bit", "fp32"), ("adamw8bit", "bf16"))
) + tuple(
    MemoryProfile(optimizer, train_dtype, level, fused_backward=True)
    for optimizer, train_dtype in (("adamw8bit", "bf16"), ("adafactor", "bf16"), ("adafactor", "bf16-rounded"))
    for level in CHECKPOINTING_LEVELS
)
"""What `--vram` chooses from, from the fastest and most exact to the smallest."""


def profiles_with(fixed: Mapping[str, Any], *, keep_gradients: bool = False) -> list[MemoryProfile]:
    """The `MEMORY_PROFILES` with these settings; if there is none, all types and levels of the optimizer.

    An optimizer that is fixed is also combined with updates in the backward pass, if it can make them. With
    `keep_gradients` there are none of these, unless they are fixed.
    """
    if keep_gradients:
        fixed = {"fused_backward": False, **fixed}

    def fitting(profiles: Iterable[MemoryProfile]) -> list[MemoryProfile]:
        return [one for one in profiles if all(getattr(one, name) == value for name, value in fixed.items())]

    if found := fitting(MEMORY_PROFILES):
        return found
    optimizer = fixed.get("optimizer", "adamw8bit")
    kind: OptimizerKind = OPTIMIZERS[optimizer].load()
    return fitting(
        MemoryProfile(optimizer, dtype, level, fused)
        for fused in ((False, True) if kind.weightwise else (False,))
        for level in CHECKPOINTING_LEVELS
        for dtype in kind.state_bytes_per_weight
    )


@dataclass(frozen=True)
class Workload:
    """What the memory of a training depends on besides its config."""

    model: LatentDiffusionConfig
    height: int
    width: int
    """Height and width are in pixels."""
    with_class: bool = True
    autocast_dtype: torch.dtype | None = None
    like_cuda: bool = True
    """Whether autocast and offloading are CUDA's, which differ from the CPU's."""
    devices: int = 1
    previews: bool = True
    """Whether images are sampled between steps."""


@dataclass(frozen=True)
class Prediction:
    """Peak bytes of tensors in a step and while a preview is sampled."""

    step: int
    preview: int
    is_whole: bool = True
    """Whether a step was counted; if not, only weights, gradients and the optimizer's state were."""

    @property
    def peak(self) -> int:
        """The larger one."""
        return max(self.step, self.preview)


def predict(workload: Workload, config: DreamBoothConfig, limit: float = math.inf) -> Prediction:
    """What a training needs on each device after its first step, without `CUDA_OVERHEAD`.

    If weights, gradients and the optimizer's state alone are more than `limit` bytes, only these are counted.
    """
    # Weights in bfloat16 are computed with in bfloat16 without autocast.
    autocast_dtype = workload.autocast_dtype if config.train_dtype == "fp32" else None
    # After two batches all have the same peak.
    config = replace(config, gradient_accumulation=min(2, config.gradient_accumulation))
    with FakeTensorMode():
        module = _fake_module(workload, config, autocast_dtype)
        # Float16's gradients are scaled: steps run eagerly, and the optimizer is not fused and has large temporaries.
        scaled = autocast_dtype == torch.float16
        optimizer = module.build_optimizer(foreach=True) if scaled else module.build_optimizer(fused=True)
        weights = module.trained_parameters()
        with Footprint() as footprint:
            # On CUDA fixed networks are offloaded.
            resident = [weight for network in module.needed_networks for weight in network.parameters()]
            footprint.watch(list(module.buffers()), resident if workload.like_cuda else list(module.parameters()))
            if not config.fused_backward:
                for weight in weights:
                    weight.grad = torch.zeros_like(weight)
            _create_state(optimizer, weights)
            if footprint.live > limit:
                return Prediction(footprint.live, 0, is_whole=False)
            optimizer.zero_grad()
            module.update_in_backward(optimizer)

            footprint.restart()
            with _autocast(autocast_dtype):
                loss = module.training_step(_batch(workload, module.images_per_step), 0)
            loss.backward()
            del loss
            step = footprint.peak
            footprint.restart()
            updating = footprint.live
            if not config.fused_backward:
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
            # A CUDA graph keeps the memory of its activations.
            graphed = workload.like_cuda and not scaled and module.can_be_graphed
            step = step + footprint.peak - updating if graphed else max(step, footprint.peak)
            if workload.devices > 1:
                step += sum(weight.nbytes for weight in weights)  # buffers of the gradients' exchange
            optimizer.zero_grad()

            footprint.restart()
            if workload.previews:
                if config.train_dtype != "fp32":  # the originals stay on the host
                    cast_weights(module.ldm, torch.bfloat16)
                with _autocast(autocast_dtype), torch.no_grad():
                    preview = _preview(module, workload, footprint)
            else:
                preview = footprint.peak
            return Prediction(step, preview)


def _fake_module(workload: Workload, config: DreamBoothConfig, autocast_dtype: torch.dtype | None) -> "_Module":
    """The module on fake tensors, with its weights in the types in which they train."""
    with NoInitialisation():
        module = _Module.of(workload, config)
    if config.fixes_networks and autocast_dtype:
        store_frozen_in(module.ldm, config, autocast_dtype)
    if workload.like_cuda:
        _normalise_in_float32(module)
        if config.train_dtype != "fp32":  # fixed networks are onloaded in this type
            cast_weights(module.ldm, torch.bfloat16)
    return module


def plenty(workload: Workload, config: DreamBoothConfig) -> int:
    """Bytes into which any profile certainly fits, so that no prediction is needed.

    Three times 16 bytes a weight, and as much again for each four images of 512 x 512. (Stable Diffusion keeps less
    than a fifth for one.)
    """
    weights = sum(count_weights(workload.model, PARTS[part]) for part in ("unet", "text_encoder"))
    images = config.batch_size * (2 if workload.with_class else 1) * workload.height * workload.width / 512**2
    return int(3 * 16 * weights * (1 + max(images, 1) / 4))


class Chooser:
    """Finds the profile of a training that fits. A prediction takes 5 to 20 seconds, so it makes few, and each once."""

    def __init__(self, workload: Workload, config: DreamBoothConfig) -> None:
        self._workload = workload
        self._config = config
        self._known: dict[MemoryProfile, Prediction] = {}

    def first_that_fits(
        self, candidates: Sequence[MemoryProfile], budget: int
    ) -> tuple[MemoryProfile, Prediction] | None:
        """The first of the candidates whose predicted peak is at most `budget` bytes; None if there is none.

        Candidates that differ only in gradient checkpointing stand in the order of its levels.
        """
        smallest = {candidate.without_checkpointing: candidate for candidate in candidates}
        failed: set[MemoryProfile] = set()
        hopeless: set[MemoryProfile] = set()
        for candidate in candidates:
            kind = candidate.without_checkpointing
            if kind in failed and self._predict(smallest[kind], budget).peak > budget:
                hopeless.add(kind)
            if kind in hopeless:
                continue
            prediction = self._predict(candidate, budget)
            if prediction.peak <= budget:
                return candidate, prediction
            (failed if prediction.is_whole else hopeless).add(kind)
        return None

    def _predict(self, profile: MemoryProfile, budget: int) -> Prediction:
        known = self._known.get(profile)
        if known is None or not (known.is_whole or known.peak > budget):
            known = self._known[profile] = predict(self._workload, profile.applied_to(self._config), budget)
        return known


def _create_state(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> None:
    """Has the optimizer create what it keeps of the weights."""
    create = getattr(optimizer, "create_state", None)
    if create is not None:
        create()
        return
    missing = [weight for weight in weights if weight.grad is None]
    for weight in missing:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight in missing:
        weight.grad = None


def _normalise_in_float32(network: nn.Module) -> None:
    """Computes normalisations in float32, as autocast does on CUDA and not on the CPU."""

    def widen(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return tuple(one.float() for one in inputs) if torch.is_autocast_enabled("cpu") else None

    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(widen)


class _AnyPrompt(PromptTokenizer):
    """Returns the same ids for any prompt, without a vocabulary."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def __call__(self, prompts: list[str]) -> Tensor:
        return torch.zeros(len(prompts), self.max_length, dtype=torch.int64)

    def token_ids(self, text: str) -> list[int]:
        """Any token will do."""
        return [0]

    def with_words(self, counts: Mapping[str, int], first_id: int, digest: str) -> PromptTokenizer:
        """The same: ids don't matter."""
        return self


class _Module(DreamBooth):
    """The real module on images of which only the size matters."""

    @classmethod
    def of(cls, workload: Workload, config: DreamBoothConfig) -> "_Module":
        """The module; call it in a `FakeTensorMode`."""
        channels, height, width = workload.model.latent_shape(workload.height, workload.width)
        ldm = LatentDiffusion(workload.model, _AnyPrompt(workload.model.text_encoder.max_position_embeddings))
        moments = torch.zeros(1, 1, 2 * channels, height, width)
        return cls(ldm, Subject("thing"), moments, moments if workload.with_class else None, config, seed=0)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Without a trainer there is no log."""


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()


def _batch(workload: Workload, count: int) -> NoisyLatents:
    channels, height, width = workload.model.latent_shape(workload.height, workload.width)
    return NoisyLatents(
        moments=torch.zeros(count, 2 * channels, height, width),
        posterior_noise=torch.zeros(count, channels, height, width),
        noise=torch.zeros(count, channels, height, width),
        timesteps=torch.zeros(count, dtype=torch.int64),
    )


def _preview(module: DreamBooth, workload: Workload, footprint: Footprint) -> int:
    """The peak of a denoising step with guidance, then of decoding, with all networks or each alone in memory."""
    ldm, encoder = module.ldm, workload.model.text_encoder
    footprint.watch(list(module.parameters()))
    peak = footprint.peak
    latents = torch.zeros(2, *workload.model.latent_shape(workload.height, workload.width))
    context = torch.zeros(2, encoder.max_position_embeddings, encoder.hidden_size)

    def beside(network: nn.Module) -> int:
        """Bytes of networks that wait on the host."""
        if not (workload.like_cuda and module.config.fused_backward):
            return 0
        others = (one for one in (ldm.unet, ldm.autoencoder, ldm.text_encoder) if one is not network)
        return sum(weight.nbytes for other in others for weight in other.parameters())

    footprint.restart()
    ldm.predict_eps(latents, torch.zeros(2, dtype=torch.int64), context)
    peak = max(peak, footprint.peak - beside(ldm.unet))
    footprint.restart()
    ldm.decode_latents(latents[:1])
    return max(peak, footprint.peak - beside(ldm.autoencoder))
