"""diffusers' configurations of a model, from this project's."""

from typing import Any

from ldm.diffusion.latent_diffusion import LatentDiffusionConfig


def unet_config(config: LatentDiffusionConfig, pixels: int) -> dict[str, Any]:
    """Of `UNet2DConditionModel`; its `attention_head_dim` is the number of heads, for historical reasons."""
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
        "attention_head_dim": unet.num_heads,
        "transformer_layers_per_block": unet.transformer_depth,
        "cross_attention_dim": unet.context_dim,
    }


def vae_config(config: LatentDiffusionConfig, pixels: int) -> dict[str, Any]:
    """Of `AutoencoderKL`."""
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


def text_config(config: LatentDiffusionConfig) -> dict[str, Any]:
    """Of transformers' `CLIPTextModel`."""
    text = config.text_encoder
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "hidden_act": text.hidden_act,
        "layer_norm_eps": text.layer_norm_eps,
        "bos_token_id": text.vocab_size - 2,
        "eos_token_id": text.vocab_size - 1,
        "pad_token_id": text.vocab_size - 1,
    }


def scheduler_config(config: LatentDiffusionConfig) -> dict[str, Any]:
    """Of any of diffusers' schedulers, as Stable Diffusion v1 publishes it."""
    schedule = config.schedule
    return {
        "num_train_timesteps": schedule.num_timesteps,
        "beta_start": schedule.linear_start,
        "beta_end": schedule.linear_end,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
