"""A run that goes on: its own options, and from the command line only what may change."""

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ldm.config import read_yaml, renewed
from ldm.errors import UserError
from ldm.files import make_numbered_dir, remove_leftovers
from ldm.locking import lock_directory
from ldm.processes import RUN_DIR_VARIABLE as RUN_DIR_VARIABLE
from ldm.processes import is_helper_process as is_helper_process

RECORD = "run.yaml"
STEP_FILE = re.compile(r"step-(\d+)\.safetensors")
"""The name of a run's checkpoint."""


def make_run_dir(parent: Path, stem: str) -> Path:
    """Creates `parent/stem-<n>`, into which nobody else may write while this process does."""
    directory = make_numbered_dir(parent, stem)
    lock_directory(directory)
    return directory


def resumed_options(
    given: argparse.Namespace,
    *,
    script: str,
    has: str,
    may_change: Collection[str],
    paths: Collection[str],
    config: type = object,
) -> argparse.Namespace:
    """The options of the run in `--resume-dir`, with what `may_change` from the command line.

    An option that is newer than the run has its default. The directory is locked, and what was half written is gone.
    `--hw` is for `refuse_another_size` to look at, once the model is known.
    `has`: an option that only runs of this script record. `paths`: the options that are paths. `config`: a dataclass
    that knows what older runs wrote.
    """
    record = given.resume_dir / RECORD
    if not record.is_file():
        raise UserError(f"{given.resume_dir} is no run of {script}: it has no {RECORD}")
    saved = read_yaml(record).get("options")
    if not isinstance(saved, dict) or has not in saved:
        raise UserError(f"{given.resume_dir} is no run of {script}: its {RECORD} is another command's")
    saved = renewed(config, saved)
    options = {name: saved.get(name, value) for name, value in vars(given).items()}
    for name in given.typed:
        value = getattr(given, name)
        if name not in may_change and name != "hw" and not _same(value, options[name]):
            raise _changed(name, options[name])
        options[name] = value
    for name in paths:
        options[name] = Path(str(options[name])) if options[name] else None
    if not is_helper_process():
        lock_directory(given.resume_dir)
        remove_leftovers(given.resume_dir)
    return argparse.Namespace(**options)


def refuse_another_size(options: argparse.Namespace, height: int, width: int) -> None:
    """Raises `UserError` if `--hw` asks a resumed run for another size than its own; as the model rounds it."""
    if options.resume_dir and "hw" in options.typed:
        was = read_yaml(options.resume_dir / RECORD)["options"]["hw"]
        if was != [height, width]:
            raise _changed("hw", was)


def refuse_fewer_updates(directory: Path, iterations: int | None) -> None:
    """Raises `UserError` if a run is to end before the last of its checkpoints. Files that others named don't count."""
    names = [path.name for path in directory.glob("step-*.safetensors")]
    done = max((int(match[1]) for name in names if (match := STEP_FILE.fullmatch(name))), default=0)
    if iterations is not None and iterations < done:
        raise UserError(f"--iterations {iterations} is less than the {done} updates this run has made")


def _changed(name: str, was: Any) -> UserError:
    return UserError(
        f"--{name.replace('_', '-')} can't change in a resumed run: it is {was} there. Leave it out, or start a new run"
    )


def _same(typed: Any, saved: Any) -> bool:
    """Whether a flag as typed means what the record says."""
    if isinstance(typed, Path):
        typed = typed.resolve()
    return str(typed) == str(saved)
