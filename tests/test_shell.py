"""Commands to type next: a shell reads back exactly the words that were meant, and a terminal shows them quietly."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.shell import command_line, quoted
from ldm.terminal import visible

file_names = st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"\0", b"x"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash reads the words back")
@settings(max_examples=20, deadline=None)
@given(names=st.lists(file_names, min_size=20, max_size=20))
def test_a_shell_reads_back_the_same_bytes(names: list[bytes]) -> None:
    words = " ".join(quoted(os.fsdecode(name)) for name in names)
    done = subprocess.run(["bash", "-c", rf"printf '%s\0' {words}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == names


@settings(deadline=None)
@given(name=st.text() | file_names.map(os.fsdecode))
def test_what_is_quoted_shows_as_it_is(name: str) -> None:
    assert visible(quoted(name)) == quoted(name)


def test_a_plain_command_needs_no_quotes() -> None:
    assert command_line("dreambooth.py", "-r", Path("ckpts/can-1")) == "python dreambooth.py -r ckpts/can-1"
    assert command_line("txt2img.py", "-p", "a cat") == "python txt2img.py -p 'a cat'"


def test_a_path_that_looks_like_a_flag_is_none() -> None:
    assert command_line("dreambooth.py", "-r", Path("-r")) == "python dreambooth.py -r ./-r"
