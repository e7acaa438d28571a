"""Noise: each image's own, whatever the batch."""

import pytest
import torch

from ldm.diffusion.noise import derived_generator, draw_noise, image_generators, step_noise


def test_each_image_has_the_noise_of_its_own_seed_whatever_the_batch() -> None:
    together = draw_noise((3, 4, 2, 5), image_generators([7, 8, 9]))
    for i, seed in enumerate([7, 8, 9]):
        alone = draw_noise((1, 4, 2, 5), image_generators([seed]))
        assert torch.equal(alone[0], together[i])
        assert torch.equal(alone[0], torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(seed)))


def test_generators_go_on_where_they_stopped() -> None:
    generators = image_generators([7])
    first, second = draw_noise((1, 3), generators), draw_noise((1, 3), generators)
    assert not torch.equal(first, second)


def test_one_generator_draws_the_whole_batch() -> None:
    noise = draw_noise((2, 3), torch.Generator().manual_seed(5))
    assert torch.equal(noise, torch.randn(2, 3, generator=torch.Generator().manual_seed(5)))


def test_no_generator_is_torchs_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        noise = draw_noise((2, 3), None)
        torch.manual_seed(11)
        assert torch.equal(noise, torch.randn(2, 3))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_generators_as_images_are_needed(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} generators for a batch of 2"):
        draw_noise((2, 3), image_generators(range(count)))


def test_noise_is_drawn_on_the_cpu_in_float32_and_then_moved() -> None:
    assert draw_noise((1, 3), image_generators([0])).dtype == torch.float32
    assert draw_noise((1, 3), image_generators([0]), "meta").is_meta


def test_a_derived_generator_depends_on_every_number_and_on_their_order() -> None:
    def number(*entropy: int) -> int:
        return int(torch.randint(2**62, (1,), generator=derived_generator(*entropy)))

    mixes = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2**40, 1), (1, 2**40)]
    assert len({number(*mix) for mix in mixes}) == len(mixes)
    assert all(number(*mix) == number(*mix) for mix in mixes)


def test_noise_of_a_step_depends_on_seed_step_and_part_alone() -> None:
    together = step_noise((3, 4, 2, 2), used := image_generators([5, 6, 7]), 9)
    alone = step_noise((1, 4, 2, 2), image_generators([6]), 9)
    draw_noise((3, 4, 2, 2), used)  # what was drawn before doesn't matter
    assert torch.equal(together[1:2], alone)
    assert torch.equal(step_noise((3, 4, 2, 2), used, 9), together)
    others = [
        step_noise((3, 4, 2, 2), used, 8),
        step_noise((3, 4, 2, 2), used, 9, part=1),
        draw_noise((3, 4, 2, 2), used),
    ]
    assert all((other - together).abs().min() > 0 for other in others)
