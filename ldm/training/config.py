"""Training hyperparameters. A model's YAML has its values. Imports neither torch nor Lightning."""

from collections.abc import Collection
from dataclasses import dataclass

from ldm.bounds import LARGEST_FACTOR, LARGEST_SIDE, MOST_TOGETHER, MOST_UPDATES, check_range
from ldm.choices import LR_SCHEDULES, OPTIMIZERS
from ldm.prompts import raise_for_prompts


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises `ValueError` for a value that is none of the choices."""
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
    lr_cycles: int = 3
    """Of the schedule cosine-restarts."""
    lr_power: float = 2.0
    """Of the schedule polynomial."""
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
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        check_range(self, 1, MOST_UPDATES, "iterations", "save_every", "lr_cycles")
        check_range(self, 1, MOST_TOGETHER, "batch_size")
        check_range(self, 0, MOST_UPDATES, "warmup_steps")
        check_range(self, 0, LARGEST_FACTOR, "learning_rate", "weight_decay", "max_grad_norm", "lr_power")


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
