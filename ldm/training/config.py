"""How long and how fast each training learns; the values of a model stand in its YAML. Nothing here needs Lightning."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ldm.bounds import (
    LARGEST_FACTOR,
    LARGEST_SIDE,
    MOST_CLASS_IMAGES,
    MOST_STEPS,
    MOST_TOGETHER,
    MOST_UPDATES,
    check_range,
)
from ldm.choices import CHECKPOINTING_LEVELS, LR_SCHEDULES, OPTIMIZERS, SAMPLERS, TRAIN_DTYPES
from ldm.prompts import TOKEN, raise_for_prompts


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} should be one of {', '.join(choices)}, not {value!r:.60}")


@dataclass(frozen=True)
class OptimizationConfig:
    """What every training has."""

    iterations: int = 1000
    save_every: int = 200
    learning_rate: float = 5e-6
    lr_schedule: str = "constant"
    """`cooldown` is constant and falls to zero in the last quarter."""
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_size: int = 1
    optimizer: str = "adamw"
    """`adamw8bit` keeps moments of 8 bits: `ldm.training.adamw_8bit`."""

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        check_range(self, 1, MOST_UPDATES, "iterations", "save_every")
        check_range(self, 1, MOST_TOGETHER, "batch_size")
        check_range(self, 0, MOST_UPDATES, "warmup_steps")
        check_range(self, 0, LARGEST_FACTOR, "learning_rate", "weight_decay", "max_grad_norm")


@dataclass(frozen=True)
class DreamBoothConfig(OptimizationConfig):
    """Teaching a subject."""

    prior_loss_weight: float = 1.0
    class_img_count: int = 200
    class_sampler: str = "dpm-solver"
    class_steps: int = 20
    """How class images are drawn: many are needed, and no one looks at them closely."""
    train_text_encoder: bool = False
    flip: bool = True
    train_dtype: str = "fp32"
    """Type of the trained weights; bf16 halves them and their gradients, and takes `adamw8bit`."""
    gradient_checkpointing: str = "none"
    """What the backward pass computes again instead of keeping it: nothing, the transformers, or all blocks."""
    preview_prompts: tuple[str, ...] = ("a photo of sks {class}",)

    EARLIER: ClassVar[Mapping[str, Mapping[Any, Any]]] = {"gradient_checkpointing": {False: "none", True: "all"}}
    """Values in the YAML of older checkpoints and runs, and what they are now."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("gradient_checkpointing", self.gradient_checkpointing, CHECKPOINTING_LEVELS)
        _check_choice("class_sampler", self.class_sampler, SAMPLERS)
        check_range(self, 1, MOST_STEPS, "class_steps")
        check_range(self, 0, MOST_CLASS_IMAGES, "class_img_count")
        check_range(self, 0, LARGEST_FACTOR, "prior_loss_weight")
        _check_choice("train_dtype", self.train_dtype, TRAIN_DTYPES)
        if self.train_dtype == "bf16" and self.optimizer != "adamw8bit":
            raise ValueError("train_dtype bf16 needs the optimizer adamw8bit, which rounds weights at random")
        raise_for_prompts("preview_prompts", self.preview_prompts)


@dataclass(frozen=True)
class AutoencoderTrainingConfig(OptimizationConfig):
    """The first stage from scratch: reconstruction, gradients of the image, and a little KL."""

    size: int = 256
    """Pixels on a side of the images it is trained on."""
    flip: bool = True
    absolute_weight: float = 1.0
    square_weight: float = 1.0
    edge_weight: float = 0.0
    kl_weight: float = 1e-6
    teacher_iterations: int = 0
    """Updates in which the encoder learns the principal components of patches and the decoder reads them."""
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, LARGEST_SIDE, "size")
        check_range(self, 0, LARGEST_FACTOR, "absolute_weight", "square_weight", "edge_weight", "kl_weight")
        check_range(self, 0, MOST_UPDATES, "teacher_iterations")
        check_range(self, 0, 1, "ema_decay")


@dataclass(frozen=True)
class DiffusionTrainingConfig(OptimizationConfig):
    """The second stage from scratch: text encoder and UNet on latents encoded beforehand."""

    size: int = 256
    flip: bool = True
    caption_dropout: float = 0.1
    """How often a caption is left empty, so that the model also learns to draw without one, for guidance."""
    min_snr_gamma: float = 0.0
    """Weights the loss of a timestep by min(SNR, gamma) / SNR (arXiv 2303.09556); 0: all alike."""
    train_text_encoder: bool = True
    ema_decay: float = 0.9999
    sample_prompts: tuple[str, ...] = ()
    """Drawn at every save with the same noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, LARGEST_SIDE, "size")
        check_range(self, 0, 1, "caption_dropout", "ema_decay")
        check_range(self, 0, LARGEST_FACTOR, "min_snr_gamma")
        raise_for_prompts("sample_prompts", self.sample_prompts)


@dataclass(frozen=True)
class JudgeTrainingConfig(OptimizationConfig):
    """The judge from scratch, on renders; the defaults made the one in `ldm/assets`."""

    iterations: int = 2300
    save_every: int = 1150
    learning_rate: float = 1.5e-3
    lr_schedule: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.05
    batch_size: int = 32
    """Things, each seen twice; as many lone images come on top."""
    caption_weight: float = 1.0
    subject_weight: float = 1.0
    subject_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, LARGEST_FACTOR, "caption_weight", "subject_weight")
        check_range(self, 1e-6, LARGEST_FACTOR, "subject_temperature")


@dataclass(frozen=True)
class Subject:
    """What is taught: "water bottle" gives "a photo of sks water bottle" and "a photo of a water bottle"."""

    class_name: str

    @property
    def instance_prompt(self) -> str:
        """Names the subject."""
        return f"a photo of {TOKEN} {self.class_name}"

    @property
    def class_prompt(self) -> str:
        """Names any member of its class."""
        return f"a photo of a {self.class_name}"
