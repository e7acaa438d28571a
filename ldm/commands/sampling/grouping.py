"""Checkpoints that can be compared: those of one subject on one base model, with that base model before them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.sampling.base import BaseFinder
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.runs import RunRecords
from ldm.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointGroup:
    """The checkpoints of one subject, in the order of their runs and steps."""

    tuned: list[Checkpoint]
    base: Checkpoint | None = None

    @property
    def subject(self) -> str:
        """The class name; empty for models that were taught no subject."""
        return self.tuned[0].info.class_name

    @property
    def members(self) -> list[Checkpoint]:
        """All of them, the base model first."""
        return [self.base, *self.tuned] if self.base else self.tuned


def group_checkpoints(checkpoints: Sequence[Checkpoint], records: RunRecords) -> list[CheckpointGroup]:
    """Those with the same base weights, class and photos belong together, in the order of their first members."""
    found: dict[tuple[object, ...], list[Checkpoint]] = {}
    for one in checkpoints:
        key = (one.info.base_sha256, one.info.class_name, records.photos(one.path))
        found.setdefault(key, []).append(one)
    return [CheckpointGroup(tuned) for tuned in found.values()]


def with_bases(groups: Sequence[CheckpointGroup], finder: BaseFinder) -> list[CheckpointGroup]:
    """Each family with the base model that it began with, where that can be found and used.

    A base model that lies among the checkpoints stands before its family and not on its own.
    """
    wanted = [group.tuned[0].info.base_sha256 for group in groups]
    finder.raise_if_unused(sorted({sha256 for sha256 in wanted if sha256}))
    complete = [
        replace(group, base=_base_of(group, finder) if sha256 else None)
        for group, sha256 in zip(groups, wanted, strict=True)
    ]
    bases = {group.base.path.resolve() for group in complete if group.base}
    kept = []
    for group in complete:
        tuned = [one for one in group.tuned if one.path.resolve() not in bases]
        if tuned:
            kept.append(replace(group, tuned=tuned))
    return kept


def _base_of(group: CheckpointGroup, finder: BaseFinder) -> Checkpoint | None:
    """The base model as this family sees it: with its settings, its tokenizer and the name of its subject."""
    first = group.tuned[0]
    try:
        if (path := finder.find(group.tuned)) is None:
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
