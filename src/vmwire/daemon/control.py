# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The control socket's asking side: one question to a running network, in QMP.

`vmwire.daemon.control_server` answers. This side imports next to nothing, for ``vmwire list``.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any, BinaryIO

from vmwire.monitor.table import CommandError

__all__ = ["CommandError", "ask"]

MAX_LINE = 4 * 1024 * 1024
NEGOTIATION = b'{"execute": "qmp_capabilities"}\n'
OURS = "ask"
"""The id of our question, by which its answer is known."""


def ask(
    path: str,
    execute: str,
    timeout_s: float = 2.0,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the network behind ``path`` one question, the answer to which is an object.

    Raises OSError when nobody answers in time, `CommandError` for an error as answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        request = {"execute": execute, "arguments": dict(arguments or {}), "id": OURS}
        connection.sendall(NEGOTIATION + json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            answer = _answer(stream, path)
    if "error" in answer:
        raise CommandError(answer["error"]["desc"], answer["error"]["class"])
    result = answer["return"]
    assert isinstance(result, dict)
    return result


def _answer(stream: BinaryIO, path: str) -> dict[str, Any]:
    """The answer to our question, behind the greeting and whatever happens meanwhile."""
    while line := stream.readline(MAX_LINE):
        try:
            message = json.loads(line)
        except ValueError:
            break
        if isinstance(message, dict) and message.get("id") == OURS:
            return message
    raise ConnectionError(f"no answer from {path}")
