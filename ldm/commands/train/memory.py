"""What a step of a training from scratch takes, so that one that fits into no memory is refused before it begins."""

import torch

from ldm.checkpoint.keys import PARTS
from ldm.commands.enough_memory import memory_of, network_need
from ldm.diffusion.latent_diffusion import count_weights
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderKL
from ldm.nn.memory import peak_bytes
from ldm.nn.unet import UNet
from ldm.runtime.models import Settings


def refuse_too_large_training(
    settings: Settings, stage: str, size: int, batch_size: int, devices: list[torch.device]
) -> None:
    """Raises `UserError` if a step of the stage, on images of `size` pixels a side, doesn't fit into the memory."""
    limit = memory_of(devices[0], len(devices) if devices[0].type == "cpu" else 1)
    if limit is None:
        return
    model, autoencoder, unet = settings.model, settings.model.autoencoder, settings.model.unet
    weights = count_weights(model, PARTS["autoencoder" if stage == "autoencoder" else "unet"])

    def autoencoder_step() -> None:
        network = AutoencoderKL(autoencoder)
        network.decode(network.encode(torch.zeros(batch_size, 3, size, size)).mean).sum().backward()

    def diffusion_step() -> None:
        latents = torch.zeros(batch_size, *model.latent_shape(size, size))
        context = torch.zeros(batch_size, model.text_encoder.max_position_embeddings, unet.context_dim)
        UNet(unet)(latents, torch.zeros(batch_size), context).sum().backward()

    if stage == "autoencoder":
        need = network_need(autoencoder, batch_size * size**2, weights, lambda: peak_bytes(autoencoder_step))
    else:
        latents = (size // autoencoder.downsampling_factor) ** 2
        need = network_need(unet, batch_size * latents, weights, lambda: peak_bytes(diffusion_step))
    if needed := need.more_than(limit):
        raise UserError(
            f"{batch_size} images of {size} x {size} a step would take {human_size(needed)} of memory, "
            f"and {human_size(limit)} are available. A smaller --batch-size, or {stage}_training.size in the YAML, "
            "needs less"
        )
