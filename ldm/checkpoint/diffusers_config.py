"""The JSON files of a diffusers directory, and the shape of the model that they describe.

Every setting that would change what the networks compute is either part of our configuration or must have the value
that our networks are built for: another one is refused with its name.
"""

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.checkpoint.keys import INPUT_CHANNELS, WITH_FURTHER_INPUTS
from ldm.config import build_config
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError
from ldm.user_files import DIFFUSERS_INDEX, read_text

MOST_BYTES = 1_000_000

FAMILIES = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "Flux",
    "StableCascade": "Stable Cascade",
    "Wuerstchen": "Würstchen",
}
"""How the names of other models' pipelines begin, and the models."""

_UNET_DEFAULTS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "norm_num_groups": 32,
    "sample_size": None,
}
"""The settings of a UNet that its shape follows from, with diffusers' defaults."""
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "attention_type": ("default",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
}
_UNET_FREE = ("dropout", "upcast_attention", "addition_embed_type_num_heads")

_AUTOENCODER_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "down_block_types": None,
    "up_block_types": None,
}
_AUTOENCODER_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "mid_block_add_attention": (True,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
}
_AUTOENCODER_FREE = ("sample_size", "force_upcast")

_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""All other settings of a text encoder, such as the ids of its special tokens, don't change the context."""
_SCHEDULE_DEFAULTS: dict[str, Any] = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}


def raise_unless_v1(directory: Path) -> None:
    """Raises `UserError` if a diffusers directory holds another model's pipeline, with the model's name."""
    name = str(read_json(directory / DIFFUSERS_INDEX).get("_class_name", ""))
    family = next((model for start, model in FAMILIES.items() if name.startswith(start)), "")
    if family or not name.startswith("StableDiffusion"):
        what = f"{family} ({name[:60]})" if family else f"a pipeline of the class {name[:60] or 'unknown'}"
        raise UserError(f"{directory} holds {what}; this project reads Stable Diffusion v1")


def described_model(directory: Path) -> dict[str, Any]:
    """The part of a model's YAML that the JSON files of a diffusers directory describe: `model`, and its image size.

    Raises `UserError` if they describe a model that can't be built here, with the setting.
    """
    raise_unless_v1(directory)
    unet_path = directory / "unet" / "config.json"
    unet = read_json(unet_path)
    if unet.get("addition_embed_type") or unet.get("cross_attention_dim") == 2048:
        raise UserError(f"{unet_path} describes Stable Diffusion XL; this project reads Stable Diffusion v1")
    if unet.get("use_linear_projection") or unet.get("cross_attention_dim") == 1024:
        raise UserError(f"{unet_path} describes Stable Diffusion 2; this project reads Stable Diffusion v1")
    unet = _settings(unet_path, _UNET_DEFAULTS, _UNET_FIXED, _UNET_FREE)
    vae_path = directory / "vae" / "config.json"
    model = {"unet": _unet(unet, unet_path), "schedule": _schedule(directory / "scheduler" / "scheduler_config.json")}
    if vae_path.exists():
        model |= described_autoencoder(vae_path)
    text = {**_TEXT_DEFAULTS, **read_json(directory / "text_encoder" / "config.json")}
    model["text_encoder"] = {name: text[name] for name in _TEXT_DEFAULTS}
    config = build_config(LatentDiffusionConfig, model, f"{directory}: its config.json files")
    values: dict[str, Any] = {"model": model}
    if isinstance(size := unet["sample_size"], int):
        side = size * config.autoencoder.downsampling_factor
        values["sampling"] = {"height": side, "width": side}
    return values


def described_autoencoder(path: Path) -> dict[str, Any]:
    """`autoencoder` and `scale_factor` of a model's YAML, from the `config.json` of an autoencoder."""
    values = _settings(path, _AUTOENCODER_DEFAULTS, _AUTOENCODER_FIXED, _AUTOENCODER_FREE)
    for name, expected in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if values[name] is not None and any(one != expected for one in _list(path, name, values)):
            raise _unsupported(path, name, values[name], expected)
    widths = _widths(path, values["block_out_channels"])
    shape = {
        "in_channels": values["in_channels"],
        "out_ch": values["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": values["layers_per_block"],
        "z_channels": values["latent_channels"],
        "embed_dim": values["latent_channels"],
        "num_groups": values["norm_num_groups"],
    }
    return {"autoencoder": shape, "scale_factor": values["scaling_factor"]}


def _unet(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    widths = _widths(path, values["block_out_channels"])
    attentive = [name == "CrossAttnDownBlock2D" for name in _list(path, "down_block_types", values)]
    down = ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attentive]
    up = ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attentive)]
    for name, expected in (("down_block_types", down), ("up_block_types", up)):
        if values[name] != expected or len(expected) != len(widths):
            raise _unsupported(path, name, values[name], expected)
    if (channels := values["in_channels"]) in INPUT_CHANNELS and channels not in WITH_FURTHER_INPUTS:
        raise UserError(f"{path} describes {INPUT_CHANNELS[channels]}: its UNet takes {channels} input channels, not 4")
    return {
        "in_channels": values["in_channels"],
        "out_channels": values["out_channels"],
        "model_channels": widths[0],
        "attention_resolutions": [2**level for level in reversed(range(len(widths))) if attentive[level]],
        "num_res_blocks": values["layers_per_block"],
        "channel_mult": [width // widths[0] for width in widths],
        "num_heads": _single(path, "attention_head_dim", values),  # the number of heads, in spite of its name
        "transformer_depth": _single(path, "transformer_layers_per_block", values),
        "context_dim": values["cross_attention_dim"],
        "num_groups": values["norm_num_groups"],
    }


def _schedule(path: Path) -> dict[str, Any]:
    values = {**_SCHEDULE_DEFAULTS, **(read_json(path) if path.exists() else {})}
    for name, expected in (
        ("prediction_type", "epsilon"),
        ("beta_schedule", "scaled_linear"),
        ("trained_betas", None),
        ("rescale_betas_zero_snr", False),
    ):
        if values.get(name, expected) != expected:
            raise _unsupported(path, name, values[name], expected)
    return {
        "num_timesteps": values["num_train_timesteps"],
        "linear_start": values["beta_start"],
        "linear_end": values["beta_end"],
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that may be anyone's. Raises `UserError`."""
    try:
        values = json.loads(read_text(path, MOST_BYTES))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: fetch the directory again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold settings, not {reprlib.repr(values)}")
    return values


def _settings(
    path: Path, defaults: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], free: Sequence[str]
) -> dict[str, Any]:
    """The settings that `defaults` names. Raises `UserError` for another one that is set to something unknown here."""
    values = read_json(path)
    for name, value in values.items():
        if name in fixed:
            if value not in fixed[name]:
                raise _unsupported(path, name, value, fixed[name][0])
        elif value and name not in defaults and name not in free and not name.startswith("_"):
            raise UserError(f"{path}: {name} = {reprlib.repr(value)} is a setting that this project's networks lack")
    return {name: values.get(name, default) for name, default in defaults.items()}


def _unsupported(path: Path, name: str, value: object, expected: object) -> UserError:
    return UserError(f"{path}: {name} should be {expected!r}, not {reprlib.repr(value)}")


def _list(path: Path, name: str, values: Mapping[str, Any]) -> list[Any]:
    if not isinstance(value := values[name], list) or not 0 < len(value) <= 16:
        raise UserError(f"{path}: {name} should be a list, not {reprlib.repr(value)}")
    return value


def _widths(path: Path, value: object) -> list[int]:
    """The channels of each level: multiples of the first level's."""
    widths = _list(path, "block_out_channels", {"block_out_channels": value})
    if not all(type(width) is int and width > 0 for width in widths) or any(width % widths[0] for width in widths):
        raise UserError(f"{path}: block_out_channels should be multiples of the first, not {reprlib.repr(value)}")
    return widths


def _single(path: Path, name: str, values: Mapping[str, Any]) -> object:
    """A setting that diffusers allows to differ between levels."""
    value = values[name]
    each = value if isinstance(value, list) and value else [value]
    if any(one != each[0] for one in each):
        raise UserError(f"{path}: {name} should be the same in all levels, not {reprlib.repr(value)}")
    return each[0]
