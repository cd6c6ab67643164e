# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The back end of one vhost-user connection: what the machine asks, done to the card.

Theory of operation. A front end negotiates features, shares memory, and describes rings one fact
at a time. A ring *starts* when it gets its kick descriptor and everything else is known, and
*stops* when its base is asked for; most facts about a running ring can't change. Beside that it is
*enabled* or not; where protocol features were not negotiated, it always is.

Memory can change while rings run. Everybody moves to the new table before the old is unmapped; a
ring whose memory has gone stops, and starts again by itself once the memory is back. Removing and
adding single regions is how QEMU replaces one, so for a moment after a removal the card is paused
rather than told that its buffers point nowhere.

Rings may be in somebody else's hands (``handing``); before a message that concerns them is served
they are back, so all that follows here is about rings of our own.

A connection outlives its worker (``kept``): everything is put down after each batch of messages.

Errors. A message that can't be followed is answered with a failure where the front end asked for an
answer; elsewhere there is no way to tell it, and the connection ends (``ProtocolError`` leaves
``handle``). Requests that nobody knows are refused or passed over. No message is trusted with a
size, a count, a ring index or a number of descriptors; the table of requests says what each may
have.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from functools import partial

from vmwire.attach.vhost_user import lasting
from vmwire.attach.vhost_user.channel import Channel, Message
from vmwire.attach.vhost_user.handing import Handing
from vmwire.attach.vhost_user.kept import Keeping
from vmwire.attach.vhost_user.ring import Ring
from vmwire.attach.vhost_user.rules import RULES, serves
from vmwire.attach.vhost_user.shared import MAX_SLOTS, SharedMemory
from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.bus.virtio.split import MAX_SIZE, SplitQueue
from vmwire.bus.virtio.vhost_user import (
    F_REPLY,
    MAX_FDS,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_LOG_SHMFD,
    PROTOCOL_F_MQ,
    PROTOCOL_F_NET_MTU,
    PROTOCOL_F_RARP,
    PROTOCOL_F_REPLY_ACK,
    U64,
    VRING_F_LOG,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    VRING_STATE,
    LogInfo,
    RegionInfo,
    Request,
    RingAddresses,
    request_name,
    unpack_regions,
)
from vmwire.engine.clock import Timer
from vmwire.engine.host import NotNow
from vmwire.engine.loop import EDGE, READ, Loop
from vmwire.engine.memory import AddressFault, DirtyLog, MappingError, Region, map_log
from vmwire.nic.virtio_net import VirtioNet

log = logging.getLogger(__name__)

PROTOCOL_FEATURES = (
    PROTOCOL_F_MQ
    | PROTOCOL_F_LOG_SHMFD
    | PROTOCOL_F_RARP
    | PROTOCOL_F_REPLY_ACK
    | PROTOCOL_F_NET_MTU
    | PROTOCOL_F_CONFIGURE_MEM_SLOTS
)

REPLACEMENT_S = 0.1
"""How long a region that was removed may take to be added again."""


class Backend:
    """Serves one connection for ``nic``."""

    PROTOCOL_FEATURES = PROTOCOL_FEATURES

    def __init__(self, channel: Channel, loop: Loop, nic: VirtioNet, pairs: int) -> None:
        self.channel = channel
        self.nic = nic
        self.pairs = pairs
        self.memory = SharedMemory()
        self.features = 0
        self.protocol_features = 0
        self.rings: dict[int, Ring] = {}
        self.log_info: LogInfo | None = None
        self.keeping: Keeping | None = None
        """Where all this is put down, so that it outlives the worker."""
        self._loop = loop
        self._log: DirtyLog | None = None
        self._settling: Timer | None = None
        self.handing = Handing(self, loop.defer)
        nic.on_fault = self._on_fault

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self.channel.fileno()

    def on_readable(self) -> None:
        """Serve what the front end has sent. Raises EOFError, OSError, ProtocolError at the end."""
        if self.keeping is not None:
            self.keeping.begin()
        while (message := self.channel.receive()) is not None:
            try:
                self._serve(message)
            finally:
                message.close()
        self.keep()
        self.handing.review()

    # What outlives the worker

    def keep(self) -> None:
        """Put everything down, unless a message is only half there."""
        if self.keeping is not None and not self.channel.busy:
            self.keeping.write(lasting.save(self))

    def hand_over(self) -> None:
        """Put everything down for a successor; the loop stands still. Raises ``NotNow``."""
        if self.channel.busy or self._settling is not None:
            raise NotNow(f"{self.nic.name}: its machine is in the middle of something")
        self.handing.stand_still()
        self.nic.let_go()
        self.keep()

    def enable(self, ring: Ring, enabled: bool) -> None:
        """Let a ring carry frames, or not."""
        ring.enabled = enabled
        self.nic.enable_queue(ring.index, enabled)

    def use_log(self, fresh: DirtyLog | None, info: LogInfo | None) -> None:
        """Log to another place from now on."""
        self.log_info = info
        old, self._log = self._log, fresh
        self._follow_log()
        if old is not None:
            old.close()

    # Messages

    def _serve(self, message: Message) -> None:
        header = message.header
        wants_reply = header.needs_reply and bool(self.protocol_features & PROTOCOL_F_REPLY_ACK)
        name = request_name(header.request)
        log.debug("%s: %s (%d bytes, %d fds)", self.nic.name, name, header.size, len(message.fds))
        if header.request != Request.ADD_MEM_REG:
            self._settle()
        try:
            reply = self._answer(message)
        except (ProtocolError, MappingError) as error:
            if not wants_reply:
                raise ProtocolError(f"{name}: {error}") from None
            log.warning("%s: %s refused: %s", self.nic.name, name, error)
            reply = U64.pack(1)
        if reply is None and wants_reply:
            reply = U64.pack(0)
        if reply is not None:
            self.channel.send(header.request, reply, F_REPLY)

    def _answer(self, message: Message) -> bytes | None:
        """Check a message against the table, and have it served."""
        header = message.header
        rule = RULES.get(header.request)
        if rule is None:
            if header.needs_reply:
                raise ProtocolError("not served")
            log.info("%s: %s passed over", self.nic.name, request_name(header.request))
            return None
        rule.check(message)
        if rule.disturbs:
            self.handing.disturb()
        return rule.handler(self, message)

    # Features

    @serves(Request.GET_FEATURES)
    def _get_features(self, message: Message) -> bytes:
        return U64.pack(self.handing.servable(self.offered))

    @property
    def offered(self) -> int:
        """The features that a front end may choose from."""
        return self.nic.offered | VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES

    @serves(Request.SET_FEATURES, U64.size, disturbs=True)
    def _set_features(self, message: Message) -> None:
        (features,) = U64.unpack(message.payload)
        if features & ~self.offered:
            raise ProtocolError(f"features {features & ~self.offered:#x} were not offered")
        if self._running and (features ^ self.features) & ~VHOST_F_LOG_ALL:
            raise ProtocolError("other features while rings run")
        self.features = features
        if not self._running:
            self.nic.negotiate(features & self.nic.offered)
        self._follow_log()

    @serves(Request.GET_PROTOCOL_FEATURES)
    def _get_protocol_features(self, message: Message) -> bytes:
        return U64.pack(PROTOCOL_FEATURES)

    @serves(Request.SET_PROTOCOL_FEATURES, U64.size)
    def _set_protocol_features(self, message: Message) -> None:
        (features,) = U64.unpack(message.payload)
        if features & ~PROTOCOL_FEATURES:
            raise ProtocolError(f"features {features & ~PROTOCOL_FEATURES:#x} were not offered")
        self.protocol_features = features

    @serves(Request.GET_QUEUE_NUM)
    def _get_queue_num(self, message: Message) -> bytes:
        return U64.pack(self.pairs)

    @serves(Request.SET_OWNER)
    def _set_owner(self, message: Message) -> None:
        """Nothing to do: whoever holds the connection is the owner."""

    @serves(Request.RESET_OWNER, disturbs=True)
    def _reset_owner(self, message: Message) -> None:
        for ring in self.rings.values():
            self._stop(ring)

    @serves(Request.SEND_RARP, U64.size)
    def _send_rarp(self, message: Message) -> None:
        self.nic.announce(message.payload[:6])

    @serves(Request.NET_SET_MTU, U64.size)
    def _net_set_mtu(self, message: Message) -> None:
        (mtu,) = U64.unpack(message.payload)
        if not self.nic.set_mtu(mtu):
            raise ProtocolError(f"an MTU of {mtu}")

    # Memory

    @serves(Request.SET_MEM_TABLE, 8, largest=8 + 32 * MAX_FDS, fds=MAX_FDS, disturbs=True)
    def _set_mem_table(self, message: Message) -> None:
        infos = unpack_regions(message.payload)
        if len(infos) != len(message.fds):
            raise ProtocolError(f"{len(infos)} regions with {len(message.fds)} descriptors")
        before = self.memory.infos
        self._move(self.memory.replace(infos, message.fds))
        if self.keeping is not None:
            for info in before:
                self.keeping.region(info, None)
            for info, fd in zip(infos, message.fds, strict=True):
                self.keeping.region(info, fd)

    @serves(Request.GET_MAX_MEM_SLOTS)
    def _get_max_mem_slots(self, message: Message) -> bytes:
        return U64.pack(MAX_SLOTS)

    @serves(Request.ADD_MEM_REG, 40, fds=1, disturbs=True)
    def _add_mem_reg(self, message: Message) -> None:
        if not message.fds:
            raise ProtocolError("a region without a descriptor")
        info = RegionInfo.unpack(message.payload)
        self.memory.add(info, message.fds[0])
        if self.keeping is not None:
            self.keeping.region(info, message.fds[0])
        self._move([])
        self._settle()

    @serves(Request.REM_MEM_REG, 40, fds=1, disturbs=True)
    def _rem_mem_reg(self, message: Message) -> None:
        info = RegionInfo.unpack(message.payload)
        region = self.memory.remove(info)
        if region is None:
            return
        if self.keeping is not None:
            self.keeping.region(info, None)
        self.nic.pause()
        self._settling = self._loop.call_later(REPLACEMENT_S, self._settle)
        self._move([region])

    def _settle(self) -> None:
        """What was removed isn't coming back, or is back."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
            self.nic.unpause()
            self.handing.review()

    def _move(self, old: list[Region]) -> None:
        """Move every ring to the memory as it is now, then unmap what is no longer in it."""
        self.nic.let_go()
        for ring in self.rings.values():
            if ring.queue is not None and ring.addresses is not None:
                try:
                    ring.queue.layout = self.memory.layout(ring.size, ring.addresses)
                    ring.queue.attach(self.memory.current)
                except AddressFault:
                    self.suspend(ring)
            else:
                self.start(ring)
        for region in old:
            region.close()

    # The dirty log

    @serves(Request.SET_LOG_BASE, 16, fds=1, disturbs=True)
    def _set_log_base(self, message: Message) -> bytes:
        if not message.fds:
            raise ProtocolError("a log without a descriptor")
        info = LogInfo.unpack(message.payload)
        self.use_log(map_log(message.fds[0], info.size, info.offset), info)
        if self.keeping is not None:
            self.keeping.log(message.fds[0])
        return U64.pack(0)

    @serves(Request.SET_LOG_FD, fds=1, largest=U64.size)
    def _set_log_fd(self, message: Message) -> None:
        """Take note of nothing: the log is shared memory, and its reader looks by itself."""

    def _follow_log(self) -> None:
        for ring in self.rings.values():
            self._follow_log_in(ring)

    def _follow_log_in(self, ring: Ring) -> None:
        queue, addresses = ring.queue, ring.addresses
        if queue is None or addresses is None:
            return
        self.nic.let_go()  # chains that were taken without a log have left no address behind
        queue.dirty = self._log.mark if self._log is not None and self.logs else None
        queue.used_log = addresses.log if addresses.flags & VRING_F_LOG else None

    @property
    def settling(self) -> bool:
        """Whether a region that was removed may yet be added again."""
        return self._settling is not None

    @property
    def logs(self) -> bool:
        """Whether whoever migrates the machine wants to know what is written to."""
        return bool(self.features & VHOST_F_LOG_ALL) and self._log is not None

    # Rings

    @property
    def _running(self) -> bool:
        return any(ring.queue is not None for ring in self.rings.values())

    def ring(self, index: int) -> Ring:
        """Return a ring, known so far or not. Raises ``ProtocolError``."""
        if index >= 2 * self.pairs:
            raise ProtocolError(f"ring {index} of {2 * self.pairs}")
        ring = self.rings.get(index)
        if ring is None:
            ring = self.rings[index] = Ring(index)
        return ring

    def _stopped_ring(self, message: Message) -> tuple[Ring, int]:
        """Read a ring index and a number for a ring that mustn't run."""
        index, number = VRING_STATE.unpack(message.payload)
        ring = self.ring(index)
        if ring.queue is not None:
            raise ProtocolError(f"ring {index} is running")
        return ring, number

    @serves(Request.SET_VRING_NUM, VRING_STATE.size, disturbs=True)
    def _set_vring_num(self, message: Message) -> None:
        ring, size = self._stopped_ring(message)
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise ProtocolError(f"a ring of {size}")
        ring.size = size

    @serves(Request.SET_VRING_BASE, VRING_STATE.size, disturbs=True)
    def _set_vring_base(self, message: Message) -> None:
        ring, base = self._stopped_ring(message)
        if base > 0xFFFF:
            raise ProtocolError(f"a base of {base}")
        ring.base = base

    @serves(Request.SET_VRING_ADDR, 40, disturbs=True)
    def _set_vring_addr(self, message: Message) -> None:
        addresses = RingAddresses.unpack(message.payload)
        ring = self.ring(addresses.index)
        known = ring.addresses
        if ring.queue is not None and known is not None:
            places = (known.descriptors, known.available, known.used)
            if (addresses.descriptors, addresses.available, addresses.used) != places:
                raise ProtocolError(f"ring {ring.index} is running")
        ring.addresses = addresses
        self._follow_log_in(ring)

    @serves(Request.GET_VRING_BASE, VRING_STATE.size, disturbs=True)
    def _get_vring_base(self, message: Message) -> bytes:
        index, _ = VRING_STATE.unpack(message.payload)
        ring = self.ring(index)
        self._stop(ring)
        return VRING_STATE.pack(index, ring.base)

    @serves(Request.SET_VRING_ENABLE, VRING_STATE.size, disturbs=True)
    def _set_vring_enable(self, message: Message) -> None:
        index, enabled = VRING_STATE.unpack(message.payload)
        self.enable(self.ring(index), bool(enabled))

    @serves(Request.SET_VRING_KICK, U64.size, fds=1, disturbs=True)
    def _set_vring_kick(self, message: Message) -> None:
        ring = self._take_ring_fd(message)
        if Request.SET_VRING_KICK not in ring.fds:
            raise ProtocolError("a ring that would have to be polled")
        if ring.queue is not None:
            self._watch(ring)
            return
        self.start(ring)
        if ring.queue is None:
            self._drop_fd(ring, Request.SET_VRING_KICK)
            raise ProtocolError(f"ring {ring.index} can't start: it has no size or no memory")

    @serves(Request.SET_VRING_CALL, U64.size, fds=1)
    def _set_vring_call(self, message: Message) -> None:
        self.handing.signal(self._take_ring_fd(message))

    @serves(Request.SET_VRING_ERR, U64.size, fds=1)
    def _set_vring_err(self, message: Message) -> None:
        self.handing.signal(self._take_ring_fd(message))

    def _take_ring_fd(self, message: Message) -> Ring:
        """Read a ring's index and its new descriptor, and close the one that it had."""
        (value,) = U64.unpack(message.payload)
        ring = self.ring(value & VRING_INDEX_MASK)
        if bool(value & VRING_NO_FD) == bool(message.fds):
            raise ProtocolError("a descriptor too many or too few")
        if message.fds and stat.S_IFMT(os.fstat(message.fds[0]).st_mode):
            # A pipe or a socket could block us for good; an event descriptor has no file type
            raise ProtocolError("something else than an event descriptor")
        self._drop_fd(ring, Request(message.header.request))
        if message.fds:
            which = Request(message.header.request)
            fd = ring.fds[which] = message.take_fd()
            if self.keeping is not None:
                self.keeping.ring(ring.index, which, fd)
        return ring

    def _drop_fd(self, ring: Ring, which: Request) -> None:
        fd = ring.fds.pop(which, None)
        if fd is not None:
            self._loop.unwatch(fd)
            os.close(fd)
            if self.keeping is not None:
                self.keeping.ring(ring.index, which, None)

    def start(self, ring: Ring) -> None:
        """Start a ring if everything is known that it takes."""
        if not ring.size or ring.addresses is None or Request.SET_VRING_KICK not in ring.fds:
            return
        try:
            ring.queue = SplitQueue(
                self.memory.current,
                self.memory.layout(ring.size, ring.addresses),
                writable=not ring.index & 1,
                notify=ring.notify,
                position=ring.base,
                event_index=bool(self.features & VIRTIO_RING_F_EVENT_IDX),
            )
        except AddressFault as fault:
            log.info("%s: ring %d can't start: %s", self.nic.name, ring.index, fault)
            return
        ring.lead = (ring.base - ring.queue.used_index) & 0xFFFF
        self._follow_log_in(ring)
        if not self.features & VHOST_USER_F_PROTOCOL_FEATURES:
            self.enable(ring, True)
        self.nic.start_queue(ring.index, ring.queue)
        self._watch(ring)

    def _watch(self, ring: Ring) -> None:
        """Hear of kicks. By edges they need not be read: each one wakes us anew."""
        fd = ring.fds[Request.SET_VRING_KICK]
        self._loop.watch(fd, READ | EDGE, partial(self._on_kick, ring.index))

    def _on_kick(self, index: int, events: int) -> None:
        self.nic.kick(index)

    def suspend(self, ring: Ring) -> None:
        """Stop a running ring, but let it start again by itself."""
        if ring.queue is not None:
            self.nic.stop_queue(ring.index)
            self._loop.unwatch(ring.fds[Request.SET_VRING_KICK])
            ring.base = ring.queue.position
            ring.queue.close()
            ring.queue = None

    def _stop(self, ring: Ring) -> None:
        """Stop a ring until it gets another kick descriptor."""
        self.suspend(ring)
        fd = ring.fds.get(Request.SET_VRING_KICK)
        if fd is not None and select.select([fd], [], [], 0)[0]:
            os.eventfd_read(fd)  # kicks that were served are not left for the next one to find
        self._drop_fd(ring, Request.SET_VRING_KICK)

    def _on_fault(self, index: int) -> None:
        """Tell the machine that a ring is broken."""
        self.rings[index].signal(Request.SET_VRING_ERR)

    def close(self) -> None:
        """Stop everything and give everything back."""
        keeping, self.keeping = self.keeping, None
        if keeping is not None:
            keeping.close()
        self.handing.close()
        if self._settling is not None:
            self._settling.cancel()
        for ring in self.rings.values():
            self._stop(ring)
            for which in list(ring.fds):
                self._drop_fd(ring, which)
        self.nic.reset()
        self.use_log(None, None)
        self.memory.close()
        self.channel.close()
