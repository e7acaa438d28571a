"""What an update of a fine-tuning minimises and changes: each option does what its paper says, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.checkpoint.keys import PARTS
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.layers import count_unet_weights
from ldm.training.memory import Workload, predict
from tests.tiny import tiny_config
from tests.training.parts import SHORT, Logging, assert_same, batch_of, build_module, train, weights


class Logged(Logging, DreamBooth):
    pass


def losses(module: DreamBooth, batch: Any, **options: Any) -> dict[str, Tensor]:
    """The losses of a batch with other options."""
    module.config = replace(module.config, **options)
    return module.losses(batch)


def test_min_snr_weights_each_sample_of_the_total_alone() -> None:
    module = build_module(cls=Logged, batch_size=2)
    batch = batch_of(module, 0)
    predicted: list[Tensor] = []
    module.ldm.unet.register_forward_hook(lambda _, args, eps: predicted.append(eps))
    plain = losses(module, batch)
    single = (predicted[0] - batch["noise"]).square().flatten(1).mean(1)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    snr = (alphas / (1 - alphas)).float()[batch["timesteps"]]
    weighted = single * snr.clamp(max=0.5) / snr
    found = losses(module, batch, min_snr_gamma=(0.5,), prior_loss_weight=0.25)
    torch.testing.assert_close(found["total"], weighted[:2].mean() + 0.25 * weighted[2:].mean(), rtol=1e-4, atol=1e-6)
    assert torch.equal(found["instance"], plain["instance"]) and torch.equal(found["class"], plain["class"])
    apart = losses(module, batch, min_snr_gamma=(0.5, 0.0))
    torch.testing.assert_close(apart["total"], weighted[:2].mean() + 0.25 * plain["class"], rtol=1e-4, atol=1e-6)


def test_noise_and_timesteps_of_the_options_reach_the_batches() -> None:
    module = build_module(batch_size=2)
    plain = batch_of(module, 0)
    for option, key in (
        ({"noise_offset": 0.2}, "noise"),
        ({"input_perturbation": 0.2}, "input_noise"),
        ({"timesteps": "logit-normal"}, "timesteps"),
        ({"timestep_range": (900, 950)}, "timesteps"),
    ):
        module.config = replace(SHORT, batch_size=2, **option)
        found = {name: value for name, value in batch_of(module, 0).items() if name in (key, "moments")}
        assert not torch.equal(found[key], plain.get(key, plain["noise"])), option  # type: ignore[arg-type]
        assert torch.equal(found["moments"], plain["moments"])  # type: ignore[arg-type]
        if key == "timesteps" and "timestep_range" in option:
            assert all(900 <= one < 950 for one in found[key].tolist())  # type: ignore[attr-defined]


def test_input_perturbation_changes_the_input_and_not_what_is_predicted() -> None:
    """Input Perturbation Reduces Exposure Bias in Diffusion Models (arXiv 2301.11706), algorithm 1."""
    module = build_module(cls=Logged, input_perturbation=0.5)
    batch = batch_of(module, 0)
    inputs: list[Tensor] = []
    module.ldm.unet.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    module.losses(batch)
    mean, logvar = batch["moments"].chunk(2, 1)
    latents = 0.18215 * (mean + (logvar / 2).exp() * batch["posterior_noise"])
    noisy = module.ldm.schedule.add_noise(latents, batch["input_noise"], batch["timesteps"])  # type: ignore[typeddict-item]
    torch.testing.assert_close(inputs[0], noisy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [("attention", ".attn"), ("cross-attention", ".attn2."), ("cross-attention-kv", ".attn2.to_")],
)
def test_only_the_chosen_layers_of_the_unet_train(layers: str, pattern: str) -> None:
    module = build_module(cls=Logged, train_layers=layers, train_text_encoder=True)
    module.losses(batch_of(module, 0))["total"].backward()
    moved = {name for name, weight in module.ldm.named_parameters() if weight.grad is not None and weight.grad.any()}
    unet = {name for name in moved if name.startswith(PARTS["unet"])}
    trained = {name for name, weight in module.ldm.unet.named_parameters() if weight.requires_grad}
    assert unet == {PARTS["unet"] + name for name in trained}
    assert trained and all(pattern in name for name in trained)
    expected = [name for name, _ in module.ldm.unet.named_parameters() if pattern in name]
    if layers == "cross-attention-kv":
        expected = [name for name in expected if ".to_k" in name or ".to_v" in name]
    assert trained == {*expected}
    assert any(name.startswith(PARTS["text_encoder"]) for name in moved)
    counted = sum(weight.numel() for weight in module.ldm.unet.parameters() if weight.requires_grad)
    assert count_unet_weights(tiny_config(), module.config) == counted


def test_the_average_is_saved_and_not_the_weights(tmp_path: Path) -> None:
    """By hand from the weights after each update: as `WeightAverage`, with the warm-up of its decay."""
    after: list[dict[str, Tensor]] = []
    saved: list[dict[str, Tensor]] = []

    def save(module: DreamBooth, step: int) -> None:
        after.append(weights(module))
        with module.saved_weights():
            saved.append(weights(module))

    module = build_module(save_every=1, iterations=2, ema_decay=0.2)
    key = "model.diffusion_model.out.2.weight"
    average = weights(module)[key]
    train(module, tmp_path, save)
    for step, decay in ((1, 2 / 11), (2, 0.2)):
        average = decay * average + (1 - decay) * after[step - 1][key]
        torch.testing.assert_close(saved[step - 1][key], average)
        assert not torch.equal(saved[step - 1][key], after[step - 1][key])
    fixed = "first_stage_model.decoder.conv_out.weight"
    assert torch.equal(saved[-1][fixed], after[-1][fixed])


ALL: dict[str, Any] = {
    "ema_decay": 0.9,
    "min_snr_gamma": (5.0, 1.0),
    "noise_offset": 0.1,
    "input_perturbation": 0.1,
    "timesteps": "logit-normal",
    "timestep_range": (100, 900),
    "train_layers": "attention",
}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"fused_backward": True, "clip": "tensor"}, {"gradient_accumulation": 2}])
def test_a_run_with_all_options_is_resumed_bit_for_bit(more: dict[str, Any], tmp_path: Path) -> None:
    whole = build_module(**ALL, **more)
    train(whole, tmp_path / "whole")
    train(build_module(**ALL, **more, iterations=2), tmp_path / "parts")
    resumed = build_module(**ALL, **more)
    train(resumed, tmp_path / "parts")
    assert_same(resumed, whole)


@pytest.mark.slow
def test_the_average_of_weights_in_bfloat16_is_in_float32(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "adamw8bit", "train_dtype": "bf16", "fused_backward": True}
    module = build_module(ema_decay=0.999, **options)
    train(module, tmp_path)
    assert module.average is not None
    assert {buffer.dtype for buffer in module.average.buffers()} == {torch.float32}
    before = weights(module)
    with module.saved_weights():
        assert any(not torch.equal(value, before[name]) for name, value in weights(module).items())
    assert all(torch.equal(value, before[name]) for name, value in weights(module).items())


def test_the_average_of_adapters_is_theirs_alone() -> None:
    module = build_module(lora=2, ema_decay=0.9)
    assert module.average is not None
    assert {name.rpartition("/")[2] for name in module.average.state_dict()} == {"lora_down", "lora_up"}


@pytest.mark.slow
def test_the_predicted_memory_has_the_average() -> None:
    workload = Workload(tiny_config(), 32, 32, like_cuda=False, previews=False)
    config = DreamBoothConfig()
    plain, averaged = predict(workload, config).step, predict(workload, DreamBoothConfig(ema_decay=0.9)).step
    assert averaged - plain == 4 * count_unet_weights(tiny_config(), config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep_range": (500, 500)}, "timestep_range should be two rising numbers"),
        ({"timestep_range": (1, 2, 3)}, "timestep_range should hold 1 to 2 values"),
        ({"min_snr_gamma": (1.0, 2.0, 3.0)}, "min_snr_gamma should hold 1 to 2 values"),
        ({"lora": 4, "train_layers": "attention"}, "train_layers is not for lora"),
        ({"ema_decay": 1.5}, "ema_decay should be from 0 to 1"),
    ],
)
def test_mistakes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DreamBoothConfig(**options)


def test_a_range_beyond_the_models_timesteps_is_refused() -> None:
    assert DreamBoothConfig().timesteps_of(400) is None
    assert DreamBoothConfig(timesteps="logit-normal").timesteps_of(400) == (0, 400)
    with pytest.raises(ValueError, match="timestep_range should end at 400"):
        DreamBoothConfig(timestep_range=(0, 500)).timesteps_of(400)
