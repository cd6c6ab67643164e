# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a vhost-user front end says to a back end, in which order, and what it makes of the answers.

QEMU, docs/interop/vhost-user.rst. The conversation is cut into *scripts*: generators that yield
one ``Order`` after the other, are sent the answer's payload where an order has one, and return what
came out. A ``Dialogue`` runs a script without any I/O, so that one loop serves a socket that must
never block, and another a test's that may.

Acknowledgements (REPLY_ACK) are asked for where the back end has them. A failure ends the dialogue,
as does anything else than the answer that is due (``ProtocolError``). All answers have 8 bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.driver import DriverRing
from vmwire.bus.virtio.features import (
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO,
)
from vmwire.bus.virtio.vhost_user import (
    F_NEED_REPLY,
    F_REPLY,
    HEADER,
    MAX_FDS,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_MQ,
    PROTOCOL_F_NET_MTU,
    PROTOCOL_F_REPLY_ACK,
    U64,
    VRING_NO_FD,
    VRING_STATE,
    Header,
    RegionInfo,
    Request,
    RingAddresses,
    pack_message,
    pack_regions,
    request_name,
)
from vmwire.engine.arena import Arena

PROTOCOL_FEATURES = (
    PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_NET_MTU | PROTOCOL_F_CONFIGURE_MEM_SLOTS
)
"""What a front end here has a use for."""
MOST_PAIRS = 128
"""A ring's index has eight bits."""

ANSWER_SIZE = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """One message, with the descriptors that go along."""

    request: Request
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    answered: bool = False
    """It has an answer of its own."""
    acknowledged: bool = False
    """An acknowledgement is asked for."""

    @property
    def message(self) -> bytes:
        """Its bytes."""
        return pack_message(self.request, self.payload, F_NEED_REPLY if self.acknowledged else 0)


Script = Generator[Order, bytes, T]


class Dialogue(Generic[T]):
    """A script that is being followed.

    While there is an ``order``, it is to be sent and ``sent`` to be called. Without one an answer
    is due, or it is ``over`` and the ``result`` there. What the back end says goes into ``feed``.
    Both raise ``ProtocolError``.
    """

    def __init__(self, script: Script[T]) -> None:
        self._script = script
        self._due: Order | None = None
        self._came = bytearray()
        self.over = False
        self.result: T
        self.order: Order | None = None
        self._go_on(None)

    def sent(self) -> None:
        """``order`` was sent, whole."""
        order, self.order = self.order, None
        assert order is not None
        if order.answered or order.acknowledged:
            self._due = order
        else:
            self._go_on(b"")

    def feed(self, data: bytes) -> None:
        """The back end said something."""
        self._came += data
        due = self._due
        if due is None or len(self._came) > HEADER.size + ANSWER_SIZE:
            raise ProtocolError("the back end says more than it was asked")
        if len(self._came) < HEADER.size:
            return
        header = Header.unpack(self._came)
        if header.request != due.request or not header.flags & F_REPLY:
            raise ProtocolError(f"{request_name(header.request)} in answer to {due.request.name}")
        if header.size != ANSWER_SIZE:
            raise ProtocolError(f"{header.size} bytes in answer to {due.request.name}")
        if len(self._came) == HEADER.size + ANSWER_SIZE:
            answer = bytes(self._came[HEADER.size :])
            self._came.clear()
            self._due = None
            self._go_on(answer)

    def _go_on(self, answer: bytes | None) -> None:
        try:
            self.order = next(self._script) if answer is None else self._script.send(answer)
        except StopIteration as end:
            self.over, self.result = True, end.value


# --- what is agreed upon --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackEnd:
    """What a back end has said of itself. ``pairs``: the most pairs of rings that it serves."""

    offered: int
    protocol: int
    pairs: int

    @property
    def acknowledges(self) -> bool:
        """Whether it can be asked for acknowledgements."""
        return bool(self.protocol & PROTOCOL_F_REPLY_ACK)


def greet(protocol_wanted: int = PROTOCOL_FEATURES) -> Script[BackEnd]:
    """The beginning of a connection: own the back end, and hear what it can do."""
    yield Order(Request.SET_OWNER)
    offered = yield from _number(Request.GET_FEATURES)
    if not offered & VHOST_USER_F_PROTOCOL_FEATURES:
        return BackEnd(offered, 0, 1)
    protocol = yield from _number(Request.GET_PROTOCOL_FEATURES)
    protocol &= protocol_wanted
    yield Order(Request.SET_PROTOCOL_FEATURES, U64.pack(protocol))
    pairs = 1
    if protocol & PROTOCOL_F_MQ:
        pairs = yield from _number(Request.GET_QUEUE_NUM)
    return BackEnd(offered, protocol, min(pairs, MOST_PAIRS))


def _number(request: Request) -> Script[int]:
    value: int = U64.unpack((yield Order(request, answered=True)))[0]
    return value


_NEEDS = {
    VIRTIO_NET_F_GUEST_TSO4: VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO6: VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_USO4: VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_USO6: VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_HOST_TSO4: VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO6: VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_USO: VIRTIO_NET_F_CSUM,
}
_NEED_A_TSO = {
    VIRTIO_NET_F_GUEST_ECN: VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN: VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6,
}


def sensible(features: int) -> int:
    """Leave out what may not be without another feature that isn't there (section 5.1.3.1)."""
    for needs in (_NEEDS, _NEED_A_TSO):
        for mask, one_of in needs.items():
            if not features & one_of:
                features &= ~mask
    return features


# --- memory and rings -----------------------------------------------------------------------------


USER_BASE = 0x7F00_0000_0000
"""Where we say to have our memory: another number than the rings' own addresses."""


def region_of(arena: Arena) -> RegionInfo:
    """Describe memory of our own."""
    return RegionInfo(arena.base, arena.size, USER_BASE + arena.base, 0)


def addresses_of(index: int, ring: DriverRing, flags: int = 0, log: int = 0) -> RingAddresses:
    """Describe the place of a ring in it."""
    return RingAddresses(
        index,
        flags,
        USER_BASE + ring.descriptors,
        USER_BASE + ring.used_ring,
        USER_BASE + ring.available,
        log,
    )


@dataclass(frozen=True, slots=True)
class RingPlan:
    """One ring as a back end is told of it; a descriptor of -1 is none."""

    index: int
    size: int
    base: int
    addresses: RingAddresses
    kick: int
    call: int
    error: int = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a back end is to serve: what was negotiated, the memory, and the rings.

    ``regions`` have a descriptor each.
    """

    features: int
    regions: Sequence[tuple[RegionInfo, int]]
    rings: Sequence[RingPlan]
    mtu: int | None = None


def begin(back_end: BackEnd, plan: Plan) -> Script[None]:
    """Have rings served, from memory on."""
    with_protocol = back_end.offered & VHOST_USER_F_PROTOCOL_FEATURES
    say = _Sayer(back_end)
    yield from say(Request.SET_FEATURES, U64.pack(plan.features | with_protocol))
    if plan.mtu is not None and back_end.protocol & PROTOCOL_F_NET_MTU:
        yield from say(Request.NET_SET_MTU, U64.pack(plan.mtu))
    yield from share(back_end, plan.regions)
    if with_protocol:  # before they start: what is sent by a ring that is not enabled is lost
        for ring in plan.rings:
            yield from say(Request.SET_VRING_ENABLE, VRING_STATE.pack(ring.index, 1))
    for ring in plan.rings:
        yield from start_ring(back_end, ring)
    if not back_end.acknowledges:  # an answer says that it has heard everything before
        yield from _number(Request.GET_FEATURES)


def share(back_end: BackEnd, regions: Sequence[tuple[RegionInfo, int]]) -> Script[None]:
    """Share memory: what one table has room for, and the rest one by one."""
    first, rest = regions[:MAX_FDS], regions[MAX_FDS:]
    if rest and not back_end.protocol & PROTOCOL_F_CONFIGURE_MEM_SLOTS:
        raise ProtocolError(f"{len(regions)} pieces of memory are too many for the back end")
    say = _Sayer(back_end)
    table = pack_regions([info for info, _ in first])
    yield from say(Request.SET_MEM_TABLE, table, *(fd for _, fd in first))
    for info, fd in rest:
        yield from say(Request.ADD_MEM_REG, info.pack(), fd)


def start_ring(back_end: BackEnd, ring: RingPlan) -> Script[None]:
    """Describe a ring and start it."""
    say = _Sayer(back_end)
    yield from say(Request.SET_VRING_NUM, VRING_STATE.pack(ring.index, ring.size))
    yield from say(Request.SET_VRING_BASE, VRING_STATE.pack(ring.index, ring.base))
    yield from say(Request.SET_VRING_ADDR, ring.addresses.pack())
    yield from signal_ring(back_end, ring.index, ring.call, ring.error)
    yield from _pass(say, Request.SET_VRING_KICK, ring.index, ring.kick)


def signal_ring(back_end: BackEnd, index: int, call: int, error: int = -1) -> Script[None]:
    """Say by which descriptor a ring's driver is to be woken, and told of what is wrong with it."""
    say = _Sayer(back_end)
    if error >= 0:
        yield from _pass(say, Request.SET_VRING_ERR, index, error)
    yield from _pass(say, Request.SET_VRING_CALL, index, call)


def stop_rings(indexes: Sequence[int]) -> Script[dict[int, int]]:
    """Stop rings; return where each stood."""
    bases = {}
    for index in indexes:
        answer = yield Order(
            Request.GET_VRING_BASE, VRING_STATE.pack(index, 0), answered=True
        )  # fmt: skip
        bases[index] = VRING_STATE.unpack(answer)[1] & 0xFFFF
    return bases


class _Sayer:
    """Says something that may be acknowledged."""

    def __init__(self, back_end: BackEnd) -> None:
        self._acknowledged = back_end.acknowledges

    def __call__(self, request: Request, payload: bytes, *fds: int) -> Script[None]:
        answer = yield Order(request, payload, fds, acknowledged=self._acknowledged)
        if self._acknowledged and U64.unpack(answer) != (0,):
            raise ProtocolError(f"the back end refuses {request.name}")


def _pass(say: _Sayer, request: Request, index: int, fd: int) -> Script[None]:
    if fd < 0:
        yield from say(request, U64.pack(index | VRING_NO_FD))
    else:
        yield from say(request, U64.pack(index), fd)
