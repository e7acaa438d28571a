"""How a fine-tuning's latents are noised: what each option draws, and that nothing else changes it."""

from typing import Any

import pytest
import torch

from ldm.data.batches import DeviceShare, DreamBoothBatches
from ldm.data.noising import Noising

SEED = 3
MOMENTS = torch.randn(5, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
CLASS = torch.randn(7, 1, 8, 4, 4, generator=torch.Generator().manual_seed(1))


def batch_of(step: int = 0, batch_size: int = 2, rank: int = 0, world_size: int = 1, **options: Any) -> dict[str, Any]:
    """A step's batch of photos and class images with these options of `Noising`."""
    share = DeviceShare(SEED, batch_size, rank=rank, world_size=world_size)
    return dict(DreamBoothBatches(MOMENTS, CLASS, 1000, share, noising=Noising(**options)).step(step))


def many(**options: Any) -> dict[str, Any]:
    """A large batch."""
    return batch_of(batch_size=1000, **options)


def test_without_options_a_batch_is_as_before() -> None:
    assert batch_of().keys() == {"moments", "posterior_noise", "noise", "timesteps"}


def test_noise_offset_adds_a_constant_to_each_channel() -> None:
    plain, batch = many(), many(offset=0.3)
    added = batch["noise"] - plain["noise"]
    assert torch.equal(batch["input_noise"], batch["noise"])  # it is predicted, too
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), atol=1e-6, rtol=0)
    constants = added[:, :, 0, 0]
    assert constants.std().item() == pytest.approx(0.3, rel=0.05)
    assert abs(torch.corrcoef(constants.T)[0, 1].item()) < 0.1  # each channel has its own
    assert torch.equal(batch["timesteps"], plain["timesteps"])


def test_input_perturbation_adds_noise_that_is_not_predicted() -> None:
    plain, batch = many(), many(perturbation=0.2)
    assert torch.equal(batch["noise"], plain["noise"])
    added = batch["input_noise"] - plain["noise"]
    assert added.std().item() == pytest.approx(0.2, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([added.flatten(), plain["noise"].flatten()]))[0, 1].item()) < 0.05


def test_a_range_of_timesteps_is_drawn_uniformly_and_wholly() -> None:
    timesteps = many(timesteps=(10, 14))["timesteps"]
    assert timesteps.bincount().tolist()[10:] == pytest.approx([500] * 4, rel=0.2)
    assert timesteps.min() == 10 and timesteps.dtype == torch.int64


def test_logit_normal_timesteps_are_the_logistic_function_of_a_normal_number() -> None:
    timesteps = many(timesteps=(0, 1000), logit_normal=True)["timesteps"].double()
    quartiles = torch.tensor([-0.6745, 0.0, 0.6745], dtype=torch.float64).sigmoid() * 1000
    shares = [(timesteps < quartile).double().mean().item() for quartile in quartiles]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.04)
    within = many(timesteps=(200, 300), logit_normal=True)["timesteps"]
    assert within.min() >= 200 and within.max() < 300


def test_what_is_drawn_depends_on_the_image_alone() -> None:
    """One device with four photos draws as two devices with two each; another option changes nothing."""
    options = {"timesteps": (0, 1000), "offset": 0.1}
    one = batch_of(step=3, batch_size=4, **options)["timesteps"]
    two = [batch_of(step=3, rank=rank, world_size=2, **options)["timesteps"] for rank in (0, 1)]
    assert one.tolist() == [*two[0][:2], *two[1][:2], *two[0][2:], *two[1][2:]]
    assert len(set(one.tolist())) == len(one)
    assert torch.equal(batch_of(step=3, batch_size=4, timesteps=(0, 1000))["timesteps"], one)
