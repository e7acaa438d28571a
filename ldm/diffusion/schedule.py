"""The noise schedule: how much signal and noise there is at each of 1000 timesteps, and which ones a sampler visits.

"Denoising Diffusion Probabilistic Models" (DDPM, arXiv 2006.11239), section 2, with latent diffusion's "scaled linear"
betas (arXiv 2112.10752). Timesteps are indices from 0 (one step of noise) to 999 (almost pure noise).

The paper's symbols and the names here:

    beta_t          betas
    alpha-bar_t     alphas_cumprod
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldm.bounds import MOST_TIMESTEPS, check_range


@dataclass(frozen=True)
class ScheduleConfig:
    """Betas run from `linear_start` to `linear_end`, linearly in their square root."""

    num_timesteps: int = 1000
    linear_start: float = 0.00085
    linear_end: float = 0.0120

    def __post_init__(self) -> None:
        check_range(self, 1, MOST_TIMESTEPS, "num_timesteps")
        if not 0.0 < self.linear_start <= self.linear_end < 1.0:
            raise ValueError(
                "betas should be above 0, below 1 and not fall: "
                f"linear_start is {self.linear_start:g}, linear_end {self.linear_end:g}"
            )


class NoiseSchedule:
    """Betas and alphas, float32 (num_timesteps,), computed in float64."""

    def __init__(self, config: ScheduleConfig = ScheduleConfig()) -> None:
        self.num_timesteps = config.num_timesteps
        start, end = config.linear_start**0.5, config.linear_end**0.5
        # On the CPU even if the weights are built on the meta device.
        self._betas = torch.linspace(start, end, self.num_timesteps, dtype=torch.float64, device="cpu") ** 2
        self._alphas_cumprod = torch.cumprod(1.0 - self._betas, dim=0)
        self.betas = self._betas.float()
        self.alphas_cumprod = self._alphas_cumprod.float()
        self._copies: dict[torch.device, Tensor] = {}

    def alphas_cumprod_at(self, timesteps: Tensor) -> Tensor:
        """alpha-bar of timesteps (b,) int64, on their device: (b,) float32.

        Each device gets one copy: otherwise every step would wait for the transfer.
        """
        device = timesteps.device
        if device == self.alphas_cumprod.device:
            return self.alphas_cumprod[timesteps]
        if device not in self._copies:
            self._copies[device] = self.alphas_cumprod.to(device)
        return self._copies[device][timesteps]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """A sample of q(x_t | x_0) from clean latents (b ...), noise of the same shape and timesteps (b,) int64."""
        alpha = self.alphas_cumprod_at(timesteps).view(-1, *[1] * (latents.ndim - 1))
        # DDPM, eq. 4
        return (alpha.sqrt() * latents + (1.0 - alpha).sqrt() * noise).to(latents.dtype)

    def spaced_timesteps(self, num_steps: int) -> list[int]:
        """`num_steps` distinct timesteps, evenly spaced and ascending: floor(i * 1000 / num_steps) + 1.

        Where `num_steps` divides 1000 these are the original's; visiting all 1000 leaves no room for the + 1.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(f"num_steps should be from 1 to {self.num_timesteps}, not {num_steps}")
        offset = 1 if num_steps < self.num_timesteps else 0
        return [i * self.num_timesteps // num_steps + offset for i in range(num_steps)]

    def spaced_alphas(self, num_steps: int) -> tuple[list[float], list[float]]:
        """alpha-bar at the spaced timesteps, and at the timestep below each of them; the first's is timestep 0."""
        alphas = [self.alphas_cumprod[t].item() for t in self.spaced_timesteps(num_steps)]
        return alphas, [self.alphas_cumprod[0].item(), *alphas[:-1]]

    def alphas_cumprod_between(self, timesteps: Tensor) -> Tensor:
        """alpha-bar of timesteps (b,), whole or fractional, on their device: (b,) float32, interpolated in its log."""
        if not timesteps.is_floating_point():
            return self.alphas_cumprod_at(timesteps)
        low = timesteps.floor().long().clamp(0, max(0, self.num_timesteps - 2))
        high = (low + 1).clamp(max=self.num_timesteps - 1)
        log_low, log_high = (self.alphas_cumprod_at(one).double().log() for one in (low, high))
        return torch.lerp(log_low, log_high, (timesteps - low).double()).exp().float()

    def sigmas(self) -> np.ndarray:
        """sqrt((1 - alpha-bar) / alpha-bar) of all timesteps, ascending, float64."""
        alphas = self.alphas_cumprod.double().numpy()
        return np.sqrt((1 - alphas) / alphas)

    def timesteps_at(self, sigma: float, latents: Tensor) -> Tensor:
        """The timestep of a noise level, interpolated in log(sigma), for each of latents (b ...): (b,) float32."""
        sigmas = self.sigmas()
        t = np.interp(np.log(sigma), np.log(sigmas), np.arange(len(sigmas)))
        return latents.new_full((len(latents),), float(t), dtype=torch.float32)

    def official_buffers(self) -> dict[str, Tensor]:
        """The twelve float32 buffers that the official checkpoint holds beside the weights."""
        beta, a = self._betas, self._alphas_cumprod
        a_prev = torch.cat([torch.ones_like(a[:1]), a[:-1]])
        variance = beta * (1.0 - a_prev) / (1.0 - a)  # DDPM, eq. 7
        buffers = {
            "betas": beta,
            "alphas_cumprod": a,
            "alphas_cumprod_prev": a_prev,
            "sqrt_alphas_cumprod": a.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1.0 - a).sqrt(),
            "log_one_minus_alphas_cumprod": (1.0 - a).log(),
            "sqrt_recip_alphas_cumprod": a.rsqrt(),
            "sqrt_recipm1_alphas_cumprod": (1.0 / a - 1.0).sqrt(),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": beta * a_prev.sqrt() / (1.0 - a),
            "posterior_mean_coef2": (1.0 - a_prev) * (1.0 - beta).sqrt() / (1.0 - a),
        }
        return {name: value.float() for name, value in buffers.items()}
