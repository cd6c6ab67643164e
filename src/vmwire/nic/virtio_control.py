# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card's control queue (virtio 1.2, section 5.1.6.5).

A request is a class, a command and data; the answer is one byte. What is out of range, has the
wrong length or isn't known gets an error and changes nothing. Modern drivers' numbers are
little-endian, and so are legacy ones' on the guests that we serve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from struct import Struct
from typing import Protocol

from vmwire.bus.virtio.queue import RingFault
from vmwire.bus.virtio.requests import RequestQueue
from vmwire.engine.memory import gather
from vmwire.nic.virtio_filter import MODES, VLANS, RxFilter

OK, ERROR = b"\0", b"\1"

CTRL_RX = 0
CTRL_MAC = 1
CTRL_MAC_TABLE_SET, CTRL_MAC_ADDR_SET = 0, 1
CTRL_VLAN = 2
CTRL_VLAN_ADD, CTRL_VLAN_DEL = 0, 1
CTRL_ANNOUNCE = 3
CTRL_ANNOUNCE_ACK = 0
CTRL_MQ = 4
CTRL_MQ_VQ_PAIRS_SET = 0
CTRL_GUEST_OFFLOADS = 5
CTRL_GUEST_OFFLOADS_SET = 0

LONGEST = 64 * 1024
"""Bytes of a request that are read: far above a table of all addresses that anybody lists."""

_U16 = Struct("<H")
_U32 = Struct("<I")
_U64 = Struct("<Q")
_ADDRESS = 6


class Owner(Protocol):
    """What the control queue asks of its card. Each tells whether it could be done."""

    filter: RxFilter

    def filter_changed(self) -> None:
        """The filter lets in something else now."""

    def acknowledge_announcement(self) -> bool:
        """The driver has announced itself."""

    def set_pairs(self, pairs: int) -> bool:
        """Use so many pairs of queues."""

    def set_guest_offloads(self, offloads: int) -> bool:
        """Hand the driver frames with these offloads and no others."""


class Control:
    """Serves requests for ``owner``. ``served`` counts them by what became of them."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.served: Counter[str] = Counter()

    def run(self, queue: RequestQueue) -> bool:
        """Serve what is there, at most a ringful; True: there is more. Raises ``RingFault``."""
        for _ in range(queue.size):
            request = queue.take_request()
            if request is None:
                if not queue.want_kicks():
                    return False
                continue
            if not request.write or not len(request.write[0]):
                raise RingFault("a request without room for its answer")
            said = gather(request.read, LONGEST + 1)
            done = self.serve(said)
            self.served["done" if done else "refused"] += 1
            request.write[0][:1] = OK if done else ERROR
            queue.complete((request.token,), (1,))
            queue.flush()
        return True

    def serve(self, said: bytes) -> bool:
        """Carry out one request; False: it can't be."""
        if not 2 <= len(said) <= LONGEST:
            return False
        handler = _HANDLERS.get((said[0], said[1]))
        return handler is not None and handler(self, said[2:])

    # The commands

    def _table(self, data: bytes) -> bool:
        first = _addresses(data)
        if first is None:
            return False
        unicast, rest = first
        second = _addresses(rest)
        if second is None or second[1]:
            return False
        self._owner.filter.set_tables(unicast, second[0])
        self._owner.filter_changed()
        return True

    def _address(self, data: bytes) -> bool:
        if len(data) != _ADDRESS:
            return False
        self._owner.filter.mac = data
        self._owner.filter_changed()
        return True

    def _add_vlan(self, data: bytes) -> bool:
        vlan = _number(_U16, data)
        if vlan is None or vlan >= VLANS:
            return False
        self._owner.filter.vlans.add(vlan)
        self._owner.filter_changed()
        return True

    def _remove_vlan(self, data: bytes) -> bool:
        vlan = _number(_U16, data)
        if vlan is None or vlan >= VLANS:
            return False
        self._owner.filter.vlans.discard(vlan)
        self._owner.filter_changed()
        return True

    def _announced(self, data: bytes) -> bool:
        return self._owner.acknowledge_announcement()

    def _pairs(self, data: bytes) -> bool:
        pairs = _number(_U16, data)
        return pairs is not None and self._owner.set_pairs(pairs)

    def _offloads(self, data: bytes) -> bool:
        offloads = _number(_U64, data)
        return offloads is not None and self._owner.set_guest_offloads(offloads)


def _mode(name: str) -> Callable[[Control, bytes], bool]:
    """A command that switches a mode."""

    def switch(control: Control, data: bytes) -> bool:
        if len(data) != 1:
            return False
        control._owner.filter.modes[name] = bool(data[0])
        control._owner.filter_changed()
        return True

    return switch


_HANDLERS: dict[tuple[int, int], Callable[[Control, bytes], bool]] = {
    **{(CTRL_RX, number): _mode(name) for number, name in enumerate(MODES)},
    (CTRL_MAC, CTRL_MAC_TABLE_SET): Control._table,
    (CTRL_MAC, CTRL_MAC_ADDR_SET): Control._address,
    (CTRL_VLAN, CTRL_VLAN_ADD): Control._add_vlan,
    (CTRL_VLAN, CTRL_VLAN_DEL): Control._remove_vlan,
    (CTRL_ANNOUNCE, CTRL_ANNOUNCE_ACK): Control._announced,
    (CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET): Control._pairs,
    (CTRL_GUEST_OFFLOADS, CTRL_GUEST_OFFLOADS_SET): Control._offloads,
}


def _number(form: Struct, data: bytes) -> int | None:
    return int(form.unpack(data)[0]) if len(data) == form.size else None


def _addresses(data: bytes) -> tuple[list[bytes], bytes] | None:
    """Read a table of addresses; return it and what follows it. None: it is longer than said."""
    if len(data) < _U32.size:
        return None
    (count,) = _U32.unpack_from(data)
    end = _U32.size + _ADDRESS * count
    if end > len(data):
        return None
    table = data[_U32.size : end]
    return [table[at : at + _ADDRESS] for at in range(0, len(table), _ADDRESS)], data[end:]
