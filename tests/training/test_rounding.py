"""Numbers in fewer bits: bounds of the error, and that its mean is zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ldm.training.rounding import BLOCK, SIGNED, UNSIGNED, decode, encode, join_float32, split_float32


def uniform(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def block(seed: int, decades: float, scale: float) -> Tensor:
    """256 numbers of either sign, from `scale` down to so many powers of ten below."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (-decades * torch.rand(BLOCK, generator=generator))
    return scale * sizes * torch.randn(BLOCK, generator=generator).sign()


@given(st.integers(0, 1000), st.floats(0, 12), st.floats(1e-25, 1e10), st.booleans())
def test_the_error_is_below_its_bound(seed: int, decades: float, scale: float, signed: bool) -> None:
    values = block(seed, decades, scale)
    values = values if signed else values.abs()
    codes, scales = encode(values, uniform(BLOCK, seed), signed=signed)
    assert (codes.dtype, codes.shape, scales.shape) == (torch.int8 if signed else torch.uint8, (BLOCK,), (1, 1))
    steps, largest = (SIGNED if signed else UNSIGNED), values.abs().max()
    y = steps * (values.abs() / largest).sqrt()
    error = (decode(codes, scales) - values).abs()
    assert (error <= 1.001 * largest * (2 * y + 1) / steps**2).all()
    assert decode(codes, scales).abs().max() == pytest.approx(largest.item(), rel=1e-5)


@given(st.integers(0, 1000), st.floats(0, 20))
def test_a_second_moment_never_becomes_zero(seed: int, decades: float) -> None:
    values = block(seed, decades, 1.0).abs()
    values[::7] = 0
    again = decode(*encode(values, uniform(BLOCK, seed), signed=False))
    assert torch.equal(again > 0, values > 0)


@pytest.mark.parametrize("signed", [True, False])
def test_zeros_stay_zero(signed: bool) -> None:
    codes, scales = encode(torch.zeros(2 * BLOCK), uniform(2 * BLOCK), signed=signed)
    assert not codes.any() and not decode(codes, scales).any()


@pytest.mark.parametrize("signed", [True, False])
def test_the_largest_of_a_block_does_not_overflow(signed: bool) -> None:
    almost_one = torch.full((BLOCK,), 1 - 2**-24)
    again = decode(*encode(torch.ones(BLOCK), almost_one, signed=signed))
    assert torch.equal(again, torch.ones(BLOCK))


def test_each_block_has_its_own_scale() -> None:
    values = torch.cat([block(0, 1, 1e-6), block(1, 1, 1e3)])
    again = decode(*encode(values, uniform(2 * BLOCK), signed=True))
    torch.testing.assert_close(again, values, rtol=0.06, atol=0)


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_right_on_average(signed: bool) -> None:
    values = block(3, 3, 1.0) if signed else block(3, 3, 1.0).abs()
    rounds = 2000
    many = decode(*encode(values.repeat(rounds), uniform(BLOCK * rounds), signed=signed)).view(rounds, BLOCK)
    error = (many.mean(dim=0) - values).abs()
    steps = SIGNED if signed else UNSIGNED
    noise = 5 * (values.abs().sqrt() / steps + 1 / steps**2) / rounds**0.5
    assert (error < noise + 0.25 / steps**2).all()  # the square of a code is not quite linear between two of them


@given(st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda x: abs(x) > 1e-30), st.integers(0, 100))
def test_a_float32_is_kept_to_24_bits(value: float, seed: int) -> None:
    values = torch.full((64,), value)
    high, low = split_float32(values, uniform(64, seed))
    assert (high.dtype, low.dtype) == (torch.bfloat16, torch.int8)
    again = join_float32(high, low)
    assert ((again - values).abs() <= 2**-15 * abs(value)).all()
    assert ((high.float() - values).abs() <= 2**-8 * abs(value)).all()  # the nearest


def test_what_has_been_split_once_stays_as_it_is() -> None:
    values = join_float32(*split_float32(torch.randn(1000, generator=torch.Generator().manual_seed(0)), uniform(1000)))
    assert torch.equal(join_float32(*split_float32(values, uniform(1000, 1))), values)


def test_steps_too_small_for_24_bits_are_made_on_average() -> None:
    """2000 steps of a twentieth of the last bit; to the nearest, the weight would never move."""
    values, step = torch.ones(500), 2**-15 / 20
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        values = join_float32(*split_float32(values + step, torch.rand(500, generator=generator)))
    moved = (values - 1).mean().item()
    assert moved == pytest.approx(2000 * step, rel=0.02)
