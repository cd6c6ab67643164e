# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card that is served from a thread, with a recording end on its wire."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.wire.boxes import End
from vmwire.attach.vhost_user import VhostUserNic
from vmwire.attach.vhost_user.backend import Backend
from vmwire.bus.virtio.vhost_user import VRING_STATE
from vmwire.engine.host import FdStore, Host, NoStore
from vmwire.engine.loop import Loop
from vmwire.nic.options import VirtioNetPciOptions
from vmwire.wire.frame import NO_OFFLOAD, Frame, Offload


class Served:
    """``path`` is where the card listens."""

    def __init__(
        self, folder: Path, store: FdStore | None = None, end: End | None = None, **options: Any
    ) -> None:
        self.path = str(folder / "n0.sock")
        self.loop = Loop()
        self.nic = VhostUserNic(VirtioNetPciOptions(id="n0", socket=self.path, **options))
        self.end = end or End("end")
        self.end.port.connect(self.nic.port)
        self.nic.open(Host(self.loop, store or NoStore()))
        self.run()

    def run(self) -> None:
        """Serve, in a thread; also once more after ``die``."""
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def deliver(self, data: bytes, offload: Offload = NO_OFFLOAD) -> bool:
        """Send a frame to the guest; whether it was taken."""
        return self.loop.call(lambda: self.end.port.send([Frame.of(data, offload)])) == 1

    @property
    def session(self) -> Backend:
        """The connection that is served."""
        assert self.nic._session is not None
        return self.nic._session

    def stats(self) -> dict[str, Any]:
        return self.loop.call(self.nic.stats)

    def has_got(self, frames: int) -> bool:
        """Whether the wire's end has this many."""
        return len(self.end.got) == frames

    def wait(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until something holds in the engine's thread."""
        deadline = time.monotonic() + timeout_s
        while not self.loop.call(condition):
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {self.stats()}"
            time.sleep(0.002)

    def die(self) -> None:
        """As a worker dies: nothing is closed in order."""
        self.loop.stop()
        self._thread.join()

    def bury(self) -> None:
        """Close what the kernel closes of a dead process."""
        session, listener = self.nic._session, self.nic._listener
        if session is not None:
            session.channel.connection.close()
            session.memory.close()
            for ring in session.rings.values():
                if ring.queue is not None:
                    ring.queue.close()
                for fd in ring.fds.values():
                    os.close(fd)
        if listener is not None:
            listener.socket.close()
        self.loop.close()

    def close(self) -> None:
        self.loop.stop()
        self._thread.join()
        self.nic.close()
        self.loop.close()


FRAME = bytes(range(100))


def state(index: int, number: int) -> bytes:
    """A ring's number as a payload."""
    return VRING_STATE.pack(index, number)
