"""Which checkpoints are drawn with."""

import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ldm.checkpoint.discovery import Found, find_checkpoints
from ldm.checkpoint.loading import checkpoint_info, part_digests, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.errors import UserError, named_in_errors
from ldm.runtime.models import Settings, base_weights, read_tokenizer, settings_of
from ldm.runtime.tokenizers import find_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that holds a whole model, and everything that belongs to it."""

    path: Path
    info: CheckpointInfo
    settings: Settings
    tokenizer: Path
    tokenizer_digest: str

    @cached_property
    def parts(self) -> dict[str, str]:
        """What tells each part's weights from others."""
        return part_digests(self.path, self.info)


def find_to_sample(path: Path | None) -> list[Found]:
    """The checkpoint, or all below the directory; what is left out is named."""
    path = base_weights(path)
    if not path.is_dir():
        return [Found(path, checkpoint_info(read_checkpoint(path)))]
    found, skipped = find_checkpoints(path)
    for one in skipped:
        log.warning("left out %s: %s", one.path, one.reason)
    if not found:
        raise UserError(f"there is no checkpoint below {path}; dreambooth.py writes some")
    return found


def usable(checkpoints: list[Found], config: Path | None) -> list[Checkpoint]:
    """Those that hold a whole model of the shape most of them share; the others are named."""
    whole: list[Checkpoint] = []
    known: set[object] = set()
    for found in checkpoints:
        try:
            with named_in_errors(found.path):
                whole.append(_whole(found, config, known))
        except UserError as error:
            if len(checkpoints) == 1:
                raise
            log.warning("left out %s: %s", found.path, error)
    if not whole:
        raise UserError("none of the checkpoints can be used")
    (shape, _), *_ = Counter(one.settings.model for one in whole).most_common(1)
    for one in whole:
        if one.settings.model != shape:
            log.warning("left out %s: a model of another shape than most of the others", one.path)
    return [one for one in whole if one.settings.model == shape]


def _whole(found: Found, config: Path | None, known: set[object]) -> Checkpoint:
    """Raises `UserError` if this is no whole model. `known` are the contents that are one, to be compared quickly."""
    file = read_checkpoint(found.path)
    _, settings = settings_of(file, config)
    content = (settings.model, frozenset((key, tensor.shape) for key, tensor in file.index.items()))
    if content not in known:
        raise_unless_whole(file, settings.model)
        known.add(content)
    tokenizer = find_tokenizer(found.path, settings.tokenizer, found.info.tokenizer)
    one = Checkpoint(found.path, found.info, settings, tokenizer, read_tokenizer(tokenizer, settings).digest)
    assert one.parts  # looked at now, while a file that isn't there any more is left out
    return one
