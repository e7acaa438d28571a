"""What becomes of a run's resume state when the run has ended: it is removed, or the user is told that it may be."""

import logging
from pathlib import Path

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.disk import human_size
from ldm.terminal import quoted

log = logging.getLogger(__name__)


def end_resume_state(run_dir: Path, *, drop: bool) -> None:
    """To be called when all updates are made, and everything else is written."""
    state = run_dir / RESUME_STATE
    if not state.exists():
        return
    size = state.stat().st_size
    if drop:
        state.unlink()
        log.info("%s is removed, which frees %s: this run can't be given more updates", state, human_size(size))
        return
    whole = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    log.info(
        "%s takes %s of the %s in %s. It is only for continuing with more --iterations; remove it with\n  rm %s",
        *(RESUME_STATE, human_size(size), human_size(whole), run_dir, quoted(state)),
    )
