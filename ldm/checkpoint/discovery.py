"""Which files below a directory are checkpoints, in the order of their runs and steps, and why the others are not."""

from dataclasses import dataclass
from pathlib import Path

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import SUFFIXES, read_checkpoint
from ldm.errors import UserError
from ldm.files import natural_key

RESUME_STATE = "resume.ckpt"
"""The name of a run's resume state: it continues a training and is not sampled."""

BEFORE_FIRST_SAVE = ".before-first-save"
"""The name of an empty file in a run's directory until there is a resume state: without it, a lost one is noticed."""


@dataclass(frozen=True)
class Found:
    """A checkpoint and what it says of itself."""

    path: Path
    info: CheckpointInfo


@dataclass(frozen=True)
class Skipped:
    """A file that might have been a checkpoint, and why it is left out."""

    path: Path
    reason: str


def find_checkpoints(directory: Path) -> tuple[list[Found], list[Skipped]]:
    """Looks at every file below `directory` with a checkpoint's suffix. No weights are read, only their index."""
    found, skipped = [], []
    for path in sorted(directory.rglob("*"), key=natural_key):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if hidden or path.suffix not in SUFFIXES or not path.is_file():
            continue
        if path.name == RESUME_STATE:
            skipped.append(Skipped(path, "the state of a training run, not a checkpoint"))
            continue
        try:
            file = read_checkpoint(path)
            if not any(key.startswith(PARTS["unet"]) for key in file.tensors):
                raise UserError(f"{path} holds no UNet in the official layout")
            found.append(Found(path, checkpoint_info(file)))
        except UserError as error:
            skipped.append(Skipped(path, str(error)))
    found.sort(key=lambda one: (natural_key(one.path.parent), one.info.step))
    return found, skipped
