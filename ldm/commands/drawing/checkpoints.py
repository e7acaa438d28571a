"""Which checkpoints are drawn with, and what each is called."""

import logging
from collections import Counter
from pathlib import Path

from ldm.checkpoint.discovery import Found, find_checkpoints
from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.models import Settings, base_weights, settings_of
from ldm.errors import UserError
from ldm.files import slug

log = logging.getLogger(__name__)


def find_to_draw(path: Path | None) -> list[Found]:
    """The checkpoint, or all below the directory; what is left out is named."""
    path = base_weights(path)
    if not path.is_dir():
        return [Found(path, checkpoint_info(read_checkpoint(path)))]
    found, skipped = find_checkpoints(path)
    for one in skipped:
        log.warning("left out %s: %s", one.path, one.reason)
    if not found:
        raise UserError(f"there is no checkpoint below {path}; dreambooth.py writes some")
    log.info("comparing %d checkpoints below %s", len(found), path)
    return found


def usable(checkpoints: list[Found], config: Path | None) -> tuple[list[Found], Settings]:
    """Those that hold a whole model of the shape most of them share, and its settings; the others are named."""
    whole: list[tuple[Found, Settings]] = []
    for found in checkpoints:
        try:
            file = read_checkpoint(found.path)
            _, settings = settings_of(file, config)
            raise_unless_whole(file, settings.model)
            whole.append((found, settings))
        except UserError as error:
            if len(checkpoints) == 1:
                raise
            log.warning("left out %s: %s", found.path, error)
    if not whole:
        raise UserError("none of the checkpoints can be used")
    (shape, _), *_ = Counter(settings.model for _, settings in whole).most_common(1)
    for found, settings in whole:
        if settings.model != shape:
            log.warning("left out %s: a model of another shape than most of the others", found.path)
    kept = [(found, settings) for found, settings in whole if settings.model == shape]
    return [found for found, _ in kept], kept[0][1]


def labels_of(checkpoints: list[Found]) -> list[str]:
    """For a checkpoint of ours "can-1 step 200", else its name; the whole path where that is not unique."""
    labels = [
        f"{found.path.parent.name} step {found.info.step}" if found.info.step else found.path.stem
        for found in checkpoints
    ]
    return [
        label if labels.count(label) == 1 else str(found.path.with_suffix(""))
        for label, found in zip(labels, checkpoints, strict=True)
    ]


def prefixes_of(labels: list[str]) -> list[str]:
    """Beginnings of file names, one per checkpoint; numbered where labels read alike as file names."""
    slugs = [slug(label) for label in labels]
    return [
        f"{number:02d}-{one}_" if slugs.count(one) > 1 else f"{one}_" if label else ""
        for number, (one, label) in enumerate(zip(slugs, labels, strict=True))
    ]
