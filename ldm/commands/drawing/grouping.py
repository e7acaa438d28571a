"""Checkpoints that can be compared: those of one subject on one base model, with that base model before them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.drawing.base import BaseFinder
from ldm.commands.drawing.checkpoints import Usable
from ldm.commands.drawing.runs import RunRecords
from ldm.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """The checkpoints of one subject, in the order of their runs and steps."""

    tuned: list[Usable]
    base: Usable | None = None

    @property
    def subject(self) -> str:
        """The class name; empty for models that were taught no subject."""
        return self.tuned[0].info.class_name

    @property
    def members(self) -> list[Usable]:
        """All of them, the base model first."""
        return [self.base, *self.tuned] if self.base else self.tuned


def families_of(checkpoints: Sequence[Usable], records: RunRecords) -> list[Family]:
    """Those with the same base weights, class and photos belong together, in the order of their first members."""
    found: dict[tuple[object, ...], list[Usable]] = {}
    for one in checkpoints:
        key = (one.info.base_sha256, one.info.class_name, records.photos(one.path))
        found.setdefault(key, []).append(one)
    return [Family(tuned) for tuned in found.values()]


def with_bases(families: Sequence[Family], finder: BaseFinder) -> list[Family]:
    """Each family with the base model that it began with, where that can be found and used.

    A base model that lies among the checkpoints stands before its family and not on its own.
    """
    wanted = [family.tuned[0].info.base_sha256 for family in families]
    finder.raise_if_given_in_vain(sorted({sha256 for sha256 in wanted if sha256}))
    complete = [
        replace(family, base=_base_of(family, finder) if sha256 else None)
        for family, sha256 in zip(families, wanted, strict=True)
    ]
    bases = {family.base.path.resolve() for family in complete if family.base}
    kept = []
    for family in complete:
        tuned = [one for one in family.tuned if one.path.resolve() not in bases]
        if tuned:
            kept.append(replace(family, tuned=tuned))
    return kept


def _base_of(family: Family, finder: BaseFinder) -> Usable | None:
    """The base model as this family sees it: with its settings, its tokenizer and the name of its subject."""
    first = family.tuned[0]
    try:
        if (path := finder.find(family.tuned)) is None:
            return None
        file = read_checkpoint(path)
        raise_unless_whole(file, first.settings.model)
        info = CheckpointInfo(
            class_name=first.info.class_name,
            instance_prompt=first.info.instance_prompt,
            class_prompt=first.info.class_prompt,
            parts=checkpoint_info(file).parts,
        )
    except (UserError, OSError) as error:
        log.warning("the base model of %s is not compared: %s", first.path, error)
        return None
    return replace(first, path=path, info=info)
