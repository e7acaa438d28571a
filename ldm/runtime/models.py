"""Which weights a command uses, the settings that belong to them, and one model that changes its weights in place."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ldm.bounds import MOST_TOGETHER, check_range
from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import Placement, assign_parts, checkpoint_info, load_model
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import SUFFIXES, CheckpointFile
from ldm.config import build_config, read_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.evaluation.config import EvaluationConfig
from ldm.files import ROOT
from ldm.nn.tokenizer import PromptTokenizer, tokenizer_digest
from ldm.prompts import raise_for_prompts
from ldm.runtime.tokenizers import find_tokenizer, fitting_tokenizer, is_confined
from ldm.training.config import (
    AutoencoderTrainingConfig,
    DiffusionTrainingConfig,
    DreamBoothConfig,
    JudgeTrainingConfig,
)

log = logging.getLogger(__name__)

DOWNLOADED = ROOT / "weights" / "sd-v1"
EMBEDDED = ROOT / "ldm" / "assets" / "tiny.safetensors"
DEFAULT_CONFIG = ROOT / "configs" / "sd-v1.yaml"


@dataclass(frozen=True)
class SamplingDefaults(SamplingConfig):
    """How a model draws best, what it draws if nothing is asked for, and how many images at a time."""

    prompt: str = ""
    batch_size: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
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
    judge_training: JudgeTrainingConfig = field(default_factory=JudgeTrainingConfig)

    EARLIER: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "tokenizer": {"weights/sd-v1/tokenizer": "ldm/assets/clip-tokenizer"}
    }
    """Values in the YAML of older checkpoints and runs, and what they are now."""

    def __post_init__(self) -> None:
        timesteps = self.model.schedule.num_timesteps
        if self.sampling.num_steps > timesteps:
            raise ValueError(
                f"sampling.num_steps should be at most model.schedule.num_timesteps, {timesteps}, "
                f"not {self.sampling.num_steps}"
            )


def base_weights(ckpt_path: Path | None) -> Path:
    """`--ckpt-path`, else the downloaded weights, else the embedded tiny model; which and why is said."""
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
    """The YAML that belongs to a checkpoint, as it is and typed: `--config`, else the file's own, else SD v1's.

    A path of the file's own that leads out of the repository is left empty: nothing is read there.
    """
    own = checkpoint_info(file).config
    if config_path is None and own:
        settings = build_config(Settings, own, f"{file.path}: metadata")
        return own, settings if is_confined(settings.tokenizer) else replace(settings, tokenizer="")
    path = config_path or DEFAULT_CONFIG
    values = read_yaml(path)
    return values, build_config(Settings, values, str(path))


def recorded_settings(record: Path) -> tuple[dict[str, Any], Settings]:
    """The YAML that a run began with, as its record holds it and typed."""
    if not isinstance(values := read_yaml(record).get("config"), dict):
        raise UserError(f"{record} is damaged: it has no `config`")
    return values, build_config(Settings, values, str(record))


def part_digests(path: Path, info: CheckpointInfo) -> dict[str, str]:
    """What tells each part's weights from others: their SHA-256, or where the file names none, the file itself."""
    stat = path.stat()
    whole = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return {part: info.parts.get(part) or f"{part} of {whole}" for part in PARTS}


class ModelSlot:
    """Holds one model in memory; another checkpoint of the same shape replaces only the parts that differ."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.ldm: LatentDiffusion | None = None
        self._parts: dict[str, str] = {}
        self._tokenizers: dict[str, PromptTokenizer] = {}
        self._contexts: dict[tuple[str, str, str], Tensor] = {}
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
            self._parts = {}  # half changed, if this goes wrong
            if self.ldm.graphed_unet is not None and "unet" in changed:  # it reads the memory of those that were there
                self.ldm.graphed_unet.forget()
            assign_parts(self.ldm, file, changed, self.placement)
        self.ldm.tokenizer = self._tokenizers[digest]
        self._parts = parts
        return self.ldm

    @torch.inference_mode()
    def context(self, prompt: str) -> Tensor:
        """The context (1 77 d) of a prompt by the current text encoder; each encodes a prompt once."""
        assert self.ldm is not None and self.ldm.tokenizer is not None, "use() comes first"
        key = (self._parts["text_encoder"], self.ldm.tokenizer.digest, prompt)
        with self._lock:
            if key not in self._contexts:
                self._contexts[key] = self.ldm.encode_prompts([prompt])
            return self._contexts[key]


def read_tokenizer(directory: Path, settings: Settings) -> PromptTokenizer:
    """The tokenizer of a model. Raises `UserError` if it is damaged, or doesn't fit the model."""
    encoder = settings.model.text_encoder
    return fitting_tokenizer(directory, encoder.max_position_embeddings, encoder.vocab_size)


def snapped_size(config: LatentDiffusionConfig, hw: list[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels as the networks take them: rounded to their multiple, with a note if that changes."""
    if hw is not None and len(hw) > 2:
        raise UserError(f"--hw takes a height and a width, or one number for both; not {len(hw)} numbers")
    multiple = config.size_multiple
    wanted = (hw[0], hw[-1]) if hw else default
    size = tuple(max(multiple, round(side / multiple) * multiple) for side in wanted)
    if size != wanted:
        log.info("size: %d x %d instead of %d x %d: the UNet needs multiples of %d", *size, *wanted, multiple)
    return size[0], size[1]
