"""The project's commands as a user types them."""

import subprocess
import sys
import time
from pathlib import Path

from ldm.errors import UserError
from ldm.files import ROOT
from ldm.runtime.models import EMBEDDED, base_weights


def weights_flags(path: Path | None) -> list[str]:
    """The flags with which a command uses these weights, or the embedded tiny model: none if that is the default."""
    if path is None and base_weights(None) == EMBEDDED:
        return []
    return ["--ckpt-path", str((path or EMBEDDED).resolve())]


def timed_run(*arguments: object) -> float:
    """Runs `python <arguments>` in the repository as a user does: the seconds it took.

    Raises `UserError` with its last output if it fails.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise UserError(f"python {' '.join(map(str, arguments))} ended with status {done.returncode}:\n{last}")
    return seconds
