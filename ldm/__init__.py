"""Latent diffusion from scratch: networks, samplers, checkpoints and DreamBooth fine-tuning for Stable Diffusion v1."""

__version__ = "0.1.0"
