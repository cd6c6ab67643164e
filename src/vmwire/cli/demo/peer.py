# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The host's side of the demo's transfers, as a process of its own: ``python -m ...demo.peer``.

On the host's loopback, an HTTP server gives a pattern for as long as it is asked to
(``GET /pattern?seconds=2&limit=BYTES``), and a sink takes the same pattern, compares each byte and
answers when the other side has finished. A process of its own, because the network would have to
share Python's one lock with it.

Standard output has one JSON object a line: first the ports, then, during a transfer, how far it is
and at its end what it was. The end of standard input ends it all.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from vmwire.bench.pattern import Check, pattern
from vmwire.cli.demo.helper import die_with_parent

TELL_EVERY_S = 0.1
SILENCE_S = 10.0
ENDLESS = 1 << 50
_lock = threading.Lock()


def tell(**what: Any) -> None:
    """Write one line to whoever started us."""
    with _lock:
        print(json.dumps(what), flush=True)


class Meter:
    """Tells how far a transfer is; not more often than anybody can see."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.begin = time.monotonic()
        self._next = self.begin + TELL_EVERY_S

    def at(self, size: int) -> None:
        """The transfer has come so far."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TELL_EVERY_S
            tell(kind=self.kind, bytes=size, seconds=now - self.begin)

    def end(self, size: int, intact: bool) -> None:
        """It has ended."""
        seconds = time.monotonic() - self.begin
        tell(kind=self.kind, done=True, bytes=size, seconds=seconds, intact=intact)


class Source(BaseHTTPRequestHandler):
    """GET gives the pattern, without a length: for how long it goes on is a matter of time."""

    timeout = SILENCE_S

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        seconds = float(asked.get("seconds", ["2"])[0])
        limit = int(asked.get("limit", [str(ENDLESS)])[0])
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self._give(seconds, limit)

    def _give(self, seconds: float, limit: int) -> None:
        meter, sent = Meter("download"), 0
        for piece in pattern(limit):
            self.connection.sendall(piece)
            sent += len(piece)
            meter.at(sent)
            if time.monotonic() - meter.begin >= seconds:
                break
        self.connection.shutdown(1)
        self.connection.recv(1)  # the other side has read all of it
        meter.end(sent, True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Sink(socketserver.BaseRequestHandler):
    """Takes the pattern up to the half-close; answers with what it was."""

    def handle(self) -> None:
        self.request.settimeout(SILENCE_S)
        check, meter = Check(), Meter("upload")
        while count := self.request.recv_into(check.room()):
            check.took(count)
            meter.at(check.size)
        meter.end(check.size, check.finish())
        self.request.sendall(f"{check.size} {'intact' if check.finish() else 'damaged'}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    """A quiet one: what ends a transfer too early shows on the other side."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class HttpServer(ThreadingHTTPServer):
    """The same for HTTP."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until standard input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    servers = (HttpServer(("127.0.0.1", 0), Source), Server(("127.0.0.1", 0), Sink))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    http, sink = (server.server_address[1] for server in servers)
    tell(http=http, sink=sink)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
