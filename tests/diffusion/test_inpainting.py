"""Inpainting with an ordinary model: in every sampler only the masked region is new."""

import pytest
import torch

from ldm.diffusion.guidance import Conditioning, classifier_free
from ldm.diffusion.inpainting import covering_mask, keep_known, with_mask_channels
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.sampling import InitImage, SamplingConfig, decode_images, sample_latents
from ldm.diffusion.schedule import NoiseSchedule
from tests.tiny import build_tiny_model


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGE = noise(3, 32, 32, seed=0).clamp(-1, 1)
MASK = torch.zeros(1, 32, 32)
MASK[:, 3:17, 9:30] = 1


@torch.inference_mode()
@pytest.mark.parametrize("spacing", ["original", "karras"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_region_outside_the_mask_stays(name: str, spacing: str) -> None:
    ldm = build_tiny_model()
    guidance = classifier_free(noise(1, 77, 32, seed=1), noise(1, 77, 32, seed=2), 3.0)
    config = SamplingConfig(32, 32, name, 4, spacing=spacing)
    init = InitImage(IMAGE, 1.0, mask=MASK).encoded(ldm)
    predictions: list[torch.Tensor] = []
    latents = sample_latents(ldm, guidance, [5], config, init, lambda step, x, pred_x0: predictions.append(pred_x0))
    untouched = sample_latents(ldm, guidance, [5], config, InitImage(IMAGE, 0.0))
    outside = covering_mask(MASK, 8)[0, 0] == 0
    assert outside.tolist() == [[True, False, False, False]] * 3 + [[True] * 4]
    assert (latents - untouched)[..., outside].abs().max() < 0.15  # ddim and plms end with a little noise
    if name not in ("plms", "lcm"):  # plms extrapolates eps, and lcm keeps latents as they are at the last timestep
        assert (predictions[-1] - untouched)[..., outside].abs().max() < 0.01
    assert (latents - untouched)[..., ~outside].abs().mean() > 0.3
    images = decode_images(ldm, latents, init)
    painted = MASK.bool().expand(3, -1, -1)
    assert torch.equal(images[0][~painted], IMAGE[~painted])
    assert (images[0] - IMAGE)[painted].abs().mean() > 0.1


def test_a_known_region_has_the_eps_that_leads_to_it() -> None:
    schedule, known, true_noise = NoiseSchedule(), noise(1, 4, 4, 4, seed=1), noise(1, 4, 4, 4, seed=2)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    t = torch.tensor([500])
    eps_fn = keep_known(lambda x, t: torch.zeros_like(x), known, mask, schedule)
    eps = eps_fn(schedule.add_noise(known, true_noise, t), t)
    torch.testing.assert_close(eps[..., 2:], true_noise[..., 2:], rtol=0, atol=1e-5)
    assert not eps[..., :2].any()


def test_a_model_for_inpainting_gets_the_mask_and_then_the_masked_latents() -> None:
    latents = noise(2, 4, 4, 4, seed=0)
    guidance = with_mask_channels([(1.0, Conditioning(torch.zeros(2, 7, 3)))], MASK, latents)
    ((weight, conditioning),) = guidance
    assert weight == 1.0 and conditioning.concat is not None
    assert torch.equal(conditioning.concat[:, 1:], latents)
    assert torch.equal(conditioning.concat[0, 0], MASK[0, ::8, ::8])
