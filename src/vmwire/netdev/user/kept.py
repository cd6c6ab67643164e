# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What of a user network outlives its worker: leases always, more when it is handed over.

Leases and the guests' MAC addresses are put down with every lease, so that a guest keeps its
address and is found by forwards also after a crash. Handing over adds

* the sockets of the guests' UDP endpoints, which so keep their ports outside;
* for each TCP connection how to reset it at the guest. Connections themselves end: the successor
  sends the guest a reset, and the kernel sends one to the outside when the old worker's descriptors
  are closed (SO_LINGER, 0 s). If nobody takes over they go on.
"""

from __future__ import annotations

import logging
import socket
from struct import Struct
from typing import Any

from vmwire.engine.host import FdStore, NoStore
from vmwire.engine.kept import Names, States
from vmwire.errors import ConfigError
from vmwire.netdev.user.arp import Neighbours
from vmwire.netdev.user.dhcp import DhcpServer
from vmwire.netdev.user.tcp import TcpTable
from vmwire.netdev.user.tcp_speaker import ACK, CONNECTING, RST, SYN_SENT
from vmwire.netdev.user.udp import UdpTable

log = logging.getLogger(__name__)

STATE_VERSION = 1
MOST_UDP = 512
"""Endpoints that are handed over, those used last: each takes some 50 µs."""
MOST_TCP = 4096
"""Connections that the guest is told of; the others learn it when they speak."""

_ROOM = 512 << 10
_STATES = 16
_SIZE = _STATES + 2 * _ROOM
_LINGER = Struct("ii")
_RESET = _LINGER.pack(1, 0)
_CLOSE = _LINGER.pack(0, 0)


class Kept:
    """The parts of one network, and their place in the fd store."""

    def __init__(
        self,
        store: FdStore,
        id: str,
        *,
        dhcp: DhcpServer,
        neighbours: Neighbours,
        tcp: TcpTable,
        udp: UdpTable,
    ) -> None:
        self._names = Names(store, f"netdev {id}")
        self._works = not isinstance(store, NoStore)
        self._on_trial = store.on_trial
        self._id = id
        self._dhcp, self._neighbours, self._tcp, self._udp = dhcp, neighbours, tcp, udp
        self._states: States | None = None

    # Putting down

    def keep(self, **more: Any) -> None:
        """Put leases and addresses down, and what is handed over beside them."""
        if self._works:
            state = {"leases": self._dhcp.save(), "macs": list(self._neighbours.macs.items())}
            self._file().write(state | more)

    def _file(self) -> States:
        if self._states is None:
            memory = self._names.new_file("state", _SIZE)
            self._states = States(memory, 0, _STATES, _ROOM, STATE_VERSION)
        return self._states

    def hand_over(self) -> None:
        """Put everything down; the outside of TCP hears of a reset when we end."""
        latest = sorted(self._udp.flows.values(), key=lambda flow: flow.used)[-MOST_UDP:]
        for flow in latest:
            self._names.keep(f"udp {flow.key.hex()}", flow.fd)
        self._set_linger(_RESET)
        self.keep(
            udp=[(flow.key, flow.idle_s) for flow in latest],
            tcp=list(self._resets())[:MOST_TCP],
        )

    def _resets(self) -> list[tuple[bytes, int, int, int, bytes]]:
        """For each connection that a guest has: key, sequence, acknowledgement, flags, its MAC."""
        return [
            (
                flow.key,
                flow.snd_nxt,
                0 if flow.state is SYN_SENT else flow.rcv_nxt,
                RST if flow.state is SYN_SENT else RST | ACK,
                flow.ethernet[:6],
            )
            for flow in self._tcp.flows.values()
            if flow.state is not CONNECTING  # its guest asks again
        ]

    def go_on(self) -> None:
        """Nobody took over."""
        self._set_linger(_CLOSE)
        for flow in self._udp.flows.values():
            self._names.put(f"udp {flow.key.hex()}", None)

    def _set_linger(self, option: bytes) -> None:
        for flow in self._tcp.flows.values():
            flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)

    # Bringing back

    def restore(self) -> None:
        """Take on what an earlier worker left. Raises ConfigError for what can't be, on trial."""
        try:
            memory = self._names.take_file("state", _SIZE)
            if memory is None:
                return
            states = States(memory, 0, _STATES, _ROOM, STATE_VERSION)
            self._take_on(states.read())
            self._states = states
        except (ValueError, KeyError, TypeError) as error:
            if self._on_trial:
                raise ConfigError(f"netdev {self._id} can't be taken over: {error!r}") from None
            log.warning("netdev %s: no leases from before: %r", self._id, error)

    def _take_on(self, state: dict[str, Any]) -> None:
        self._dhcp.restore(state["leases"])
        for address, mac in state["macs"]:
            self._neighbours.learn(address, mac)
        for key, idle_s in state.get("udp", ()):
            name = f"udp {key.hex()}"
            fd = self._names.take(name)
            if fd is not None:
                self._udp.adopt(key, socket.socket(fileno=fd), idle_s)
                self._names.put(name, None)
        for reset in state.get("tcp", ()):
            self._tcp.send_reset(*reset)

    def close(self) -> None:
        """The network ends: nothing is left for a next one."""
        self._names.drop()
