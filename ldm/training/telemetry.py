"""How a training goes, for the log: learning rate, gradient norm, images a second and memory."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch

GIB = 2**30


class Telemetry(pl.Callback):
    """Logs it with the losses, every `every` updates; in between nothing is computed."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._images = pl_module.images_per_step * trainer.world_size
        self._last = time.perf_counter(), trainer.global_step

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Logs the rates of this update, and the norm of all gradients before they are clipped.

        Updates within the backward pass have freed the gradients.
        """
        if (trainer.global_step + 1) % self.every:
            return
        pl_module.log_dict(learning_rates(optimizer))
        gradients = [one.grad for one in pl_module.trained_parameters() if one.grad is not None]
        if gradients:
            norms = torch._foreach_norm(gradients)
            pl_module.log("train/gradient_norm", torch.linalg.vector_norm(torch.stack(list(norms)).float()))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step % self.every:
            return
        now, (then, before) = time.perf_counter(), self._last
        self._last = now, step
        values = {"images_per_second": (step - before) * self._images / (now - then)}
        if (peak := peak_memory(pl_module.device)) is not None:
            values["memory_gib"] = peak / GIB
        pl_module.log_dict({f"train/{name}": value for name, value in values.items()})


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rate of each group of weights, by its name in the log; Prodigy's with the factor that it has found."""
    rates = [float(group["lr"]) * float(group.get("d", 1.0)) for group in optimizer.param_groups]
    return {f"train/learning_rate{f'_{number}' if number else ''}": rate for number, rate in enumerate(rates)}


def peak_memory(device: torch.device) -> int | None:
    """The most bytes of tensors on a GPU so far, or of this process in the host's memory; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
