"""What all trainings share: the weights that move, their optimizer, and a resume state of these alone."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.diffusion.latent_diffusion import DECODED_PIXELS
from ldm.errors import UserError
from ldm.nn.graphed import Capture
from ldm.nn.memory import free_memory
from ldm.training.adamw_8bit import AdamW8bit
from ldm.training.config import OptimizationConfig
from ldm.training.ema import WeightAverage
from ldm.training.graphed_step import GraphedStep

ROOM, ROOM_PER_PIXEL = 2 * 2**30, 16 * 2**10
"""Bytes that drawing takes at most, generously: for networks that were away and the libraries' workspaces, and for each
pixel, of which Stable Diffusion's decoder holds 3 KiB in float32."""


def lr_factor(step: int, schedule: str, warmup_steps: int, iterations: int) -> float:
    """What the learning rate of update `step` (from 0) is multiplied with: linear warm-up, then the schedule."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, iterations - warmup_steps)
    match schedule:
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "cooldown":
            return min(1.0, 4.0 * (1.0 - progress))
    return 1.0


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the weights by such of another type. Other than `Module.to` it also takes fake tensors."""
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.dtype != dtype:
                setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad))


class TrainingModule(pl.LightningModule):
    """A training of some networks. Weights that don't require a gradient are fixed and not part of the resume state."""

    gradient_patience = 1
    """The step by which all trained parts should have got a gradient."""
    can_be_graphed = False
    """Whether every step does the same with batches of the same shapes, tensors only: see `graph_steps`."""

    def __init__(self, config: OptimizationConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self._graphed_step: GraphedStep | None = None

    def trained_parts(self) -> dict[str, nn.Module]:
        """The networks whose weights move, by a name for people."""
        raise NotImplementedError

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """A batch's losses by name, scalars for the log; `total` is what is minimised."""
        raise NotImplementedError

    def graph_steps(self, capture: Capture, autocast_dtype: torch.dtype | None) -> None:
        """From now on forward and backward pass are one captured call, which enters autocast itself."""
        self._graphed_step = GraphedStep(self.losses, self.trained_parameters(), autocast_dtype, capture)

    def make_room(self) -> None:
        """Before sampling images: frees a captured step's memory if little is left. The next step captures it again."""
        if self._graphed_step is None or not self.drawn_pixels or (free := free_memory(self.device)) is None:
            return
        if free < ROOM + ROOM_PER_PIXEL * self.drawn_pixels:
            self._graphed_step.forget()

    def release_memory(self) -> None:
        """After the last step: frees the memory of a captured step, gradients and moments."""
        if self._graphed_step is not None:
            self._graphed_step.forget()
        self.zero_grad()
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch; a graphed step has set its gradients already."""
        losses = self.losses(batch) if self._graphed_step is None else self._graphed_step(batch)
        for name, loss in losses.items():
            self.log(f"loss/{name}", loss)
        return losses["total"]

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's call between forward and backward pass: not inside a graphed step."""
        if self._graphed_step is None:
            super().optimizer_zero_grad(*args, **kwargs)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's call after the forward pass: nothing to do after a graphed step."""
        if self._graphed_step is None:
            super().backward(loss, *args, **kwargs)

    @property
    def drawn_pixels(self) -> int:
        """How many are decoded at a time when images are drawn between steps; 0 if none are."""
        return DECODED_PIXELS

    @property
    def images_per_step(self) -> int:
        """How many go through the networks in an update on one device."""
        return self.config.batch_size

    @property
    def pin_batches(self) -> bool:
        """Whether batches lie in page-locked memory: a GPU copies them from there while the host goes on."""
        return self.device.type == "cuda"

    def train_only_trained_parts(self) -> None:
        """Fixes every weight but those of the `trained_parts`."""
        self.requires_grad_(False)
        for part in self.trained_parts().values():
            part.requires_grad_(True)

    def trained_parameters(self) -> list[nn.Parameter]:
        """All weights that move."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def build_optimizer(self, *, fused: bool | None = None, foreach: bool | None = None) -> torch.optim.Optimizer:
        """The config's kind of AdamW; where torch's has a choice of kernels, those: by default it chooses itself."""
        config, weights = self.config, self.trained_parameters()
        if config.optimizer == "adamw8bit":
            return AdamW8bit(weights, lr=config.learning_rate, weight_decay=config.weight_decay, seed=self.seed)
        return torch.optim.AdamW(
            weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused, foreach=foreach
        )

    def configure_optimizers(self) -> Any:
        """AdamW with the learning rate's schedule, stepped once per update."""
        config = self.config
        # A fused optimizer unscales float16's gradients by itself, too late for clipping. False instead of None would
        # also switch off the kernels for many tensors at a time that torch then takes on CUDA.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = self.build_optimizer(fused=fused or None)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, config.lr_schedule, config.warmup_steps, config.iterations)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *args: Any, **kw: Any) -> None:
        """Clips the norm of all trained weights' gradients together; Lightning's own refuses fused optimizers."""
        if not gradient_clip_val:
            return
        if self._graphed_step is None:
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), gradient_clip_val)
        else:
            norm = self._graphed_step.total_norm
            torch.nn.utils.clip_grads_with_norm_(self.trained_parameters(), gradient_clip_val, norm)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Raises the error that a worker process has sent in place of a batch."""
        if isinstance(batch, UserError):
            raise batch
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps fixed weights out of the resume state: they are the base checkpoint's."""
        fixed = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key not in fixed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the fixed weights back beside the trained ones, so that loading stays strict."""
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}


class AveragedTraining(TrainingModule):
    """A training from random weights; the moving average of the weights is what is saved.

    A subclass calls `start_average` once it has its networks.
    """

    gradient_patience = 4
    """What lies behind layers that start at zero gets one after these have moved: first the UNet's last layer, then its
    transformers, then the text encoder."""

    average: WeightAverage

    def start_average(self, decay: float) -> None:
        """Fixes all weights but the trained ones, whose average begins with their values."""
        self.train_only_trained_parts()
        self.average = WeightAverage(self.trained_parts(), decay)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Moves the average towards the new weights; a callback that saves comes after this."""
        super().optimizer_step(*args, **kwargs)
        self.average.update(self.trainer.global_step + 1)
