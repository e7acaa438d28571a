"""The base model of each comparison: the file that a training began with, known by its SHA-256."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.elsewhere import known_weights, sha256_of
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.runs import RunRecords
from ldm.errors import UserError

log = logging.getLogger(__name__)


class BaseFinder:
    """Looks for base weights where they may be."""

    def __init__(self, checkpoints: Sequence[Checkpoint], records: RunRecords, given: Path | None) -> None:
        self.checkpoints = checkpoints
        self.records = records
        self.given = given

    def find(self, tuned: Sequence[Checkpoint]) -> Path | None:
        """The file that these checkpoints of one training began with; None with a warning if it is nowhere."""
        sha256, name = tuned[0].info.base_sha256, tuned[0].info.base
        looked_at = []
        for path in self._candidates(tuned, name):
            if path.is_file() and path.resolve() not in looked_at:
                looked_at.append(path.resolve())
                if sha256_of(path) == sha256:
                    return path
        others = ", ".join(map(str, looked_at))
        log.warning(
            "the base model of %s is not compared: %s with the SHA-256 %s... was not found%s; --base FILE gives it",
            tuned[0].path,
            name or "a file",
            sha256[:12],
            f" (looked at {others})" if others else "",
        )
        return None

    def raise_if_unused(self, wanted: Sequence[str]) -> None:
        """Raises `UserError` if no training began with the file of `--base`."""
        if self.given is None:
            return
        read_checkpoint(self.given)
        if (sha256 := sha256_of(self.given)) not in wanted:
            raise UserError(
                f"--base {self.given}: none of the checkpoints began with this file, whose SHA-256 is {sha256}; "
                f"they began with {', '.join(wanted) or 'a file that they do not name'}"
            )

    def _candidates(self, tuned: Sequence[Checkpoint], name: str) -> list[Path]:
        """Files that may be it, the likely ones first."""
        recorded = [place for one in tuned for place in self.records.places(one.path, "ckpt_path")]
        beside = [one.path for one in self.checkpoints if one.path.name == name]
        known = known_weights(name) if name else []
        return [path for path in [self.given, *recorded, *beside, *known] if path is not None]
