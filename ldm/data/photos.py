"""A folder of photos of a subject: which of its files are used, why others are not, and warnings about some."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint.saving import hash_file
from ldm.data.formats import DRAWING, IMAGE_SUFFIXES, OTHER, READABLE, TEXT, unused_reason
from ldm.data.images import fit_image, read_image, read_with_facts, to_tensor
from ldm.data.verdicts import ENLARGED, LONG, Finding, Severity, Verdict, shape_of, verdict_of, with_near_duplicates
from ldm.errors import UserError
from ldm.files import listed, natural_key
from ldm.progress import each
from ldm.terminal import quoted
from ldm.user_files import path_kind

log = logging.getLogger(__name__)

MOST_NAMED = 20
"""Files that a message names, at most; it gives the number of the others."""

HARMLESS = frozenset([TEXT, OTHER, DRAWING])
"""Reasons that are logged, but not as a warning."""


@dataclass(frozen=True)
class Folder:
    """The content of a folder, in natural order, without hidden files (`.name`)."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    unused: dict[str, list[Path]] = field(default_factory=dict)
    """Other files by the reason why they are not used."""


def list_folder(directory: Path) -> Folder:
    """The images of a folder, by their first bytes, and its other content. Raises `UserError` if there is no folder."""
    if not directory.is_dir():
        if directory.exists():
            kind = path_kind(directory) or "a file"
            raise UserError(f"{directory} is {kind}, not a folder; name the folder that the photos are in")
        raise UserError(f"there is no directory {directory}")
    try:
        entries = sorted(directory.iterdir(), key=natural_key)
        below = {path for path in entries if path.is_dir()}
    except OSError as error:
        raise UserError(f"could not read the directory {directory}: {error.strerror}") from error
    images, folders, unused = [], [], defaultdict(list)
    for path in entries:
        if path.name.startswith("."):
            continue
        if path in below:
            folders.append(path)
        elif (reason := unused_reason(path)) is None:
            images.append(path)
        else:
            unused[reason].append(path)
    return Folder(directory, images, folders, dict(unused))


def find_photos(directory: Path) -> list[Path]:
    """The images of a folder. Logs its other content, a line for each reason. Raises `UserError` without images."""
    return _used_folder(directory).images


def _used_folder(directory: Path) -> Folder:
    folder = list_folder(directory)
    if not folder.images:
        raise UserError(_no_image(folder))
    for reason, paths in folder.unused.items():
        level = logging.INFO if reason in HARMLESS else logging.WARNING
        log.log(level, "%s: not used: %s (%s)", directory, named(paths, directory), reason)
    if folder.folders:
        log.info("%s: not used: %s (folders)", directory, named(folder.folders, directory))
    return folder


def read_directory(directory: Path, height: int, width: int) -> tuple[list[Path], Tensor]:
    """All images of a directory: their paths in natural order and the images (n 3 height width) in [-1, 1].

    Messages name every file that is not used, and images that are the same, far too small or far too long. Raises
    `UserError` if no image is left.
    """
    return images_of(inspect_directory(directory, height, width))


def readable_images(directory: Path, cover: int, most: int) -> list[Path]:
    """The first `most` images of a directory that can be read, without keeping them; messages name the others.

    `cover`: the longer side that they will be fitted to. Raises `UserError` if there is none.
    """
    paths: list[Path] = []
    for path in each(found := find_photos(directory), len(found), "checking", "img"):
        if len(paths) == most:
            break
        try:
            read_image(path, cover)
            paths.append(path)
        except UserError as error:
            log.warning("left out: %s", error)
    if not paths:
        raise UserError(f"{directory} holds no readable image ({READABLE})")
    return paths


def images_of(verdicts: Sequence[Verdict]) -> tuple[list[Path], Tensor]:
    """The photos that are used: their paths, and their crops (n 3 height width) in [-1, 1]."""
    used = [(one.path, to_tensor(one.crop)) for one in verdicts if one.crop is not None]
    return [path for path, _ in used], torch.stack([image for _, image in used])


def inspect_directory(directory: Path, height: int, width: int) -> list[Verdict]:
    """A verdict on each file of a directory, in natural order, with the crops that `read_directory` returns.

    Logs and raises as that does.
    """
    folder = _used_folder(directory)
    verdicts = [_unused(path, reason) for reason, paths in folder.unused.items() for path in paths]
    for path in folder.images:
        try:
            image, facts = read_with_facts(path, cover=max(height, width))
        except UserError as error:
            log.warning("left out: %s", error)
            words = str(error).removeprefix(f"{path} ")
            verdicts.append(Verdict(path, (Finding(Severity.ERROR, words, "unreadable"),)))
            continue
        _warn_of_shape(path, image.size, height, width)
        verdicts.append(verdict_of(path, facts, image.size, fit_image(image, height, width)))
    used = [one.path for one in verdicts if one.crop is not None]
    if not used:
        raise UserError(f"{directory} holds no readable image ({READABLE})")
    for same in _duplicates(used):
        log.warning("%s: %s are the same file; each of them is used", directory, " and ".join(one.name for one in same))
    return with_near_duplicates(sorted(verdicts, key=lambda one: natural_key(one.path)))


def _unused(path: Path, reason: str) -> Verdict:
    """An error for a file that should be a photo by its name, or could be one; a note for any other."""
    if reason in HARMLESS and path.suffix.lower() not in IMAGE_SUFFIXES:
        return Verdict(path, (Finding(Severity.NOTE, f"no photo: {reason}"),))
    return Verdict(path, (Finding(Severity.ERROR, f"not used: {reason}", "no image"),))


def named(paths: Sequence[Path], directory: Path) -> str:
    """The names of files below a directory, as a list for messages."""
    return listed([path.relative_to(directory).as_posix() for path in paths], MOST_NAMED)


def _no_image(folder: Folder) -> str:
    """The error for a folder without images: what is in it, and which of its folders have some."""
    deeper = [below for below in folder.folders if _holds_images(below)]
    if deeper:
        names, first = named(deeper, folder.path), quoted(deeper[0])
        return f"{folder.path} holds no image itself, but these folders in it do: {names}; name one: -i {first}"
    there = "".join(f"; {named(paths, folder.path)}: {reason}" for reason, paths in folder.unused.items())
    return f"{folder.path} holds no readable image ({READABLE}){there}"


def _holds_images(directory: Path) -> bool:
    try:
        return bool(list_folder(directory).images)
    except UserError:
        return False


def _warn_of_shape(path: Path, size: tuple[int, int], height: int, width: int) -> None:
    enlarged, remaining = shape_of(size, (width, height))
    if enlarged > ENLARGED:
        log.warning("%s: %d x %d is enlarged %.0f times", path, *size, enlarged)
    if remaining < 1 / LONG:
        log.warning("%s: of %d x %d only the middle %.0f%% is used", path, *size, 100 * remaining)


def _duplicates(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of files that are byte for byte the same."""
    by_size: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size].append(path)
    by_digest: dict[object, list[Path]] = defaultdict(list)
    for path in (path for same in by_size.values() if len(same) > 1 for path in same):
        by_digest[hash_file(path)].append(path)
    return [same for same in by_digest.values() if len(same) > 1]
