# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap as a box on the wire: the kernel's network stack is what is behind it.

It has one queue or several (``tap_queue``). Frames go out by the first one. What comes back is
steered by the kernel: a flow's frames by the queue that sent last for it, others by their hash; so
all queues are read.

What the kernel may leave undone in frames that it gives us follows what the wire's other end
accepts, so that it segments itself if somebody must. It gets everything undone: it verifies
nothing of a frame whose checksum is still to be done, and cuts superframes only on their way out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from vmwire.engine.loop import Loop
from vmwire.netdev import tun
from vmwire.netdev.tap_queue import TapQueue
from vmwire.wire.frame import Frame, Gso
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, Port, Room, stats

log = logging.getLogger(__name__)

WITHOUT_USO = Accepts(True, EVERYTHING.gso & ~Gso.UDP_L4)


def stored_tap(id: str, queue: int = 0) -> str:
    """The name in the fd store of a queue of the tap of the member ``id``."""
    return f"{id}.tap{queue}" if queue else f"{id}.tap"


class TapPort:
    """The box: without a tap until ``take``, and its link down until then."""

    def __init__(self, name: str) -> None:
        self.queues: list[TapQueue] = []
        self._header = True
        self.port = Port(
            name,
            _nobody,
            resume=self._resume,
            link_changed=self._on_link,
            accepts_changed=self._set_offload,
        )
        self.port.set_link(False)

    def take(self, fds: Sequence[int], loop: Loop, *, header: bool = True) -> None:
        """Take the queues' non-blocking descriptors (``tun.open_tap``), and own them."""
        self._header = header
        port = self.port
        self.queues = [TapQueue(fd, port, loop, self._vanished, header=header) for fd in fds]
        first = self.queues[0]
        port.receive = first.receive
        port.set_room(Room(first.reserve, first.commit, _nothing))
        port.set_accepts(self._accepts(first.fd))
        self._set_offload()
        port.set_link(True)

    def close(self) -> None:
        """Stop watching and close the descriptors. Harmless when called twice."""
        if not self.queues:
            return
        self.port.set_link(False)
        self.port.set_room(None)
        self.port.receive = _nobody
        for queue in self.queues:
            queue.close()
        self.queues = []

    def stats(self) -> dict[str, object]:
        """Return the port's counters as plain data."""
        return stats(self.port)

    def _accepts(self, fd: int) -> Accepts:
        if not self._header:
            return PACKETS_ONLY
        return EVERYTHING if _has_uso(fd) else WITHOUT_USO

    def _set_offload(self) -> None:
        flags = tun.offload_flags(self.port.peer_accepts) if self._header else 0
        for queue in self.queues:
            with suppress(OSError):  # the interface may have been deleted
                tun.set_offload(queue.fd, flags)

    def _on_link(self, up: bool) -> None:
        """Show the cable, where that can be: the interface may have been deleted, and a kernel
        before 5.0 doesn't know how."""
        for queue in self.queues[:1]:
            with suppress(OSError):
                tun.set_carrier(queue.fd, up)

    def _resume(self) -> None:
        for queue in self.queues:
            queue.resume()

    def _vanished(self, error: OSError) -> None:
        """The interface is gone: whoever is root where it is may delete it."""
        log.warning("%s: the tap is gone: %s", self.port.name, error.strerror)
        self.close()


def _has_uso(fd: int) -> bool:
    """Whether this kernel knows UDP superframes on a tap (one that is gone knows nothing)."""
    with suppress(OSError):
        return bool(tun.set_offload(fd, tun.TUN_F_CSUM | tun.TUN_F_USO) & tun.TUN_F_USO)
    return False


def _nobody(frames: Sequence[Frame]) -> int:
    """Take what comes while there is no tap: the link is down then."""
    return len(frames)


def _nothing() -> None:
    """A reservation that is given back leaves nothing to be done: the next one overwrites it."""
