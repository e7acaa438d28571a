"""The photos that a subject was trained with, and small copies of them beside the images."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ldm.commands.elsewhere import first, holds_photos
from ldm.commands.sampling.groups import CheckpointGroup, RunRecords, subject_of, tuned_in
from ldm.data.images import fit, read_image, save_png, to_tensor
from ldm.data.photos import find_photos
from ldm.errors import UserError
from ldm.files import slug

log = logging.getLogger(__name__)

DIRECTORY = "photos"
INIT_IMAGE = f"{DIRECTORY}/initial-image.png"
"""img2img's initial image at the size of the samples."""
MAX_SIDE = 512


def photos_of_groups(groups: Sequence[CheckpointGroup], records: RunRecords, given: Path | None) -> list[list[Path]]:
    """Each group's photos: the image files of `--instance-img-dir`, else those that its runs were trained with."""
    if given is None:
        return [_recorded(group, records) for group in groups]
    try:
        photos = find_photos(given)
    except UserError as error:
        raise UserError(f"--instance-img-dir: {error}") from error
    if len(subjects := sorted({subject_of(group) for group in groups} - {""})) > 1:
        log.warning("the photos in %s are taken for those of %s alike", given, " and ".join(subjects))
    return [photos for _ in groups]


def _recorded(group: CheckpointGroup, records: RunRecords) -> list[Path]:
    """Those of the first run whose photos are at their place, or have moved with it."""
    photos: list[Path] = []
    for one in tuned_in(group):
        places = records.places(one.path, "instance_img_dir")
        there = next((place for place in places[:1] if _images(place)), None)
        digests = records.photo_digests(one.path)
        if directory := there or first(places[1:], partial(holds_photos, photos=digests)):
            photos = _images(directory)
            break
    if (subject := subject_of(group)) and not photos:
        log.info("no photos of '%s' were found; --instance-img-dir DIR shows them beside the images", subject)
    return photos


@dataclass(frozen=True)
class Photo:
    """A photo that can be read, and its small copy, relative to the output directory."""

    path: Path
    copy: str


def copy_photos(photos: list[Path], name: str, output_dir: Path) -> list[Photo]:
    """Writes the photos upright and small into `photos/<name>/`; leaves out unreadable ones with a warning."""
    copied = []
    for index, path in enumerate(photos):
        try:
            photo = read_image(path, MAX_SIDE)
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        photo.thumbnail((MAX_SIDE, MAX_SIDE))
        copy = output_dir / DIRECTORY / name / f"{index:02d}-{slug(path.stem, 40)}.png"
        save_png(copy, photo)
        copied.append(Photo(path, copy.relative_to(output_dir).as_posix()))
    return copied


def readable_photos(paths: Sequence[Path], height: int, width: int) -> Tensor:
    """Those photos that can be read (n 3 height width) in [-1, 1]; `copy_photos` warns of the others."""
    images = []
    for path in paths:
        with contextlib.suppress(UserError):
            images.append(to_tensor(fit(read_image(path), height, width)))
    return torch.stack(images) if images else torch.empty(0, 3, height, width)


def _images(directory: Path) -> list[Path]:
    """The image files of a directory in their natural order; none if there is no such directory."""
    try:
        return find_photos(directory)
    except UserError:
        return []
