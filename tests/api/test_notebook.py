"""In a real Jupyter kernel: a bar is shown, an interrupt saves the training, and the kernel lives on."""

import time
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.files import ROOT


@pytest.mark.slow
@pytest.mark.xdist_group("kernel")  # kernels share a history file
def test_an_interrupted_kernel_saves_the_training_and_lives_on(
    tiny_checkpoint: Path, subject_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    train = f"""
import signal, ldm
handler = signal.getsignal(signal.SIGTERM)
ldm.fine_tune({str(subject_dir)!r}, class_name="can", ckpt_path={str(tiny_checkpoint)!r}, iterations=100_000,
              save_every=50_000, class_img_count=0, devices="cpu", output_dir={str(tmp_path)!r})
"""
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        request = client.execute(train)
        said = wait_for(client, "img/s=")  # the bar, after the first updates
        manager.interrupt_kernel()
        replies = iter(lambda: client.get_shell_msg(timeout=300), None)
        reply = next(reply for reply in replies if reply["parent_header"]["msg_id"] == request)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert "stopped by SIGINT after update" in reply["content"]["evalue"]
        assert (tmp_path / "can-1" / RESUME_STATE).is_file()
        assert "Traceback" not in said
        check = client.execute_interactive("assert signal.getsignal(signal.SIGTERM) is handler", timeout=300)
        assert check["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def wait_for(client: BlockingKernelClient, words: str) -> str:
    """What the kernel writes until these words come."""
    text, until = "", time.monotonic() + 600
    while words not in text:
        assert time.monotonic() < until, text
        message = client.get_iopub_msg(timeout=600)
        assert message["msg_type"] != "error", message["content"]
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
    return text
