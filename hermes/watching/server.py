"""Serves the page that follows runs, on this machine alone: the standard library's HTTP server."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hermes.errors import HermesError, describe_error, explain_os_error
from hermes.watching.run_view import RunView, find_runs

__all__ = ["WatchServer"]

PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
HOST = "127.0.0.1"
# Names under which a browser reaches this machine alone. Any other in a request's Host header is a
# page of the web that has made its own name point here, to read what this server says.
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class WatchServer(ThreadingHTTPServer):
    """A server of the page, its runs in the order in which they were given.

    folders: runs, or folders of runs, which may get more while the page is open. port: 0 for any
    that is free. Raises HermesError where there is no such folder or no such port.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[str | Path], port: int = 0):
        self.folders = [Path(folder) for folder in folders]
        find_runs(self.folders)
        self._known: list[Path] = []
        try:
            super().__init__((HOST, port), PageHandler)
        except (OSError, OverflowError) as error:
            reason = explain_os_error(error)
            raise HermesError(f"cannot listen on port {port}: {reason}; choose another") from error

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def list_runs(self) -> list[RunView]:
        """Every run that was found so far; each keeps its number."""
        for run in find_runs([folder for folder in self.folders if folder.is_dir()]):
            if run not in self._known:
                self._known.append(run)
        return [RunView(run) for run in self._known]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader that went away; anything else is an error of this program."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class PageHandler(BaseHTTPRequestHandler):
    """Answers a request for the page, or for what it shows of the runs."""

    server: WatchServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the data are two writes, 40 ms apart otherwise
    timeout = 60  # seconds, of a reader that asks for nothing

    def do_GET(self) -> None:  # the name that http.server calls
        """Answer a GET."""
        name = self.headers.get("Host", "").rsplit(":", 1)[0]
        if name not in OWN_NAMES:
            self._refuse(403, "this page is for this machine alone")
            return
        address = urlsplit(self.path)
        if address.path in PAGE:
            file, kind = PAGE[address.path]
            self._answer(200, (files("hermes.watching") / file).read_bytes(), kind)
            return
        answer = self._routes.get(address.path)
        if answer is None:
            self._refuse(404, "there is nothing here")
            return
        try:
            self._send_json(answer(parse_qs(address.query)))
        except (LookupError, ValueError):
            self._refuse(400, "this is no run of the page")
        except (HermesError, OSError) as error:
            self._refuse(500, describe_error(error))

    @cached_property
    def _routes(self) -> dict[str, Callable[[dict[str, list[str]]], Any]]:
        return {
            "/runs": lambda query: [run.describe() for run in self.server.list_runs()],
            "/metrics": lambda query: asdict(
                self._find_run(query).read_metrics(max(int(query.get("start", ["0"])[0]), 0))
            ),
            "/samples": lambda query: self._find_run(query).read_samples(),
        }

    def _find_run(self, query: dict[str, list[str]]) -> RunView:
        number = int(query["run"][0])
        if number < 0:
            raise IndexError(number)
        return self.server.list_runs()[number]

    def _send_json(self, value: Any) -> None:
        # In ASCII, since a text of a file may have half of a surrogate pair.
        data = json.dumps(value, default=str).encode()
        self._answer(200, data, "application/json; charset=utf-8")

    def _refuse(self, code: int, why: str) -> None:
        self._answer(code, f"{why}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, code: int, data: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, **HEADERS}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of single requests."""
