"""Prior preservation by a penalty on the distance of the weights to the base model's, without images of the class.

The penalty |w - w_base|^2 is that of L2-SP ("Explicit Inductive Bias for Transfer Learning with Convolutional
Networks", arXiv 1802.01483, eq. 2). It is decoupled from the gradient, as weight decay is in AdamW (arXiv 1711.05101):
optimizers that divide by the gradient's size would divide the penalty too. So each update takes back a share of the
distance, w <- w - share (w - w_base), and the distance is that of the last 1 / share updates at most.

The base model's weights stay in its file, which is mapped. They are copied to the device one range of numbers at a
time, and only before every `EVERY`-th update, which then takes back the share of that many updates at once. Adapters
are the distance themselves: the base weights are not read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.diffusion.noise import derived_seed
from ldm.nn.lora import Adapted
from ldm.training.weightwise import row_ranges

EVERY = 10
"""Updates between two pulls: reading the base weights costs as much as the forward pass of a fast GPU."""
PULL = 0xB45E
"""Tells the generators of rounding from those of the updates."""


def base_targets(named: Mapping[str, nn.Parameter], base: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """The base model's value of each trained weight, mapped from its file: parameters and tensors by official name."""
    return {weight: base[name] for name, weight in named.items() if weight.requires_grad}


def adapter_targets(adapters: list[Adapted]) -> dict[nn.Parameter, Tensor]:
    """Zero for one factor of each adapter: its product shrinks by the same share."""
    return {one.lora_up: torch.zeros((), device=one.lora_up.device).expand(one.lora_up.shape) for one in adapters}


class BasePull:
    """Takes back a share of the way from `targets`, per update and at the full learning rate; in `seed`'s rounding."""

    def __init__(self, targets: dict[nn.Parameter, Tensor], share: float, seed: int) -> None:
        self.targets = targets
        self.share = share
        self.seed = seed

    def is_due(self, step: int) -> bool:
        """Whether the weights are pulled after so many updates."""
        return step > 0 and step % EVERY == 0

    @torch.no_grad()
    def pull(self, optimizer: Optimizer, step: int) -> None:
        """Pulls the weights; a function of them, the optimizer's state, the seed and the step."""
        seed = derived_seed(self.seed, PULL, step)
        pull = getattr(optimizer, "pull", None)
        if pull is not None:
            pull(self.targets, self.share_of, seed)
            return
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if (target := self.targets.get(weight)) is not None:
                    _pull_rows(weight, target, self.share_of(group))

    def share_of(self, group: dict[str, Any]) -> float:
        """The share for a group of weights: it follows the schedule of their learning rate."""
        initial = group.get("initial_lr", group["lr"])
        factor = group["lr"] / initial if initial else 1.0
        return 1.0 - float(1.0 - min(1.0, self.share * factor)) ** EVERY


def _pull_rows(weight: nn.Parameter, target: Tensor, share: float) -> None:
    """Moves a float32 weight by a share of its distance, a range of rows at a time."""
    rows = weight.detach().unsqueeze(0) if weight.dim() < 2 else weight.detach()
    aims = target.unsqueeze(0) if weight.dim() < 2 else target
    for some in row_ranges(rows.shape[0], rows[0].numel()):
        rows[some].lerp_(aims[some].to(rows.device, rows.dtype), share)
