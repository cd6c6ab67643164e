# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A machine's moves that several tests make."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.attach.vfio_user.copier import (
    FAULTS,
    GO,
    LENGTH,
    SOURCE,
    TARGET,
)
from vmwire.bench.vfio_user import Client
from vmwire.bus.pci.vfio_user import (
    CONFIG,
)

MASTER = 0x0006


@contextmanager
def no_event(kind: str) -> Iterator[int]:
    """Give a descriptor that can't be signalled as an event is."""
    if kind == "file":
        fds = [os.memfd_create("file")]
    elif kind == "path":
        fds = [os.open("/", os.O_PATH)]
    elif kind == "pipe":
        fds = list(os.pipe())
    elif kind == "socket":
        fds = [end.detach() for end in socket.socketpair()]
    else:
        fds = list(os.openpty())
    yield fds[-1]
    for fd in fds:
        os.close(fd)


def copy(pc: Client, source: int, target: int, length: int) -> bool:
    """Have the card copy; whether it did."""
    pc.write(CONFIG, 4, MASTER, 2)
    faults = pc.read(0, FAULTS)
    pc.write(0, SOURCE, source)
    pc.write(0, TARGET, target)
    pc.write(0, LENGTH, length)
    pc.write(0, GO, 1)
    return pc.read(0, FAULTS) == faults
