"""The page of a run, or of a study, while it goes on: for this machine alone, and nothing but that page.

A browser asks for the page once, then for its state every two seconds, and for the sections that have changed.
"""

import errno
import json
import re
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console

from configs.words import nearest, short
from simulations.live_frame import POLICY, Face, Watched, state, tag, whole
from simulations.live_page import LiveRunPage
from simulations.live_painter import Painter

HOST, HIGHEST_PORT = "127.0.0.1", 65535
NAMES = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?", re.IGNORECASE)
"""What a request may call this machine, at any port (`ssh -L` may use another): a foreign page's name, pointed here, is none
of these."""
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FRESH_S = 0.5
"""For so long one look at the folder serves everybody who asks."""


def serve_page(folder: Path, port: int, console: Console) -> None:
    """Serve the page of a run's or a study's folder until KeyboardInterrupt, which is let through.

    Raises:
        ValueError: there is no such folder, or the port cannot be had.
    """
    watched = watched_in(folder)
    with Page(watched, port) as server:
        here = f"http://{HOST}:{server.server_port}"
        elsewhere = f"ssh -L {server.server_port}:{HOST}:{server.server_port} {socket.gethostname()}"
        console.print(f"{folder}: {here}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"from another machine: {elsewhere}, then the same address there; Ctrl-C ends the page, and no run",
                      markup=False, highlight=False, soft_wrap=True)  # fmt: skip
        server.serve_forever()


def watched_in(folder: Path) -> Watched:
    """What there is to watch in a folder: a study where study.json lies, else a run, begun or not.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        beside = [path.name for path in sorted(folder.parent.glob("*")) if path.is_dir()] if folder.parent.is_dir() else []
        hint = f"; {nearest(folder.name, beside)}" if beside else ""
        raise ValueError(f"{short(str(folder))}: there is no such folder{hint}")
    if (folder / "study.json").exists():
        from simulations.live_study import LiveStudyPage

        return LiveStudyPage(folder)
    return LiveRunPage(folder)


class Page(ThreadingHTTPServer):
    """Serves one page; `with` it, for its painter's sake."""

    daemon_threads, block_on_close = True, False

    def __init__(self, watched: Watched, port: int) -> None:
        self.watched = watched
        self.painter = Painter(watched.version, watched.draw, watched.hurry, watched.nothing)
        self._lock, self._face = Lock(), (0.0, Face())
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(_no_port(port, error)) from None

    def face(self) -> Face:
        """How it is, or was a moment ago; where that cannot be told, how it was before, and why."""
        with self._lock:
            at, face = self._face
            if not at or time.monotonic() - at >= FRESH_S:
                try:
                    face = self.watched.face()
                except Exception as error:  # a file is torn in a way that nobody thought of
                    face = face._replace(said=f"What is there cannot be read ({type(error).__name__}: {error}).")
                self._face = time.monotonic(), face
            return face

    def server_close(self) -> None:
        """Let go of the port, and stop drawing."""
        super().server_close()
        self.painter.stop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """One browser's requests."""

    server: Page
    server_version, sys_version, timeout = "SiteStream", "", 60

    def do_GET(self) -> None:
        """The page, its state, or a section of its report: there is nothing else."""
        path, painter = self.path.partition("?")[0], self.server.painter
        names = self.headers.get_all("Host", [])
        if not names or not all(map(NAMES.fullmatch, names)):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "This page is for localhost alone.\n")
        elif path in ("/", "/state"):
            painter.wanted()
            self._send_whole() if path == "/" else self._send_state()
        elif path.startswith("/section/") and (html := painter.section(path.removeprefix("/section/"))) is not None:
            self._send(HTTPStatus.OK, "text/html", html)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "There is nothing here but /\n")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""

    def _send_whole(self) -> None:
        self._send(
            HTTPStatus.OK, "text/html", whole(self.server.face(), self.server.painter.painted, self.server.watched.style)
        )

    def _send_state(self) -> None:
        face, painted = self.server.face(), self.server.painter.painted
        etag = tag(face, painted)
        if etag in self.headers.get("If-None-Match", ""):
            self._send(HTTPStatus.NOT_MODIFIED, "", "", etag)
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(state(face, painted)), etag)

    def _send(self, status: HTTPStatus, kind: str, content: str, etag: str = "") -> None:
        body = content.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if etag:
            self.send_header("ETag", etag)
        if kind:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _no_port(port: int, error: Exception) -> str:
    if isinstance(error, OverflowError):
        return f"--port {port}: ports go from 1 to {HIGHEST_PORT}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        other = port + 1 if port < HIGHEST_PORT else port - 1
        return f"port {port} is taken, by another `watch` perhaps: choose another, --port {other} say"
    return f"--port {port}: {error}"
