"""What would fill the disk fails before it begins."""

from pathlib import Path

from ldm.disk import existing, free_bytes, human_size, unwritable
from ldm.errors import UserError
from ldm.files import counted
from ldm.training.config import OptimizationConfig

AVERAGE_BYTES = 4
"""Of a resume state for each weight of a moving average."""

PNG_BYTES = 1.5
"""Of an image's file for each pixel: about half of what its red, green and blue take, as of photos and drawings."""


def refuse_without_space(
    output_dir: Path,
    config: OptimizationConfig,
    *,
    checkpoint: int,
    state: int,
    more: int = 0,
    what: str = "",
) -> None:
    """Raises `UserError` unless there is room for all checkpoints and for resume states, of so many bytes each.

    `more` bytes are for `what`, such as "class images".
    """
    checkpoints = -(-config.iterations // config.save_every)
    needed = checkpoints * checkpoint + 2 * state + more  # two states while one is replaced
    parts = [counted(checkpoints, "checkpoint"), *([what] if more else []), "the resume state"]
    _refuse(
        output_dir,
        needed,
        f"{', '.join(parts[:-1])} and {parts[-1]} need up to",
        "Save less often (--save-every) or elsewhere (--output-dir)",
    )


def refuse_without_space_for_images(output_dir: Path, count: int, height: int, width: int) -> None:
    """Raises `UserError` unless there is room for so many images."""
    needed = image_bytes(count, height, width)
    _refuse(
        output_dir,
        needed,
        f"{counted(count, 'image')} of {width} x {height} pixels need about",
        "Draw fewer (--variations) or elsewhere (--output-dir)",
    )


def image_bytes(count: int, height: int, width: int) -> int:
    """What so many images take on the disk, more or less."""
    return round(count * height * width * PNG_BYTES)


def _refuse(output_dir: Path, needed: int, what: str, advice: str) -> None:
    free = free_bytes(output_dir)
    if free < needed:
        raise UserError(
            f"{what} {human_size(needed)}, but {existing(output_dir)} has {human_size(free)} free. {advice}"
        )


def refuse_unwritable(*directories: Path) -> None:
    """Raises `UserError` unless something can be made in each of them, or they themselves where they are not yet."""
    for directory in directories:
        if (fault := unwritable(directory)) is not None:
            raise UserError(f"could not write into {directory}: {fault}")
