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
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from vmwire.bus.virtio.handed_on import TakingPort
from vmwire.engine.clock import Timer
from vmwire.engine.loop import Loop
from vmwire.netdev import tun
from vmwire.netdev.tap_queue import TapQueue
from vmwire.wire.frame import HEADER, Frame, Gso
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, Room, stats

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often to look whether a tap that somebody else reads and writes is still there."""

WITHOUT_USO = Accepts(True, EVERYTHING.gso & ~Gso.UDP_L4)


def stored_tap(id: str, queue: int = 0) -> str:
    """The name in the fd store of a queue of the tap of the member ``id``."""
    return f"{id}.tap{queue}" if queue else f"{id}.tap"


class TapPort:
    """The box: without a tap until ``take``, and its link down until then."""

    def __init__(self, name: str) -> None:
        self.queues: list[TapQueue] = []
        self.has_header = True
        self._loop: Loop | None = None
        self._looking: Timer | None = None
        self.port = TakingPort(
            name,
            _nobody,
            resume=self._resume,
            link_changed=self._on_link,
            accepts_changed=self._set_offload,
        )
        self.port.set_link(False)

    def take(self, fds: Sequence[int], loop: Loop, *, header: bool = True) -> None:
        """Take the queues' non-blocking descriptors (``tun.open_tap``), and own them."""
        self.has_header = header
        self._loop = loop
        port = self.port
        self.queues = [TapQueue(fd, port, loop, self._vanished, header=header) for fd in fds]
        first = self.queues[0]
        self._receive_by(first)
        port.set_accepts(self._accepts(first.fd))
        self._set_offload()
        port.set_link(True)

    def _receive_by(self, queue: TapQueue) -> None:
        self.port.receive = queue.receive
        self.port.set_room(Room(queue.reserve, queue.commit, _nothing))

    # Somebody else at the tap

    def lend(self, pairs: int, header_size: int) -> list[int]:
        """Have somebody else read and write so many queues, with headers of that size.

        The kernel then uses no others. Returns their descriptors. Raises ``OSError``.
        """
        lent, others = self.queues[:pairs], self.queues[pairs:]
        self.port.set_room(None)
        self.port.receive = partial(self._receive_aside, bytes(header_size - HEADER.size))
        for queue in lent:
            queue.part()
            if self.has_header:
                tun.set_header_size(queue.fd, header_size)
        for queue in others:
            queue.detach()
        self._look_later()
        return [queue.fd for queue in lent]

    def reclaim(self) -> None:
        """Read and write all queues again. Harmless when nobody has any."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for queue in self.queues:
            if self.has_header:
                with suppress(OSError):  # the interface may have been deleted
                    tun.set_header_size(queue.fd, HEADER.size)
            queue.rejoin()
        if self.queues:
            self._receive_by(self.queues[0])

    def _look_later(self) -> None:
        if self._loop is not None:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        try:
            tun.interface(self.queues[0].fd)
        except OSError as error:
            self._vanished(error)
        else:
            self._look_later()

    def _receive_aside(self, padding: bytes, frames: Sequence[Frame]) -> int:
        """Write the few frames that don't come from rings: announcements, what a test injects."""
        for frame in frames:
            header = (frame.offload.packed, padding) if self.has_header else ()
            try:
                os.writev(self.queues[0].fd, (*header, *frame.views))
            except OSError as error:
                self.port.drops[f"tap says {error.strerror}"] += 1
        return len(frames)

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
        if not self.has_header:
            return PACKETS_ONLY
        return EVERYTHING if _has_uso(fd) else WITHOUT_USO

    def _set_offload(self) -> None:
        accepts = self.port.peer_accepts if self.has_header else PACKETS_ONLY
        flags = tun.offload_flags(accepts)
        for queue in self.queues:
            queue.slots.joins = bool(accepts.checksum and accepts.gso & Gso.UDP_L4)
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
