"""Hyperparameters of what an update minimises and which weights it changes. Imports neither torch nor Lightning."""

from dataclasses import dataclass

from ldm.bounds import LARGEST_FACTOR, MOST_TIMESTEPS, check_length, check_list, check_range
from ldm.choices import TIMESTEPS, TRAIN_LAYERS
from ldm.training.config import OptimizationConfig, check_choice

ALL_TIMESTEPS = (0, 1000)
"""Also stands for all timesteps of a schedule that has more or fewer."""


@dataclass(frozen=True)
class ObjectiveConfig(OptimizationConfig):
    """Options of a fine-tuning that the paper doesn't have (docs/training-options.md)."""

    ema_decay: float = 0.0
    """Of the average of the weights that is saved; 0: the weights themselves are saved."""
    min_snr_gamma: tuple[float, ...] = (0.0,)
    """Weights the loss of a sample by min(SNR, gamma) / SNR (arXiv 2303.09556): of photos and, if there are two, of
    class images. 0: the weight is 1."""
    noise_offset: float = 0.0
    """Standard deviation of a random constant that is added to each channel of the noise."""
    input_perturbation: float = 0.0
    """Standard deviation of further noise in the UNet's input only (arXiv 2301.11706)."""
    timesteps: str = "uniform"
    """A name of `ldm.choices.TIMESTEPS`."""
    timestep_range: tuple[int, ...] = ALL_TIMESTEPS
    """The timesteps of a training: from the first on, and below the second."""
    train_layers: str = "all"
    """A name of `ldm.choices.TRAIN_LAYERS`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1, "ema_decay")
        check_length("min_snr_gamma", self.min_snr_gamma, 2)
        check_list(self, 2, 0, LARGEST_FACTOR, "min_snr_gamma")
        check_range(self, 0, LARGEST_FACTOR, "noise_offset", "input_perturbation")
        check_choice("timesteps", self.timesteps, TIMESTEPS)
        check_choice("train_layers", self.train_layers, TRAIN_LAYERS)
        check_list(self, 2, 0, MOST_TIMESTEPS, "timestep_range")
        if len(self.timestep_range) != 2 or self.timestep_range[0] >= self.timestep_range[1]:
            shown = " ".join(map(str, self.timestep_range))
            raise ValueError(f"timestep_range should be two rising numbers, such as 0 500, not {shown}")

    @property
    def gammas(self) -> tuple[float, float]:
        """`min_snr_gamma` of photos and of class images."""
        return self.min_snr_gamma[0], self.min_snr_gamma[-1]

    def timesteps_of(self, num_timesteps: int) -> tuple[int, int] | None:
        """The range of the timesteps to draw; None if all are drawn uniformly, as always before there were options.

        Raises `ValueError` for a range that a schedule of `num_timesteps` doesn't have.
        """
        low, high = self.timestep_range
        if (low, high) == ALL_TIMESTEPS:
            return (0, num_timesteps) if self.timesteps != "uniform" else None
        if high > num_timesteps:
            raise ValueError(f"timestep_range should end at {num_timesteps}, which the model has, not {high}")
        return low, high
