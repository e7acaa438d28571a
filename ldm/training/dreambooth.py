"""DreamBooth: "Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (arXiv 2208.12242).

The subject is bound to the rare word "sks" by a few photos of it; images of its class, drawn by the model before
training, keep the model from forgetting what else the class may look like.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from einops import repeat
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ldm.data.dreambooth import Batch, BatchPlan, DreamBoothBatches
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss import dreambooth_loss, eps_loss
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.training.config import DreamBoothConfig, Subject
from ldm.training.module import TrainingModule, cast
from ldm.training.offload import OffloadedNetworks


class DreamBooth(TrainingModule):
    """Fine-tunes `ldm` on moments encoded beforehand: instance_moments (n v 2c h w), class_moments likewise or None."""

    can_be_graphed = True
    config: DreamBoothConfig
    _input_ids: Tensor
    _contexts: Tensor | None

    def __init__(
        self,
        ldm: LatentDiffusion,
        subject: Subject,
        instance_moments: Tensor,
        class_moments: Tensor | None,
        config: DreamBoothConfig,
        seed: int,
    ) -> None:
        super().__init__(config, seed)
        self.ldm = ldm
        self.subject = subject
        self._moments = (instance_moments, class_moments)
        self.train_only_trained_parts()
        if config.train_dtype == "bf16":
            for part in self.trained_parts().values():
                cast(part, torch.bfloat16)
        ldm.unet.set_gradient_checkpointing(config.gradient_checkpointing)
        assert ldm.tokenizer is not None, "a model to train has a tokenizer"
        # Not persistent: neither belongs to a checkpoint. Buffers, so that they are on the device once and for all.
        input_ids = ldm.tokenizer([subject.instance_prompt, subject.class_prompt])
        self.register_buffer("_input_ids", input_ids.to(ldm.device), persistent=False)
        # Without training the text encoder its output never changes, and it runs once.
        contexts = None if config.train_text_encoder else self._encode_prompts()
        self.register_buffer("_contexts", contexts, persistent=False)

        fixed = [ldm.autoencoder] if config.train_text_encoder else [ldm.autoencoder, ldm.text_encoder]
        self._idle = OffloadedNetworks(fixed)

    def on_train_start(self) -> None:
        """Sends away the networks that no step needs."""
        self._idle.leave()

    def on_train_batch_end(self, *args: object) -> None:
        """Frees the gradients, which Lightning would keep until the next forward pass has ended."""
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        if self._graphed_step is None:  # the next replay overwrites a graphed step's gradients
            self.zero_grad()

    @contextmanager
    def whole(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Between two steps: all networks on the device, those that don't train in `dtype`; gradients are freed.

        Unless steps are graphed: see `make_room`.
        """
        self._drop_gradients()
        # Lightning's own `self.device` is the CPU until a training begins.
        with self._idle.present(self.ldm.device, dtype):
            yield

    def trained_parts(self) -> dict[str, nn.Module]:
        """The networks whose weights move."""
        parts: dict[str, nn.Module] = {"unet": self.ldm.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.ldm.text_encoder
        return parts

    @property
    def drawn_pixels(self) -> int:
        """Those of one preview, which is as large as the photos; 0 without previews."""
        if not self.config.preview_prompts:
            return 0
        height, width = self._moments[0].shape[-2:]
        return height * width * self.ldm.config.autoencoder.downsampling_factor**2

    @property
    def images_per_step(self) -> int:
        """Photos, and as many class images."""
        return self.config.batch_size * (1 if self._moments[1] is None else 2)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """One forward pass of instance and class samples together; `total` is the weighted sum of their losses."""
        latents = self.ldm.config.scale_factor * DiagonalGaussian(batch["moments"]).sample(batch["posterior_noise"])
        noisy = self.ldm.schedule.add_noise(latents, batch["noise"], batch["timesteps"])
        eps = self.ldm.predict_eps(noisy, batch["timesteps"], self._context())
        loss = dreambooth_loss(
            eps_loss(eps, batch["noise"]), self.config.batch_size, prior_loss_weight=self.config.prior_loss_weight
        )
        prior = {} if self._moments[1] is None else {"class": loss.prior}
        return {"instance": loss.instance, **prior, "total": loss.total}

    def _encode_prompts(self) -> Tensor:
        with torch.set_grad_enabled(self.config.train_text_encoder):
            return self.ldm.text_encoder(self._input_ids)

    def _context(self) -> Tensor:
        """Context of the batch (b 77 d): the instance prompt's, then the class prompt's."""
        contexts = self._encode_prompts() if self._contexts is None else self._contexts
        kinds = 1 if self._moments[1] is None else 2
        return repeat(contexts[:kinds], "kinds m d -> (kinds b) m d", b=self.config.batch_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the step that training stands at, which is not 0 in a resumed run."""
        plan = BatchPlan(
            seed=self.seed,
            batch_size=self.config.batch_size,
            num_timesteps=self.ldm.schedule.num_timesteps,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        batches = DreamBoothBatches(*self._moments, plan, self.trainer.global_step)
        return DataLoader(batches, batch_size=None, pin_memory=self.pin_batches)
