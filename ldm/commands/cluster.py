"""Refuses copies of a training that a cluster's launcher started: only our flags decide how many processes train."""

import logging
import os

from ldm.errors import UserError
from ldm.processes import is_helper_process

log = logging.getLogger(__name__)

LAUNCHERS = {
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "srun --ntasks=1"),
    "torchrun": ("RANK", "TORCHELASTIC_RUN_ID", "python without torchrun"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "mpirun -n 1"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "jsrun -n 1"),
}
"""By launcher: the variable that numbers the copies of a command, one that counts them if it is a number, and how to
start a single copy."""


def refuse_copies() -> None:
    """Raises `UserError` in all copies but the first, which warns: all copies would train the same."""
    if is_helper_process():
        return
    for launcher, (number, total, once) in LAUNCHERS.items():
        if (copy := os.environ.get(number, "0")) not in ("", "0"):
            raise UserError(
                f"{launcher} has started several copies of this training, and this is copy {copy} ({number}). Start "
                f"one only, with {once}, and name the GPUs of one machine in --devices (such as 0,1)"
            )
        if _count(os.environ.get(total, "1")) > 1:
            log.warning(
                "%s has started several copies of this training; only this one continues. Use %s", launcher, once
            )


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 1
