"""Folders of captioned images, in the two usual forms: a `metadata.jsonl`, or a .txt file beside each image."""

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.data.formats import IMAGE_SUFFIXES, unused_reason
from ldm.data.photos import named
from ldm.errors import UserError
from ldm.files import natural_key
from ldm.prompts import prompt_fault
from ldm.user_files import path_kind, read_text

log = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
MOST_LIST_BYTES, MOST_TEXT_BYTES = 512_000_000, 1_000_000
"""Sizes of a `metadata.jsonl` and of a .txt file, at most."""

SIDECARS = frozenset([".txt", ".caption", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".parquet", ".md"])
"""Files that such folders usually hold beside the images: no warning names them."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image file, its captions, of which each batch takes a random one, and the other columns of its line."""

    path: Path
    captions: tuple[str, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)


def find_captioned(directory: Path, *, need_captions: bool = True) -> list[CaptionedImage]:
    """All images below a directory in natural order.

    A `metadata.jsonl` has a line for each image in its folder: `{"file_name": "1.png", "text": "a cat"}`, where
    `text` may be a list; or `1.txt` beside `1.png` has a caption on each line. With `need_captions`, images without
    one are left out with a warning, as are files that are no images. Hidden files (`.name`) are skipped. Files with an
    image's suffix are not opened here. Raises `UserError` if no image is left, a listed image is missing, or a list is
    malformed.
    """
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}")
    files = _files_below(directory)
    lists = sorted(path for path in files if path.name == METADATA)
    listed = {image.path: image for path in lists for image in _read_list(path)}
    unused: dict[str, list[Path]] = defaultdict(list)
    paths = sorted({path for path in files if _is_image(path, unused)} | set(listed), key=natural_key)
    for reason, some in sorted(unused.items()):
        log.warning("%s: not used: %s (%s)", directory, named(sorted(some, key=natural_key), directory), reason)
    images = [listed.get(path) or CaptionedImage(path, _read_text(path)) for path in paths]
    if missing := [path for path in listed if not _is_file(path)]:
        raise UserError(f"{len(missing)} images that {METADATA} lists are not there, such as {missing[0]}")
    if need_captions and (bare := [image.path for image in images if not image.captions]):
        log.warning("left out: %d images without a caption, such as %s", len(bare), bare[0])
        images = [image for image in images if image.captions]
    if not images:
        needed = f" with captions; each needs a line in a {METADATA} or a .txt file beside it"
        raise UserError(f"{directory} holds no images" + needed * need_captions)
    return images


def captions_of(photos: Sequence[Path]) -> list[tuple[str, ...]]:
    """The captions of these photos, which lie in one folder: its `metadata.jsonl` or .txt files; some may have none."""
    path = photos[0].parent / METADATA
    listed = {one.path.name: one.captions for one in _read_list(path)} if path.is_file() else {}
    return [listed.get(one.name) or (() if one.suffix == ".txt" else _read_text(one)) for one in photos]


def digest(images: Sequence[CaptionedImage], directory: Path) -> str:
    """SHA-256 of the images' names below `directory`, sizes and captions: the same after the directory has moved."""
    rows = [(os.path.relpath(image.path, directory), image.path.stat().st_size, image.captions) for image in images]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _files_below(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if not _is_hidden(path, directory))
    return [path for path in found if not path.is_dir()]


def _is_image(path: Path, unused: dict[str, list[Path]]) -> bool:
    """Decides by the suffix, or by the first bytes if it is unknown. Adds other files to `unused` by their reason."""
    suffix = path.suffix.lower()
    if suffix in SIDECARS:
        return False
    try:
        reason = path_kind(path) if suffix in IMAGE_SUFFIXES else unused_reason(path)
    except OSError as error:
        reason = f"could not be opened: {error.strerror}"
    if reason is not None:
        unused[reason].append(path)
    return reason is None


def _is_hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _read_list(path: Path) -> Iterator[CaptionedImage]:
    for number, line in enumerate(read_text(path, MOST_LIST_BYTES).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row.pop("file_name"), row.pop("text", ())
            captions = (text,) if isinstance(text, str) else tuple(map(str, text))
            captions = tuple(caption for caption in captions if caption.strip())
            image = CaptionedImage(Path(os.path.normpath(path.parent / name)), captions, row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f'{path}, line {number} should be {{"file_name": "1.png", "text": "a caption"}}, not {line[:60]!r}'
            ) from error
        _raise_for(captions, f"{path}, line {number}")
        yield image


def _raise_for(captions: Iterable[str], source: str) -> None:
    for caption in captions:
        if fault := prompt_fault(caption):
            raise UserError(f"{source}: a caption {fault}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as for too long a name
        return False


def _read_text(image: Path) -> tuple[str, ...]:
    """The lines of the .txt file beside an image, if there is one."""
    path = image.with_suffix(".txt")
    try:
        lines = read_text(path, MOST_TEXT_BYTES).splitlines()
    except FileNotFoundError:
        return ()
    captions = tuple(line.strip() for line in lines if line.strip())
    _raise_for(captions, str(path))
    return captions
