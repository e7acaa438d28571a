"""Layers with a low-rank adapter: y = W x + scale * up(down(x)), of which only `down` and `up` are trained.

"LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1. Of a convolution, `down` has its
kernel and `up` is a 1x1 convolution (LoCon). "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353), eq. 5:
the sum of both weights is divided by the length of each output's weights, and multiplied by a trained length.
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
    lora_magnitude: nn.Parameter | None
    """DoRA's length of each output's weights (out), float32; None without."""

    def attach(self, rank: int, alpha: float, generator: torch.Generator, dora: bool = False) -> None:
        """Adds an adapter that changes nothing yet: `down` is random as a new layer's weights, `up` zero.

        `dora`: with a magnitude, at first the lengths that the weights have.
        """
        out, *inside = self.weight.shape
        device = self.weight.device
        bound = self.weight[0].numel() ** -0.5
        down = (torch.rand(rank, *inside, generator=generator) * 2 - 1) * bound
        self.lora_down = nn.Parameter(down.to(device))
        self.lora_up = nn.Parameter(torch.zeros(out, rank, *[1] * (len(inside) - 1), device=device))
        self.lora_scale = alpha / rank
        self.register_buffer("lora_kept", torch.ones(rank, device=device), persistent=False)
        lengths = self.weight.detach().float().flatten(1).norm(dim=1)
        self.register_parameter("lora_magnitude", nn.Parameter(lengths) if dora else None)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """What the adapter adds to the weight, float32."""
        if self.lora_magnitude is None:
            return self._low_rank()
        factors = (self.lora_magnitude / self._lengths()).reshape(-1, *[1] * (self.weight.ndim - 1))
        return factors * (self.weight.float() + self._low_rank()) - self.weight.float()

    def _low_rank(self) -> Tensor:
        change = self.lora_scale * (self.lora_up.flatten(1) @ self.lora_down.flatten(1))
        return change.reshape(self.weight.shape)

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """The length of each output's weights with the adapter's (out), float32: a constant (DoRA, section 4.3)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return (self.weight.float() + self._low_rank()).flatten(1).norm(dim=1)

    def _decomposed(self, direction: Tensor, bias: Tensor | None, channels: int) -> Tensor:
        """DoRA's output of the outputs without a bias; `channels`: their dimension."""
        assert self.lora_magnitude is not None
        shape = [-1 if dim == channels else 1 for dim in range(direction.ndim)]
        out = direction * (self.lora_magnitude / self._lengths()).to(direction.dtype).reshape(shape)
        return out if bias is None else out + bias.to(direction.dtype).reshape(shape)


class AdaptedLinear(Adapted, nn.Linear):
    """A linear layer with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.lora_down) * self.lora_kept
        if self.lora_magnitude is not None:
            direction = F.linear(x, self.weight) + self.lora_scale * F.linear(inner, self.lora_up)
            return self._decomposed(direction, self.bias, x.ndim - 1)
        return F.linear(x, self.weight, self.bias) + self.lora_scale * F.linear(inner, self.lora_up)


class AdaptedConv2d(Adapted, nn.Conv2d):
    """A convolution with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self._conv_forward(x, self.lora_down, None) * self.lora_kept[:, None, None]
        if self.lora_magnitude is not None:
            plain = self._conv_forward(x, self.weight, None)
            return self._decomposed(plain + self.lora_scale * F.conv2d(inner, self.lora_up), self.bias, 1)
        return self._conv_forward(x, self.weight, self.bias) + self.lora_scale * F.conv2d(inner, self.lora_up)


def adapt(
    network: nn.Module, pattern: str, rank: int, alpha: float, generator: torch.Generator, dora: bool = False
) -> list[Adapted]:
    """Gives an adapter to all linear and convolutional layers of a network whose whole name matches a pattern.

    The layers stay the same objects: their weights keep their names. `dora`: each with a magnitude.
    """
    adapted: list[Adapted] = []
    for name, module in network.named_modules():
        if re.fullmatch(pattern, name) and type(module) in (nn.Linear, nn.Conv2d):
            module.__class__ = AdaptedLinear if type(module) is nn.Linear else AdaptedConv2d
            assert isinstance(module, Adapted)
            module.attach(rank, alpha, generator, dora)
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
