"""What all trainings share: the trained weights, their optimizer, and a resume state of these alone."""

from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ldm.choices import OPTIMIZERS
from ldm.data.batches import DeviceShare, StepBatches, batch_loader
from ldm.diffusion.latent_diffusion import DECODED_PIXELS
from ldm.errors import UserError
from ldm.nn.graphed import Capture
from ldm.nn.memory import free_memory
from ldm.training.config import OptimizationConfig
from ldm.training.graphed_step import GraphedStep
from ldm.training.logs import LightningLog, RunLog
from ldm.training.optimizers import OptimizerKind, lr_factors
from ldm.training.update_in_backward import UpdateInBackward, clip_each

SAMPLING_BYTES, SAMPLING_BYTES_PER_PIXEL = 2 * 2**30, 16 * 2**10
"""Bytes that sampling takes at most: for offloaded networks and the libraries' workspaces, and for each pixel, of which
Stable Diffusion's decoder holds 3 KiB in float32."""


class TrainingModule(pl.LightningModule):
    """A training of some networks. Weights that require no gradient are fixed and not part of the resume state."""

    gradient_patience = 1
    """The step by which all trained parts should have a gradient."""
    can_be_graphed = False
    """Whether batches are tensors of the same shapes in every step, and every step computes the same: see
    `graph_steps`."""
    workers = 0
    """Processes that prepare batches; 0: this one does."""

    def __init__(self, config: OptimizationConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self._graphed: GraphedStep | None = None
        self._in_backward: UpdateInBackward | None = None

    def trained_parts(self) -> dict[str, nn.Module]:
        """The networks that are trained, by their names in messages."""
        raise NotImplementedError

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """A batch's losses by name, scalars for the log; `total` is minimised."""
        raise NotImplementedError

    def batches(self, share: DeviceShare) -> StepBatches[Any]:
        """The batches of this device."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the current step on, which is not 0 in a resumed run."""
        trainer = self.trainer
        share = DeviceShare(
            self.seed, self.config.batch_size, trainer.global_step, trainer.global_rank, trainer.world_size
        )
        # Page-locked memory: a GPU copies from it while the host goes on.
        return batch_loader(self.batches(share), self.workers, pinned=self.device.type == "cuda")

    @property
    def run_log(self) -> RunLog | LightningLog:
        """The logger for images and text; before training one that logs nothing."""
        return cast(LightningLog, self.logger) if self.logger else RunLog(Path())

    def graph_steps(self, capture: Capture, autocast_dtype: torch.dtype | None) -> None:
        """Captures forward and backward pass as one CUDA graph from now on; the graph does its own autocast."""
        self._graphed = GraphedStep(self.losses, self.trained_parameters(), autocast_dtype, capture)

    def free_memory_to_sample(self) -> None:
        """Releases the graph before sampling if little memory is free. The next step captures a new graph."""
        if self._graphed is None or not self.sampled_pixels or (free := free_memory(self.device)) is None:
            return
        if free < SAMPLING_BYTES + SAMPLING_BYTES_PER_PIXEL * self.sampled_pixels:
            self._graphed.forget()

    def release_memory(self) -> None:
        """Releases, after the last step, what only another step would need: graph, gradients and moments."""
        if self._graphed is not None:
            self._graphed.forget()
        if self._in_backward is not None:
            self._in_backward.remove()
        self.zero_grad()
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch. A graphed step has computed its gradients as well."""
        if self._in_backward is not None and self._in_backward.needs_norm:
            self._measure_gradients(batch, self._in_backward)
        losses = self.losses(batch) if self._graphed is None else self._graphed(batch)
        for name, loss in losses.items():
            self.log(f"loss/{name}", loss)
        return losses["total"]

    def _measure_gradients(self, batch: Any, in_backward: UpdateInBackward) -> None:
        """Finds the norm of all gradients together: forward and backward pass of a batch without updates."""
        total = self.losses(batch)["total"]
        with in_backward.measuring():
            self.backward_at_once(total)

    def backward_at_once(self, loss: Tensor) -> None:
        """A backward pass within `training_step`, which runs with autocast: Lightning's, after it, runs without."""
        torch.clear_autocast_cache()  # it belongs to this graph
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Lightning calls it between forward and backward pass, where a graphed step has its gradients already."""
        if self._graphed is None:
            super().optimizer_zero_grad(*args, **kwargs)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, which is part of a graphed step."""
        if self._graphed is None:
            super().backward(loss, *args, **kwargs)

    @property
    def sampled_pixels(self) -> int:
        """Pixels that are decoded at a time when images are sampled between steps; 0 if none are."""
        return DECODED_PIXELS

    @property
    def images_per_step(self) -> int:
        """Images per update and device."""
        return self.config.batch_size

    def train_only_trained_parts(self) -> None:
        """Fixes all weights but those of the `trained_parts`."""
        self.requires_grad_(False)
        for part in self.trained_parts().values():
            part.requires_grad_(True)

    def trained_parameters(self) -> list[nn.Parameter]:
        """All trained weights."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def build_optimizer(self, **kernels: bool) -> torch.optim.Optimizer:
        """The config's optimizer. `kernels` are for torch's own, such as fused=True; by default torch chooses them."""
        kind: OptimizerKind = OPTIMIZERS[self.config.optimizer].load()
        return kind.build(self.parameter_groups(), self.config, self.seed, kernels)

    def parameter_groups(self) -> list[Any]:
        """All trained weights, or groups of them with their own options, as optimizers take them."""
        return list(self.trained_parameters())

    def configure_optimizers(self) -> Any:
        """The optimizer and its learning-rate schedule, stepped once per update."""
        config = self.config
        # A fused optimizer unscales float16's gradients by itself, too late for clipping. fused=False would also switch
        # off the kernels for many tensors at a time that torch otherwise takes on CUDA.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = self.build_optimizer(**({"fused": True} if fused else {}))
        self.update_in_backward(optimizer)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factors(config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def update_in_backward(self, optimizer: torch.optim.Optimizer) -> UpdateInBackward | None:
        """If the config says so, has the optimizer update each weight in the backward pass from now on."""
        config = self.config
        if config.fused_backward:
            weights = self.trained_parameters()
            self._in_backward = UpdateInBackward(optimizer, weights, config.clipping, config.max_grad_norm)
        return self._in_backward

    def has_gradient(self, part: nn.Module) -> bool:
        """After a backward pass: whether any weight of a trained part has a gradient that is not zero, or had one."""
        if self._in_backward is not None:
            return self._in_backward.has_updated(part.parameters())
        return any(bool(weight.grad.any()) for weight in part.parameters() if weight.grad is not None)

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *args: Any, **kw: Any) -> None:
        """Clips the gradients that there are. Lightning's own function refuses fused optimizers."""
        if not gradient_clip_val or self._in_backward is not None or self.config.clipping == "none":
            return
        if self.config.clipping == "tensor":
            clip_each(self.trained_parameters(), gradient_clip_val)
        elif self._graphed is None:
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), gradient_clip_val)
        else:
            norm = self._graphed.total_norm
            torch.nn.utils.clip_grads_with_norm_(self.trained_parameters(), gradient_clip_val, norm)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Raises the error that a worker process sent in place of a batch."""
        if isinstance(batch, UserError):
            raise batch
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves fixed weights out of the resume state: the base checkpoint has them."""
        fixed = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key not in fixed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the fixed weights to the loaded ones, so that loading is strict."""
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}
