"""DreamBooth: "Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (arXiv 2208.12242).

The subject is bound to the rare word "sks" by a few photos of it; pictures of its class, drawn by the model before
training, keep the model from forgetting what else the class may look like.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ldm.data.dreambooth import Batch, BatchPlan, DreamBoothBatches
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss import dreambooth_loss, eps_loss
from ldm.nn.autoencoder import DiagonalGaussian

LR_SCHEDULES = ("constant", "linear", "cosine")
TOKEN = "sks"
"""The rare word that names the subject."""


@dataclass(frozen=True)
class DreamBoothConfig:
    """How long and how fast to learn; the defaults per model stand in its YAML."""

    iterations: int = 1000
    save_every: int = 200
    learning_rate: float = 5e-6
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_size: int = 1
    prior_loss_weight: float = 1.0
    class_img_count: int = 200
    train_text_encoder: bool = False
    flip: bool = True
    gradient_checkpointing: bool = False
    preview_prompts: tuple[str, ...] = ("a photo of sks {class}",)

    def __post_init__(self) -> None:
        if self.lr_schedule not in LR_SCHEDULES:
            raise ValueError(f"lr_schedule should be one of {', '.join(LR_SCHEDULES)}, not '{self.lr_schedule}'")
        if min(self.iterations, self.save_every, self.batch_size) < 1:
            raise ValueError("iterations, save_every and batch_size should be at least 1")


@dataclass(frozen=True)
class Subject:
    """What is taught: "water bottle" gives "a photo of sks water bottle" and "a photo of a water bottle"."""

    class_name: str

    @property
    def instance_prompt(self) -> str:
        """Names the subject."""
        return f"a photo of {TOKEN} {self.class_name}"

    @property
    def class_prompt(self) -> str:
        """Names any member of its class."""
        return f"a photo of a {self.class_name}"


def lr_factor(step: int, schedule: str, warmup_steps: int, iterations: int) -> float:
    """What the learning rate of update `step` (from 0) is multiplied with: linear warm-up, then the schedule."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, iterations - warmup_steps)
    return {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}[schedule]


class DreamBooth(pl.LightningModule):
    """Fine-tunes `ldm` on moments encoded beforehand: instance_moments (n v 2c h w), class_moments likewise or None."""

    def __init__(
        self,
        ldm: LatentDiffusion,
        subject: Subject,
        instance_moments: Tensor,
        class_moments: Tensor | None,
        config: DreamBoothConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.ldm = ldm
        self.subject = subject
        self.config = config
        self.seed = seed
        self._moments = (instance_moments, class_moments)
        ldm.requires_grad_(False)
        for part in self.trained_parts().values():
            part.requires_grad_(True)
        ldm.unet.set_gradient_checkpointing(config.gradient_checkpointing)
        # Without training the text encoder its output never changes, and it runs once.
        self._contexts = None if config.train_text_encoder else self._encode_prompts().cpu()

    def trained_parts(self) -> dict[str, nn.Module]:
        """The networks whose weights move."""
        parts: dict[str, nn.Module] = {"unet": self.ldm.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.ldm.text_encoder
        return parts

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One forward pass of instance and class samples together; returns the weighted sum of their losses."""
        latents = self.ldm.config.scale_factor * DiagonalGaussian(batch["moments"]).sample(batch["posterior_noise"])
        noisy = self.ldm.schedule.add_noise(latents, batch["noise"], batch["timesteps"])
        eps = self.ldm.unet(noisy, batch["timesteps"], self._context())
        loss = dreambooth_loss(
            eps_loss(eps, batch["noise"]), self.config.batch_size, prior_loss_weight=self.config.prior_loss_weight
        )
        self.log("loss/instance", loss.instance)
        if self._moments[1] is not None:
            self.log("loss/class", loss.prior)
        self.log("loss/total", loss.total)
        return loss.total

    def _encode_prompts(self) -> Tensor:
        with torch.set_grad_enabled(self.config.train_text_encoder):
            return self.ldm.encode_prompts([self.subject.instance_prompt, self.subject.class_prompt])

    def _context(self) -> Tensor:
        """Context of the batch (b 77 d): the instance prompt's, then the class prompt's."""
        contexts = self._encode_prompts() if self._contexts is None else self._contexts.to(self.device)
        kinds = 1 if self._moments[1] is None else 2
        return contexts[:kinds].repeat_interleave(self.config.batch_size, dim=0)

    def configure_optimizers(self) -> Any:
        """AdamW with the learning rate's schedule, stepped once per update."""
        config = self.config
        optimizer = torch.optim.AdamW(
            (parameter for parameter in self.parameters() if parameter.requires_grad),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # A fused optimizer unscales float16's gradients by itself, too late for clipping.
            fused=self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed",
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, config.lr_schedule, config.warmup_steps, config.iterations)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *args: Any, **kw: Any) -> None:
        """Clips the norm of all trained weights' gradients together; Lightning's own refuses fused optimizers."""
        if gradient_clip_val:
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            torch.nn.utils.clip_grad_norm_(trained, gradient_clip_val)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the step that training stands at, which is not 0 in a resumed run."""
        plan = BatchPlan(
            seed=self.seed,
            batch_size=self.config.batch_size,
            num_timesteps=self.ldm.schedule.num_timesteps,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(DreamBoothBatches(*self._moments, plan, self.trainer.global_step), batch_size=None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps frozen weights out of the resume state: they are the base checkpoint's."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the frozen weights back beside the trained ones, so that loading stays strict."""
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}
