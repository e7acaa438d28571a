"""A stand-in for the Hugging Face Hub, on this machine, that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Remote:
    """One file on the server, and how the server treats it."""

    content: bytes
    ranges: bool = True  # False: a Range is ignored and the whole file sent, with status 200
    head: bool = True  # False: HEAD is answered 405, so nobody knows the size
    linked_size: int | None = None  # what X-Linked-Size claims
    token: str | None = None  # needed to be let in
    redirect: str | None = None  # where the content is
    statuses: list[int] = field(default_factory=list)  # answered, one a GET, before it works
    breaks: list[int] = field(default_factory=list)  # one a GET: the connection breaks off after so many bytes
    hold_after: int | None = None  # so many bytes, then nothing until `released`
    holding: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class Hub:
    """The server's files by path, and the requests that it has had."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.files: dict[str, Remote] = {}
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def gets(self, name: str) -> list[Request]:
        """Return the GET requests for paths that end in `name`."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        asked_range = self.headers["Range"]
        self.hub.requests.append(Request(self.command, self.path, asked_range, self.headers["Authorization"]))
        remote = self.hub.files.get(self.path)
        if remote is None:
            return self.refuse(404)
        if remote.token is not None and self.headers["Authorization"] != f"Bearer {remote.token}":
            return self.refuse(401)
        if self.command == "HEAD" and not remote.head:
            return self.refuse(405)
        if self.command == "GET" and remote.statuses:
            return self.refuse(remote.statuses.pop(0))
        if remote.redirect is not None:
            return self.send(302, b"", {"Location": remote.redirect})

        start = int(asked_range.removeprefix("bytes=").removesuffix("-")) if asked_range and remote.ranges else 0
        total = len(remote.content)
        if start >= total > 0:
            return self.send(416, b"", {"Content-Range": f"bytes */{total}"})
        headers = {}
        if remote.linked_size is not None:
            headers["X-Linked-Size"] = str(remote.linked_size)
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        return self.send(206 if start else 200, remote.content[start:], headers, remote)

    def refuse(self, status: int) -> None:
        self.send(status, b"no\n", {})

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
def serve() -> Iterator[Hub]:
    """Run a hub until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
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
