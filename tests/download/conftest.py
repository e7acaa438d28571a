"""Fixtures of the download tests: a hub on this machine, and the commands, in this process or as a user calls them."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from ldm.commands.app import run
from tests.download.hub_server import Hub, serve


class Terminal(io.StringIO):
    """Shows progress bars."""

    def isatty(self) -> bool:
        return True


def call(main: Callable[[], None], *arguments: str, terminal: type[io.StringIO] = io.StringIO) -> str:
    """Run a command in this process, to a good end; return what it wrote to stderr and stdout."""
    status, said = _run(main, arguments, terminal())
    assert status == 0, said
    return said


def refused(main: Callable[[], None], *words: str, arguments: tuple[str, ...] = ()) -> str:
    """Run a command, which tells the user in these words what is wrong; return all that it wrote."""
    status, said = _run(main, arguments, io.StringIO())
    assert status == 2, said
    assert [word for word in words if word not in said] == [], said
    return said


def _run(main: Callable[[], None], arguments: tuple[str, ...], said: io.StringIO) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["fetch.py", *arguments])
        try:
            status = run(main)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return status, said.getvalue()


def ask(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the library has read from HF_ENDPOINT when it was imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # the latter before huggingface_hub 1.0
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def fresh_connections() -> Iterator[None]:
    """Let the library read the proxies' variables again."""
    forget = getattr(_http, "close_session", None) or _http.reset_sessions  # the latter before 1.0
    forget()
    yield
    forget()


@pytest.fixture(autouse=True)
def naps(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Point the library in this process to the server and to empty places. Return the waits, which take no time."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    ask(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what arrives is written in pieces of 10 MB otherwise
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    return naps
