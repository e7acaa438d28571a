"""Every sampler and spacing against diffusers' scheduler of the same definition, on the same eps and the same noise."""

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.diffusion.samplers import SAMPLERS, dpm_solver_sde
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import noise_levels

SCHEDULE = NoiseSchedule()
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACED: dict[str, dict[str, Any]] = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm-solver": ("DPMSolverMultistepScheduler", {}),
    "dpm-solver-2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
CASES = [
    *((name, spacing, steps) for name in ("euler", "heun") for spacing in SPACED for steps in (4, 20)),
    *(
        (name, spacing, steps)
        for name in ("dpm-solver", "dpm-solver-2m-sde", "unipc")
        for spacing in ("trailing", "karras", "exponential")  # their "leading" leaves out the last timestep
        for steps in (4, 20)
    ),
    *((name, spacing, 20) for name in ("ddim", "ddpm", "euler-ancestral") for spacing in ("leading", "trailing")),
    ("plms", "leading", 20),
    ("lcm", "original", 4),
    ("lcm", "original", 7),
]


def a_prediction(latents: Tensor, timesteps: Tensor) -> Tensor:
    """Depends on the image and the time, and is no fixed point of anything."""
    return torch.tanh(0.8 * latents + timesteps.to(latents.dtype).view(-1, 1, 1, 1) / 1000 - 0.3)


def scheduler_of(name: str, spacing: str, num_steps: int) -> Any:
    """The peer with these timesteps; one that rounds the timesteps of its noise levels gets ours."""
    kind, options = PEERS[name]
    if name in ("ddim", "plms"):
        options = {**options, "set_alpha_to_one": spacing == "trailing"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, kind)(**BETAS, **SPACED.get(spacing, {}), **options)
        scheduler.set_timesteps(num_steps)
    return scheduler


def theirs(scheduler: Any, latents: Tensor, timesteps: list[float]) -> Tensor:
    """The peer's loop; `timesteps` are what the network is given, in order."""
    in_sigma = type(scheduler).__name__.startswith(("Euler", "Heun"))
    x = latents * (1 + scheduler.sigmas[0] ** 2) ** 0.5 if in_sigma else latents
    for timestep, fed in zip(scheduler.timesteps, timesteps, strict=True):
        scaled = scheduler.scale_model_input(x, timestep)
        eps = a_prediction(scaled, torch.full((len(x),), fed, dtype=torch.float64))
        x = scheduler.step(eps, timestep, x).prev_sample
    return x


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ours and theirs draw the same noise in every step."""
    stored = [torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(i)).double() for i in range(20)]
    for name in ("ddpm", "lcm", "dpm_solver_sde"):
        module = __import__(f"ldm.diffusion.samplers.{name}", fromlist=["step_noise"])
        monkeypatch.setattr(module, "step_noise", lambda shape, generator, step, device: stored[step])
    left, ours = list(stored), list(stored)
    monkeypatch.setattr("ldm.diffusion.samplers.euler.draw_noise", lambda *args: ours.pop(0))
    for kind in {kind for kind, _ in PEERS.values()}:
        module = __import__(getattr(diffusers, kind).__module__, fromlist=["randn_tensor"])
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: left.pop(0))
    yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize(("name", "spacing", "num_steps"), CASES)
def test_latents_are_those_of_diffusers(name: str, spacing: str, num_steps: int) -> None:
    latents = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    fed: list[float] = []

    def eps_fn(x: Tensor, t: Tensor) -> Tensor:
        fed.append(t[0].item())
        return a_prediction(x, t)

    ours = SAMPLERS[name].sample(eps_fn, latents, SCHEDULE, num_steps=num_steps, spacing=spacing)
    scheduler = scheduler_of(name, spacing, num_steps)
    expected = theirs(scheduler, latents, fed)
    assert np.abs(np.array(fed) - np.array(scheduler.timesteps, float)).max() < 1.001  # they may round
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize("spacing", ["original", "trailing", "karras", "exponential"])
def test_ddim_is_eulers_method_in_other_symbols(spacing: str) -> None:
    """DDIM, eq. 13: so the spacings that diffusers' DDIM lacks are checked by those of its Euler."""
    latents = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends: dict[str, Tensor] = {}
    for name in ("ddim", "euler"):
        SAMPLERS[name].sample(
            a_prediction,
            latents,
            SCHEDULE,
            num_steps=12,
            spacing=spacing,
            callback=lambda step, x, pred_x0, name=name: ends.setdefault(name, x) if step == 10 else None,
        )
    torch.testing.assert_close(ends["ddim"], ends["euler"], rtol=1e-6, atol=1e-6)


def test_ddpm_is_euler_ancestral_with_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noises = list(torch.randn(12, 1, 4, 3, 3, generator=torch.Generator().manual_seed(1)).double())
    monkeypatch.setattr("ldm.diffusion.samplers.ddpm.step_noise", lambda shape, generator, step, device: noises[step])
    ddpm = SAMPLERS["ddpm"].sample(a_prediction, latents, SCHEDULE, num_steps=12, spacing="karras")
    left = list(noises)
    monkeypatch.setattr("ldm.diffusion.samplers.euler.draw_noise", lambda *args: left.pop(0))
    ancestral = SAMPLERS["euler-ancestral"].sample(a_prediction, latents, SCHEDULE, num_steps=12, spacing="karras")
    torch.testing.assert_close(ddpm, ancestral, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_a_step_of_dpm_solver_sde_is_diffusers_single_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scheduler with our levels and the middles between them.

    The noise of the whole step is the sum of its two parts, as on one path of the SDE.
    """
    num_steps, levels = 6, noise_levels(SCHEDULE, 6, "karras")
    sigmas = levels.sigmas[:-1]
    between = [(a * b) ** 0.5 for a, b in pairwise(sigmas)]
    grid = [sigma for pair in zip(sigmas, between, strict=False) for sigma in pair] + [sigmas[-1], 0.0]
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        **BETAS, algorithm_type="sde-dpmsolver++", solver_order=2, lower_order_final=False
    )
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = torch.tensor(grid, dtype=torch.float64)
    parts = torch.randn(num_steps, 2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(3)).double()
    monkeypatch.setattr(dpm_solver_sde, "step_noise", lambda shape, g, step, device, part=0: parts[step, part])
    fed: list[float] = []
    ends: list[Tensor] = []

    def eps_fn(x: Tensor, t: Tensor) -> Tensor:
        fed.append(t[0].item())
        return a_prediction(x, t)

    latents = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    SAMPLERS["dpm-solver-sde"].sample(
        eps_fn, latents, SCHEDULE, num_steps=num_steps, spacing="karras", callback=lambda step, x, _: ends.append(x)
    )

    def whole(step: int) -> Tensor:
        """The noise of the whole step, of variance 1: e^(-h / 2) of the first half's is left."""
        h = np.log(sigmas[step] / sigmas[step + 1])
        first, second = np.exp(-h / 2) * (1 - np.exp(-h)) ** 0.5, (1 - np.exp(-h)) ** 0.5
        return (first * parts[step, 0] + second * parts[step, 1]) / (1 - np.exp(-2 * h)) ** 0.5

    noises = [noise for step in range(num_steps - 1) for noise in (parts[step, 0], whole(step))]
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: noises.pop(0))
    x = latents
    for index, t in enumerate(fed[:-1]):
        eps = a_prediction(x, torch.full((1,), t, dtype=torch.float64))
        x = scheduler.step(eps, scheduler.timesteps[index], x).prev_sample
        if index % 2:
            torch.testing.assert_close(ends[index // 2], x, rtol=1e-5, atol=1e-5)
