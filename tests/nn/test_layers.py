"""The small layers: the formulae that their docstrings give."""

import math

import pytest
import torch

from ldm.nn.layers import Upsample, group_norm, timestep_embedding, zero_init
from tests.oracle import rel, tensors


def test_timestep_embedding_is_the_originals() -> None:
    io = tensors("unet-small-io")
    assert rel(timestep_embedding(io["t"], 32), io["t_emb"]) < 5e-6


def test_timestep_embedding_is_cosines_then_sines_of_falling_frequencies() -> None:
    embedding = timestep_embedding(torch.tensor([3]), 4, max_period=100.0)[0]
    expected = torch.tensor([math.cos(3.0), math.cos(0.3), math.sin(3.0), math.sin(0.3)])
    torch.testing.assert_close(embedding, expected)


def test_timestep_embedding_of_a_fraction_lies_between_its_neighbours() -> None:
    before, between, after = timestep_embedding(torch.tensor([949.0, 949.05, 950.0]), 32)
    assert 0 < (between - before).norm() < (after - before).norm()
    assert torch.equal(before, timestep_embedding(torch.tensor([949]), 32)[0])


def test_timestep_embedding_of_odd_width_ends_in_a_zero() -> None:
    embedding = timestep_embedding(torch.tensor([5, 700]), 7)
    assert embedding.shape == (2, 7)
    assert torch.equal(embedding[:, :6], timestep_embedding(torch.tensor([5, 700]), 6))
    assert embedding[:, 6].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float64])
def test_timestep_embedding_is_float32_whatever_the_timesteps_are(dtype: torch.dtype) -> None:
    embedding = timestep_embedding(torch.tensor([17], dtype=dtype), 32)
    assert torch.equal(embedding, timestep_embedding(torch.tensor([17.0]), 32))


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_group_norm_is_over_32_groups_and_adds_its_eps_to_the_variance(eps: float) -> None:
    x = 1e-3 * torch.randn(2, 64, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = x.view(2, 32, -1)
    centred = groups - groups.mean(dim=-1, keepdim=True)
    expected = (centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()).view_as(x)
    torch.testing.assert_close(group_norm(64, eps).double()(x), expected)


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
def test_group_norm_has_the_given_number_of_groups(num_groups: int) -> None:
    x = torch.randn(2, 8, 4, 6, generator=torch.Generator().manual_seed(0)) + torch.arange(8.0)[:, None, None]
    normed = group_norm(8, 1e-6, num_groups)(x).view(2, num_groups, -1)
    torch.testing.assert_close(normed.mean(dim=-1), torch.zeros(2, num_groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(dim=-1, correction=0), torch.ones(2, num_groups), atol=1e-4, rtol=0)


def test_a_channel_that_is_a_group_of_its_own_loses_its_mean() -> None:
    """As its docstring warns: two flat colours come out the same, unless a group has several channels."""
    colours = torch.tensor([[0.1, 0.5, 0.3, 0.9], [0.7, 0.2, 0.8, 0.4]])[:, :, None, None].expand(2, 4, 3, 3)
    alone, together = group_norm(4, 1e-6, 4)(colours), group_norm(4, 1e-6, 1)(colours)
    assert alone.abs().max() < 1e-3
    assert (together[0] - together[1]).abs().max() > 0.5


def test_upsample_repeats_each_pixel_before_it_convolves() -> None:
    upsample = Upsample(2)
    torch.nn.init.dirac_(upsample.conv.weight)
    torch.nn.init.zeros_(upsample.conv.bias)
    x = torch.arange(12.0).view(1, 2, 2, 3)
    assert torch.equal(upsample(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_zero_init_leaves_no_parameter_but_zeros() -> None:
    layer = zero_init(torch.nn.Conv2d(3, 5, 3))
    assert all(parameter.eq(0).all() for parameter in layer.parameters())
    assert all(parameter.requires_grad for parameter in layer.parameters())
