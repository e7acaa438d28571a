"""A folder of photos of a subject: which of its files are used, why others are not, and warnings about some."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint.saving import hash_file
from ldm.data.formats import DRAWING, OTHER, READABLE, TEXT, unused_reason
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.errors import UserError
from ldm.files import listed, natural_key
from ldm.terminal import quoted
from ldm.user_files import path_kind

log = logging.getLogger(__name__)

MOST_NAMED = 20
"""Files that a message names, at most; it gives the number of the others."""

HARMLESS = frozenset([TEXT, OTHER, DRAWING])
"""Reasons that are logged, but not as a warning."""

ENLARGED = 2
"""A warning names a photo that is enlarged more than this many times."""

LONG = 4
"""A warning names a photo of which cropping leaves less than 1 / LONG."""


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
    folder = list_folder(directory)
    if not folder.images:
        raise UserError(_no_image(folder))
    for reason, paths in folder.unused.items():
        level = logging.INFO if reason in HARMLESS else logging.WARNING
        log.log(level, "%s: not used: %s (%s)", directory, named(paths, directory), reason)
    if folder.folders:
        log.info("%s: not used: %s (folders)", directory, named(folder.folders, directory))
    return folder.images


def read_directory(directory: Path, height: int, width: int) -> tuple[list[Path], Tensor]:
    """All images of a directory: their paths in natural order and the images (n 3 height width) in [-1, 1].

    Messages name every file that is not used, and images that are the same, far too small or far too long. Raises
    `UserError` if no image is left.
    """
    paths, images = [], []
    for path in find_photos(directory):
        try:
            image = read_image(path, cover=max(height, width))
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        _warn_of_shape(path, image.size, height, width)
        images.append(to_tensor(fit_image(image, height, width)))
        paths.append(path)
    if not paths:
        raise UserError(f"{directory} holds no readable image ({READABLE})")
    for same in _duplicates(paths):
        log.warning("%s: %s are the same file; each of them is used", directory, " and ".join(one.name for one in same))
    return paths, torch.stack(images)


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
    enlarged = max(width / size[0], height / size[1])
    if enlarged > ENLARGED:
        log.warning("%s: %d x %d is enlarged %.0f times", path, *size, enlarged)
    remaining = (width / enlarged) * (height / enlarged) / (size[0] * size[1])
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
