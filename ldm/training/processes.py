"""The processes that Lightning starts for further devices: an error in the first of them ends all."""

import subprocess

import pytorch_lightning as pl


class OtherProcesses(pl.Callback):
    """Knows the others after an error in the process that has started them; Lightning would let them wait for it."""

    def __init__(self) -> None:
        self._left: list[subprocess.Popen[bytes]] = []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        processes = getattr(trainer.strategy.launcher, "procs", [])
        self._left = list(processes)
        # Who watches them for Lightning would kill this process as soon as one of them ends, by the same error: before
        # it has written what it still has to.
        processes.clear()

    def end(self) -> None:
        """To be called once this process waits for nothing on its device, of which they may be a part."""
        for process in self._left:
            process.kill()
            process.wait()
