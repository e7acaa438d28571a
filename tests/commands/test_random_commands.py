"""A few random command lines; `LDM_RANDOM_COMMANDS=1000` makes a campaign of it, `LDM_RANDOM_SEED` another one."""

import os
from pathlib import Path

import pytest

from tests.commands.random_commands import campaign, prepare

COUNT, SEED = int(os.environ.get("LDM_RANDOM_COMMANDS", "40")), int(os.environ.get("LDM_RANDOM_SEED", "0"))


def test_no_command_line_ends_in_a_traceback(
    tmp_path: Path, tiny_checkpoint: Path, subject_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, tiny_checkpoint, subject_dir)
    monkeypatch.chdir(tmp_path)
    tried = campaign(COUNT, SEED)
    assert len(tried) == COUNT
    assert [(one.command, one.arguments, one.outcome) for one in tried if not one.is_good] == []
    assert {one.outcome.status for one in tried} == {0, 2}
