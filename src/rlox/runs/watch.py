"""A report that follows its runs while they go on, served to this machine only."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from rlox.errors import ConfigError, RloxError, one_line
from rlox.runs.history import Run, find_runs
from rlox.runs.logs import CONFIG, METRICS
from rlox.runs.report import contents, render

HOST = "127.0.0.1"
FIRST_PORT, N_PORTS = 8420, 20
_NAMES = (HOST, "localhost")
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Watch(ThreadingHTTPServer):
    """Serves the page of runs at ``/`` and what it shows at ``/data.json``.

    Args:
        paths: folders of runs, or with runs below them; one that is there may still be empty.
        port: None takes a free one.

    Raises:
        ConfigError: a folder that is not there, or a port that is in use.
    """

    daemon_threads = True
    # Elsewhere it would share the port of another server.
    allow_reuse_address = os.name == "posix"

    def __init__(self, paths: Sequence[str | Path], port: int | None = None):
        self._paths = [Path(path) for path in paths]
        for path in self._paths:
            if not path.is_dir():
                raise ConfigError(f"'{path}' is not a folder: name that of a run, or one that runs are written below.")
        self._lock, self._news, self._rests_until = threading.Lock(), ((), b""), 0.0
        super().__init__((HOST, 0), _Handler, bind_and_activate=False)
        try:
            self._bind(port)
        except BaseException:
            self.server_close()
            raise

    def _bind(self, port: int | None) -> None:
        ports = [*range(FIRST_PORT, FIRST_PORT + N_PORTS), 0] if port is None else [port]
        for tried in ports:
            self.server_address = (HOST, tried)
            try:
                # HTTPServer's own asks the network for the name of this machine.
                TCPServer.server_bind(self)
                break
            except OverflowError:
                raise ConfigError(f"--port {tried} must be between 0 and 65535.") from None
            except OSError as error:
                if tried == ports[-1]:
                    raise ConfigError(
                        f"Port {tried} cannot be used ({one_line(error)}): name another --port, or none for a free one."
                    ) from None
        self.server_activate()

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def runs(self) -> list[Run]:
        """Return the runs that there are by now."""
        there = [path for path in self._paths if any((file.parent / METRICS).exists() for file in path.rglob(CONFIG))]
        return find_runs(there) if there else []

    def news(self) -> bytes:
        """Return what the page shows, as JSON; made again when a file has changed, in a tenth of the time at most."""
        with self._lock:
            stamp, began = tuple(self._stamps()), time.monotonic()
            if not self._news[1] or (stamp != self._news[0] and began >= self._rests_until):
                told = contents(self.runs())
                # What changes with every look at the clock would look like news.
                told.pop("now")
                self._news = stamp, json.dumps(told, separators=(",", ":")).encode()
                # The runs need the processor more than their report does.
                self._rests_until = time.monotonic() + 9 * (time.monotonic() - began)
            return self._news[1]

    def _stamps(self) -> list[tuple[str, int, int]]:
        files = (file for path in self._paths for name in (CONFIG, METRICS) for file in path.rglob(name))
        return sorted((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that hang up."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    server_version, sys_version = "rlox", ""

    def do_GET(self) -> None:
        """Answer with the page or its data, and with nothing else."""
        if not self._is_ours():
            self._send(HTTPStatus.FORBIDDEN, self._elsewhere(), "text/plain")
            return
        path = urlsplit(self.path).path
        try:
            if path == "/":
                self._send(HTTPStatus.OK, render(self._watch.runs(), live=True).encode(), "text/html")
            elif path == "/data.json":
                self._send(HTTPStatus.OK, self._watch.news(), "application/json")
            else:
                self._send(HTTPStatus.NOT_FOUND, b"There is nothing here.\n", "text/plain")
        except (RloxError, OSError) as error:
            # Such as a file that is being written, or a folder that was removed.
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{one_line(error)}\n".encode(), "text/plain")
        except Exception as error:
            self._send(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {one_line(error)}\n".encode(), "text/plain"
            )

    @property
    def _watch(self) -> Watch:
        assert isinstance(self.server, Watch)
        return self.server

    def _elsewhere(self) -> bytes:
        port = self._watch.server_address[1]
        return f"Ask for this page at 127.0.0.1:{port} or localhost:{port}, also through a tunnel.\n".encode()

    def _is_ours(self) -> bool:
        """Return whether the page was asked for by this machine's name, not by one that points here only now."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}")
            return host.hostname in _NAMES and host.port in (self._watch.server_address[1], None)
        except ValueError:
            return False

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if status == HTTPStatus.OK and self.headers.get("If-None-Match") == tag:
            status, body = HTTPStatus.NOT_MODIFIED, b""
        self.send_response(status)
        for name, value in {**_HEADERS, "ETag": tag, "Content-Type": f"{kind}; charset=utf-8"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
