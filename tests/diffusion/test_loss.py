"""The losses, their gradients and five steps of training: the original's numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ldm.diffusion.loss import DreamBoothLoss, dreambooth_loss, eps_loss, min_snr_weight
from ldm.diffusion.schedule import NoiseSchedule
from ldm.nn.unet import UNet
from tests.oracle import BOUND, facts, new_unet, rel, small_unet, tensors


def pair_loss(unet: UNet) -> DreamBoothLoss:
    """DreamBooth's loss of the stored pair, as one batch: the instance first, then the class."""
    io = tensors("ddpm-loss")
    z, t, noise, context = (
        torch.cat([io[f"inst.{key}"], io[f"class.{key}"]]) for key in ("z", "t", "noise", "context")
    )
    eps = unet(NoiseSchedule().add_noise(z, noise, t), t, context)
    return dreambooth_loss(eps_loss(eps, noise), num_instance=1, prior_loss_weight=facts("ddpm-loss")["lambda"])


@torch.inference_mode()
def test_prediction_and_loss_of_a_noised_batch_are_the_originals() -> None:
    io = tensors("ddpm-loss")
    eps = small_unet()(NoiseSchedule().add_noise(io["z"], io["noise"], io["t"]), io["t"], io["context"])
    assert rel(eps, io["model_output"]) < BOUND
    per_sample = eps_loss(eps, io["noise"])
    assert rel(per_sample, io["per_sample"]) < BOUND
    assert rel(per_sample.mean(), io["loss_simple"]) < BOUND
    assert rel(per_sample.mean(), io["loss"]) < BOUND


@torch.inference_mode()
def test_dreambooths_sum_and_its_parts_are_the_originals() -> None:
    io, loss = tensors("ddpm-loss"), pair_loss(small_unet())
    assert facts("ddpm-loss")["lambda"] == 1.5
    assert rel(loss.total, io["total"]) < BOUND
    assert rel(loss.total, io["total_f64"]) < BOUND
    assert rel(loss.instance, io["inst.loss"]) < BOUND
    assert rel(loss.prior, io["class.loss"]) < BOUND


def test_every_gradient_norm_of_dreambooths_sum_is_the_originals() -> None:
    expected, unet = facts("ddpm-loss"), new_unet()
    pair_loss(unet).total.backward()
    norms = {name: parameter.grad.double().norm().item() for name, parameter in unet.named_parameters()}
    assert norms.keys() == expected["grad_norms_of_total"].keys()
    for name, norm in expected["grad_norms_of_total"].items():
        if name in expected["zero"]:
            assert norms[name] < 1e-5, name
        else:
            assert norms[name] == pytest.approx(norm, rel=BOUND), name


def test_five_steps_of_adam_follow_the_originals() -> None:
    expected, adam, unet = tensors("ddpm-loss")["adam_losses"], facts("ddpm-loss")["adam"], new_unet()
    optimizer = torch.optim.Adam(unet.parameters(), lr=adam["lr"])
    rows: list[Tensor] = []
    for _ in range(adam["steps"]):
        loss = pair_loss(unet)
        rows.append(torch.stack([loss.instance, loss.prior, loss.total]).detach())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.no_grad():
        loss = pair_loss(unet)
    rows.append(torch.stack([loss.instance, loss.prior, loss.total]))
    for actual, row in zip(rows, expected, strict=True):
        assert actual.tolist() == pytest.approx(row.tolist(), rel=BOUND)


def test_eps_loss_is_each_samples_mean_square() -> None:
    eps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert eps_loss(eps, torch.zeros_like(eps)).tolist() == [7.5, 1.0]
    assert eps_loss(torch.zeros_like(eps), eps).tolist() == [7.5, 1.0]


def test_eps_loss_of_half_precision_is_summed_in_float32() -> None:
    eps = torch.full((1, 4, 64, 64), 300.0, dtype=torch.float16)
    loss = eps_loss(eps, torch.zeros_like(eps))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [90000.0]


@given(
    instance=st.lists(st.floats(0, 10), min_size=1, max_size=5),
    prior=st.lists(st.floats(0, 10), min_size=1, max_size=5),
    weight=st.floats(0, 3),
)
def test_dreambooths_sum_weighs_the_means_of_its_two_parts(
    instance: list[float], prior: list[float], weight: float
) -> None:
    per_sample = torch.tensor(instance + prior, dtype=torch.float64)
    loss = dreambooth_loss(per_sample, len(instance), weight)
    assert loss.instance.item() == pytest.approx(sum(instance) / len(instance))
    assert loss.prior.item() == pytest.approx(sum(prior) / len(prior))
    assert loss.total.item() == pytest.approx(sum(instance) / len(instance) + weight * sum(prior) / len(prior))


def test_without_class_samples_the_sum_is_the_instances_loss() -> None:
    loss = dreambooth_loss(torch.tensor([1.0, 3.0]), 2, prior_loss_weight=1.0)
    assert [part.item() for part in loss] == [2.0, 2.0, 0.0]


def test_min_snr_weights_by_hand() -> None:
    """Signal to noise 99, 5, 1 and 1/9: min(SNR, 5) / SNR."""
    alphas_cumprod = torch.tensor([0.99, 5 / 6, 0.5, 0.1])
    assert min_snr_weight(alphas_cumprod, 5.0).tolist() == pytest.approx([5 / 99, 1.0, 1.0, 1.0], rel=1e-4)
    assert min_snr_weight(alphas_cumprod, 0.5).tolist() == pytest.approx([0.5 / 99, 0.1, 0.5, 1.0], rel=1e-4)


@given(gamma=st.floats(0.01, 100))
def test_min_snr_weights_fall_with_the_noise_and_are_never_above_one(gamma: float) -> None:
    """Of Stable Diffusion's own schedule, whose first timestep is nearly clean."""
    weights = min_snr_weight(NoiseSchedule().alphas_cumprod, gamma)
    assert weights.isfinite().all()
    assert weights.min() > 0
    assert weights.max() <= 1
    assert (weights.diff() >= 0).all()
