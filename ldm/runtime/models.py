"""The weights a command uses, their settings, and a model in memory whose weights can be replaced."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ldm.bounds import LARGEST_SCALE, MOST_TOGETHER, check_range
from ldm.checkpoint.keys import EDIT_INPUTS, PARTS, WITH_FURTHER_INPUTS
from ldm.checkpoint.learned_words import Embedding, all_vectors, knowing
from ldm.checkpoint.loading import Placement, assign_parts, checkpoint_info, load_model, part_digests
from ldm.checkpoint.reading import SUFFIXES, CheckpointFile
from ldm.config import build_config, read_yaml
from ldm.diffusion.editing import IMAGE_SCALE
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.prompt_encoding import PromptReading, encode_prompt
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.evaluation.protocol import EvaluationConfig
from ldm.files import ROOT
from ldm.nn.tokenizer import PromptTokenizer, tokenizer_digest
from ldm.prompts import raise_for_prompts
from ldm.runtime.tokenizers import find_tokenizer, fitting_tokenizer, is_confined
from ldm.training.config import (
    AutoencoderTrainingConfig,
    DiffusionTrainingConfig,
    EditTrainingConfig,
    JudgeTrainingConfig,
)
from ldm.training.dreambooth_config import DreamBoothConfig

log = logging.getLogger(__name__)

DOWNLOADED = ROOT / "weights" / "sd-v1"
EMBEDDED = ROOT / "ldm" / "assets" / "tiny.safetensors"
FIRST_CONVOLUTION = f"{PARTS['unet']}input_blocks.0.0.weight"
DEFAULT_CONFIG = ROOT / "configs" / "sd-v1.yaml"


@dataclass(frozen=True)
class SamplingDefaults(SamplingConfig):
    """A model's defaults for sampling: options, prompt, and how many images at a time."""

    prompt: str = ""
    batch_size: int = 4
    image_scale: float = IMAGE_SCALE
    """How closely edits keep to their image; of models that edit by instruction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, LARGEST_SCALE, "image_scale")
        check_range(self, 1, MOST_TOGETHER, "batch_size")
        raise_for_prompts("prompt", [self.prompt])


@dataclass(frozen=True)
class Settings:
    """A model's YAML."""

    tokenizer: str
    model: LatentDiffusionConfig
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    dreambooth: DreamBoothConfig = field(default_factory=DreamBoothConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    autoencoder_training: AutoencoderTrainingConfig = field(default_factory=AutoencoderTrainingConfig)
    diffusion_training: DiffusionTrainingConfig = field(default_factory=DiffusionTrainingConfig)
    edit_training: EditTrainingConfig = field(default_factory=EditTrainingConfig)
    judge_training: JudgeTrainingConfig = field(default_factory=JudgeTrainingConfig)
    bfloat16_on_cpu: bool = False
    """Whether dreambooth.py's `--precision auto` may take bfloat16 on a CPU; a small model gains nothing by it."""

    EARLIER: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "tokenizer": {"weights/sd-v1/tokenizer": "ldm/assets/clip-tokenizer"}
    }
    """Values in the YAML of older checkpoints and runs, and their replacements."""

    def __post_init__(self) -> None:
        timesteps = self.model.schedule.num_timesteps
        if self.sampling.num_steps > timesteps:
            raise ValueError(
                f"sampling.num_steps should be at most model.schedule.num_timesteps, {timesteps}, "
                f"not {self.sampling.num_steps}"
            )


def base_weights(ckpt_path: Path | None) -> Path:
    """`--ckpt-path`, else the downloaded weights, else the embedded tiny model; logs which and why."""
    if ckpt_path is not None:
        return ckpt_path
    downloaded = [path for path in sorted(DOWNLOADED.glob("*")) if path.suffix.lower() in SUFFIXES]
    if downloaded:
        log.info("weights: %s (downloaded; --ckpt-path takes others)", downloaded[0].relative_to(ROOT))
        return downloaded[0]
    log.info(
        "weights: the embedded tiny model, as no others were found. It knows simple rendered objects only.\n"
        "  `bash download/sd-weights.sh` fetches Stable Diffusion v1-4 (4.3 GB); --ckpt-path takes any other"
    )
    return EMBEDDED


def settings_of(file: CheckpointFile, config_path: Path | None) -> tuple[dict[str, Any], Settings]:
    """The YAML of a checkpoint, plain and typed: that of `--config`, else the file's own, else SD v1's.

    A tokenizer path from the file that leads out of the repository becomes empty: nothing is read there.
    """
    own = checkpoint_info(file).config
    if config_path is None and own:
        if "tokenizer" not in own:  # a shape alone, of a diffusers directory
            defaults = read_yaml(DEFAULT_CONFIG)
            if _input_channels(own) == EDIT_INPUTS:
                defaults = _with_edit_defaults(defaults)
            own = {**defaults, **own, "sampling": {**defaults["sampling"], **own.get("sampling", {})}}
        settings = build_config(Settings, own, f"{file.path}: metadata")
        return own, settings if is_confined(settings.tokenizer) else replace(settings, tokenizer="")
    path = config_path or DEFAULT_CONFIG
    values = _with_input_channels(read_yaml(path), file)
    if config_path is None and _input_channels(values) == EDIT_INPUTS:
        values = _with_edit_defaults(values)
    return values, build_config(Settings, values, str(path))


def _with_input_channels(values: dict[str, Any], file: CheckpointFile) -> dict[str, Any]:
    """The YAML with the input channels of the file's UNet: 9 are a model for inpainting, 8 InstructPix2Pix."""
    weight = file.index.get(FIRST_CONVOLUTION)
    model = values.get("model")
    if weight is None or weight.ndim != 4 or weight.shape[1] not in WITH_FURTHER_INPUTS or not isinstance(model, dict):
        return values
    unet = model.get("unet")
    unet = unet if isinstance(unet, dict) else {}
    return {**values, "model": {**model, "unet": {**unet, "in_channels": weight.shape[1]}}}


def _input_channels(values: Mapping[str, Any]) -> int | None:
    """The input channels of the UNet that a YAML names, if it does."""
    model = values.get("model")
    unet = model.get("unet") if isinstance(model, dict) else None
    return unet.get("in_channels") if isinstance(unet, dict) else None


def _with_edit_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """The YAML with the sampler and the steps of InstructPix2Pix's authors, for files that carry no YAML."""
    return {**values, "sampling": {**values.get("sampling", {}), "sampler": "euler-ancestral", "num_steps": 100}}


def recorded_settings(record: Path) -> tuple[dict[str, Any], Settings]:
    """The YAML in a run record, plain and typed."""
    if not isinstance(values := read_yaml(record).get("config"), dict):
        raise UserError(f"{record} is damaged: it has no `config`")
    return values, build_config(Settings, values, str(record))


class ModelSlot:
    """One model in memory; loading another checkpoint of the same shape replaces only the parts that differ."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.ldm: LatentDiffusion | None = None
        self._parts: dict[str, str] = {}
        self._tokenizers: dict[str, PromptTokenizer] = {}
        self._contexts: dict[tuple[str, str, str, PromptReading], Tensor] = {}
        self._lock = threading.Lock()

    def use(self, file: CheckpointFile, settings: Settings, tokenizer: Path | None = None) -> LatentDiffusion:
        """The model with the weights of this file; `tokenizer` is a directory, by default the checkpoint's own."""
        parts = part_digests(file.path, checkpoint_info(file))
        directory = tokenizer or find_tokenizer(file.path, settings.tokenizer, checkpoint_info(file).tokenizer)
        if (digest := tokenizer_digest(directory)) not in self._tokenizers:
            self._tokenizers[digest] = read_tokenizer(directory, settings)
        if self.ldm is None:
            self.ldm = load_model(file, settings.model, self.placement)
        else:
            changed = {part for part in PARTS if parts[part] != self._parts.get(part)}
            self._parts = {}  # unknown, if this fails halfway
            if self.ldm.graphed_unet is not None and "unet" in changed:  # it reads the memory of the old weights
                self.ldm.graphed_unet.forget()
            assign_parts(self.ldm, file, changed, self.placement)
        vocab_size = settings.model.text_encoder.vocab_size
        self.ldm.tokenizer = knowing(self._tokenizers[digest], file.embeddings, vocab_size)
        vectors = all_vectors(file.embeddings)
        self.ldm.text_encoder.embeddings.learned = None if vectors is None else vectors.to(self.placement.device)
        self._parts = parts
        return self.ldm

    @torch.inference_mode()
    def context(self, prompt: str, reading: PromptReading = PromptReading()) -> Tensor:
        """The context (1 77 d) of a prompt from the current text encoder; encoded once per encoder and prompt.

        With prompt syntax it is as long as its chunks: (1 n d).
        """
        assert self.ldm is not None and self.ldm.tokenizer is not None, "use() comes first"
        key = (self._parts["text_encoder"], self.ldm.tokenizer.digest, prompt, reading)
        with self._lock:
            if key not in self._contexts:
                self._contexts[key] = encode_prompt(self.ldm, prompt, reading)
            return self._contexts[key]


def read_tokenizer(directory: Path, settings: Settings) -> PromptTokenizer:
    """The tokenizer of a model. Raises `UserError` if it is damaged or doesn't fit the model."""
    encoder = settings.model.text_encoder
    return fitting_tokenizer(directory, encoder.max_position_embeddings, encoder.vocab_size)


def tokenizer_knowing(directory: Path, settings: Settings, embeddings: Sequence[Embedding]) -> PromptTokenizer:
    """The tokenizer of a model with further words."""
    return knowing(read_tokenizer(directory, settings), embeddings, settings.model.text_encoder.vocab_size)


def snapped_size(config: LatentDiffusionConfig, hw: list[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels, rounded to the multiple that the networks need; warns if it is not the `hw` given."""
    if hw is not None and len(hw) > 2:
        raise UserError(f"--hw takes a height and a width, or one number for both; not {len(hw)} numbers")
    multiple = config.size_multiple
    given = (hw[0], hw[-1]) if hw else default
    size = tuple(max(multiple, round(side / multiple) * multiple) for side in given)
    if size != given:
        level = logging.INFO if hw is None else logging.WARNING
        log.log(level, "size: %d x %d instead of %d x %d: the UNet needs multiples of %d", *size, *given, multiple)
    return size[0], size[1]
