"""Processes of several devices: an error in the first ends all."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.files import ROOT

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from ldm.errors import UserError
from ldm.training.dreambooth import DreamBooth
from ldm.training.trainer import FitOptions, fit
from tests.training.parts import build_module

class Waiting(DreamBooth):
    def on_save_checkpoint(self, checkpoint):
        if self.global_rank == 1:
            Path("pid").write_text(str(os.getpid()))
            time.sleep(10_000)  # as it would in a collective that nobody else joins

def write():
    time.sleep(8)  # Lightning looks every 5 seconds whether all processes are there
    Path("written").touch()

def save(module, step):
    options.writer.put(write)
    while not Path("pid").exists():
        time.sleep(0.01)
    raise UserError("the disk is full")

options = FitOptions(Path("run"), 2 * [torch.device("cpu")], None, "none")
fit(build_module(cls=Waiting), options, save)
"""


@pytest.mark.slow
def test_an_error_in_the_first_process_ends_the_others_and_pending_writes_are_done(tmp_path: Path) -> None:
    script, output = tmp_path / "script.py", tmp_path / "output"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, script], cwd=tmp_path, env=environment, stderr=file, start_new_session=True
        )
    try:
        assert process.wait(timeout=300) == 1, output.read_text()
        assert "UserError: the disk is full" in output.read_text()
        assert (tmp_path / "written").exists()
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
