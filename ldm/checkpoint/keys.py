"""The names of tensors in the official Stable Diffusion v1 checkpoint, and other programs' names."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.files import listed

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
"""Keys in official files for which the model has no weight. Other unused keys trigger a warning."""

EMA = "model_ema."
"""The prefix of averaged weights, and of their counters."""
_EMA_WORDS = re.compile(
    r"(?:input|output)_blocks|middle_block|time_embed|transformer_blocks|skip_connection|(?:in|out|emb)_layers"
    r"|to_[qkv]|to_out|proj_in|proj_out|proj|attn[12]|norm[123]?|ff|net|conv|op|out|weight|bias"
    r"|(?<=put_blocks)\d+(?=\d)|\d"
)
"""The words of a UNet's keys. Of two numbers in a row the last has one digit: the layer within a block."""

UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
INPUT_CHANNELS = {
    5: "a depth-to-image checkpoint",
    7: "an upscaler's checkpoint",
    8: "an InstructPix2Pix checkpoint",
    9: "an inpainting checkpoint",
}
"""Kinds of models by the number of their UNet's input channels."""
EDIT_INPUTS = 8
"""Input channels of a UNet that edits by instruction: noisy latents, and those of the image."""
WITH_FURTHER_INPUTS = (EDIT_INPUTS, 9)
"""Those that are Stable Diffusion v1 but for the UNet's first convolution, and can be read."""

FOREIGN = (
    (r"conditioner\.embedders\.|model\.diffusion_model\.label_emb\.", "Stable Diffusion XL"),
    (r"cond_stage_model\.model\.", "Stable Diffusion 2"),
    (r"(model\.diffusion_model\.)?double_blocks\.|transformer\.single_transformer_blocks\.", "Flux"),
    (r"(model\.diffusion_model\.)?joint_blocks\.|text_encoders\.", "Stable Diffusion 3"),
    (r"(model\.diffusion_model\.)?(clip_txt_mapper|clip_txt_pooled_mapper|effnet_mapper)\.", "Stable Cascade"),
    (r"control_model\.|controlnet_", "a ControlNet, not a whole model"),
    (
        r"down_blocks\.",
        "a UNet in diffusers' layout, a single network; name the whole directory, in which model_index.json is",
    ),
    (
        r"(encoder|decoder)\.(down_blocks|up_blocks|mid_block)\.",
        "an autoencoder (VAE) in diffusers' layout, a single network; name the whole directory, in which "
        "model_index.json is; --vae takes an autoencoder alone",
    ),
    (r"(encoder|decoder)\.(down|up|mid)\.", "an autoencoder (VAE) alone, not a whole model; --vae takes it"),
    (r"(text_model|vision_model)\.", "a CLIP encoder alone, not a whole model"),
    (r"(string_to_param|emb_params)", "a textual inversion's embedding, not a whole model"),
)
"""Beginnings of keys by which another kind of file is recognised, and the kind."""

LORA = re.compile(
    r"lora_(unet|te\d?|transformer)_.+"
    r"|.+(\.(lora_[AB]|lora_(up|down)|lokr_w\d|hada_w\d_[ab]|lora_magnitude_vector|dora_scale|alpha)"
    r"|[._]lora\.(up|down)|\.lora_linear_layer\.(up|down))\b.*"
)
"""Keys of adapters."""
SCALED = re.compile(r"(.+\.)?(scaled_fp8|scale_weight|weight_scale(_2)?|input_scale|absmax|quant_map|quant_state\..+)")
"""Scales that a quantized file's weights are multiplied with."""
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
"""The part of a file name that numbers the files of a model that was saved in several."""

SHOWN = 4
"""How many keys of each kind a message names."""


def insert_text_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inserts `text_model.` into the text encoder's keys: transformers >= 5.6 and some tools leave it out."""
    missing = re.compile(re.escape(TEXT_TRANSFORMER) + r"(?!text_model\.)")
    return {missing.sub(TEXT_TRANSFORMER + "text_model.", key, count=1): tensor for key, tensor in tensors.items()}


def without_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes `module.`, which torch's data parallelism puts before all keys."""
    parallel = all(key.startswith("module.") for key in tensors)
    return {key.removeprefix("module.") if parallel else key: tensor for key, tensor in tensors.items()}


def averaged_as_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged (EMA) UNet as the UNet, in a file that has no other."""
    if any(key.startswith(PARTS["unet"]) for key in tensors):
        return dict(tensors)
    return {official_ema_key(key) or key: tensor for key, tensor in tensors.items()}


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the official layout with the averaged (EMA) UNet instead of the other; empty if there is none."""
    found = {official: tensor for key, tensor in tensors.items() if (official := official_ema_key(key))}
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(EMA)}
    return {**rest, **found} if found else {}


def official_ema_key(key: str) -> str:
    """The official key of an averaged weight, whose name has lost its dots; empty for another one.

    `model_ema.diffusion_modelinput_blocks11norm1weight` averages `model.diffusion_model.input_blocks.1.1.norm1.weight`.
    """
    if not key.startswith(EMA + "diffusion_model"):
        return ""
    words = _EMA_WORDS.findall(run_together := key.removeprefix(EMA + "diffusion_model"))
    return PARTS["unet"] + ".".join(words) if "".join(words) == run_together else ""


def averaged_as_edit_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged (EMA) UNet as the UNet of an InstructPix2Pix file that has both: its authors sample with it."""
    first = tensors.get(UNET_INPUT)
    is_edit = first is not None and first.ndim == 4 and first.shape[1] == EDIT_INPUTS
    return {**tensors, **(averaged(tensors) if is_edit else {})}


Dialect = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Turns the tensors of a file into the official layout; tensors of other dialects keep their names and shapes."""

DIALECTS: tuple[Dialect, ...] = (without_module, insert_text_model, averaged_as_unet, averaged_as_edit_model)
"""Applied to every file, in this order. A new dialect is a function here or in a module of its own, and its name."""


def in_official_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by official name, in their order."""
    for dialect in DIALECTS:
        tensors = dialect(tensors)
    return dict(tensors)


@dataclass
class KeyReport:
    """How the tensors of a file differ from those the model needs, by official name."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Tensors that the model doesn't use: harmless, unless others are missing."""
    wrong_shape: list[str] = field(default_factory=list)
    kind: str = ""
    """What the file is instead, if known."""

    def raise_if_any(self, path: Path) -> None:
        """Raises `UserError` if a tensor is missing or of another shape: with examples, and what the file may be."""
        if not (self.missing or self.wrong_shape):
            return
        lines = [f"{path} does not hold the weights of this model"]
        if shard := SHARD.search(path.name):
            lines.append(f"  by its name it is part {int(shard[1])} of {int(shard[2])}; save the model as one file")
        elif self.kind:
            lines.append(f"  it looks like {self.kind}")
        for title, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ):
            if keys:
                lines.append(f"  {len(keys)} {title}: {first_of(keys)}")
        raise UserError("\n".join(lines))


def first_of(keys: Sequence[str]) -> str:
    """The first few keys, and how many more there are."""
    return listed([key if len(key) <= 200 else f"{key[:200]}..." for key in keys], SHOWN)


def compare_keys(needed: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> KeyReport:
    """Compares names and shapes; ignores `TOLERATED` keys."""
    return KeyReport(
        missing=[key for key in needed if key not in found],
        unexpected=[key for key in found if key not in needed and not TOLERATED.fullmatch(key)],
        wrong_shape=[
            f"{key} {tuple(found[key])} instead of {tuple(shape)}"
            for key, shape in needed.items()
            if key in found and found[key] != shape
        ],
        kind=foreign_kind(found, needed) or _without_autoencoder(found, needed),
    )


def _without_autoencoder(found: Mapping[str, torch.Size], needed: Mapping[str, torch.Size]) -> str:
    """What a file is that holds a UNet and nothing of an autoencoder, which is published apart at times."""
    unet, autoencoder = PARTS["unet"], PARTS["autoencoder"]
    lacking = not any(key.startswith(autoencoder) for key in found) and any(key.startswith(unet) for key in found)
    whole = any(key.startswith(unet) for key in needed) and any(key.startswith(autoencoder) for key in needed)
    return (
        "a model without its autoencoder (VAE): --vae of txt2img.py and convert.py adds one"
        if lacking and whole
        else ""
    )


def foreign_kind(found: Mapping[str, torch.Size], needed: Mapping[str, torch.Size] | None = None) -> str:
    """What a file with these tensors is, if it is recognisably not Stable Diffusion v1; else empty."""
    needed = needed or {}
    rest = [key for key in found if key not in needed]
    if rest and all(LORA.fullmatch(key) for key in found):
        return "a LoRA, not a whole model"
    for pattern, kind in FOREIGN:
        if any(re.match(pattern, key) for key in rest):
            return kind
    shape = found.get(UNET_INPUT, torch.Size())
    if len(shape) == 4 and UNET_INPUT in needed and shape[1] != needed[UNET_INPUT][1]:
        what = INPUT_CHANNELS.get(shape[1], "a model for another task")
        return f"{what}: its UNet takes {shape[1]} input channels, not {needed[UNET_INPUT][1]}"
    return ""
