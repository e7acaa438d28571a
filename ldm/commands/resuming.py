"""A run that goes on: its own options, and from the command line only what may change."""

import argparse
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.checkpoint.discovery import BEFORE_FIRST_SAVE, RESUME_STATE
from ldm.commands.options.recorded import check_recorded
from ldm.commands.options.resumable import Change, Rule, flag_of
from ldm.config import read_yaml, renewed
from ldm.errors import UserError
from ldm.files import make_numbered_dir
from ldm.leftovers import remove_dead_runs, remove_leftovers
from ldm.locking import TakenError, lock_directory
from ldm.processes import is_helper_process
from ldm.terminal import Lines, command_line

log = logging.getLogger(__name__)

RECORD = "run.yaml"
STEP_FILE = re.compile(r"step-(\d+)\.safetensors")
"""The name of a run's checkpoint."""


def make_run_dir(parent: Path, stem: str) -> Path:
    """Creates `parent/stem-<n>`, into which nobody else may write while this process does.

    What dead processes left in the runs beside it is removed.
    """
    remove_dead_runs(parent, stem)
    while True:
        directory = make_numbered_dir(parent, stem)
        try:
            lock_directory(directory)
            return directory
        except TakenError:  # another process takes it for a dead one's: it wasn't locked yet
            continue
        except UserError:
            if directory.is_dir():
                directory.rmdir()
                raise


def resumed_options(
    given: argparse.Namespace,
    *,
    script: str,
    has: str,
    rules: Mapping[str, Rule],
    paths: Collection[str],
    config: type = object,
) -> argparse.Namespace:
    """The options of the run in `--resume-dir`, with what may change by the `rules` from the command line.

    An option that is newer than the run has its default. The directory is locked, and what was half written is gone.
    `--hw` is for `refuse_another_size` to look at, once the model is known.
    A path whose content may be elsewhere is for the caller to compare with the record.
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
    check_recorded(saved, script, record)
    options = {name: saved.get(name, value) for name, value in vars(given).items()}
    for name in given.typed:
        value = getattr(given, name)
        rule = rules[name]
        if rule.change is Change.FIXED and name != "hw" and not _same(value, options[name]):
            raise changed(name, options[name], rule)
        options[name] = value.resolve() if rule.change is Change.MOVED else value
    for name in paths:
        options[name] = Path(str(options[name])) if options[name] else None
    if not is_helper_process():
        lock_directory(given.resume_dir)
        remove_leftovers(given.resume_dir, alone=True)
    return argparse.Namespace(**options)


def refuse_another_size(options: argparse.Namespace, height: int, width: int, rules: Mapping[str, Rule]) -> None:
    """Raises `UserError` if `--hw` asks a resumed run for another size than its own; as the model rounds it."""
    if options.resume_dir and "hw" in options.typed:
        was = read_yaml(options.resume_dir / RECORD)["options"]["hw"]
        if was != [height, width]:
            raise changed("hw", was, rules["hw"])


def refuse_fewer_updates(directory: Path, iterations: int | None) -> None:
    """Raises `UserError` if a run is to end before the last of its checkpoints. Files that others named don't count."""
    done = max(step_files(directory), default=0)
    if iterations is not None and iterations < done:
        raise UserError(f"--iterations {iterations} is less than the {done} updates this run has made")


def step_files(directory: Path) -> dict[int, Path]:
    """A run's checkpoints by their steps, the earliest first. Files that others named don't count."""
    found = {int(match[1]): path for path in directory.glob("step-*") if (match := STEP_FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def is_finished_without_state(directory: Path, iterations: int, again: Sequence[Any]) -> bool:
    """Whether all updates of a run are made and nothing is left of it but its checkpoints, which is said.

    Raises `UserError` if it isn't finished and its resume state is lost: it can't go on, and would silently begin
    again. `again`: the script and the flags that start from the weights of the last step, but for `--ckpt-path`; empty
    if nothing does. A run that has not saved anything begins again, which is said.
    """
    state, unsaved, steps = directory / RESUME_STATE, directory / BEFORE_FIRST_SAVE, step_files(directory)
    if state.exists():
        return False
    if not steps or unsaved.exists():
        log.info("%s was stopped before it had saved anything to go on from: it starts from its beginning", directory)
        return False
    last, path = max(steps.items())
    how = Lines()
    if again:
        start = command_line(str(again[0]), *again[1:], "--ckpt-path", path)
        how = Lines(["To train on from the weights of its last checkpoint, start a new run:", f"  {start}"])
    if last >= iterations:
        log.info(
            "%s is finished: all %d updates are made. Without %s it can't be given more. %s",
            *(directory, last, RESUME_STATE, how),
        )
        return True
    names = ", ".join(one.name for one in steps.values())
    raise UserError(
        f"{state} is not there, and without it this run can't go on where it stopped: it was deleted, dropped or not "
        f"copied. Copy it back if it is elsewhere. There are the checkpoints {names}. {how}".rstrip()
    )


def mark_unsaved(directory: Path) -> None:
    """Remembers that a run has no resume state yet; who writes the first one removes the mark."""
    if not (directory / RESUME_STATE).exists() and not step_files(directory):
        (directory / BEFORE_FIRST_SAVE).touch()


def changed(name: str, was: Any, rule: Rule) -> UserError:
    """What is said of a flag that may not change."""
    return UserError(
        f"{flag_of(name)} can't change in a resumed run: it is {was} there. Leave it out, or start a new "
        f"run: {rule.why}"
    )


def _same(typed: Any, saved: Any) -> bool:
    """Whether a flag as typed means what the record says."""
    if isinstance(typed, Path):
        typed = typed.resolve()
    return str(typed) == str(saved)
