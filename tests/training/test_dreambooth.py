"""The DreamBooth module: what a step computes, what trains, and how fast."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.nn.text_encoder import TextEncoder
from ldm.prompts import TOKEN
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import Subject
from tests.training.parts import SUBJECT, Logging, batch_of, build_module, logged_first, tokenizer, train, weights


def alphas_cumprod() -> Tensor:
    """alpha-bar of latent diffusion's schedule, from its definition."""
    return torch.cumprod(1.0 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)


def by_hand(module: DreamBooth, batch: Any) -> tuple[Tensor, Tensor]:
    """Mean losses of the instance samples and of the class samples of a batch, one sample at a time."""
    losses = []
    prompts = [SUBJECT.instance_prompt] * module.config.batch_size + [SUBJECT.class_prompt] * module.config.batch_size
    for index in range(len(batch["moments"])):
        mean, logvar = batch["moments"][index].chunk(2)
        latents = 0.18215 * (mean + (logvar / 2).exp() * batch["posterior_noise"][index])
        alpha = alphas_cumprod()[batch["timesteps"][index]].float()
        noise = batch["noise"][index]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        context = module.ldm.encode_prompts([prompts[index]])
        eps = module.ldm.unet(noisy[None], batch["timesteps"][index : index + 1], context)[0]
        losses.append(((eps - noise) ** 2).mean())
    size = module.config.batch_size
    return torch.stack(losses[:size]).mean(), torch.stack(losses[size:]).mean() if losses[size:] else torch.zeros(())


class Logged(Logging, DreamBooth):
    pass


class Counted(DreamBooth):
    """Counts the passes through its networks in each step."""

    def on_train_start(self) -> None:
        self.unet_batches: list[list[int]] = []
        self.text_passes: list[int] = []
        self.ldm.unet.register_forward_hook(lambda _, args, out: self.unet_batches[-1].append(len(args[0])))
        self.ldm.text_encoder.register_forward_hook(lambda *_: self.text_passes.__setitem__(-1, 1))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.unet_batches.append([])
        self.text_passes.append(0)


# What a step computes


@pytest.mark.parametrize(("batch_size", "train_text_encoder"), [(1, False), (3, True)])
@pytest.mark.parametrize("prior_loss_weight", [1.0, 0.25])
def test_the_loss_of_a_step_is_that_of_its_parts_put_together(
    batch_size: int, train_text_encoder: bool, prior_loss_weight: float
) -> None:
    options = {"train_text_encoder": train_text_encoder, "prior_loss_weight": prior_loss_weight}
    module = build_module(cls=Logged, batch_size=batch_size, **options)
    batch = batch_of(module, 5)
    instance, prior = by_hand(module, batch)
    total = module.training_step(batch, 0)
    torch.testing.assert_close(total, instance + prior_loss_weight * prior, rtol=1e-5, atol=1e-6)
    expected = {"loss/instance": instance.item(), "loss/class": prior.item(), "loss/total": total.item()}
    assert logged_first(module) == pytest.approx(expected, rel=1e-5)


def test_without_class_images_the_loss_is_the_instances_alone() -> None:
    module = build_module(cls=Logged, with_class=False, batch_size=2)
    batch = batch_of(module, 0)
    assert len(batch["moments"]) == 2
    total = module.training_step(batch, 0)
    torch.testing.assert_close(total, by_hand(module, batch)[0], rtol=1e-5, atol=1e-6)
    assert vars(module)["logged"].keys() == {"loss/instance", "loss/total"}


def test_instance_and_class_samples_share_one_pass_through_the_unet(tmp_path: Path) -> None:
    module = build_module(cls=Counted, batch_size=2)
    train(module, tmp_path)
    assert vars(module)["unet_batches"] == [[4]] * 4


@pytest.mark.parametrize("train_text_encoder", [True, False])
def test_prompts_are_encoded_in_every_step_only_if_the_text_encoder_trains(
    tmp_path: Path, train_text_encoder: bool
) -> None:
    module = build_module(cls=Counted, train_text_encoder=train_text_encoder)
    train(module, tmp_path)
    assert vars(module)["text_passes"] == [int(train_text_encoder)] * 4


def test_a_frozen_text_encoder_runs_once_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[list[list[int]]] = []
    encode = TextEncoder.forward
    monkeypatch.setattr(TextEncoder, "forward", lambda self, ids: encoded.append(ids.tolist()) or encode(self, ids))
    module = build_module()
    for step in range(3):
        module.log = lambda *args: None  # type: ignore[method-assign, assignment]
        module.training_step(batch_of(module, step), step)
    assert encoded == [tokenizer()(["a photo of sks can", "a photo of a can"]).tolist()]


def test_gradient_checkpointing_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    recomputed: list[nn.Module] = []
    checkpoint = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        "ldm.nn.unet.checkpoint", lambda layer, *args, **kw: recomputed.append(layer) or checkpoint(layer, *args, **kw)
    )
    gradients = []
    for level in ("none", "all"):
        module = build_module(cls=Logged, gradient_checkpointing=level, train_text_encoder=True)
        assert not recomputed
        module.training_step(batch_of(module, 0), 0).backward()
        gradients.append([parameter.grad for parameter in module.parameters() if parameter.requires_grad])
    assert recomputed
    for without, with_it in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without)


def test_the_subject_names_its_prompts() -> None:
    subject = Subject("water bottle")
    assert TOKEN == "sks"
    assert subject.instance_prompt == "a photo of sks water bottle"
    assert subject.class_prompt == "a photo of a water bottle"


# What trains


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_trained_parts_move_and_no_others(tmp_path: Path, train_text_encoder: bool) -> None:
    module = build_module(train_text_encoder=train_text_encoder)
    before = weights(module)
    train(module, tmp_path)
    moved = {name for name, tensor in weights(module).items() if not torch.equal(tensor, before[name])}
    parts = ("model.diffusion_model.", *(["cond_stage_model."] if train_text_encoder else []))
    assert moved == {name for name in before if name.startswith(parts)}
    assert {name for name, parameter in module.ldm.named_parameters() if parameter.requires_grad} == moved


def test_updates_are_those_of_adamw_written_out(tmp_path: Path) -> None:
    """Five updates with warm-up, a cosine, clipping and weight decay, in plain formulae on a second model."""
    options: dict[str, Any] = {
        "iterations": 5,
        "save_every": 5,
        "learning_rate": 2e-3,
        "lr_schedule": "cosine",
        "warmup_steps": 2,
        "max_grad_norm": 0.5,
        "weight_decay": 0.3,
        "train_text_encoder": True,
        "prior_loss_weight": 0.7,
    }
    module, reference = build_module(**options), build_module(**options)
    start = weights(module)
    train(module, tmp_path)

    trained = {name: parameter for name, parameter in reference.ldm.named_parameters() if parameter.requires_grad}
    first = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    second = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    rates = [2e-3 * factor for factor in (1 / 3, 2 / 3, 1.0, 0.75, 0.25)]  # cos(0), cos(pi / 3), cos(2 pi / 3)
    for update, rate in enumerate(rates, 1):
        instance, prior = by_hand(reference, batch_of(reference, update - 1))
        gradients = dict(zip(trained, torch.autograd.grad(instance + 0.7 * prior, list(trained.values())), strict=True))
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
        assert norm > 0.5
        with torch.no_grad():
            for name, parameter in trained.items():
                gradient = gradients[name] * (0.5 / norm)
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                m = first[name] / (1 - 0.9**update)
                v = second[name] / (1 - 0.999**update)
                parameter -= rate * (m / (v.sqrt() + 1e-8) + 0.3 * parameter)

    expected, ended = weights(reference), weights(module)
    assert all(torch.equal(tensor, start[name]) for name, tensor in ended.items() if name not in trained)
    # Taken together: a bias before a normalisation has a gradient of rounding errors only, which Adam blows up.
    way, error = (
        torch.cat([(ended[name] - other[name]).flatten() for name in trained]).norm() for other in (start, expected)
    )
    assert error < 0.01 * way


# Precision


class Watched(DreamBooth):
    """Notes the types that a convolution and an attention layer's projection compute in."""

    def on_train_start(self) -> None:
        self.dtypes: set[torch.dtype] = set()
        layers = [
            module
            for name, module in self.ldm.unet.named_modules()
            if isinstance(module, nn.Conv2d) or name.endswith("attn2.to_k")
        ]
        assert len(layers) > 4
        for layer in layers:
            layer.register_forward_hook(lambda _, args, out: self.dtypes.add(out.dtype))


@pytest.mark.parametrize(("autocast_dtype", "computed_in"), [(torch.bfloat16, torch.bfloat16), (None, torch.float32)])
def test_precision_is_what_is_computed_in_over_float32_weights(
    autocast_dtype: torch.dtype | None, computed_in: torch.dtype, tmp_path: Path
) -> None:
    module = build_module(cls=Watched, iterations=2)
    train(module, tmp_path, autocast_dtype=autocast_dtype)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert vars(module)["dtypes"] == {computed_in}


@pytest.mark.slow
def test_mixed_precision_trains_nearly_as_full_precision_does(tmp_path: Path) -> None:
    start = weights(build_module())
    ends = []
    for name, dtype in (("full", None), ("mixed", torch.bfloat16)):
        module = build_module()
        train(module, tmp_path / name, autocast_dtype=dtype)
        ends.append(torch.cat([(tensor - start[key]).flatten() for key, tensor in weights(module).items()]))
    full, mixed = ends
    assert not torch.equal(full, mixed)
    assert torch.cosine_similarity(full, mixed, dim=0) > 0.9


# What is kept


def test_frozen_weights_are_put_back_when_a_resume_state_is_loaded() -> None:
    module = build_module()
    checkpoint: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(checkpoint)
    assert not any("first_stage_model" in key for key in checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == module.state_dict().keys()
