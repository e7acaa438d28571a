"""DreamBooth: "Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (arXiv 2208.12242).

A few photos bind the subject to the rare word "sks". Images of its class, sampled by the model before training, keep
the model from forgetting what else the class looks like (prior preservation).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from einops import repeat
from torch import Tensor, nn

from ldm.data.batches import DeviceShare, DreamBoothBatches, NoisyLatents
from ldm.data.drawn_prompts import DrawnPrompts
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss import dreambooth_loss, eps_loss
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.training.config import DreamBoothConfig, Subject
from ldm.training.module import TrainingModule

HOST = torch.device("cpu")
ENCODED_PROMPTS = 32
"""Prompts that the text encoder encodes at a time."""


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the weights by copies of another dtype. Unlike `Module.to` it also works on fake tensors."""
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.dtype != dtype:
                setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad))


class OffloadedNetworks:
    """Networks with fixed weights that wait in the host's memory. Where the device is the host nothing is moved."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        self._on_host: list[Tensor] | None = None

    def offload(self) -> None:
        """Moves them to the host. The first call makes the copies, which later calls use again."""
        if self._on_host is None:
            self._on_host = [tensor.detach().to(HOST) for tensor in self._tensors]
        for tensor, on_host in zip(self._tensors, self._on_host, strict=True):
            tensor.data = on_host

    @contextmanager
    def onloaded(self, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
        """In this block the networks are on the device, floating-point numbers in `dtype` if given; then offloads."""
        self.offload()
        for tensor in self._tensors:
            tensor.data = tensor.to(device, dtype if tensor.is_floating_point() else None)
        try:
            yield
        finally:
            self.offload()


class DreamBooth(TrainingModule):
    """Fine-tunes `ldm` on encoded images: instance_moments (n v 2c h w), class_moments (m v 2c h w) or None.

    Each photo has the subject's instance prompt, or with `prompts` one that is drawn in each step.
    """

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
        prompts: DrawnPrompts | None = None,
    ) -> None:
        super().__init__(config, seed)
        self.ldm = ldm
        self.subject = subject
        self._prompts = prompts
        self._moments = (instance_moments, class_moments)
        self.train_only_trained_parts()
        if config.train_dtype == "bf16":
            for part in self.trained_parts().values():
                cast_weights(part, torch.bfloat16)
        ldm.unet.set_gradient_checkpointing(config.gradient_checkpointing)
        assert ldm.tokenizer is not None, "a model to train has a tokenizer"
        # Buffers, so that they are copied to the device once; not persistent, as no checkpoint needs them.
        texts = [subject.instance_prompt, subject.class_prompt] if prompts is None else [*prompts.texts]
        input_ids = ldm.tokenizer(texts)
        self.register_buffer("_input_ids", input_ids.to(ldm.device), persistent=False)
        # The output of a fixed text encoder never changes: it runs once.
        contexts = None if config.train_text_encoder else self._encode_prompts()
        self.register_buffer("_contexts", contexts, persistent=False)

        fixed = [ldm.autoencoder] if config.train_text_encoder else [ldm.autoencoder, ldm.text_encoder]
        self._offloaded = OffloadedNetworks(fixed)

    def on_train_start(self) -> None:
        """Offloads the networks that no step needs."""
        self._offloaded.offload()

    def on_train_batch_end(self, *args: object) -> None:
        """Frees the gradients, which Lightning would keep until the next forward pass has ended."""
        self._free_gradients()

    def _free_gradients(self) -> None:
        if self._graphed is None:  # a graph's stay: its next replay writes into them
            self.zero_grad()

    @contextmanager
    def all_onloaded(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """In this block, between two steps, all networks are on the device, fixed ones in `dtype` if given.

        Frees the gradients, but not those of a CUDA graph: see `free_memory_to_sample`.
        """
        self._free_gradients()
        # Lightning's own `self.device` is the CPU until a training begins.
        with self._offloaded.onloaded(self.ldm.device, dtype):
            yield

    def trained_parts(self) -> dict[str, nn.Module]:
        """The UNet, and the text encoder if it is trained."""
        parts: dict[str, nn.Module] = {"unet": self.ldm.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.ldm.text_encoder
        return parts

    @property
    def sampled_pixels(self) -> int:
        """Pixels of one preview, which is as large as the photos; 0 without previews."""
        if not self.config.preview_prompts:
            return 0
        height, width = self._moments[0].shape[-2:]
        return height * width * self.ldm.config.autoencoder.downsampling_factor**2

    @property
    def images_per_step(self) -> int:
        """Photos, and as many class images."""
        return self.config.batch_size * (1 if self._moments[1] is None else 2)

    def losses(self, batch: NoisyLatents) -> dict[str, Tensor]:
        """DreamBooth, eq. 2: one forward pass of instance and class samples; `total` is their weighted loss."""
        latents = self.ldm.sample_posterior(DiagonalGaussian(batch["moments"]), batch["posterior_noise"])
        noisy = self.ldm.schedule.add_noise(latents, batch["noise"], batch["timesteps"])
        eps = self.ldm.predict_eps(noisy, batch["timesteps"], self._context(batch))
        loss = dreambooth_loss(
            eps_loss(eps, batch["noise"]), self.config.batch_size, prior_loss_weight=self.config.prior_loss_weight
        )
        prior = {} if self._moments[1] is None else {"class": loss.prior}
        return {"instance": loss.instance, **prior, "total": loss.total}

    def _encode_prompts(self, which: Tensor | None = None) -> Tensor:
        """The context of every prompt (p 77 d), or of those with these indices; a few at a time."""
        input_ids = self._input_ids if which is None else self._input_ids[which]
        with torch.set_grad_enabled(self.config.train_text_encoder):
            return torch.cat([self.ldm.text_encoder(ids) for ids in input_ids.split(ENCODED_PROMPTS)])

    def _context(self, batch: NoisyLatents) -> Tensor:
        """The batch's context (b 77 d): of the instance prompt, or a drawn one, for each photo; of the class prompt."""
        drawn: Tensor | None = batch.get("prompts")  # type: ignore[assignment]
        if drawn is not None:
            return self._encode_prompts(drawn) if self._contexts is None else self._contexts[drawn]
        contexts = self._encode_prompts() if self._contexts is None else self._contexts
        kinds = 1 if self._moments[1] is None else 2
        return repeat(contexts[:kinds], "kinds m d -> (kinds b) m d", b=self.config.batch_size)

    def batches(self, share: DeviceShare) -> DreamBoothBatches:
        """Encoded photos and class images, with noise, timesteps and perhaps prompts."""
        return DreamBoothBatches(*self._moments, self.ldm.schedule.num_timesteps, share, self._prompts)
