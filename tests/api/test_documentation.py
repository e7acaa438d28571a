"""The examples of docs/python.md run, in their order, on a model that takes no time."""

import re
import shutil
from pathlib import Path

import pytest

from ldm.files import ROOT
from ldm.runtime import models
from tests.tiny import TINY_YAML, write_tiny_checkpoint

SHORTER = {
    "iterations=400, save_every=200": "iterations=4, save_every=2, class_img_count=2, devices='cpu'",
    "iterations=600": "iterations=6",
}
"""What takes minutes in the document."""


@pytest.mark.slow
def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    for ours, shorter in SHORTER.items():
        assert ours in text
        text = text.replace(ours, shorter)
    shutil.copytree(ROOT / "data" / "bottle", tmp_path / "data" / "bottle")
    config = {**TINY_YAML, "evaluation": {"encoder": "toyworld-judge"}}
    monkeypatch.setattr(models, "EMBEDDED", write_tiny_checkpoint(tmp_path / "tiny", config=config))
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 4
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert {path.name for path in tmp_path.glob("*.png")} == {"ball.png", "steps.png", "grid.png"}
    assert [path.name for path in sorted((tmp_path / "ckpts" / "water-bottle-1").glob("step-*"))] == [
        f"step-0000{step}.safetensors" for step in (2, 4, 6)
    ]
