"""Commands as a user types them."""

from pathlib import Path

import pytest

import benchmarks.tools.commands as commands
from benchmarks.tools.commands import timed_run, weights_flags
from ldm.errors import UserError


def test_weights_are_named_where_the_command_would_take_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "base_weights", lambda path: commands.EMBEDDED)
    assert weights_flags(None) == []
    assert weights_flags(tmp_path / "a.safetensors") == ["--ckpt-path", str(tmp_path / "a.safetensors")]
    monkeypatch.setattr(commands, "base_weights", lambda path: tmp_path / "downloaded.ckpt")
    assert weights_flags(None) == ["--ckpt-path", str(commands.EMBEDDED)]


def test_a_command_is_timed_and_its_failure_reported() -> None:
    assert 0.1 <= timed_run("-c", "import time; time.sleep(0.1)") < 60
    with pytest.raises(UserError, match=r"status 3(.|\n)*what is wrong"):
        timed_run("-c", "import sys; print('what is wrong'); sys.exit(3)")
