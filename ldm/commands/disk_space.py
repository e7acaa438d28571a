"""A training that would fill the disk fails before it begins."""

import os
import shutil
from pathlib import Path

from ldm.errors import UserError
from ldm.training.config import OptimizationConfig

STATE_BYTES = {("adamw", "fp32"): 12, ("adamw8bit", "fp32"): 7, ("adamw8bit", "bf16"): 6}
"""Of a resume state, at most, for each trained weight: the weight and two moments."""

AVERAGE_BYTES = 4
"""More, where a moving average of the weights is kept."""


def refuse_without_space(output_dir: Path, config: OptimizationConfig, *, checkpoint: int, state: int) -> None:
    """Raises `UserError` unless there is room for all checkpoints and for resume states, of so many bytes each."""
    checkpoints = -(-config.iterations // config.save_every)
    needed = checkpoints * checkpoint + 2 * state  # two states while one is replaced
    existing = _existing(output_dir)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{checkpoints} checkpoints and the resume state need up to {needed / 1e9:.0f} GB, but {existing} has "
            f"{free / 1e9:.0f} GB free. Save less often (--save-every) or elsewhere (--output-dir)"
        )


def refuse_unwritable(*directories: Path) -> None:
    """Raises `UserError` unless something can be made in each of them, or they themselves where they are not yet."""
    for directory in directories:
        existing = _existing(directory)
        if not existing.is_dir():
            raise UserError(f"could not write into {directory}: {existing} is no directory")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"could not write into {directory}: you may not write in {existing}")


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    resolved = directory.resolve()
    return next(parent for parent in [resolved, *resolved.parents] if parent.exists())
