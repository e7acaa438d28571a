"""Checkpoints that can be compared: those of one subject on one base model, with that base model before them."""

import logging
from argparse import ArgumentTypeError
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.checkpoint.loading import checkpoint_info, part_digests, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.replacing import find_autoencoder, with_autoencoder
from ldm.commands.elsewhere import known_weights, moved, sha256_of
from ldm.commands.options.places import place
from ldm.commands.resuming import RECORD
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.config import read_yaml
from ldm.errors import UserError
from ldm.user_files import is_checkpoint, resolved

log = logging.getLogger(__name__)

CheckpointGroup = list[Checkpoint]
"""Checkpoints of one subject, in the order of runs and steps; the base model, if there is one, is the first."""


class RunRecords:
    """The `run.yaml` beside each checkpoint of dreambooth.py; each is read once."""

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, Any]] = {}

    def of(self, checkpoint: Path) -> dict[str, Any]:
        """The record of a checkpoint's run; empty where there is none."""
        directory = checkpoint.parent
        if directory not in self._records:
            self._records[directory] = _read_record(directory / RECORD)
        return self._records[directory]

    def places(self, checkpoint: Path, option: str) -> list[Path]:
        """Where a path among the run's options may lead now, its recorded place first."""
        value = self.of(checkpoint).get("options", {}).get(option)
        try:
            recorded = place(str(value)) if value else None
        except ArgumentTypeError:  # the record may be anyone's
            return []
        return moved(checkpoint.parent, self.of(checkpoint)).places(recorded) if recorded else []

    def photo_digests(self, checkpoint: Path) -> dict[str, str]:
        """The names of the photos that the run was trained with, and the SHA-256 of each."""
        return {str(name): str(sha256) for name, sha256 in self.of(checkpoint).get("photos", {}).items()}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_yaml(path) if path.is_file() else {}
    except UserError as error:
        log.warning("%s", error)
        return {}
    options, photos = record.get("options"), record.get("photos")
    is_dreambooth = isinstance(options, dict) and "class_name" in options and isinstance(photos, dict)
    return record if is_dreambooth else {}


def run_names(checkpoints: Iterable[Path], root: Path) -> dict[Path, str]:
    """The name of each checkpoint's directory; its path below `root` where two share a name. `root` keeps its own."""
    directories = list(dict.fromkeys(path.parent for path in checkpoints))
    names = [resolved(directory).name for directory in directories]
    return {
        directory: name if names.count(name) == 1 or directory == root else directory.relative_to(root).as_posix()
        for directory, name in zip(directories, names, strict=True)
    }


def subject_of(group: CheckpointGroup) -> str:
    """The class name; empty for models without a subject."""
    return group[-1].info.class_name


def tuned_in(group: CheckpointGroup) -> list[Checkpoint]:
    """The group without its base model."""
    return [one for one in group if not one.is_base]


def group_checkpoints(checkpoints: Sequence[Checkpoint], records: RunRecords) -> list[CheckpointGroup]:
    """One group per base weights, class and photos, in the order of their first members."""
    found: dict[tuple[object, ...], CheckpointGroup] = {}
    for one in checkpoints:
        photos = tuple(sorted(records.photo_digests(one.path).values()))
        found.setdefault((one.info.base_sha256, one.info.class_name, photos), []).append(one)
    return list(found.values())


def with_base_models(
    groups: Sequence[CheckpointGroup], records: RunRecords, base_file: Path | None, vae: Path | None = None
) -> list[CheckpointGroup]:
    """Each group with the base model it was trained from, where that is found by its SHA-256 and can be used.

    `base_file`: the file of `--base`; `vae`: the autoencoder of `--vae`. A base model that lies among the checkpoints
    has no other row.
    """
    if base_file is not None:
        _raise_unless_base(base_file, sorted({one.info.base_sha256 for group in groups for one in group} - {""}))
    checkpoints = [one for group in groups for one in group]
    complete = []
    for group in groups:
        base = _base_model(group, checkpoints, records, base_file, vae) if group[0].info.base_sha256 else None
        complete.append([base, *group] if base else group)
    bases = {resolved(one.path) for group in complete for one in group if one.is_base}
    kept = [[one for one in group if one.is_base or resolved(one.path) not in bases] for group in complete]
    return [group for group in kept if tuned_in(group)]


def _raise_unless_base(base_file: Path, wanted: Sequence[str]) -> None:
    """Raises `UserError` if no training started from the file of `--base`."""
    read_checkpoint(base_file)
    if (sha256 := sha256_of(base_file)) not in wanted:
        raise UserError(
            f"--base {base_file}: none of the checkpoints began with this file, whose SHA-256 is {sha256}; "
            f"they began with {', '.join(wanted) or 'a file that they do not name'}"
        )


def _base_model(
    group: CheckpointGroup,
    checkpoints: Sequence[Checkpoint],
    records: RunRecords,
    base_file: Path | None,
    vae: Path | None,
) -> Checkpoint | None:
    """The base model with the group's settings, tokenizer and subject; None, after a warning, if it can't be used."""
    first = group[0]
    try:
        if (path := _find_base(group, checkpoints, records, base_file)) is None:
            return None
        autoencoder = find_autoencoder(vae) if vae else None
        file = with_autoencoder(read_checkpoint(path), autoencoder, first.settings.model)
        raise_unless_whole(file, first.settings.model)
        own = checkpoint_info(file)
        info = CheckpointInfo(
            class_name=first.info.class_name,
            instance_prompt=first.info.instance_prompt,
            class_prompt=first.info.class_prompt,
            parts=own.parts,
        )
        digests = part_digests(path, own)
        return replace(first, path=path, info=info, digests=digests, open=file.opener(), is_base=True)
    except (UserError, OSError) as error:
        log.warning("the base model of %s is not compared: %s", first.path, error)
        return None


def _find_base(
    group: CheckpointGroup, checkpoints: Sequence[Checkpoint], records: RunRecords, base_file: Path | None
) -> Path | None:
    """The likely places first: `--base`, the run's record, beside the checkpoints, then the usual directories."""
    sha256, name = group[0].info.base_sha256, group[0].info.base
    recorded = [path for one in group for path in records.places(one.path, "ckpt_path")]
    beside = [one.path for one in checkpoints if one.path.name == name]
    known = known_weights(name) if name else []
    tried = []
    for path in [*([base_file] if base_file else []), *recorded, *beside, *known]:
        if is_checkpoint(path) and resolved(path) not in tried:
            tried.append(resolved(path))
            if sha256_of(path) == sha256:
                return path
    log.warning(
        "the base model of %s is not compared: %s with the SHA-256 %s... was not found%s; --base FILE gives it",
        group[0].path,
        name or "a file",
        sha256[:12],
        f" (looked at {', '.join(map(str, tried))})" if tried else "",
    )
    return None
