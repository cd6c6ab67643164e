# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One vfio-user connection: what the machine asks, done to the card.

Theory of operation. The first message is VERSION; nothing else is served before it. From then on
each message stands by itself: it is checked against the table of commands (length, descriptors),
served, and answered, in the order in which they come. A message that can't be followed is answered
with an error number and changes nothing; one that wants no reply (a posted write) is only counted.
The connection ends where the stream of bytes makes no sense any more (``ProtocolError``).

Register accesses of up to eight bytes take a short way past the table, because a guest's processor
waits for each read. A turn serves at most ``BUDGET`` messages, then lets the loop look at the rest
of the world.

Memory. The card's ``dma`` is given a new set of regions before old ones are unmapped; cards keep no
views between two messages.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vmwire.attach.vfio_user import memory
from vmwire.attach.vfio_user.channel import Channel, NoReply
from vmwire.attach.vfio_user.kept import BEGUN, DONE, NONE, STATE_VERSION, Keeping, Record
from vmwire.attach.vfio_user.memory import DmaMap
from vmwire.attach.vfio_user.refused import Refused
from vmwire.attach.vfio_user.signals import FLAGS, Signals
from vmwire.bus.pci.chip import Placed
from vmwire.bus.pci.function import PciFunction
from vmwire.bus.pci.vfio_user import (
    CONFIG,
    DATA_EVENTFD,
    DEVICE_FLAGS_PCI,
    DEVICE_FLAGS_RESET,
    DEVICE_INFO,
    DMA_MAP,
    DMA_UNMAP,
    DMA_UNMAP_ALL,
    F_ERROR,
    F_NO_REPLY,
    HEADER,
    IRQ_INFO,
    IRQ_SET,
    MAX_DATA,
    MAX_FDS,
    MAX_MAPS,
    NUM_IRQS,
    NUM_REGIONS,
    PAGE_SIZES,
    READ_MESSAGE,
    REGION_ACCESS,
    REGION_FLAG_READ,
    REGION_FLAG_WRITE,
    REGION_INFO,
    REGION_IO_FDS,
    ROM,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    VERSION,
    WRITE_MESSAGE,
    Command,
    Header,
    command_name,
    pack_message,
    pack_version,
    unpack_version,
)
from vmwire.bus.protocol import ProtocolError
from vmwire.engine.loop import Loop
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

log = logging.getLogger(__name__)

MAJOR, MINOR = 0, 1
BUDGET = 64
"""Messages that are served before the loop's other work has its turn."""
KEEP_EVERY_S = 0.002
"""How often a card's state is put down at most: it takes as long as ten register accesses."""
_READ, _WRITE = int(Command.REGION_READ), int(Command.REGION_WRITE)

Handler = Callable[["Session", bytes], bytes]


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a command's payload may look like, and who serves it."""

    handler: Handler
    smallest: int
    largest: int
    fds: int


_RULES: dict[int, _Rule] = {}


def _serves(
    command: Command, size: int = 0, *, more: int = 0, fds: int = 0
) -> Callable[[Handler], Handler]:
    """Enter a handler: what payload (bytes) and how many descriptors it may have."""

    def enter(handler: Handler) -> Handler:
        _RULES[command] = _Rule(handler, size, size + more, fds)
        return handler

    return enter


class Session:
    """Serves ``card`` to the machine at the other end of ``channel``.

    ``on_readable`` raises ``EOFError``, ``OSError`` or ``ProtocolError`` when the connection ends.
    """

    def __init__(self, channel: Channel, loop: Loop, card: PciFunction) -> None:
        self.channel = channel
        self.card = card
        self.name = card.name
        channel.on_urgent = self._serve_aside
        self._broken: EOFError | OSError | ProtocolError | None = None
        self.version: tuple[int, int] | None = None
        self.refused: Counter[str] = Counter()
        """Messages that were answered with an error, by their command."""
        self.served = 0
        """Messages that came in."""
        self.signals = Signals(_irq_counts(card), loop, lambda: card.interrupts.line)
        self.memory = DmaMap(self._ask)
        self._loop = loop
        self._record: Record | None = None
        self._keeping: Keeping | None = None
        self._placed: Placed | None = None
        self._leave_port: Callable[[], None] | None = None
        self._stale = False
        self._keep_from = 0.0
        self._sizes = [card.region_size(region) for region in range(NUM_REGIONS)]
        card.dma.remote = self.memory
        card.interrupts.machine_masks = True
        card.interrupts.machine = self.signals

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self.channel.fileno()

    # Messages

    def on_readable(self, events: int = 0) -> None:
        """Serve what the machine has sent."""
        if self._broken is not None:
            raise self._broken
        channel = self.channel
        receive = channel.receive
        for _ in range(BUDGET):
            message = receive()
            if message is None:
                return
            if self._record is None:
                self._dispatch(message)
            else:
                self._record.begin(message, channel.data)
                self._dispatch(message)
                if message[2] != _READ:
                    self._put_place()
                self._record.end(channel.data)
                if not self._stale:
                    self._keep_soon()
            if self._broken is not None:
                raise self._broken  # bytes are lost: what follows would be taken for something else
            if channel.drained and not channel.data:
                break  # and if something came since, the loop tells
        if channel.waiting:
            self._loop.defer(self._go_on)

    def _dispatch(self, message: bytes) -> None:
        self.served += 1
        size = len(message)
        if (size == 32 and self._serve_read(message)) or (
            size == 36 and self._serve_write(message)
        ):
            return
        self._serve(message)

    def _reply(self, data: bytes) -> None:
        """Send an answer; from here on nobody sends it again: QEMU doesn't survive a second one."""
        if self._record is not None:
            self._record.answered()
        self.channel.send(data)

    def _go_on(self) -> None:
        """Serve what the socket doesn't tell of, because it was read already."""
        if self.on_waiting is not None:
            self.on_waiting()

    on_waiting: Callable[[], None] | None = None
    """Called at the end of a turn when messages were left over: its owner serves on."""

    def _serve_read(self, message: bytes) -> bool:
        """Serve a register read, if it is one that needs no second look."""
        message_id, command, size, flags, _, offset, region, count = READ_MESSAGE.unpack(message)
        if (
            command != _READ
            or size != 32
            or flags
            or not 0 < count <= 8
            or region >= NUM_REGIONS
            or offset + count > self._sizes[region]
            or self.version is None
            or self.channel.fds
        ):
            return False
        value = self.card.read(region, offset, count)
        self._reply(
            READ_MESSAGE.pack(message_id, _READ, 32 + count, 1, 0, offset, region, count)
            + value.to_bytes(count, "little")
        )
        return True

    def _serve_write(self, message: bytes) -> bool:
        """Serve a register write of four bytes, if it is one that needs no second look."""
        message_id, command, size, flags, _, offset, region, count, value = WRITE_MESSAGE.unpack(
            message
        )
        if (
            command != _WRITE
            or size != 36
            or flags & ~F_NO_REPLY
            or count != 4
            or region >= NUM_REGIONS
            or offset + 4 > self._sizes[region]
            or region == CONFIG
            or self.version is None
            or self.channel.fds
        ):
            return False
        self.card.write(region, offset, 4, value)
        if not flags:
            self._reply(READ_MESSAGE.pack(message_id, _WRITE, 32, 1, 0, offset, region, 4))
        return True

    def _serve(self, message: bytes) -> None:
        """Serve any message, by the table."""
        header = Header.unpack(message)
        if log.isEnabledFor(logging.DEBUG):
            name = command_name(header.command)
            fds = len(self.channel.fds)
            log.debug("%s: %s (%d bytes, %d fds)", self.name, name, header.size, fds)
        try:
            reply = self._answer(header, message[HEADER.size :])
        except Refused as error:
            self._refuse(header, error)
            return
        self.channel.close_fds()
        if self._record is not None and _rewires(header.command, message):
            self.keep()
            self._record.done()
        if not header.flags & F_NO_REPLY:
            self._reply(pack_message(header.message_id, header.command, reply, TYPE_REPLY))

    def _answer(self, header: Header, payload: bytes) -> bytes:
        """Check a message against the table, and have it served."""
        if header.size != HEADER.size + len(payload):  # too short, or too long
            raise Refused(f"a message of {header.size} bytes")
        if header.flags & TYPE_MASK != TYPE_COMMAND:
            raise Refused("a reply to nothing" if header.type == TYPE_REPLY else "an unknown type")
        if header.flags & ~(TYPE_MASK | F_NO_REPLY):
            raise Refused(f"a command with flags {header.flags:#x}")
        rule = _RULES.get(header.command)
        if rule is None:
            raise Refused("not served")
        if (self.version is None) != (header.command == Command.VERSION):
            raise Refused("not the time for that")
        if not rule.smallest <= len(payload) <= rule.largest:
            raise Refused(f"{len(payload)} bytes of payload")
        if len(self.channel.fds) > rule.fds:
            raise Refused(f"{len(self.channel.fds)} descriptors")
        return rule.handler(self, payload)

    def _refuse(self, header: Header, error: Refused) -> None:
        self.channel.close_fds()  # whoever hears of it may count its descriptors
        name = command_name(header.command) if header.command in _RULES else "unknown command"
        if not self.refused[name]:  # once: a guest or its machine could fill the log
            log.warning("%s: %s refused: %s", self.name, command_name(header.command), error)
        self.refused[name] += 1
        if header.type == TYPE_REPLY and header.command in (Command.DMA_READ, Command.DMA_WRITE):
            self.channel.overdue = False
            return  # it came too late
        if not header.flags & F_NO_REPLY:
            flags = TYPE_REPLY | F_ERROR
            self._reply(pack_message(header.message_id, header.command, b"", flags, error.errno))

    # Beginning

    @_serves(Command.VERSION, VERSION.size, more=4096)
    def _version(self, payload: bytes) -> bytes:
        try:
            major, minor, capabilities = unpack_version(payload)
        except ValueError as error:
            raise Refused(str(error)) from None
        if major != MAJOR:
            raise Refused(f"version {major}.{minor}")
        _number(capabilities, "max_msg_fds", 1)
        _number(capabilities, "max_dma_maps", 1)
        _number(capabilities, "pgsizes", 1)
        largest = _number(capabilities, "max_data_xfer_size", MAX_DATA)
        if not largest:
            raise Refused("a machine that takes no data")
        self.memory.largest = min(largest, MAX_DATA)
        self.version = major, min(minor, MINOR)
        log.info("%s: vfio-user %d.%d, %s", self.name, major, minor, capabilities)
        ours = {
            "max_msg_fds": MAX_FDS,
            "max_data_xfer_size": MAX_DATA,
            "max_dma_maps": MAX_MAPS,
            "pgsizes": PAGE_SIZES,
        }
        return pack_version(*self.version, ours)

    # What the device is

    @_serves(Command.DEVICE_GET_INFO, DEVICE_INFO.size)
    def _device_get_info(self, payload: bytes) -> bytes:
        argsz, *_ = DEVICE_INFO.unpack(payload)
        _check_argsz(argsz, DEVICE_INFO.size)
        flags = DEVICE_FLAGS_RESET | DEVICE_FLAGS_PCI
        return DEVICE_INFO.pack(DEVICE_INFO.size, flags, NUM_REGIONS, NUM_IRQS)

    @_serves(Command.DEVICE_GET_REGION_INFO, REGION_INFO.size)
    def _device_get_region_info(self, payload: bytes) -> bytes:
        argsz, _, index, *_ = REGION_INFO.unpack(payload)
        _check_argsz(argsz, REGION_INFO.size)
        size = self._sizes[_index(index, NUM_REGIONS, "region")]
        flags = (REGION_FLAG_READ | REGION_FLAG_WRITE) if size else 0
        if index == ROM:
            flags &= REGION_FLAG_READ
        return REGION_INFO.pack(REGION_INFO.size, flags, index, 0, size, 0)

    @_serves(Command.DEVICE_GET_REGION_IO_FDS, REGION_IO_FDS.size)
    def _device_get_region_io_fds(self, payload: bytes) -> bytes:
        argsz, flags, index, count = REGION_IO_FDS.unpack(payload)
        _check_argsz(argsz, REGION_IO_FDS.size)
        if flags or count:
            raise Refused("flags or a count")
        _index(index, NUM_REGIONS, "region")
        return REGION_IO_FDS.pack(REGION_IO_FDS.size, 0, index, 0)

    @_serves(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.size)
    def _device_get_irq_info(self, payload: bytes) -> bytes:
        argsz, _, index, _ = IRQ_INFO.unpack(payload)
        _check_argsz(argsz, IRQ_INFO.size)
        count = self.signals.counts[_index(index, NUM_IRQS, "interrupt")]
        return IRQ_INFO.pack(IRQ_INFO.size, FLAGS[index], index, count)

    # What is done to it

    @_serves(Command.DEVICE_SET_IRQS, IRQ_SET.size, more=4096, fds=MAX_FDS)
    def _device_set_irqs(self, payload: bytes) -> bytes:
        argsz, flags, index, start, count = IRQ_SET.unpack_from(payload)
        if argsz < IRQ_SET.size:
            raise Refused(f"argsz {argsz}")
        self.signals.set(index, flags, start, count, payload[IRQ_SET.size :], self.channel.fds)
        return b""

    @_serves(Command.DEVICE_RESET)
    def _device_reset(self, payload: bytes) -> bytes:
        self.card.reset()
        self.signals.reset()
        return b""

    @_serves(Command.REGION_READ, REGION_ACCESS.size)
    def _region_read(self, payload: bytes) -> bytes:
        offset, region, count = self._access(payload)
        value = self.card.read(region, offset, count) if count else 0
        return payload + value.to_bytes(count, "little")

    @_serves(Command.REGION_WRITE, REGION_ACCESS.size, more=MAX_DATA)
    def _region_write(self, payload: bytes) -> bytes:
        offset, region, count = self._access(payload)
        data = payload[REGION_ACCESS.size :]
        if len(data) != count:
            raise Refused(f"{len(data)} bytes of data instead of {count}")
        if count:
            self.card.write(region, offset, count, int.from_bytes(data, "little"))
        if region == CONFIG and self._record is not None:
            self.keep()  # seldom, and a card that forgot it stands still
        return payload[: REGION_ACCESS.size]

    def _access(self, payload: bytes) -> tuple[int, int, int]:
        offset, region, count = REGION_ACCESS.unpack_from(payload)
        size = self._sizes[_index(region, NUM_REGIONS, "region")]
        if count > MAX_DATA or offset + count > size:
            raise Refused(f"{count} bytes at {offset:#x} of region {region} of {size:#x}")
        return offset, region, count

    # Memory

    @_serves(Command.DMA_MAP, DMA_MAP.size, fds=1)
    def _dma_map(self, payload: bytes) -> bytes:
        argsz, flags, offset, address, size = DMA_MAP.unpack(payload)
        _check_argsz(argsz, DMA_MAP.size)
        fds = self.channel.fds
        self.memory.add(address, size, flags, offset, fds[0] if fds else None)
        if self._keeping is not None:
            self._keeping.window(address, fds[0] if fds else None)
        self.card.dma.memory = self.memory.memory
        return b""

    @_serves(Command.DMA_UNMAP, DMA_UNMAP.size)
    def _dma_unmap(self, payload: bytes) -> bytes:
        argsz, flags, address, size = DMA_UNMAP.unpack(payload)
        _check_argsz(argsz, DMA_UNMAP.size)
        if flags & ~DMA_UNMAP_ALL:
            raise Refused(f"unmap flags {flags:#x}")
        if not flags:
            gone = self.memory.remove(address, size)
        elif address or size:
            raise Refused("an address, and everything")
        else:
            gone = self.memory.remove_all()
        self.card.dma.memory = self.memory.memory
        memory.close(gone)
        if self._keeping is not None:
            for window in gone:
                self._keeping.window(window.address, None)
        return payload

    def _ask(self, command: int, payload: bytes) -> bytes:
        """Ask the machine, and see to it that what came meanwhile is served."""
        try:
            return self.channel.ask(command, payload)
        except (EOFError, OSError, ProtocolError) as error:
            self._broken = error  # the card hears of a fault; our owner hears of this
            self._loop.defer(self._go_on)
            raise NoReply(f"the connection is lost: {error!r}") from None
        finally:
            if self.channel.waiting:
                self._loop.defer(self._go_on)

    def _serve_aside(self) -> None:
        """The machine waits for us, and we for it: serve what came first."""
        while self.channel.set_aside and (message := self.channel.receive()) is not None:
            self._dispatch(message)

    # What outlives the worker

    def keep_in(self, keeping: Keeping, record: Record) -> None:
        """Keep everything from now on, so that a later worker can go on."""
        self._keeping, self._record = keeping, record
        self.signals.on_wiring = keeping.line
        self.signals.on_signal = self._keep_soon  # which also tells of frames from the wire
        chip = self.card.chip
        if isinstance(chip, Placed):
            self._placed = chip
            self._watch_port(chip.port)
        self._keep_soon()

    def _watch_port(self, port: Port) -> None:
        """Put the card's place down after whatever the wire has it do."""
        receive, resume = port.receive, port.on_resume

        def received(frames: Sequence[Frame]) -> int:
            taken = receive(frames)
            self._put_place()
            return taken

        def resumed() -> None:
            resume()
            self._put_place()

        def leave() -> None:
            port.receive, port.on_resume = receive, resume

        port.receive, port.on_resume, self._leave_port = received, resumed, leave

    def _put_place(self) -> None:
        if self._placed is not None and self._record is not None:
            self._record.write_place(self._placed.save_place())

    def keep(self) -> None:
        """Put the state down as it is now."""
        assert self._record is not None
        self._record.write(
            {
                "version": STATE_VERSION,
                "agreed": self.version,
                "largest": self.memory.largest,
                "windows": [
                    (window.address, window.size, window.flags, window.offset, bool(window.region))
                    for window in self.memory.windows
                ],
                "lines": self.signals.save(),
                "card": self.card.save(),
            }
        )
        self._put_place()

    def _keep_when_idle(self) -> None:
        if self._record is None:
            return
        loop = self._loop
        wait_s = self._keep_from - loop.now()
        if wait_s > 0:
            loop.call_later(wait_s, lambda: loop.put_off(self._keep_when_idle))
            return
        self.keep()
        self._stale = False
        self._keep_from = loop.now() + KEEP_EVERY_S

    def _keep_soon(self) -> None:
        """The card's state has changed, or may have."""
        if not self._stale:
            self._stale = True
            self._loop.put_off(self._keep_when_idle)

    def resume(self, keeping: Keeping, record: Record) -> None:
        """Go on where an earlier worker was. ValueError if what it left makes no sense."""
        state = record.read()
        try:
            self._restore(state, record.place, keeping)
        except (KeyError, TypeError, IndexError, Refused) as error:
            raise ValueError(f"a state that makes no sense: {error!r}") from None
        self.channel.data = record.rest
        self.signals.signal_again()
        self._finish(record)
        self.keep_in(keeping, record)

    def _restore(self, state: dict[str, Any], place: bytes, keeping: Keeping) -> None:
        self.version = state["agreed"]
        self.memory.largest = state["largest"]
        for address, size, flags, offset, mapped in state["windows"]:
            fd = keeping.take_window(address) if mapped else None
            try:
                self.memory.add(address, size, flags, offset, fd)
            finally:
                if fd is not None:
                    os.close(fd)
        self.card.dma.memory = self.memory.memory
        self.signals.restore(state["lines"], keeping.take_line)
        card = state["card"]
        if place:  # newer than the rest: the chip raises its pin by it
            card["chip"]["place"] = place
            card["interrupts"]["level"] = False
        self.card.restore(card)

    def _finish(self, record: Record) -> None:
        """See to the message that was under way."""
        state, again, message = record.under_way()
        if state == NONE:
            return
        header = Header.unpack(message)
        if state == DONE and not header.flags & F_NO_REPLY:
            payload = message[HEADER.size :] if header.command == Command.DMA_UNMAP else b""
            self._reply(pack_message(header.message_id, header.command, payload, TYPE_REPLY))
        elif state == BEGUN and (again or _lost_descriptors(header.command, message)):
            self._refuse(header, Refused("it ended the worker", errno.EIO))
        elif state == BEGUN:
            record.again()
            self._dispatch(message)
        record.end(self.channel.data)

    # The end

    def close(self) -> None:
        """Unplug the card from this machine, and close all that came from it."""
        card = self.card
        card.dma.memory = type(self.memory.memory)()
        card.dma.remote = None
        card.interrupts.machine = Nobody()
        if self._leave_port is not None:
            self._leave_port()
        self.signals.close()
        self.memory.close()
        self.channel.close()
        if self._record is not None:
            self._record.close()
            self._record = None
        if self._keeping is not None:
            self._keeping.drop()


class Nobody:
    """The machine of a card without one."""

    def intx(self, up: bool) -> None:
        """Nobody hears."""

    def msi(self, vector: int) -> None:
        """Nobody hears."""

    def msix(self, vector: int) -> None:
        """Nobody hears."""


def _irq_counts(card: PciFunction) -> tuple[int, ...]:
    """How many interrupts of each kind a card has."""
    msi = card.config.msi
    msix = card.config.msix
    return (
        int(bool(card.config.read(0x3D, 1))),
        0 if msi is None else msi.vectors,
        0 if msix is None else msix.vectors,
        1,
        1,
    )


def _rewires(command: int, message: bytes) -> bool:
    """Whether it changes more than the card: the next worker must know before the machine does.

    Masks aren't that: QEMU unmasks after every interrupt, and a new worker begins unmasked.
    """
    if command == Command.DEVICE_SET_IRQS:
        _, flags, _, _, count = IRQ_SET.unpack_from(message, HEADER.size)
        return bool(flags & DATA_EVENTFD) or count == 0
    return command in (Command.VERSION, Command.DMA_MAP, Command.DMA_UNMAP)


def _lost_descriptors(command: int, message: bytes) -> bool:
    """Whether it can't be done again, because what came with it died with a worker."""
    if command == Command.DEVICE_SET_IRQS and len(message) >= HEADER.size + IRQ_SET.size:
        return _rewires(command, message)
    return command == Command.DMA_MAP


def _check_argsz(argsz: int, least: int) -> None:
    if argsz < least:
        raise Refused(f"argsz {argsz} of at least {least}")


def _index(index: int, count: int, what: str) -> int:
    if index >= count:
        raise Refused(f"{what} {index} of {count}")
    return index


def _number(capabilities: dict[str, object], name: str, default: int) -> int:
    value = capabilities.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused(f"{name} of {value!r}")
    return value
