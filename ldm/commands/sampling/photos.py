"""The photos that a subject was trained with, and small copies of them beside the images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ldm.commands.elsewhere import first, holds_photos
from ldm.commands.sampling.groups import CheckpointGroup, subject_of, tuned_in
from ldm.commands.sampling.job import Job
from ldm.commands.sampling.records import RunRecords
from ldm.data.images import fit_image, read_image, save_png, to_image
from ldm.data.photos import find_photos
from ldm.diffusion.sampling import InitImage
from ldm.errors import UserError
from ldm.files import slug

log = logging.getLogger(__name__)

DIRECTORY = "photos"
INIT_IMAGE = f"{DIRECTORY}/initial-image.png"
"""img2img's initial image at the size of the samples."""
MASKED_IMAGE = f"{DIRECTORY}/masked-image.png"
"""The same, with the region to paint in another colour."""
TINT = (1.0, -1.0, 1.0)
"""Magenta, of which the region to paint gets half."""
MAX_SIDE = 512
"""Pixels of the longer side of a small copy, at most."""


def photos_of_groups(
    groups: Sequence[CheckpointGroup], records: RunRecords, photo_dir: Path | None
) -> list[list[Path]]:
    """Each group's photos: the image files of `--instance-img-dir`, else those that its runs were trained with."""
    if photo_dir is None:
        return [_recorded(group, records) for group in groups]
    try:
        photos = find_photos(photo_dir)
    except UserError as error:
        raise UserError(f"--instance-img-dir: {error}") from error
    if len(subjects := sorted({subject_of(group) for group in groups} - {""})) > 1:
        log.warning("the photos in %s are taken for those of %s alike", photo_dir, " and ".join(subjects))
    return [photos for _ in groups]


def _recorded(group: CheckpointGroup, records: RunRecords) -> list[Path]:
    """The photos of the first run that has them at their recorded place, or where they moved with the run."""
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
    """A photo of the subject: its file is read once."""

    copy: str
    """The file of the small copy, relative to the output directory."""
    image: Image.Image
    """Cropped to the size of the samples, as for training."""


def read_and_copy_photos(paths: Sequence[Path], name: str, output_dir: Path, height: int, width: int) -> list[Photo]:
    """Reads photos, and writes them upright and small into `photos/<name>/`; warns of those that can't be read.

    `height` and `width` are those of `Photo.image`.
    """
    photos = []
    for index, path in enumerate(paths):
        try:
            image = read_image(path, cover=max(MAX_SIDE, height, width))
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        copy = output_dir / DIRECTORY / name / f"{index:02d}-{slug(path.stem, 40)}.png"
        photos.append(Photo(copy.relative_to(output_dir).as_posix(), fit_image(image, height, width)))
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        save_png(copy, image)
    return photos


def write_initial_images(directory: Path, job: Job) -> None:
    """Writes the image that img2img starts from, or those of a folder, at the size of the samples; for the report."""
    if job.init is None:
        return
    if not job.frames:
        save_png(directory / INIT_IMAGE, to_image(job.init.image))
        if job.init.mask is not None:
            save_png(directory / MASKED_IMAGE, to_image(_tinted(job.init)))
    for frame in job.frames:
        save_png(directory / frame.copy, to_image(_tinted(frame.load())))


def shown_initial_image(job: Job) -> str:
    """The file that the report shows for all columns: with the mask, if there is one; empty if there is none."""
    if job.init is None or job.frames:
        return ""
    return INIT_IMAGE if job.init.mask is None else MASKED_IMAGE


def _tinted(init: InitImage) -> Tensor:
    """The initial image (3 h w), with its mask if there is one."""
    if init.mask is None:
        return init.image
    return init.image + init.mask * 0.5 * (torch.tensor(TINT)[:, None, None] - init.image)


def _images(directory: Path) -> list[Path]:
    """The image files of a directory in their natural order; none if there is no such directory."""
    try:
        return find_photos(directory)
    except UserError:
        return []
