"""Resuming a run: its options, merged from the record and the command line; its resume state, kept or removed."""

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
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import make_numbered_dir
from ldm.leftovers import remove_dead_runs, remove_leftovers
from ldm.locking import TakenError, lock_directory
from ldm.processes import is_helper_process
from ldm.terminal import Lines, command_line, quoted
from ldm.user_files import resolved

log = logging.getLogger(__name__)

RECORD = "run.yaml"
STEP_FILE = re.compile(r"step-(\d+)\.safetensors")
"""The name of a run's checkpoint."""


def make_run_dir(parent: Path, stem: str) -> Path:
    """Creates `parent/stem-<n>`, locked by this process. Removes what dead processes left in the runs beside it."""
    remove_dead_runs(parent, stem)
    while True:
        directory = make_numbered_dir(parent, stem)
        try:
            lock_directory(directory)
            return directory
        except TakenError:  # before it was locked, another process took it for a dead one's
            continue
        except UserError:
            if directory.is_dir():
                directory.rmdir()
                raise


def resumed_options(
    options: argparse.Namespace,
    *,
    script: str,
    own_option: str,
    rules: Mapping[str, Rule],
    paths: Collection[str],
    config: type = object,
) -> argparse.Namespace:
    """The options of the run in `--resume-dir`; those of the command line replace what the `rules` let change.

    An option that is newer than the run has its default. The directory is locked, and half-written files are removed.
    `refuse_another_size` checks `--hw` once the model is known. The caller compares a path's content with the record.
    `own_option`: an option that only records of this script have. `paths`: the options that are paths. `config`: a
    dataclass that knows the values that older runs wrote.
    """
    record = options.resume_dir / RECORD
    saved = renewed(config, own_record(options.resume_dir, script=script, own_option=own_option))
    check_recorded(saved, script, record)
    merged = {name: saved.get(name, value) for name, value in vars(options).items()}
    for name in options.typed:
        value = getattr(options, name)
        rule = rules[name]
        if rule.change is Change.FIXED and name != "hw" and not _same(value, merged[name]):
            raise changed(name, merged[name], rule)
        merged[name] = resolved(value) if rule.change is Change.MOVED else value
    for name in paths:
        merged[name] = Path(str(merged[name])) if merged[name] else None
    if not is_helper_process():
        lock_directory(options.resume_dir)
        remove_leftovers(options.resume_dir, alone=True)
    return argparse.Namespace(**merged)


def own_record(directory: Path, *, script: str, own_option: str) -> dict[str, Any]:
    """The options in the record of this script's run. Raises `UserError` if the directory is none."""
    record = directory / RECORD
    if not record.is_file():
        raise UserError(f"{directory} is no run of {script}: it has no {RECORD}")
    saved = read_yaml(record).get("options")
    if not isinstance(saved, dict) or own_option not in saved:
        raise UserError(f"{directory} is no run of {script}: its {RECORD} is another command's")
    return saved


def refuse_another_size(options: argparse.Namespace, height: int, width: int, rules: Mapping[str, Rule]) -> None:
    """Raises `UserError` if `--hw`, rounded as the model needs it, is not a resumed run's own size."""
    if options.resume_dir and "hw" in options.typed:
        own = read_yaml(options.resume_dir / RECORD)["options"]["hw"]
        if own != [height, width]:
            raise changed("hw", own, rules["hw"])


def refuse_fewer_updates(directory: Path, iterations: int | None) -> None:
    """Raises `UserError` if `--iterations` is below the last of the run's checkpoints."""
    done = max(step_files(directory), default=0)
    if iterations is not None and iterations < done:
        raise UserError(f"--iterations {iterations} is less than the {done} updates this run has made")


def step_files(directory: Path) -> dict[int, Path]:
    """A run's checkpoints by their steps, the earliest first. Files of other names don't count."""
    found = {int(match[1]): path for path in directory.glob("step-*") if (match := STEP_FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def is_finished(
    directory: Path, iterations: int, again: Sequence[Any], new_run: Sequence[Any], *, drop: bool, is_complete: bool
) -> bool:
    """Whether all updates of a run are made and nothing is left to do, which is logged.

    Raises `UserError` if the run isn't finished and its resume state is lost: it would silently start again. A run that
    stopped before its first save does start again, which is logged. `again`: the script and its flags that resume the
    run. `new_run`: those, but for `--ckpt-path`, of a new run from the weights of the last checkpoint; empty if none
    can start from them. `drop`: the resume state of a finished run is removed. `is_complete`: what a run writes after
    its last update is there.
    """
    state = directory / RESUME_STATE
    if not state.exists():
        return _is_finished_without_state(directory, iterations, new_run)
    from ldm.training.resume_state import updates_made  # imports Lightning, which sampling does without

    if not is_complete or updates_made(state) != iterations:
        return False
    more = [" For more updates:", f"  {command_line(str(again[0]), *again[1:], '--iterations', 2 * iterations)}"]
    hint = Lines([] if drop else more)
    log.info("%s is finished: all %d updates are made, and there is nothing to do.%s", directory, iterations, hint)
    if drop:
        end_resume_state(directory, drop=True)
    return True


def _is_finished_without_state(directory: Path, iterations: int, new_run: Sequence[Any]) -> bool:
    state, unsaved, steps = directory / RESUME_STATE, directory / BEFORE_FIRST_SAVE, step_files(directory)
    if not steps or unsaved.exists():
        log.info("%s was stopped before it saved anything to resume from: it starts from its beginning", directory)
        return False
    last, path = max(steps.items())
    advice = Lines()
    if new_run:
        start = command_line(str(new_run[0]), *new_run[1:], "--ckpt-path", path)
        advice = Lines([" To train on from the weights of its last checkpoint, start a new run:", f"  {start}"])
    if last >= iterations:
        log.info(
            "%s is finished: all %d updates are made. Without %s it can't make more.%s",
            *(directory, last, RESUME_STATE, advice),
        )
        return True
    names = ", ".join(one.name for one in steps.values())
    raise UserError(
        f"{state} is not there, and without it this run can't be resumed: it was deleted, dropped or not copied. Copy "
        f"it back if it is elsewhere. The run has the checkpoints {names}.{advice}"
    )


def mark_unsaved(directory: Path) -> None:
    """Marks that a run has no resume state yet; writing the first one removes the mark."""
    if not (directory / RESUME_STATE).exists() and not step_files(directory):
        (directory / BEFORE_FIRST_SAVE).touch()


def end_resume_state(run_dir: Path, *, drop: bool) -> None:
    """After the last update, when everything else is written: removes the resume state, or logs how to remove it."""
    state = run_dir / RESUME_STATE
    if not state.exists():
        return
    size = state.stat().st_size
    if drop:
        state.unlink()
        log.info("%s is removed, which frees %s: this run can't make more updates", state, human_size(size))
        return
    whole = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    log.info(
        "%s takes %s of the %s in %s. Only resuming with more --iterations needs it; remove it with\n  rm %s",
        *(RESUME_STATE, human_size(size), human_size(whole), run_dir, quoted(state)),
    )


def changed(name: str, own: Any, rule: Rule) -> UserError:
    """The error for a flag that may not change; `own` is the run's value."""
    return UserError(
        f"{flag_of(name)} can't change in a resumed run: it is {own} there. Leave it out, or start a new "
        f"run: {rule.why}"
    )


def _same(typed: Any, saved: Any) -> bool:
    """Whether a flag as typed has the recorded value."""
    if isinstance(typed, Path):
        typed = resolved(typed)
    return str(typed) == str(saved)
