"""Fine-tuning on a subject, and the run directory that it leaves."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.api.calls import command_call
from ldm.api.flags import as_path, parsed_keywords
from ldm.api.samples import png_bytes
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.resuming import RECORD, step_files
from ldm.errors import UserError


@dataclass(frozen=True)
class SavedCheckpoint(os.PathLike[str]):
    """A checkpoint of a run; it can be used wherever a path can."""

    path: Path
    step: int
    """Updates made."""

    def __fspath__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Run(os.PathLike[str]):
    """A run directory of dreambooth.py; `ldm.Run("ckpts/can-1")` opens an existing one. It can be used as a path."""

    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", as_path("directory", self.directory))
        if not (self.directory / RECORD).is_file():
            raise UserError(f"{self.directory} is no run of dreambooth.py: it has no {RECORD}")

    def __fspath__(self) -> str:
        return str(self.directory)

    @property
    def checkpoints(self) -> list[SavedCheckpoint]:
        """What was saved so far, the earliest first."""
        return [SavedCheckpoint(path, step) for step, path in step_files(self.directory).items()]

    def previews(self) -> Image.Image | None:
        """The previews of all steps in one image, or None if the run has none. Jupyter shows it."""
        path = self.directory / "samples" / "sweep.png"
        if not path.is_file():
            return None
        with Image.open(path) as image:
            return image.convert("RGB")

    def _repr_png_(self) -> bytes | None:
        sheet = self.previews()
        return None if sheet is None else png_bytes(sheet)


def fine_tune(instance_img_dir: str | os.PathLike[str] | None = None, **flags: Any) -> Run:
    """Fine-tunes a model on a subject (DreamBooth), as dreambooth.py does with the same flags; returns the run.

    `instance_img_dir`: the directory of photos. `flags`: those of dreambooth.py, called as there, such as
    `class_name="water bottle"`, `iterations=400`, `save_every=200`, `learning_rate=1e-5`, `train_text_encoder=True`,
    `seed=7`, `output_dir="ckpts"`, `devices="cuda:1"`; `python dreambooth.py --help` explains each. What is left out
    has the model's default. `resume_dir="ckpts/can-1"` continues a run that was stopped.

    Ctrl-C, or a notebook's interrupt, lets the current update end, saves the resume state and raises
    `KeyboardInterrupt`. Raises `UserError` for mistakes, before anything is written where possible.
    """
    with parsed_keywords(dreambooth_parser(), {"instance_img_dir": instance_img_dir, **flags}) as (options, words):
        if "," in options.devices:
            raise UserError("devices: from Python a training uses one device; for several run dreambooth.py")
        if options.memory_table:
            raise UserError("memory_table: it prints a table and trains nothing; run dreambooth.py --memory-table")
        if options.check:
            raise UserError("check: it is for the terminal; run dreambooth.py --check")
        from ldm.commands.dreambooth import dreambooth  # the trainer and its loggers

        with command_call("dreambooth.py", words):
            return Run(dreambooth(options))
