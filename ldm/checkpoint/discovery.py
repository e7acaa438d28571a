"""The checkpoints below a directory, by run and step, and why other files with a checkpoint's suffix are left out."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from ldm.checkpoint.embedding import is_embedding
from ldm.checkpoint.foreign import HEAD_BYTES
from ldm.checkpoint.keys import PARTS, foreign_kind
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.lora import is_lora
from ldm.checkpoint.reading import FORMATS, SUFFIXES, CheckpointFile, read_checkpoint
from ldm.errors import UserError, named_in_errors
from ldm.files import natural_key
from ldm.user_files import is_diffusers_directory

Kept = TypeVar("Kept")

RESUME_STATE = "resume.ckpt"
"""The name of a run's resume state: it resumes a training and is not sampled."""

ANY_CONTENT = ".bin"
"""Many programs use this suffix: a file that doesn't begin as a checkpoint does is skipped without a warning."""
BEFORE_FIRST_SAVE = ".before-first-save"
"""An empty file in a run's directory until there is a resume state. If both are missing, the state was lost."""


@dataclass(frozen=True)
class Skipped:
    """A file with a checkpoint's suffix, and why it is left out."""

    path: Path
    reason: str


def find_checkpoints(directory: Path, keep: Callable[[CheckpointFile], Kept]) -> tuple[list[Kept], list[Skipped]]:
    """Reads the index of every checkpoint below `directory`, in the order of runs and steps.

    Those are files with a checkpoint's suffix, and diffusers directories.

    `keep(file)` becomes an entry of the first list; the file is unmapped afterwards. If it raises, the file is skipped.
    Links are followed, and each file is read once. Resume states are skipped without a warning.
    """
    found: list[tuple[Any, Kept]] = []
    paths, skipped = _candidates(directory)
    for path in paths:
        try:
            with named_in_errors(path):
                file = _read_usable(path)
                found.append(((natural_key(path.parent), checkpoint_info(file).step), keep(file)))
        except UserError as error:
            skipped.append(Skipped(path, str(error)))
    found.sort(key=itemgetter(0))
    skipped.sort(key=lambda one: natural_key(one.path))
    return [kept for _, kept in found], skipped


def _read_usable(path: Path) -> CheckpointFile:
    """Raises `UserError` if this is neither a checkpoint nor a LoRA file nor an embedding."""
    file = read_checkpoint(path)
    if not (is_lora(file) or is_embedding(file)) and not any(key.startswith(PARTS["unet"]) for key in file.index):
        kind = foreign_kind({key: tensor.shape for key, tensor in file.index.items()})
        raise UserError(f"{path} holds no UNet in the official layout{f'; it looks like {kind}' if kind else ''}")
    return file


def _candidates(directory: Path) -> tuple[list[Path], list[Skipped]]:
    """Files with a checkpoint's suffix, each once, in natural order; and unreadable directories."""
    unreadable: list[Skipped] = []

    def note(error: OSError) -> None:
        unreadable.append(Skipped(Path(error.filename), f"could not be read: {error.strerror}"))

    paths: dict[str, Path] = {}
    for path in sorted(_walk(directory, note), key=lambda path: (path.is_symlink(), natural_key(path))):
        if _is_candidate(path):
            paths.setdefault(os.path.realpath(path), path)
    return sorted(paths.values(), key=natural_key), unreadable


def _walk(directory: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """All visible entries that are not directories, and diffusers directories; linked ones last, and none twice."""
    waiting, entered = [directory], set()
    while waiting:
        for folder, subfolders, names in os.walk(waiting.pop(0), onerror=note):
            real = os.path.realpath(folder)
            if real in entered:
                subfolders.clear()
                continue
            entered.add(real)
            if is_diffusers_directory(Path(folder)):
                subfolders.clear()
                yield Path(folder)
                continue
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            waiting += [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
            yield from (Path(folder, name) for name in names if not name.startswith("."))


def _is_candidate(path: Path) -> bool:
    if path.is_dir():
        return True
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or path.name == RESUME_STATE:
        return False
    return suffix != ANY_CONTENT or _begins_as_checkpoint(path)


def _begins_as_checkpoint(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return True  # reading it says why it can't be read
    return head.startswith(b"\x80") or any(one.begins(head) for one in FORMATS)
