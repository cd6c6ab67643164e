# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of taps have in common: scripts, interfaces, and a guest behind a netdev."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.netdev.alone import ip

from vmwire.network import Network


def script(folder: Path, body: str, name: str = "script") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interfaces() -> list[str]:
    return [each["ifname"] for each in json.loads(ip("-j link"))]


def guest_on(net: Network, netdev: str, address: str) -> Callable[..., str]:
    """A namespace behind ``netdev``; returns what runs a command in it."""
    net.add_netns(id="g", netdev=netdev, address=address)
    box: Any = net.devices["g"].box

    def run(*command: str) -> str:
        process = box.start([*command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output: str = process.communicate(timeout=30)[0]
        assert process.returncode == 0, output
        return output

    return run
