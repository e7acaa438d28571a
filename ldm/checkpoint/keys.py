"""The names of tensors in the official Stable Diffusion v1 checkpoint, and what may differ from them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ldm.errors import UserError

PARTS = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
}
"""Each part of the model and the prefix of its keys."""

TEXT_TRANSFORMER = "cond_stage_model.transformer."
POSITION_IDS = TEXT_TRANSFORMER + "text_model.embeddings.position_ids"

TOLERATED = re.compile(
    r"model_ema\..+"  # a second, averaged UNet in the "full" files, and its counters in the pruned ones
    r"|betas|alphas_cumprod|alphas_cumprod_prev"  # the noise schedule, which the config gives
    r"|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod"
    r"|posterior_variance|posterior_log_variance_clipped|posterior_mean_coef1|posterior_mean_coef2"
    r"|" + re.escape(POSITION_IDS)  # 0, 1, ..., 76
)
"""Keys that a file may hold although the model has no weight of that name. Every other unexpected key is an error."""

FOREIGN = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "down_blocks.": "a single network in diffusers' layout; save the whole pipeline in the original layout",
    "lora_unet_": "a LoRA, not a whole model",
    "lora_te_": "a LoRA, not a whole model",
}
"""Beginnings of keys that give another kind of file away."""


def official_key(key: str) -> str:
    """The official name of a text encoder's key: transformers >= 5.6 and some tools leave `text_model.` out."""
    rest = key.removeprefix(TEXT_TRANSFORMER)
    if rest == key or rest.startswith("text_model."):
        return key
    return f"{TEXT_TRANSFORMER}text_model.{rest}"


@dataclass
class KeyReport:
    """How the tensors of a file differ from those the model needs, by official name."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)

    def raise_if_any(self, path: Path) -> None:
        """Raises `UserError` that lists the first of each kind and says what the file may be instead."""
        if not (self.missing or self.unexpected or self.wrong_shape):
            return
        lines = [f"{path} does not hold the weights of this model"]
        for prefix, kind in FOREIGN.items():
            if any(key.startswith(prefix) for key in self.unexpected):
                lines.append(f"  it looks like {kind}")
                break
        for title, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ):
            if keys:
                more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
                lines.append(f"  {len(keys)} {title}: {', '.join(keys[:4])}{more}")
        raise UserError("\n".join(lines))


def compare_keys(needed: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> KeyReport:
    """Compares official names and shapes; `TOLERATED` keys are passed over."""
    return KeyReport(
        missing=[key for key in needed if key not in found],
        unexpected=[key for key in found if key not in needed and not TOLERATED.fullmatch(key)],
        wrong_shape=[
            f"{key} {tuple(found[key])} instead of {tuple(shape)}"
            for key, shape in needed.items()
            if key in found and found[key] != shape
        ],
    )
