"""Training hyperparameters. A model's YAML has its values. Imports neither torch nor Lightning."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ldm.bounds import (
    HIGHEST_RANK,
    LARGEST_FACTOR,
    LARGEST_SIDE,
    MOST_CLASS_IMAGES,
    MOST_STEPS,
    MOST_TOGETHER,
    MOST_UPDATES,
    check_range,
)
from ldm.choices import CHECKPOINTING_LEVELS, CLIPPING, LORA_TARGETS, LR_SCHEDULES, OPTIMIZERS, SAMPLERS, TRAIN_DTYPES
from ldm.prompts import CLASS_PROMPT, INSTANCE_PROMPT, TOKEN, raise_for_prompts


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} should be one of {', '.join(choices)}, not {value!r:.60}")


@dataclass(frozen=True)
class OptimizationConfig:
    """Hyperparameters of every training."""

    iterations: int = 1000
    save_every: int = 200
    learning_rate: float = 5e-6
    lr_schedule: str = "constant"
    """A name of `ldm.choices.LR_SCHEDULES`."""
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_size: int = 1
    optimizer: str = "adamw"
    """A name of `ldm.choices.OPTIMIZERS`."""
    fused_backward = False
    """Whether each weight is updated within the backward pass: `ldm.training.update_in_backward`."""
    keeps_low_bits = True
    """Whether the optimizer keeps 8 more bits of weights in bfloat16."""

    @property
    def clipping(self) -> str:
        """How gradients are clipped, a name of `ldm.choices.CLIPPING`."""
        return "global"

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        check_range(self, 1, MOST_UPDATES, "iterations", "save_every")
        check_range(self, 1, MOST_TOGETHER, "batch_size")
        check_range(self, 0, MOST_UPDATES, "warmup_steps")
        check_range(self, 0, LARGEST_FACTOR, "learning_rate", "weight_decay", "max_grad_norm")


@dataclass(frozen=True)
class DreamBoothConfig(OptimizationConfig):
    """Fine-tuning on a subject."""

    prior_loss_weight: float = 1.0
    class_img_count: int = 200
    class_sampler: str = "dpm-solver"
    class_steps: int = 20
    """How class images are sampled: many are needed, and their details matter little."""
    train_text_encoder: bool = False
    flip: bool = True
    train_dtype: str = "fp32"
    """Type of the trained weights; bf16 halves them and their gradients, and needs an optimizer that takes it."""
    gradient_accumulation: int = 1
    """Batches whose mean gradient an update uses; they are computed one after the other."""
    fused_backward: bool = False
    clip: str = "auto"
    """A name of `ldm.choices.CLIPPING`."""
    gradient_checkpointing: str = "none"
    """Activations that the backward pass recomputes: none, the transformers' (attention), or those of all blocks."""
    lora: int = 0
    """Rank of the adapters (LoRA, arXiv 2106.09685); 0: all weights are trained."""
    lora_alpha: float = 0.0
    """The adapters are scaled by alpha / rank; 0: alpha is the rank."""
    lora_targets: str = "attention"
    """A name of `ldm.choices.LORA_TARGETS`."""
    lora_dropout: float = 0.0
    """Share of each adapter's ranks that a step leaves out."""
    lora_learning_rate: float = 0.0
    """`learning_rate` of a LoRA training; 0: twenty times as much as without."""
    text_encoder_learning_rate: float = 0.0
    """0: `learning_rate`."""
    instance_prompts: tuple[str, ...] = (INSTANCE_PROMPT,)
    """Prompts of the photos, of which each photo has a random one in each step; {caption} is the photo's own."""
    class_prompt: str = CLASS_PROMPT
    """The prompt of class images."""
    caption_dropout: float = 0.0
    """Share of captions that are left out."""
    preview_prompts: tuple[str, ...] = (INSTANCE_PROMPT,)

    EARLIER: ClassVar[Mapping[str, Mapping[Any, Any]]] = {"gradient_checkpointing": {False: "none", True: "all"}}
    """Values in the YAML of older checkpoints and runs, and their names now."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("gradient_checkpointing", self.gradient_checkpointing, CHECKPOINTING_LEVELS)
        _check_choice("class_sampler", self.class_sampler, SAMPLERS)
        check_range(self, 1, MOST_STEPS, "class_steps")
        check_range(self, 1, MOST_TOGETHER, "gradient_accumulation")
        check_range(self, 0, MOST_CLASS_IMAGES, "class_img_count")
        check_range(self, 0, LARGEST_FACTOR, "prior_loss_weight")
        _check_choice("train_dtype", self.train_dtype, TRAIN_DTYPES)
        _check_choice("clip", self.clip, CLIPPING)
        # Every optimizer takes fp32; only for another type is torch imported.
        if (
            self.train_dtype != "fp32"
            and self.train_dtype not in OPTIMIZERS[self.optimizer].load().state_bytes_per_weight
        ):
            raise ValueError(
                f"the optimizer {self.optimizer} takes no weights in {self.train_dtype}; adamw8bit, adafactor, came "
                "and lion do, which round them at random"
            )
        if self.fused_backward and not OPTIMIZERS[self.optimizer].load().weightwise:
            raise ValueError(
                f"the optimizer {self.optimizer} needs all gradients at once: fused_backward is not for it"
            )
        if self.fused_backward and self.gradient_accumulation > 1:
            raise ValueError(
                "fused_backward frees the gradients that gradient_accumulation adds up: use one of the two"
            )
        _check_choice("lora_targets", self.lora_targets, LORA_TARGETS)
        check_range(self, 0, HIGHEST_RANK, "lora")
        check_range(self, 0, LARGEST_FACTOR, "lora_alpha", "lora_learning_rate", "text_encoder_learning_rate")
        check_range(self, 0, 0.9, "lora_dropout")
        if self.optimizer == "prodigy" and self.text_encoder_learning_rate not in (0, self.learning_rate):
            raise ValueError(
                "the optimizer prodigy finds one learning rate for all weights: text_encoder_learning_rate is not for "
                "it; leave out one of the two"
            )
        if self.lora and self.train_dtype != "fp32":
            raise ValueError(f"train_dtype should be fp32 with lora, not {self.train_dtype}: its weights are few")
        raise_for_prompts("preview_prompts", self.preview_prompts)
        raise_for_prompts("instance_prompts", self.instance_prompts)
        raise_for_prompts("class_prompt", [self.class_prompt])
        check_range(self, 0, 1, "caption_dropout")
        if not self.instance_prompts or not all(re.search(rf"\b{TOKEN}\b", one) for one in self.instance_prompts):
            raise ValueError(f'each of instance_prompts should hold "{TOKEN}", which stands for the subject')
        if re.search(rf"\b{TOKEN}\b|\{{caption\}}", self.class_prompt):
            raise ValueError(f'class_prompt should hold neither "{TOKEN}" nor {{caption}}: both are of the photos')

    @property
    def keeps_low_bits(self) -> bool:  # type: ignore[override]
        """Whether the optimizer keeps 8 more bits of weights in bfloat16."""
        return self.train_dtype != "bf16-rounded"

    @property
    def clipping(self) -> str:
        """How gradients are clipped: `clip` without "auto"."""
        if self.clip == "auto":
            return "tensor" if self.fused_backward else "global"
        return self.clip


@dataclass(frozen=True)
class AutoencoderTrainingConfig(OptimizationConfig):
    """The first stage from scratch: the autoencoder."""

    size: int = 256
    """Height and width of the training images, in pixels."""
    flip: bool = True
    absolute_weight: float = 1.0
    square_weight: float = 1.0
    edge_weight: float = 0.0
    kl_weight: float = 1e-6
    teacher_iterations: int = 0
    """First updates, in which principal components of patches are the latents: `ldm.training.autoencoder.PatchPCA`."""
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, LARGEST_SIDE, "size")
        check_range(self, 0, LARGEST_FACTOR, "absolute_weight", "square_weight", "edge_weight", "kl_weight")
        check_range(self, 0, MOST_UPDATES, "teacher_iterations")
        check_range(self, 0, 1, "ema_decay")


@dataclass(frozen=True)
class DiffusionTrainingConfig(OptimizationConfig):
    """The second stage from scratch: text encoder and UNet, on encoded images."""

    size: int = 256
    flip: bool = True
    caption_dropout: float = 0.1
    """Share of captions that are left empty, which trains the unconditional model for guidance."""
    min_snr_gamma: float = 0.0
    """Weights the loss of a timestep by min(SNR, gamma) / SNR (arXiv 2303.09556); 0: all weights are 1."""
    train_text_encoder: bool = True
    ema_decay: float = 0.9999
    sample_prompts: tuple[str, ...] = ()
    """Sampled at every save, from the same noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, LARGEST_SIDE, "size")
        check_range(self, 0, 1, "caption_dropout", "ema_decay")
        check_range(self, 0, LARGEST_FACTOR, "min_snr_gamma")
        raise_for_prompts("sample_prompts", self.sample_prompts)


@dataclass(frozen=True)
class EditTrainingConfig(OptimizationConfig):
    """Training a model to edit images by instruction, as InstructPix2Pix was (arXiv 2211.09800)."""

    iterations: int = 10_000
    save_every: int = 1000
    learning_rate: float = 1e-4
    batch_size: int = 32
    size: int = 256
    """Height and width of the training images, in pixels."""
    flip: bool = True
    """Mirrors both images of some pairs."""
    conditioning_dropout: float = 0.05
    """Share of pairs without instruction, the same share without image and the same without both."""
    ema_decay: float = 0.9999
    sample_pairs: int = 4
    """So many of the pairs are edited at every save."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, LARGEST_SIDE, "size")
        check_range(self, 0, 1, "ema_decay")
        check_range(self, 0, 1 / 3, "conditioning_dropout")
        check_range(self, 0, 64, "sample_pairs")


@dataclass(frozen=True)
class JudgeTrainingConfig(OptimizationConfig):
    """The judge from scratch, on renders. The defaults are those of the judge in `ldm/assets`."""

    iterations: int = 2300
    save_every: int = 1150
    learning_rate: float = 1.5e-3
    lr_schedule: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.05
    batch_size: int = 32
    """Objects, with two images each; as many images of single objects are added."""
    caption_weight: float = 1.0
    subject_weight: float = 1.0
    subject_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, LARGEST_FACTOR, "caption_weight", "subject_weight")
        check_range(self, 1e-6, LARGEST_FACTOR, "subject_temperature")


@dataclass(frozen=True)
class Subject:
    """The subject: "water bottle" gives "a photo of sks water bottle" and "a photo of a water bottle"."""

    class_name: str
    instance_template: str = INSTANCE_PROMPT
    class_template: str = CLASS_PROMPT

    @property
    def instance_prompt(self) -> str:
        """The prompt that names the subject."""
        return self.named(self.instance_template)

    @property
    def class_prompt(self) -> str:
        """The prompt that names any object of its class."""
        return self.named(self.class_template)

    def named(self, template: str) -> str:
        """A template with the class filled in."""
        return template.replace("{class}", self.class_name)
