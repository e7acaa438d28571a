"""Writes a diffusers directory: `from_pretrained` opens it, and samples what this project samples with DDIM."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoint.diffusers_names import FOLDERS, diffusers_names, from_official
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.disk import write_error
from ldm.files import atomic_directory, openable
from ldm.user_files import DIFFUSERS_INDEX

_INDEX = {
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_PIPELINES = {8: "StableDiffusionInstructPix2PixPipeline", 9: "StableDiffusionInpaintPipeline"}
"""By the number of the UNet's input channels, where it is not 4."""
_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


def write_diffusers_directory(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: LatentDiffusionConfig,
    *,
    pixels: int,
    tokenizer: Mapping[str, bytes],
    metadata: Mapping[str, str],
    variant: str = "",
) -> None:
    """Writes contiguous tensors under official names as a diffusers directory, atomically.

    `pixels`: the side of an image by default. `tokenizer`: the content of each of its files. `metadata` go into the
    UNet's file. `variant`, such as fp16, goes into the names of the files of weights. Raises `UserError` if it can't be
    written, or if `path` exists.
    """
    named = from_official(tensors, diffusers_names(config))
    with atomic_directory(path) as directory:
        for name, values in _settings(config, pixels).items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        for name, content in tokenizer.items():
            (directory / "tokenizer" / name).write_bytes(content)
        for part, folder in FOLDERS.items():
            stem = "model" if folder == "text_encoder" else "diffusion_pytorch_model"
            file = f"{stem}{f'.{variant}' if variant else ''}.safetensors"
            own = {key.partition("/")[2]: tensor for key, tensor in named.items() if key.startswith(f"{folder}/")}
            _write(path, directory / folder / file, own, {"format": "pt", **(metadata if part == "unet" else {})})


def _write(path: Path, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        with openable(file.parent) as folder:
            save_file(tensors, folder / file.name, metadata=metadata)
    except SafetensorError as error:  # such as a full disk
        raise write_error(path, error, sum(tensor.nbytes for tensor in tensors.values())) from error


def _settings(config: LatentDiffusionConfig, pixels: int) -> dict[str, dict[str, Any]]:
    """The JSON files by name."""
    schedule, last = config.schedule, config.text_encoder.vocab_size - 1
    return {
        DIFFUSERS_INDEX: {
            "_class_name": _PIPELINES.get(config.unet.in_channels, "StableDiffusionPipeline"),
            **_INDEX,
        },
        "unet/config.json": {"_class_name": "UNet2DConditionModel", **unet_config(config, pixels)},
        "vae/config.json": {"_class_name": "AutoencoderKL", **vae_config(config, pixels)},
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            **vars(config.text_encoder),
            "bos_token_id": last - 1,
            "eos_token_id": last,
            "pad_token_id": last,
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": schedule.num_timesteps,
            "beta_start": schedule.linear_start,
            "beta_end": schedule.linear_end,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        },
        "tokenizer/tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": config.text_encoder.max_position_embeddings,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
            **_TOKENS,
        },
        "tokenizer/special_tokens_map.json": _TOKENS,
    }


def unet_config(config: LatentDiffusionConfig, pixels: int) -> dict[str, Any]:
    """Of diffusers' `UNet2DConditionModel`; `pixels`: the side of an image."""
    unet = config.unet
    attentive = [2**level in unet.attention_resolutions for level in range(len(unet.channel_mult))]
    return {
        "sample_size": pixels // config.autoencoder.downsampling_factor,
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attentive],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attentive)],
        "block_out_channels": [mult * unet.model_channels for mult in unet.channel_mult],
        "layers_per_block": unet.num_res_blocks,
        "norm_num_groups": unet.num_groups,
        "attention_head_dim": unet.num_heads,  # the number of heads, in spite of its name
        "transformer_layers_per_block": unet.transformer_depth,
        "cross_attention_dim": unet.context_dim,
    }


def vae_config(config: LatentDiffusionConfig, pixels: int) -> dict[str, Any]:
    """Of diffusers' `AutoencoderKL`."""
    autoencoder = config.autoencoder
    levels = len(autoencoder.ch_mult)
    return {
        "sample_size": pixels,
        "in_channels": autoencoder.in_channels,
        "out_channels": autoencoder.out_ch,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [mult * autoencoder.ch for mult in autoencoder.ch_mult],
        "layers_per_block": autoencoder.num_res_blocks,
        "latent_channels": autoencoder.z_channels,
        "norm_num_groups": autoencoder.num_groups,
        "scaling_factor": config.scale_factor,
    }
