"""A stand-in for the Hugging Face Hub and its store of large files, on this machine, that can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STORE = "/store"
"""Begins the paths to which the Hub redirects for the content of large files."""
DATASET = "/datasets/google/dreambooth/resolve/main/dataset"
LISTING = "/api/datasets/google/dreambooth/tree/main/dataset"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Remote:
    """One file on the server, and how the server treats it. Large files are kept in a store, small ones in git."""

    content: bytes
    is_large: bool = False
    etag: str = ""  # empty: none is named
    size: int | None = None  # the one that is claimed
    token: str | None = None  # needed to be let in
    store: str = ""  # the address of another server, empty: this one
    ranges: bool = True  # False: a Range is ignored and the whole file sent, with status 200
    statuses: list[int] = field(default_factory=list)  # answered before it works
    breaks: list[int] = field(default_factory=list)  # one a GET: the connection breaks off after so many bytes
    hold_after: int | None = None  # so many bytes, then nothing for a while
    holding: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Hub:
    """The server's files by path, and the requests that it has had: method, path, Range, Authorization."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.files: dict[str, Remote] = {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.listed: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "path": "dataset/can"}]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, path: str, content: bytes, is_large: bool = True) -> Remote:
        """Serve a file as the Hub does: its ETag is the SHA-256 of a large one, git's name for a small one."""
        etag = sha256(content) if is_large else git_sha1(content)
        remote = self.files[path] = Remote(content, is_large, etag, len(content))
        return remote

    def add_to_dataset(self, name: str, content: bytes, is_large: bool = True, size: int | None = None) -> Remote:
        """Serve a file of google/dreambooth, which is listed."""
        entry = {"type": "file", "oid": git_sha1(content), "size": size or len(content), "path": f"dataset/{name}"}
        lfs = {"oid": sha256(content), "size": len(content), "pointerSize": 131}
        self.listed.append(entry | ({"lfs": lfs} if is_large else {}))
        self.files[LISTING] = Remote(json.dumps(self.listed).encode())
        return self.add(f"{DATASET}/{name}", content, is_large)

    def fetched(self, path: str) -> list[str | None]:
        """Return the Range of each request for the content of a file."""
        stored = STORE * self.files[path].is_large + path
        return [wanted for method, asked, wanted, _ in self.requests if (method, asked) == ("GET", stored)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, authorization = self.path.partition("?")[0], self.headers["Authorization"]
        self.hub.requests.append((self.command, path, self.headers["Range"], authorization))
        remote = self.hub.files.get(path.removeprefix(STORE))
        if remote is None:
            return self.send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"})
        if path.startswith(STORE):
            return self.send_content(remote)
        if remote.token is not None and authorization != f"Bearer {remote.token}":
            return self.send(401, b'{"error": "Access is restricted"}', {"X-Error-Code": "GatedRepo"})
        if remote.statuses:
            return self.send(remote.statuses.pop(0), b"no\n", {})
        if not remote.is_large:
            return self.send_content(remote)
        headers = {"Location": f"{remote.store or self.hub.url}{STORE}{path}", "X-Repo-Commit": "0" * 40}
        headers["X-Linked-ETag"] = f'"{remote.etag}"'
        if remote.size is not None:
            headers["X-Linked-Size"] = str(remote.size)
        return self.send(302, b"", headers)

    def send_content(self, remote: Remote) -> None:
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and remote.ranges else 0
        total = len(remote.content)
        headers = {"ETag": f'"{remote.etag}"', "X-Repo-Commit": "0" * 40} if remote.etag else {}
        if start >= total > 0:
            return self.send(416, b"", {"Content-Range": f"bytes */{total}"})
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        return self.send(206 if start else 200, remote.content[start:], headers, remote)

    def send(self, status: int, body: bytes, headers: dict[str, str], remote: Remote | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if remote is not None and remote.hold_after is not None:
            self.wfile.write(body[: remote.hold_after])
            self.wfile.flush()
            remote.holding.set()
            remote.released.wait(20)
            body = body[remote.hold_after :]
        elif remote is not None and remote.breaks:
            body = body[: remote.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `Hub.requests` is the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away in the middle are what the tests are about."""


@contextmanager
def serve(certificate: tuple[Path, Path] | None = None) -> Iterator[Hub]:
    """Run a hub until the block ends. With a certificate and its key, it speaks HTTPS."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hub = Hub(server.server_port)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for remote in hub.files.values():
            remote.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
