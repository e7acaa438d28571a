"""The records of the runs that wrote the checkpoints."""

import logging
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from ldm.commands.elsewhere import moved
from ldm.commands.options.places import place
from ldm.commands.resuming import RECORD
from ldm.config import read_yaml
from ldm.errors import UserError

log = logging.getLogger(__name__)


class RunRecords:
    """The `run.yaml` beside each checkpoint of dreambooth.py; each is read once."""

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, Any]] = {}

    def of(self, checkpoint: Path) -> dict[str, Any]:
        """The record of a checkpoint's run; empty where there is none."""
        directory = checkpoint.parent
        if directory not in self._records:
            self._records[directory] = _read_record(directory / RECORD)
        return self._records[directory]

    def places(self, checkpoint: Path, option: str) -> list[Path]:
        """Where a path among the run's options may lead now, its recorded place first."""
        value = self.of(checkpoint).get("options", {}).get(option)
        try:
            recorded = place(str(value)) if value else None
        except ArgumentTypeError:  # the record may be anyone's
            return []
        return moved(checkpoint.parent, self.of(checkpoint)).places(recorded) if recorded else []

    def photo_digests(self, checkpoint: Path) -> dict[str, str]:
        """The names of the photos that the run was trained with, and the SHA-256 of each."""
        return {str(name): str(sha256) for name, sha256 in self.of(checkpoint).get("photos", {}).items()}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_yaml(path) if path.is_file() else {}
    except UserError as error:
        log.warning("%s", error)
        return {}
    options, photos = record.get("options"), record.get("photos")
    is_dreambooth = isinstance(options, dict) and "class_name" in options and isinstance(photos, dict)
    return record if is_dreambooth else {}
