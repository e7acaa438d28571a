"""Finds what a run began with after the run, the photos, the weights or the checkout have moved.

Paths are hints: only a file with the same SHA-256 counts as the same.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE

from ldm.checkpoint.diffusers_directory import files_of
from ldm.checkpoint.saving import hash_file, hash_weights
from ldm.errors import UserError
from ldm.files import listed
from ldm.runtime import models
from ldm.user_files import is_checkpoint, resolved

log = logging.getLogger(__name__)

LARGE = 100_000_000
"""Bytes; hashing a larger file is logged, as it takes a moment."""
SHOWN = 6
"""How many of the searched places an error names."""


@dataclass(frozen=True)
class Moved:
    """Where a directory was when its record was written, and where it is now."""

    was: Path
    now: Path

    def places(self, recorded: Path) -> list[Path]:
        """Where a recorded path may be now: unchanged, at the same relative path, in the directory or the two above."""
        relative = Path(os.path.normpath(self.now / os.path.relpath(recorded, self.was)))
        above = [self.now, *list(self.now.parents)[:2]]
        return list(dict.fromkeys([recorded, relative, *(directory / recorded.name for directory in above)]))


def moved(directory: Path, record: Mapping[str, Any]) -> Moved:
    """Where a run's directory was, by its record; older records have only its parent, as --output-dir."""
    options = record.get("options")
    parent = options.get("output_dir") if isinstance(options, dict) else None
    now = resolved(directory)
    was = record.get("directory") or (Path(str(parent)) / now.name if parent else now)
    return Moved(Path(str(was)), now)


def find_weights(recorded: Path, sha256: object, moved_run: Moved, flag: str) -> Path:
    """The base model's file with this SHA-256: at its place, near the run, embedded, downloaded or in the cache.

    Raises `UserError` if no file is at its place and none is found elsewhere. The caller refuses another file at its
    place.
    """
    places = [*moved_run.places(recorded), *known_weights(recorded.name)]
    found = first(places, lambda path: is_checkpoint(path) and sha256_of(path) == sha256)
    if found is None and is_checkpoint(recorded):
        return recorded
    return _found(
        found, recorded, f"there is no checkpoint {recorded} any more, with the SHA-256 {sha256}", flag, places
    )


def known_weights(name: str) -> list[Path]:
    """Where a base model of this name may be on any machine: embedded, downloaded, in the Hugging Face Hub's cache."""
    embedded = [models.EMBEDDED] if models.EMBEDDED.name == name else []
    cached = sorted(Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{_literal(name)}"))
    return [*embedded, models.DOWNLOADED / name, *cached]


def find_photo_directory(recorded: Path, photos: Mapping[str, str], moved_run: Moved, flag: str) -> Path:
    """The directory with the photos of these names and SHA-256: at its place or near the run."""
    places = moved_run.places(recorded)
    found = first(places, lambda path: holds_photos(path, photos))
    if found is None and recorded.is_dir():
        return recorded
    needed = listed([f"{name} (SHA-256 {sha256[:12]}...)" for name, sha256 in photos.items()], SHOWN)
    missing = f"there is no directory {recorded} any more, which held the photos {needed or 'of this run'}"
    return _found(found, recorded, missing, flag, places)


def find_known(recorded: Path, matches: Callable[[Path], bool], moved_run: Moved, description: str, flag: str) -> Path:
    """A directory or file: the recorded one, unchecked, if it exists; else the first place near the run that `matches`.

    `description` follows "there is no PATH any more, " in the error.
    """
    places = moved_run.places(recorded)
    found = recorded if recorded.exists() else first(places, matches)
    return _found(found, recorded, f"there is no {recorded} any more, {description}", flag, places)


def first(places: Iterable[Path], matches: Callable[[Path], bool]) -> Path | None:
    """The first place that `matches`; places that can't be read are skipped."""

    def is_match(path: Path) -> bool:
        try:
            return matches(path)
        except (OSError, ValueError, UserError):
            return False

    return next((path for path in places if is_match(path)), None)


def sha256_of(path: Path) -> str:
    """A file's or a diffusers directory's SHA-256; it is read once as long as sizes and times stay."""
    stats = [file.stat() for file in files_of(path)]
    return _hashed(resolved(path), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


def holds_photos(directory: Path, photos: Mapping[str, str]) -> bool:
    """Whether a directory has the photos of these names and SHA-256."""
    return bool(photos) and all(hash_file(directory / name) == sha256 for name, sha256 in photos.items())


@cache
def _hashed(path: Path, stats: tuple[tuple[int, int], ...]) -> str:
    if sum(size for size, _ in stats) > LARGE:
        log.info("reading %s for its SHA-256", path)
    return hash_weights(path)


def _found(found: Path | None, recorded: Path, missing: str, flag: str, places: Sequence[Path]) -> Path:
    if found is None:
        looked_at = ", ".join(map(str, places[:SHOWN]))
        raise UserError(f"{missing}. Name its place now with {flag} (looked at {looked_at})")
    if found != recorded:
        log.info("%s has moved: %s", recorded, found)
    return found


def _literal(name: str) -> str:
    """A glob pattern that matches only this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
