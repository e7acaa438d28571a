"""DreamBooth: "Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (arXiv 2208.12242).

A few photos bind the subject to the rare word "sks". Images of its class, sampled by the model before training, keep
the model from forgetting what else the class looks like (prior preservation). `base_pull.py` and `base_prediction.py`
preserve it without class images.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from einops import repeat
from torch import Tensor, nn

from ldm.data.batches import DeviceShare, DreamBoothBatches, NoisyLatents, StepBatches
from ldm.data.drawn_prompts import DrawnPrompts
from ldm.data.noising import Noising
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss import DreamBoothLoss, dreambooth_loss, eps_loss, min_snr_weight
from ldm.diffusion.noise import derived_generator
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.nn.lora import drop_ranks, keep_ranks
from ldm.training.base_prediction import BasePredictions, PredictedBatches
from ldm.training.base_pull import BasePull
from ldm.training.dreambooth_config import DreamBoothConfig, Subject
from ldm.training.ema import WeightAverage
from ldm.training.embedding import learn_word, learned_vectors
from ldm.training.layers import fix_other_layers
from ldm.training.lora import add_adapters
from ldm.training.module import TrainingModule

HOST = torch.device("cpu")
DROPOUT = 0xD40
"""Tells the generators of dropout from those of the batches."""
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

    Each photo has the subject's instance prompt, or with `prompts` one that is drawn in each step. For a prior without
    class images set `base_predictions` or `base_pull` before training.
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
        # A graph would repeat the update of one step, and begin with new gradients.
        self.can_be_graphed &= not config.fused_backward and config.gradient_accumulation == 1
        self.ldm = ldm
        self.adapters = add_adapters(ldm, config, seed) if config.lora else []
        self.subject = subject
        self._prompts = prompts
        self._moments = (instance_moments, class_moments)
        self._has_class_half = class_moments is not None or config.prior == "base-prediction"
        self.base_predictions: BasePredictions | None = None
        """The targets of the class half of `--prior base-prediction`, which needs them."""
        self.base_pull: BasePull | None = None
        """What `--prior l2` does to the weights between steps."""
        self.first_vectors = learn_word(ldm, subject.class_name, config) if config.train == "embedding" else None
        self.train_only_trained_parts()
        if config.train_dtype != "fp32":
            for part in self.trained_parts().values():
                cast_weights(part, torch.bfloat16)
        self.average = WeightAverage(self.trained_parts(), config.ema_decay) if config.ema_decay else None
        ldm.unet.set_gradient_checkpointing(config.gradient_checkpointing)
        assert ldm.tokenizer is not None, "a model to train has a tokenizer"
        # Buffers, so that they are copied to the device once; not persistent, as no checkpoint needs them.
        texts = [subject.instance_prompt, subject.class_prompt] if prompts is None else [*prompts.texts]
        input_ids = ldm.tokenizer(texts)
        self.register_buffer("_input_ids", input_ids.to(ldm.device), persistent=False)
        # The output of a fixed text encoder never changes: it runs once.
        contexts = None if config.encodes_in_steps else self._encode_prompts()
        self.register_buffer("_contexts", contexts, persistent=False)

        fixed = [one for one in (ldm.autoencoder, ldm.text_encoder) if one not in self.needed_networks]
        self._offloaded = OffloadedNetworks(fixed)

    def on_train_start(self) -> None:
        """Offloads the networks that no step needs."""
        self._offloaded.offload()

    def on_train_batch_start(self, *args: object) -> None:
        """Pulls the weights to the base model's, and drops ranks at random: functions of the seed and the step.

        A resumed run pulls after loading its state, as the whole run does after saving it.
        """
        if self.base_pull is not None and self.base_pull.is_due(self.trainer.global_step):
            self.base_pull.pull(self.trainer.optimizers[0], self.trainer.global_step)
        if share := self.config.lora_dropout:
            drop_ranks(self.adapters, share, derived_generator(self.seed, DROPOUT, self.trainer.global_step))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Also updates the average, before callbacks save."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.trainer.global_step + 1)

    def saved_weights(self) -> contextlib.AbstractContextManager[None]:
        """In this block, between two steps, the networks hold the weights that are saved: the average if there is."""
        return contextlib.nullcontext() if self.average is None else self.average.swapped_in()

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
        keep_ranks(self.adapters)
        # Lightning's own `self.device` is the CPU until a training begins.
        with self._offloaded.onloaded(self.ldm.device, dtype):
            yield

    @contextmanager
    def alone(self, network: nn.Module) -> Iterator[None]:
        """In this block, within `all_onloaded`, the other networks are on the host, if memory is that scarce.

        It is where weights are updated in the backward pass.
        """
        with self.ldm.alone(network) if self.config.fused_backward else contextlib.nullcontext():
            yield

    @property
    def needed_networks(self) -> list[nn.Module]:
        """The networks that every step computes with."""
        return [self.ldm.unet, *([self.ldm.text_encoder] if self.config.encodes_in_steps else [])]

    def trained_parts(self) -> dict[str, nn.Module]:
        """The UNet, and the text encoder if it is trained; or the layer with the vectors of the subject's word."""
        if self.config.train == "embedding":
            return {"embedding": self.ldm.text_encoder.embeddings}
        parts: dict[str, nn.Module] = {"unet": self.ldm.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.ldm.text_encoder
        return parts

    def train_only_trained_parts(self) -> None:
        """Fixes all weights but those of the `trained_parts`, or of their adapters or vectors if there are any."""
        if not self.config.fixes_networks:
            super().train_only_trained_parts()
            fix_other_layers(self.ldm.unet, self.config.train_layers)
            return
        self.requires_grad_(False)
        if self.config.train == "embedding":
            learned_vectors(self.ldm).requires_grad_(True)
        for layer in self.adapters:
            layer.lora_down.requires_grad_(True)
            layer.lora_up.requires_grad_(True)
            if layer.lora_magnitude is not None:
                layer.lora_magnitude.requires_grad_(True)

    def parameter_groups(self) -> list[Any]:
        """The text encoder's weights are a group of their own if it has a learning rate of its own."""
        rate, parts = self.config.text_encoder_learning_rate, self.trained_parts()
        if not rate or len(parts) == 1:
            return super().parameter_groups()
        unet, text = ([one for one in part.parameters() if one.requires_grad] for part in parts.values())
        return [{"params": unet}, {"params": text, "lr": rate}]

    @property
    def instance_moments(self) -> Tensor:
        """Of the encoded photos (n v 2c h w)."""
        return self._moments[0]

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
        return self.config.gradient_accumulation * self.config.batch_size * (2 if self._has_class_half else 1)

    def training_step(self, batch: NoisyLatents, batch_idx: int) -> Tensor:
        """The mean loss of the step's batches; the gradients of all but the last have been computed."""
        if self.config.gradient_accumulation == 1:
            return super().training_step(batch, batch_idx)
        means: dict[str, Tensor] = {}
        *others, last = self._split(batch)
        for part in others:
            self.backward_at_once(self._share_of_losses(part, means))
        share = self._share_of_losses(last, means)
        for name, loss in means.items():
            self.log(f"loss/{name}", loss)
        return share + (means["total"] - share.detach())

    def _share_of_losses(self, part: NoisyLatents, means: dict[str, Tensor]) -> Tensor:
        """One batch's share of the step's total loss; adds its shares of all losses to `means`."""
        losses = {name: loss / self.config.gradient_accumulation for name, loss in self.losses(part).items()}
        for name, loss in losses.items():
            means[name] = means[name] + loss.detach() if name in means else loss.detach()
        return losses["total"]

    def _split(self, batch: NoisyLatents) -> list[NoisyLatents]:
        """The step's batches, each of photos and then class images, of photos and class images of the whole step."""
        count, size = self.config.gradient_accumulation, self.config.batch_size
        kinds = {name: value.split(count * size) for name, value in batch.items()}  # type: ignore[attr-defined]
        parts = [
            {name: torch.cat([kind[n * size : (n + 1) * size] for kind in values]) for name, values in kinds.items()}
            for n in range(count)
        ]
        return cast(list[NoisyLatents], parts)

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the gradients that `training_step` has computed; they are freed after the step."""
        if self.config.gradient_accumulation == 1:
            super().optimizer_zero_grad(*args, **kwargs)

    def losses(self, batch: NoisyLatents) -> dict[str, Tensor]:
        """DreamBooth, eq. 2: one forward pass of instance and class samples; `total` is their weighted loss.

        Min-SNR's weights are in `total` only, so that the others can be compared between runs.
        """
        latents = self.ldm.sample_posterior(DiagonalGaussian(batch["moments"]), batch["posterior_noise"])
        input_noise: Tensor = batch.get("input_noise", batch["noise"])  # type: ignore[assignment]
        noisy = self.ldm.schedule.add_noise(latents, input_noise, batch["timesteps"])
        eps = self.ldm.predict_eps(noisy, batch["timesteps"], self._context(batch))
        plain = eps_loss(eps, self._targets(batch))
        loss = self._dreambooth_loss(plain)
        weighted = self._dreambooth_loss(plain * self._loss_weights(batch)) if any(self.config.gammas) else loss
        prior = {"class": loss.prior} if self._has_class_half else {}
        return {"instance": loss.instance, **prior, "total": weighted.total}

    def _dreambooth_loss(self, per_sample: Tensor) -> DreamBoothLoss:
        size, prior_loss_weight = self.config.batch_size, self.config.prior_loss_weight
        return dreambooth_loss(per_sample, size, prior_loss_weight=prior_loss_weight)

    def _loss_weights(self, batch: NoisyLatents) -> Tensor:
        """Min-SNR's weight of each sample (b,), by its timestep and the gamma of photos or of class images."""
        levels = self.ldm.schedule.alphas_cumprod_at(batch["timesteps"]).split(self.config.batch_size)
        pairs = zip(levels, self.config.gammas, strict=False)
        return torch.cat([min_snr_weight(some, gamma) if gamma else torch.ones_like(some) for some, gamma in pairs])

    def _targets(self, batch: NoisyLatents) -> Tensor:
        """What the network should predict (b c h w): the noise; for the class half perhaps the base's prediction."""
        of_class: Tensor | None = batch.get("class_targets")  # type: ignore[assignment]
        return batch["noise"] if of_class is None else torch.cat([batch["noise"][: -len(of_class)], of_class])

    def class_context(self) -> Tensor:
        """The class prompt's context (1 77 d), on the text encoder's device if that is trained."""
        number = 1 if self._prompts is None else 0
        if self._contexts is not None:
            return self._contexts[number : number + 1]
        return self.ldm.text_encoder(self._input_ids[number : number + 1].to(self.ldm.device))

    def _encode_prompts(self, which: Tensor | None = None) -> Tensor:
        """The context of every prompt (p 77 d), or of those with these indices; a few at a time."""
        input_ids = self._input_ids if which is None else self._input_ids[which]
        with torch.set_grad_enabled(self.config.encodes_in_steps):
            return torch.cat([self.ldm.text_encoder(ids) for ids in input_ids.split(ENCODED_PROMPTS)])

    def _context(self, batch: NoisyLatents) -> Tensor:
        """The batch's context (b 77 d): of the instance prompt, or a drawn one, for each photo; of the class prompt."""
        drawn: Tensor | None = batch.get("prompts")  # type: ignore[assignment]
        if drawn is not None:
            return self._encode_prompts(drawn) if self._contexts is None else self._contexts[drawn]
        contexts = self._encode_prompts() if self._contexts is None else self._contexts
        kinds = 2 if self._has_class_half else 1
        return repeat(contexts[:kinds], "kinds m d -> (kinds b) m d", b=self.config.batch_size)

    def batches(self, share: DeviceShare) -> StepBatches[NoisyLatents]:
        """Encoded photos and class images, with noise, timesteps and perhaps prompts, of all batches of a step."""
        share = replace(share, batch_size=share.batch_size * self.config.gradient_accumulation)
        timesteps = self.ldm.schedule.num_timesteps
        photos, of_class = self._moments
        more = (timesteps, share, self._prompts, self._noising(timesteps))
        if self.base_predictions is not None:
            return PredictedBatches(photos, self.base_predictions, *more)
        return DreamBoothBatches(photos, of_class, *more)

    def _noising(self, num_timesteps: int) -> Noising:
        config, timesteps = self.config, self.config.timesteps_of(num_timesteps)
        return Noising(config.noise_offset, config.input_perturbation, timesteps, config.timesteps == "logit-normal")
