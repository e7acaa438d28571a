"""Layers with a low-rank adapter: y = W x + scale * up(down(x)), of which only `down` and `up` are trained.

"LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1. Of a convolution, `down` has its
kernel and `up` is a 1x1 convolution (LoCon).
"""

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapted(nn.Module):
    """What both kinds of layers share."""

    weight: Tensor
    lora_down: nn.Parameter
    """(rank in) or (rank in k k), float32."""
    lora_up: nn.Parameter
    """(out rank) or (out rank 1 1), float32."""
    lora_scale: float
    """alpha / rank."""
    lora_kept: Tensor
    """(rank), the factor of each rank in this step: 1 without dropout."""

    def attach(self, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Adds an adapter that changes nothing yet: `down` is random as a new layer's weights, `up` zero."""
        out, *inside = self.weight.shape
        device = self.weight.device
        bound = self.weight[0].numel() ** -0.5
        down = (torch.rand(rank, *inside, generator=generator) * 2 - 1) * bound
        self.lora_down = nn.Parameter(down.to(device))
        self.lora_up = nn.Parameter(torch.zeros(out, rank, *[1] * (len(inside) - 1), device=device))
        self.lora_scale = alpha / rank
        self.register_buffer("lora_kept", torch.ones(rank, device=device), persistent=False)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """What the adapter adds to the weight, float32."""
        change = self.lora_scale * (self.lora_up.flatten(1) @ self.lora_down.flatten(1))
        return change.reshape(self.weight.shape)


class AdaptedLinear(Adapted, nn.Linear):
    """A linear layer with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.lora_down) * self.lora_kept
        return F.linear(x, self.weight, self.bias) + self.lora_scale * F.linear(inner, self.lora_up)


class AdaptedConv2d(Adapted, nn.Conv2d):
    """A convolution with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self._conv_forward(x, self.lora_down, None) * self.lora_kept[:, None, None]
        return self._conv_forward(x, self.weight, self.bias) + self.lora_scale * F.conv2d(inner, self.lora_up)


def adapt(network: nn.Module, pattern: str, rank: int, alpha: float, generator: torch.Generator) -> list[Adapted]:
    """Gives an adapter to all linear and convolutional layers of a network whose whole name matches a pattern.

    The layers stay the same objects: their weights keep their names.
    """
    adapted: list[Adapted] = []
    for name, module in network.named_modules():
        if re.fullmatch(pattern, name) and type(module) in (nn.Linear, nn.Conv2d):
            module.__class__ = AdaptedLinear if type(module) is nn.Linear else AdaptedConv2d
            assert isinstance(module, Adapted)
            module.attach(rank, alpha, generator)
            adapted.append(module)
    return adapted


def adapted_layers(network: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """The layers that have an adapter, with their names."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, Adapted))


def drop_ranks(layers: list[Adapted], share: float, generator: torch.Generator) -> None:
    """Leaves out a random share of the ranks of each layer until the next call; the others make up for it."""
    for layer in layers:
        kept = torch.rand(len(layer.lora_kept), generator=generator) >= share
        layer.lora_kept.copy_(kept / (1 - share))


def keep_ranks(layers: list[Adapted]) -> None:
    """Ends `drop_ranks`."""
    for layer in layers:
        layer.lora_kept.fill_(1.0)


def store_layers_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the weights of linear and convolutional layers by copies of a type in which autocast computes anyway."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for name in ("weight", "bias"):
                if (weight := getattr(module, name)) is not None:
                    setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
