"""The runs that checkpoints come from: their names, their records, their photos."""

import logging
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm.commands.elsewhere import moved
from ldm.commands.options.places import place
from ldm.commands.resuming import RECORD
from ldm.config import read_yaml
from ldm.errors import UserError

log = logging.getLogger(__name__)


def run_names(checkpoints: Iterable[Path], root: Path) -> dict[Path, str]:
    """By directory of a checkpoint: its name, or where two share it, its path below `root`, which keeps its own."""
    directories = list(dict.fromkeys(path.parent for path in checkpoints))
    names = [directory.resolve().name for directory in directories]
    return {
        directory: name if names.count(name) == 1 or directory == root else directory.relative_to(root).as_posix()
        for directory, name in zip(directories, names, strict=True)
    }


class RunRecords:
    """The `run.yaml` that dreambooth.py wrote beside its checkpoints; each is read once."""

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, Any]] = {}

    def of(self, checkpoint: Path) -> dict[str, Any]:
        """The record of a checkpoint's run; empty where there is none."""
        directory = checkpoint.parent
        if directory not in self._records:
            self._records[directory] = _read(directory / RECORD)
        return self._records[directory]

    def option(self, checkpoint: Path, name: str) -> Path | None:
        """An option of the run that is a path."""
        value = self.of(checkpoint).get("options", {}).get(name)
        try:
            return place(str(value)) if value else None
        except ArgumentTypeError:  # a stranger's record
            return None

    def places(self, checkpoint: Path, name: str) -> list[Path]:
        """Where an option of the run that is a path may lead now, its recorded place first."""
        recorded = self.option(checkpoint, name)
        return moved(checkpoint.parent, self.of(checkpoint)).places(recorded) if recorded else []

    def photo_digests(self, checkpoint: Path) -> dict[str, str]:
        """The names of the run's photos and the SHA-256 of each."""
        return {str(name): str(sha256) for name, sha256 in self.of(checkpoint).get("photos", {}).items()}

    def photos(self, checkpoint: Path) -> tuple[str, ...]:
        """The SHA-256 of each photo that the run was taught with: another subject has others."""
        return tuple(sorted(map(str, self.of(checkpoint).get("photos", {}).values())))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_yaml(path) if path.is_file() else {}
    except UserError as error:
        log.warning("%s", error)
        return {}
    options, photos = record.get("options"), record.get("photos")
    taught = isinstance(options, dict) and "class_name" in options and isinstance(photos, dict)
    return record if taught else {}
