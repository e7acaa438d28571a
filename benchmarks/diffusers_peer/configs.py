"""diffusers' configurations of a model, from this project's, besides those that `convert.py` writes."""

from typing import Any

from ldm.diffusion.latent_diffusion import LatentDiffusionConfig


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
