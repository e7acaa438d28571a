"""Refuses, before anything is made, what would fill the disk or can't be written."""

from pathlib import Path

from ldm.disk import existing, free_bytes, human_size, unwritable
from ldm.errors import UserError
from ldm.files import counted
from ldm.training.config import OptimizationConfig

AVERAGE_BYTES = 4
"""Bytes of a moving average in a resume state, for each trained weight."""

PNG_BYTES = 1.5
"""Bytes of a PNG file per pixel: about half of the raw colours, as of photos and drawings."""


def refuse_without_space(
    output_dir: Path,
    config: OptimizationConfig,
    *,
    checkpoint: int,
    state: int,
    extra_bytes: int = 0,
    extra_name: str = "",
) -> None:
    """Raises `UserError` unless all checkpoints and two resume states fit on the disk.

    `checkpoint` and `state`: the bytes of one. `extra_bytes` are those of `extra_name`, such as "class images".
    """
    checkpoints = -(-config.iterations // config.save_every)
    needed = run_bytes(config, checkpoint=checkpoint, state=state, extra_bytes=extra_bytes)
    parts = [counted(checkpoints, "checkpoint"), *([extra_name] if extra_bytes else []), "the resume state"]
    _refuse(
        output_dir,
        needed,
        f"{', '.join(parts[:-1])} and {parts[-1]} need up to",
        "Save less often (--save-every) or elsewhere (--output-dir)",
    )


def run_bytes(config: OptimizationConfig, *, checkpoint: int, state: int, extra_bytes: int = 0) -> int:
    """Bytes of all checkpoints, two resume states (while one is replaced) and the rest."""
    return -(-config.iterations // config.save_every) * checkpoint + 2 * state + extra_bytes


def refuse_without_space_for_images(output_dir: Path, count: int, height: int, width: int) -> None:
    """Raises `UserError` unless so many images fit on the disk."""
    needed = image_bytes(count, height, width)
    _refuse(
        output_dir,
        needed,
        f"{counted(count, 'image')} of {width} x {height} pixels need about",
        "Sample fewer (--variations) or elsewhere (--output-dir)",
    )


def refuse_without_space_for_weights(target: Path, size: int) -> None:
    """Raises `UserError` unless a checkpoint of `size` bytes fits on the disk of `target`."""
    _refuse(target.parent, size, f"{target} takes", "Name a place on another disk")


def image_bytes(count: int, height: int, width: int) -> int:
    """About the bytes of so many images on the disk."""
    return round(count * height * width * PNG_BYTES)


def _refuse(output_dir: Path, needed: int, beginning: str, advice: str) -> None:
    free = free_bytes(output_dir)
    if free < needed:
        raise UserError(
            f"{beginning} {human_size(needed)}, but {existing(output_dir)} has {human_size(free)} free. {advice}"
        )


def refuse_unwritable(*directories: Path) -> None:
    """Raises `UserError` unless each directory can be written into, or made."""
    for directory in directories:
        if (fault := unwritable(directory)) is not None:
            raise UserError(f"could not write into {directory}: {fault}")
