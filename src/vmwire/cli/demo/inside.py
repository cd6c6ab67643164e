# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the demo, as a process of its own: ``python -m ...demo.inside KIND ...``.

    kernel INTERFACE   in a network namespace: the real Linux TCP does the work
    ring SOCKET        anywhere: ``vmwire.bench.guest`` does it, driving a card over vhost-user

Standard input has one order a line (``{"do": "ping", "address": "10.0.2.2"}``), standard output
one answer to each, or ``{"failed": "why"}``. The two kinds take the same orders.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vmwire.bench.pattern import Check, pattern
from vmwire.cli.demo.helper import die_with_parent
from vmwire.cli.demo.stacks import Connection, KernelStack, RingStack, Stack
from vmwire.wire.protocols.errors import ParseError

GREETING = b"hello from the guest\n"
ENDLESS = 1 << 50
Answer = dict[str, Any]


# --- orders --------------------------------------------------------------------------------------


def lease(stack: Stack) -> Answer:
    """Get an address."""
    begin = time.monotonic()
    found, by = stack.lease()
    return asdict(found) | {"by": by, "took": time.monotonic() - begin}


def ping(stack: Stack, address: str, count: int) -> Answer:
    """Send echo requests; how long each answer took, -1 for none."""
    times = []
    for number in range(count):
        if number:
            time.sleep(0.1)
        try:
            times.append(stack.ping(address))
        except TimeoutError:
            times.append(-1.0)
    return {"times": times}


def resolve(stack: Stack, name: str, server: str) -> Answer:
    """Ask for a name's addresses."""
    begin = time.monotonic()
    reply = stack.resolve(name, server)
    took = time.monotonic() - begin
    return {"code": reply.code, "addresses": reply.addresses, "took": took}


def download(stack: Stack, address: str, port: int, path: str) -> Answer:
    """Read over HTTP what should be the pattern."""
    connection = stack.connect(address, port)
    try:
        connection.send(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        early = _after_head(connection)
        check = Check()
        while early:
            part = early[: len(check.room())]
            check.room()[: len(part)] = part
            check.took(len(part))
            early = early[len(part) :]
        while count := connection.receive_into(check.room()):
            check.took(count)
    finally:
        connection.close()
    return {"bytes": check.size, "intact": check.finish()}


def _after_head(connection: Connection) -> bytes:
    """Read the head of a HTTP answer; what came behind it."""
    data, room = b"", bytearray(65536)
    while b"\r\n\r\n" not in data:
        count = connection.receive_into(memoryview(room))
        if not count or len(data) > 1 << 16:
            raise ConnectionError("no HTTP answer came")
        data += room[:count]
    head, _, rest = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode(errors="replace")
    if " 200 " not in status:
        raise ConnectionError(f"the HTTP answer was {status!r}")
    return rest


def upload(stack: Stack, address: str, port: int, seconds: float) -> Answer:
    """Send the pattern for so long; the other side has to say that it came."""
    connection = stack.connect(address, port)
    try:
        sent, deadline = 0, time.monotonic() + seconds
        for piece in pattern(ENDLESS):
            connection.send(piece)
            sent += len(piece)
            if time.monotonic() >= deadline:
                break
        connection.finish()
        said = _read_all(connection).decode(errors="replace").strip()
    finally:
        connection.close()
    if said != f"{sent} intact":
        raise ConnectionError(f"the host says of {sent} bytes: {said!r}")
    return {"bytes": sent}


def _read_all(connection: Connection) -> bytes:
    data, room = b"", bytearray(65536)
    while count := connection.receive_into(memoryview(room)):
        data += room[:count]
    return data


def listen(stack: Stack, port: int) -> Answer:
    """Be there for connections to a port."""
    stack.listen(port)
    return {}


def greet(stack: Stack) -> Answer:
    """Take one connection: read all, answer with a greeting; what was read, and from whom."""
    connection = stack.accept()
    try:
        heard = _read_all(connection).decode(errors="replace").strip()
        connection.send(GREETING)
        connection.finish()
        return {"heard": heard, "from": connection.peer}
    finally:
        connection.close()


ORDERS: dict[str, Callable[..., Answer]] = {
    order.__name__: order for order in (lease, ping, resolve, download, upload, listen, greet)
}


# --- the process ---------------------------------------------------------------------------------


def main(kind: str, where: str) -> None:
    """Take orders until standard input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    stack: Stack = KernelStack(where) if kind == "kernel" else RingStack(where)
    answer({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer(ORDERS[order.pop("do")](stack, **order))
        except (OSError, ParseError, ValueError) as error:
            answer({"failed": str(error) or type(error).__name__})


def answer(what: Answer) -> None:
    """Write one line."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
