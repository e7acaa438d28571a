"""The processes of a training on several devices of one machine; a cluster's environment variables are ignored.

The first process starts one for each further device. They end together: the first watches the others, and they watch
the first.
"""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.utilities import rank_zero_only

from ldm.interruption import STATUS, Stopped, blocked, end_at_once, resume_hint
from ldm.processes import (
    DIED,
    POLL_INTERVAL,
    RUN_DIR_VARIABLE,
    ProcessDiedError,
    ending_of,
    is_helper_process,
    own_rank,
)

CLUSTER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
CLUSTER_PREFIXES = ("SLURM_", "TORCHELASTIC_", "LSB_", "JSM_", "OMPI_", "PMI_", "PMIX_", "KUBERNETES_")
"""With them set, Lightning assumes that a cluster started this process and others."""

TIME_TO_NOTICE = 8.0
"""Seconds in which a process should notice that another one died; then it is killed."""


class OneMachine(LightningEnvironment):
    """Tells Lightning of as many processes as `--devices` names, which the first starts."""

    def __init__(self) -> None:
        super().__init__()
        self.set_global_rank(own_rank())
        # At its import Lightning read the rank from a cluster's variables.
        vars(rank_zero_only)["rank"] = own_rank()

    @property
    def creates_processes_externally(self) -> bool:
        return is_helper_process()

    def local_rank(self) -> int:
        return own_rank()

    def node_rank(self) -> int:
        return 0


@contextmanager
def own_environment(run_dir: Path) -> Iterator[None]:
    """In this block the environment has no variables of a cluster, but `RUN_DIR_VARIABLE` for the started processes."""
    if is_helper_process():
        yield
        return
    theirs = {name: os.environ.pop(name) for name in list(os.environ) if _of_cluster(name)}
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    try:
        yield
    finally:
        for name in (RUN_DIR_VARIABLE, *CLUSTER_VARIABLES):
            os.environ.pop(name, None)
        os.environ.update(theirs)


def _of_cluster(name: str) -> bool:
    return name in CLUSTER_VARIABLES or name.startswith(CLUSTER_PREFIXES)


class OtherProcesses:
    """The processes that the first one started, if any."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def watch(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Ends this process when one of them dies, from now on."""
        self._processes = processes
        threading.Thread(target=self._watch, name="others", daemon=True).start()

    def stop_watching(self) -> None:
        """Lets the processes end at any time, from now on."""
        self._over.set()

    def wait(self) -> None:
        """Waits for the processes to end after the last step, for a limited time."""
        self.stop_watching()
        until = time.monotonic() + TIME_TO_NOTICE
        while time.monotonic() < until and any(process.poll() is None for process in self._processes):
            time.sleep(POLL_INTERVAL / 5)

    def end(self) -> None:
        """Kills those that are left and waits for them. Call it when this process no longer waits for its device."""
        self.stop_watching()
        self.kill()
        for process in self._processes:
            process.wait()

    def kill(self) -> None:
        """Kills those that are left."""
        for process in self._processes:
            process.kill()

    def ending(self) -> BaseException | None:
        """The error to raise for the end of one of them; None unless one failed."""
        codes = [code for process in self._processes if (code := process.poll())]
        return ending_of(codes[0]) if codes else None

    def explain(self, error: Exception) -> BaseException:
        """The cause of an error: if processes could not communicate, the end of another process, if one ended."""
        if not (self._processes or is_helper_process()) or not _is_communication_error(error):
            return error
        until = time.monotonic() + TIME_TO_NOTICE
        while time.monotonic() < until:  # the first process kills this one meanwhile, if it is another
            if (ending := self.ending()) is not None:
                return ending
            time.sleep(POLL_INTERVAL)
        return error

    def _watch(self) -> None:
        while not self._over.wait(POLL_INTERVAL):
            if (ending := self.ending()) is not None and not self._over.wait(TIME_TO_NOTICE):
                self.kill()
                status = STATUS if isinstance(ending, Stopped) else DIED
                end_at_once(status, f"error: {ending}; {resume_hint()}")


class OneMachineDDP(DDPStrategy):
    """Lightning's DDP, with `OtherProcesses` watching its processes."""

    def __init__(self, others: OtherProcesses) -> None:
        # Buffers, such as the average of the weights, are the same in all processes.
        super().__init__(broadcast_buffers=False)
        self.others = others

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
        self._launcher.others = self.others


class _Launcher(_SubprocessScriptLauncher):
    """Hides the processes from Lightning, which would kill this one as soon as another has ended."""

    others: OtherProcesses

    def _call_children_scripts(self) -> None:
        with blocked():
            super()._call_children_scripts()
            self.others.watch(self.procs)
        self.procs = []


def _is_communication_error(error: Exception) -> bool:
    """Whether processes could not communicate. Gloo's errors have no type of their own."""
    if isinstance(error, torch.distributed.DistError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(name in message for name in ("gloo", "NCCL", "Connection", "recv"))


def explain_workers(error: Exception) -> Exception:
    """Replaces torch's error about a killed worker process by a clear one; returns others."""
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return ProcessDiedError(
            f"a process that prepares batches has ended unexpectedly; was the memory full? ({error})"
        )
    return error
