"""The names and shapes of a model's weights, for all who need to know no more of it."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import torch

from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.nn.weightless import weightless


@lru_cache(maxsize=8)
def shapes_of(config: LatentDiffusionConfig) -> Mapping[str, torch.Size]:
    """Those of `LatentDiffusion.state_dict()`. Building a model takes a while, and a command asks several times."""
    with weightless():
        model = LatentDiffusion(config)
    return MappingProxyType({name: tensor.shape for name, tensor in model.state_dict().items()})


def count_weights(config: LatentDiffusionConfig, prefix: str = "") -> int:
    """How many numbers the weights hold whose names begin so."""
    return sum(shape.numel() for name, shape in shapes_of(config).items() if name.startswith(prefix))
