"""Hyperparameters of fine-tuning on a subject. Imports neither torch nor Lightning."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ldm.bounds import (
    HIGHEST_RANK,
    LARGEST_FACTOR,
    MOST_CLASS_IMAGES,
    MOST_STEPS,
    MOST_TOGETHER,
    MOST_VECTORS,
    check_range,
)
from ldm.choices import (
    CHECKPOINTING_LEVELS,
    CLIPPING,
    LORA_TARGETS,
    OPTIMIZERS,
    PRIORS,
    SAMPLERS,
    TRAIN_DTYPES,
    TRAINED,
)
from ldm.prompts import CLASS_PROMPT, INSTANCE_PROMPT, TOKEN, raise_for_prompts
from ldm.training.config import check_choice
from ldm.training.objective_config import ObjectiveConfig


@dataclass(frozen=True)
class DreamBoothConfig(ObjectiveConfig):
    """Fine-tuning on a subject."""

    prior: str = "class-images"
    """A name of `ldm.choices.PRIORS`."""
    prior_loss_weight: float = 1.0
    class_img_count: int = 200
    class_sampler: str = "dpm-solver"
    class_steps: int = 20
    """How class images are sampled: many are needed, and their details matter little."""
    l2_share: float = 0.01
    """Share of the distance to the base weights that each update takes back, with the prior l2."""
    base_predictions: int = 1000
    """How many predictions of the base model are targets, with the prior base-prediction."""
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
    dora: bool = False
    """Whether the adapters also train the length of each output's weights (DoRA, arXiv 2402.09353)."""
    lora_learning_rate: float = 0.0
    """`learning_rate` of a LoRA training; 0: twenty times as much as without."""
    text_encoder_learning_rate: float = 0.0
    """0: `learning_rate`."""
    train: str = "weights"
    """A name of `ldm.choices.TRAINED`."""
    vectors: int = 1
    """How many take the place of the subject's word, if an embedding is trained."""
    initial_words: str = ""
    """The words whose vectors these begin as; empty: the class name."""
    embedding_learning_rate: float = 0.0
    """`learning_rate` of an embedding; 0: 25 times as much as of weights."""
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
        self._check_images()
        self._check_updates()
        self._check_lora()
        self._check_embedding()
        self._check_prompts()

    def _check_images(self) -> None:
        check_choice("class_sampler", self.class_sampler, SAMPLERS)
        check_range(self, 1, MOST_STEPS, "class_steps")
        check_range(self, 0, MOST_CLASS_IMAGES, "class_img_count")
        check_range(self, 0, LARGEST_FACTOR, "prior_loss_weight")
        check_choice("prior", self.prior, PRIORS)
        check_range(self, 0, 1, "l2_share")
        check_range(self, 1, MOST_CLASS_IMAGES, "base_predictions")

    def _check_updates(self) -> None:
        check_choice("gradient_checkpointing", self.gradient_checkpointing, CHECKPOINTING_LEVELS)
        check_range(self, 1, MOST_TOGETHER, "gradient_accumulation")
        check_choice("train_dtype", self.train_dtype, TRAIN_DTYPES)
        check_choice("clip", self.clip, CLIPPING)
        check_range(self, 0, LARGEST_FACTOR, "text_encoder_learning_rate")
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
        if self.optimizer == "prodigy" and self.text_encoder_learning_rate not in (0, self.learning_rate):
            raise ValueError(
                "the optimizer prodigy finds one learning rate for all weights: text_encoder_learning_rate is not for "
                "it; leave out one of the two"
            )

    def _check_lora(self) -> None:
        check_choice("lora_targets", self.lora_targets, LORA_TARGETS)
        check_range(self, 0, HIGHEST_RANK, "lora")
        check_range(self, 0, LARGEST_FACTOR, "lora_alpha", "lora_learning_rate")
        check_range(self, 0, 0.9, "lora_dropout")
        if self.lora and self.train_dtype != "fp32":
            raise ValueError(f"train_dtype should be fp32 with lora, not {self.train_dtype}: its weights are few")
        if self.lora and self.train_layers != "all":
            raise ValueError(
                "train_layers is not for lora, whose layers lora_targets chooses: leave out one of the two"
            )

    def _check_embedding(self) -> None:
        check_choice("train", self.train, TRAINED)
        check_range(self, 1, MOST_VECTORS, "vectors")
        check_range(self, 0, LARGEST_FACTOR, "embedding_learning_rate")
        raise_for_prompts("initial_words", [self.initial_words])
        if self.train == "embedding":
            if self.lora or self.train_text_encoder:
                raise ValueError("with train embedding all networks stay fixed: neither lora nor train_text_encoder")
            if self.train_layers != "all":
                raise ValueError("train_layers is for the UNet, which train embedding doesn't change: leave one out")
            if self.train_dtype != "fp32":
                raise ValueError(f"train_dtype should be fp32 with train embedding, not {self.train_dtype}")

    def _check_prompts(self) -> None:
        raise_for_prompts("preview_prompts", self.preview_prompts)
        raise_for_prompts("instance_prompts", self.instance_prompts)
        raise_for_prompts("class_prompt", [self.class_prompt])
        check_range(self, 0, 1, "caption_dropout")
        if not self.instance_prompts or not all(re.search(rf"\b{TOKEN}\b", one) for one in self.instance_prompts):
            raise ValueError(f'each of instance_prompts should hold "{TOKEN}", which stands for the subject')
        if re.search(rf"\b{TOKEN}\b|\{{caption\}}", self.class_prompt):
            raise ValueError(f'class_prompt should hold neither "{TOKEN}" nor {{caption}}: both are of the photos')

    @property
    def has_class_half(self) -> bool:
        """Whether a batch has as many samples of the class as photos."""
        return self.prior == "base-prediction" or (self.prior == "class-images" and self.class_img_count > 0)

    @property
    def fixes_networks(self) -> bool:
        """Whether the networks' own weights stay as they are: adapters or vectors are trained."""
        return self.lora > 0 or self.train == "embedding"

    @property
    def encodes_in_steps(self) -> bool:
        """Whether every step encodes its prompts, because what is trained changes their encoding."""
        return self.train_text_encoder or self.train == "embedding"

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
