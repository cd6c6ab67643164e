# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What guests talk to on the host: an HTTP source, a sink that answers with a checksum, and echoes.

All of it listens on 127.0.0.1, where a guest reaches it by its gateway's address. The bytes are
those of ``vmwire.bench.pattern``, so that a lost, doubled or moved piece shows.
"""

from __future__ import annotations

import hashlib
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from vmwire.bench.pattern import pattern

LIMIT_S = 600


class _Http(BaseHTTPRequestHandler):
    """GET /SIZE gives the pattern of that many bytes; GET /who the address the request came from"""

    timeout = LIMIT_S

    def do_GET(self) -> None:
        if self.path == "/who":
            self._begin(len(self.client_address[0]))
            self.wfile.write(self.client_address[0].encode())
            return
        size = int(self.path[1:])
        self._begin(size)
        for piece in pattern(size):
            self.wfile.write(piece)

    def _begin(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Sum(socketserver.BaseRequestHandler):
    """Reads until the other side's half-close and answers `SHA256 BYTES`."""

    def handle(self) -> None:
        self.request.settimeout(LIMIT_S)
        digest, count = hashlib.sha256(), 0
        while data := self.request.recv(1 << 18):
            digest.update(data)
            count += len(data)
        self.request.sendall(f"{digest.hexdigest()} {count}\n".encode())


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.settimeout(LIMIT_S)
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class _UdpEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, own = self.request
        own.sendto(data, self.client_address)


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class HostPeer:
    """All servers, each on a port of its own, while the `with` block lasts."""

    def __init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Http)
        self._http.daemon_threads = True
        self._sum = _TcpServer(("127.0.0.1", 0), _Sum)
        self._echo = _TcpServer(("127.0.0.1", 0), _Echo)
        self._udp = socketserver.UDPServer(("127.0.0.1", 0), _UdpEcho)
        self._servers = (self._http, self._sum, self._echo, self._udp)
        self.http_port, self.sum_port, self.echo_port, self.udp_echo_port = (
            int(server.server_address[1]) for server in self._servers
        )

    def __enter__(self) -> HostPeer:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
