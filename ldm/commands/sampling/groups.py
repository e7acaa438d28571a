"""Checkpoints that can be compared: those of one subject on one base model, with that base model before them."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ldm.checkpoint.loading import checkpoint_info, part_digests, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.elsewhere import known_weights, sha256_of
from ldm.commands.sampling.adapters import Changes, read_changed
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.records import RunRecords
from ldm.errors import UserError
from ldm.runtime.models import tokenizer_knowing
from ldm.user_files import is_checkpoint, resolved

log = logging.getLogger(__name__)

CheckpointGroup = list[Checkpoint]
"""Checkpoints of one subject, in the order of runs and steps; the base model, if there is one, is the first."""


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
    groups: Sequence[CheckpointGroup], records: RunRecords, base_file: Path | None, changes: Changes = Changes()
) -> list[CheckpointGroup]:
    """Each group with the base model it was trained from, where that is found by its SHA-256 and can be used.

    `base_file`: the file of `--base`; `changes`: the call's, made in base models, too. A base model that lies among the
    checkpoints has no other row.
    """
    if base_file is not None:
        _raise_unless_base(base_file, sorted({one.info.base_sha256 for group in groups for one in group} - {""}))
    checkpoints = [one for group in groups for one in group]
    complete = []
    for group in groups:
        base = _base_model(group, checkpoints, records, base_file, changes) if group[0].info.base_sha256 else None
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
    changes: Changes,
) -> Checkpoint | None:
    """The base model with the group's settings, tokenizer and subject; None, after a warning, if it can't be used."""
    first = group[0]
    try:
        if (path := _find_base(group, checkpoints, records, base_file)) is None:
            return None
        model = first.settings.model
        file = read_checkpoint(path)
        changed = changes.applied_to(file, model)
        raise_unless_whole(changed, model)
        own = checkpoint_info(file)
        info = CheckpointInfo(
            class_name=first.info.class_name,
            instance_prompt=first.info.instance_prompt,
            class_prompt=first.info.class_prompt,
            parts=own.parts,
        )
        digests = part_digests(path, checkpoint_info(changed))
        opener = partial(read_changed, file.opener(), changes, model)
        tokenizer = tokenizer_knowing(first.tokenizer, first.settings, changed.embeddings)
        own_file = replace(first, path=path, info=info, digests=digests, open=opener, base_file=None, adapter=None)
        return replace(own_file, tokenizer_digest=tokenizer.digest, embeddings=changed.embeddings, is_base=True)
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
    merged_into = [one.base_file for one in group if one.base_file]
    tried = []
    for path in [*([base_file] if base_file else []), *merged_into, *recorded, *beside, *known]:
        if is_checkpoint(path) and resolved(path) not in tried:
            tried.append(resolved(path))
            if sha256_of(path) == sha256:
                return path
    log.warning(
        "the base model of %s is not compared: %s with the SHA-256 %s... was not found%s; --base PATH gives it",
        group[0].path,
        name or "a file",
        sha256[:12],
        f" (looked at {', '.join(map(str, tried))})" if tried else "",
    )
    return None
