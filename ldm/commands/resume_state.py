"""What becomes of a run's resume state when the run has ended: it is removed, or the user is told that it may be."""

import logging
import shlex
from pathlib import Path

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.commands.resuming import RECORD
from ldm.config import read_yaml, to_yaml
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import natural_key, write_text

log = logging.getLogger(__name__)

DROPPED = "resume_state_removed_after"
"""In a run's record: the update after which it can't go on."""


def end_resume_state(run_dir: Path, updates: int, *, drop: bool) -> None:
    """To be called when all updates are made, and everything else is written."""
    state = run_dir / RESUME_STATE
    if not state.exists():
        return
    size = state.stat().st_size
    if drop:
        record = run_dir / RECORD
        write_text(record, to_yaml({**read_yaml(record), DROPPED: updates}))
        state.unlink()
        log.info("%s is removed, which frees %s: this run can't go on", state, human_size(size))
        return
    whole = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    log.info(
        "%s takes %s of the %s in %s. It is only for going on with more --iterations; remove it with\n  rm %s",
        *(RESUME_STATE, human_size(size), human_size(whole), run_dir, shlex.quote(str(state))),
    )


def refuse_without_dropped_state(run_dir: Path) -> None:
    """Raises `UserError` for a run that ended and whose resume state was removed then."""
    record = run_dir / RECORD
    updates = read_yaml(record).get(DROPPED) if record.is_file() else None
    if updates is None or (run_dir / RESUME_STATE).exists():
        return
    last = max(run_dir.glob("step-*.safetensors"), key=natural_key, default=None)
    advice = f"; a new run may start from its weights: --ckpt-path {shlex.quote(str(last))}" if last else ""
    raise UserError(
        f"{run_dir} ended after update {updates}, and --drop-resume-state has removed its {RESUME_STATE}: "
        f"it can't go on{advice}"
    )
