# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user back end as a way out: ``-netdev vhost-user``, for DPDK, Open vSwitch and others.

    -chardev socket,id=C,path=PATH[,server=on][,reconnect-ms=N] -netdev vhost-user,id=ID,chardev=C
    -netdev vhost-user,id=ID,file=PATH          as older versions of QEMU have it

We are the driver, the other process is the card: this is a front end (QEMU,
docs/interop/vhost-user.rst).

States:

    waiting ──connection──▶ greeting ──answers──▶ idle ──▶ own rings   frames of any box on the wire
       ▲                                            ▲ └──▶ handed on   a card's rings and memory
       └──── the back end left, or broke the rules ─┴────── (from each of these)

*Own rings* (``vhost_user_rings``) lie in memory of ours. Where the wire goes directly to a card
whose rings can be handed on (``bus.virtio.handed_on``), the back end gets those instead, and no
frame passes through this process. While nobody is connected the link is down. Each connection gets
new rings and new memory, so one back end never sees what another has.

Connections are told as in QEMU's QMP, ``NETDEV_VHOST_USER_CONNECTED`` and ``…_DISCONNECTED``.
Nobody waits for a back end: one that is silent for too long while it is being told something is
hung up on, and tried again. Only when a card wants its rings back it is waited for, shortly.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vmwire.bus.virtio.features import names
from vmwire.bus.virtio.front_end import BackEnd, greet
from vmwire.bus.virtio.handed_on import TakingPort
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev.addresses import UnixAddress
from vmwire.netdev.chardev import SocketChardevOptions
from vmwire.netdev.connections import Connecting, Source
from vmwire.netdev.vhost_user_link import Link
from vmwire.netdev.vhost_user_rings import accepts
from vmwire.netdev.vhost_user_session import Session
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, STRING, UINT32
from vmwire.wire.frame import Frame
from vmwire.wire.port import PACKETS_ONLY, stats

log = logging.getLogger(__name__)

MOST_QUEUES = 1024
RECONNECT_MS = 1000
"""How long after an end to connect again, where nobody has said."""


@record("netdev", "vhost-user")
@dataclass(slots=True, kw_only=True)
class VhostUserOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    chardev: str | None = option(STRING, help="the socket chardev that leads to the back end")
    file: str | None = option(STRING, help="the back end's socket, in place of a chardev")
    vhostforce: bool = option(
        BOOL, default=False, help="on/off: either way it is the back end that has the rings"
    )
    queues: int = option(UINT32, default=1, help="pairs of rings")

    def __post_init__(self) -> None:
        if self.chardev is None and self.file is None:
            raise ConfigError("Parameter 'chardev' is missing")
        if self.chardev is not None and self.file is not None:
            raise ConfigError("chardev= and file= are mutually exclusive")
        if not 1 <= self.queues <= MOST_QUEUES:
            raise ConfigError(f"vhost-user number of queues must be in range [1, {MOST_QUEUES}]")
        if self.file is not None:
            UnixAddress(path=self.file)

    def claim(self) -> tuple[VhostUserOptions, dict[str, int]]:
        """The same for a process in another folder."""
        if self.file is None:
            return self, {}
        return replace(self, file=os.path.abspath(self.file)), {}

    def chardevs(self) -> list[str]:
        """The ids of the chardevs that it uses."""
        return [] if self.chardev is None else [self.chardev]


class VhostUserNetdev:
    """The box."""

    OPTIONS = VhostUserOptions

    def __init__(self, options: VhostUserOptions) -> None:
        self.options = options
        self.port = TakingPort(options.id, self._receive, resume=self._resume)
        self.port.set_link(False)
        self.connections = 0
        self.faults = 0
        self._drops: Counter[str] = Counter()
        self._chardev: SocketChardevOptions | None = None
        if options.file is not None:
            self._chardev = SocketChardevOptions(id=options.id, path=options.file)
        self._source: Source | None = None
        self._link: Link | None = None
        self._session: Session | None = None
        self._plugged = True
        self._said = ""

    def use_chardevs(self, find: Callable[[str], object]) -> None:
        """Take the chardev that the options name. Raises ``ConfigError``."""
        id = self.options.chardev
        if id is None:
            return
        chardev = find(id)
        if not isinstance(chardev, SocketChardevOptions):
            raise ConfigError(f'chardev "{id}" is not reconnectable')
        if chardev.path is None and chardev.fd is None:
            raise ConfigError(f'chardev "{id}" does not support FD passing')
        self._chardev = chardev

    def open(self, host: Host) -> None:
        """Look for the back end; raises ``ConfigError``."""
        self._host = host
        chardev = self._chardev
        if chardev is None:
            raise ConfigError(f'chardev "{self.options.chardev}" not found')
        if chardev.reconnects:
            self._source = chardev.source()
            must_be_there = False
        else:
            self._source = replace(chardev, reconnect_ms=RECONNECT_MS).source()
            must_be_there = _is_first_start(host, self.options.id)
        if host.store.on_trial and isinstance(self._source, Connecting):
            host.loop.defer(self._look)  # who was connected hangs up only when we have succeeded
        elif must_be_there:
            sock = _connected(chardev)
            self._source.open(host, self.options.id, self._on_connected, busy=True)
            self._on_connected(sock)
        else:
            self._look()

    def _look(self) -> None:
        if self._source is not None:
            self._source.open(self._host, self.options.id, self._on_connected)

    def _look_again(self) -> None:
        if self._source is not None:
            self._source.again()

    def close(self) -> None:
        """Hang up. Harmless when called twice."""
        source, self._source = self._source, None
        if source is not None:
            source.close()
        self._hang_up()

    def hand_over(self) -> None:
        """Hang up: a connection isn't handed over, the next process makes its own."""
        self._hang_up()

    def go_on(self) -> None:
        """Nobody took over: connect again."""
        self._look_again()

    def set_link(self, up: bool) -> None:
        """Pull or plug the cable."""
        self._plugged = up
        self._set_link()

    def _set_link(self) -> None:
        self.port.set_link(self._plugged and self._session is not None)

    # The connection

    def _on_connected(self, sock: socket.socket) -> None:
        self.connections += 1
        self._link = Link(sock, self._host.loop, self._on_end)
        self._link.follow(greet(), self._on_greeted)

    def _on_greeted(self, back_end: BackEnd) -> None:
        link, wanted = self._link, self.options.queues
        assert link is not None
        if wanted > back_end.pairs:
            link.end(f"you are asking more queues than supported: {back_end.pairs}")
            return
        log.info("%s: connected", self.options.id)
        self._said = ""
        self._session = session = Session(
            link, back_end, wanted, self.port, self._host.loop, self._drops
        )
        self.port.set_accepts(accepts(session.own_features))
        self.port.set_taker(session)
        self._set_link()
        session.settle()
        assert self._chardev is not None
        told = {"netdev-id": self.options.id, "chardev-id": self._chardev.id}
        self._host.emit("NETDEV_VHOST_USER_CONNECTED", told)

    def _on_end(self, reason: str) -> None:
        """The connection is over."""
        if reason != self._said:
            self._said = reason
            log.warning("%s: %s", self.options.id, reason)
        self._hang_up()
        self._look_again()

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        session, self._session = self._session, None
        if link is not None:
            link.close()
        if session is not None:
            self.faults += session.faults
            session.close()
        self.port.set_taker(None)
        self._set_link()
        self.port.set_accepts(PACKETS_ONLY)
        if session is not None:
            told = {"netdev-id": self.options.id}
            self._host.emit("NETDEV_VHOST_USER_DISCONNECTED", told)

    # Frames

    def _receive(self, frames: Sequence[Frame]) -> int:
        return 0 if self._session is None else self._session.send(frames)

    def _resume(self) -> None:
        if self._session is not None:
            self._session.resume()

    # What can be seen

    @property
    def info(self) -> str:
        """What ``info network`` says."""
        return f"vhost-user0 to {self.options.chardev or self.options.file}"

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data: the port's, and

        ``connected``, ``connections``, ``faults`` (rings that a back end has broken) and ``rings``:
        whose the back end serves, ours (``own``) or a card's (``handed on``).
        """
        session = self._session
        return stats(self.port) | {
            "drops": dict(+(self.port.drops + self._drops)),
            "connected": session is not None,
            "connections": self.connections,
            "faults": self.faults + (session.faults if session else 0),
            "rings": session.rings if session else "none",
            "features": names(session.negotiated) if session else [],
        }


def _is_first_start(host: Host, id: str) -> bool:
    """Whether no process before has had this netdev; leaves a mark for the next one."""
    name = f"{id}.begun"
    mark = host.store.take(name)
    if mark is not None:
        os.close(mark)
        return False
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    host.store.keep(name, null)
    os.close(null)
    return True


def _connected(chardev: SocketChardevOptions) -> socket.socket:
    """The first connection of a client that was not told to wait for its server."""
    (place,) = UnixAddress(
        path=chardev.path or "", abstract=chardev.abstract, tight=chardev.tight
    ).resolve(socket.SOCK_STREAM)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(place.address)
    except OSError as error:
        sock.close()
        raise ConfigError(f"Failed to connect to '{place}': {error.strerror}") from None
    return sock
