"""The files of a run's subject: photos that have moved, class images of one's own, captions."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.bounds import MOST_CLASS_IMAGES
from ldm.commands.elsewhere import Moved, find_photo_directory
from ldm.commands.options.places import is_url
from ldm.commands.photo_sources import DIRECTORY, folder_of
from ldm.commands.record import section
from ldm.data.captioned import METADATA, captions_of
from ldm.data.drawn_prompts import CAPTION
from ldm.data.photos import readable_images
from ldm.errors import UserError
from ldm.files import counted, listed
from ldm.training.dreambooth_config import DreamBoothConfig

log = logging.getLogger(__name__)

SHOWN = 10
"""How many photos without a caption a warning names."""


def find_photos_again(
    recorded: Path, name: str, photos: Mapping[str, Any], moved_run: Moved, record: dict[str, Any]
) -> Path:
    """A recorded folder of photos where it is now; if it is lost and was unpacked, unpacked again."""
    origin = section(record, "origins").get(name)
    try:
        return find_photo_directory(recorded, photos, moved_run, f"--{name.replace('_', '-')}")
    except UserError:
        if origin is None:
            raise
    log.info("%s is gone: fetching %s again", recorded, origin)
    source = str(origin) if is_url(str(origin)) else Path(str(origin))
    return folder_of(source, moved_run.now.parent / DIRECTORY)


def class_images_of(options: argparse.Namespace, config: DreamBoothConfig, cover: int) -> tuple[Path, ...]:
    """The readable images of --class-img-dir, at most --class-img-count if that is set; empty without prior loss."""
    if options.class_img_dir is None or config.class_img_count == 0:
        return ()
    most = options.class_img_count or MOST_CLASS_IMAGES
    paths = readable_images(options.class_img_dir, cover, most)
    log.info("%s from %s", counted(len(paths), "class image"), options.class_img_dir)
    return tuple(paths)


def captions_for(config: DreamBoothConfig, photos: list[Path]) -> list[tuple[str, ...]]:
    """The photos' captions, if a prompt has a place for them. Raises `UserError` if no photo has one then."""
    if not any(CAPTION in prompt for prompt in config.instance_prompts):
        if any(path.with_suffix(".txt").is_file() for path in photos) or (photos[0].parent / METADATA).is_file():
            log.info(
                'captions are not used; to use them: --instance-prompt "%s, {caption}"', config.instance_prompts[0]
            )
        return [()] * len(photos)
    captions = captions_of(photos)
    bare = [path.name for path, some in zip(photos, captions, strict=True) if not some]
    if len(bare) == len(photos):
        raise UserError(
            f"--instance-prompt has a place for a {CAPTION}, and no photo in {photos[0].parent} has one: each needs a "
            f".txt file beside it, or a line in {METADATA}"
        )
    if bare:
        log.warning("without a caption: %s", listed(bare, SHOWN))
    return captions
