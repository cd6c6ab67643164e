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

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from vmwire.attach.vfio_user import memory
from vmwire.attach.vfio_user.channel import Channel, NoReply
from vmwire.attach.vfio_user.lasting import Lasting
from vmwire.attach.vfio_user.memory import DmaMap
from vmwire.attach.vfio_user.refused import Refused
from vmwire.attach.vfio_user.signals import FLAGS, Signals
from vmwire.bus.pci.function import PciFunction
from vmwire.bus.pci.vfio_user import (
    CONFIG,
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
    Command,
    Header,
    command_name,
    pack_message,
    pack_version,
    unpack_version,
)
from vmwire.bus.protocol import ProtocolError
from vmwire.engine.loop import Loop

log = logging.getLogger(__name__)

MAJOR, MINOR = 0, 1
BUDGET = 64
"""Messages that are served before the loop's other work has its turn."""
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
        self.loop = loop
        self.lasting: Lasting | None = None
        """What of this outlives the worker, if anything does."""
        self.sizes = [card.region_size(region) for region in range(NUM_REGIONS)]
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
        lasting = self.lasting
        for _ in range(BUDGET):
            message = receive()
            if message is None:
                return
            if lasting is None:
                self.dispatch(message)
            else:
                lasting.record.begin(message, channel.data)
                self.dispatch(message)
                lasting.served(message[2] != _READ)
            if self._broken is not None:
                raise self._broken  # bytes are lost: what follows would be taken for something else
            if channel.drained and not channel.data:
                break  # and if something came since, the loop tells
        if channel.waiting:
            self.loop.defer(self._go_on)

    def dispatch(self, message: bytes) -> None:
        self.served += 1
        size = len(message)
        if (size == 32 and self._serve_read(message)) or (
            32 < size <= 36 and self._serve_write(message)
        ):
            return
        self._serve(message)

    def reply(self, data: bytes) -> None:
        """Send an answer; from here on nobody sends it again: QEMU doesn't survive a second one."""
        if self.lasting is not None:
            self.lasting.record.answered()
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
            or offset + count > self.sizes[region]
            or self.version is None
            or self.channel.fds
        ):
            return False
        value = self.card.read(region, offset, count)
        if self.signals.held is not None:
            self.signals.accessed()
        self.reply(
            READ_MESSAGE.pack(message_id, _READ, 32 + count, 1, 0, offset, region, count)
            + value.to_bytes(count, "little")
        )
        return True

    def _serve_write(self, message: bytes) -> bool:
        """Serve a register write of up to four bytes, if it is one that needs no second look."""
        message_id, command, size, flags, _, offset, region, count = READ_MESSAGE.unpack_from(
            message
        )
        if (
            command != _WRITE
            or size != 32 + count
            or flags & ~F_NO_REPLY
            or len(message) != size
            or region >= NUM_REGIONS
            or offset + count > self.sizes[region]
            or region == CONFIG
            or self.version is None
            or self.channel.fds
        ):
            return False
        self.card.write(region, offset, count, int.from_bytes(message[32:], "little"))
        if self.signals.held is not None:
            self.signals.accessed()
        if not flags:
            self.reply(READ_MESSAGE.pack(message_id, _WRITE, 32, 1, 0, offset, region, count))
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
            self.refuse(header, error)
            return
        self.channel.close_fds()
        if self.lasting is not None:
            self.lasting.done(header.command, message)
        if not header.flags & F_NO_REPLY:
            self.reply(pack_message(header.message_id, header.command, reply, TYPE_REPLY))

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

    def refuse(self, header: Header, error: Refused) -> None:
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
            self.reply(pack_message(header.message_id, header.command, b"", flags, error.errno))

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
        size = self.sizes[_index(index, NUM_REGIONS, "region")]
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
        self.signals.accessed()
        return payload + value.to_bytes(count, "little")

    @_serves(Command.REGION_WRITE, REGION_ACCESS.size, more=MAX_DATA)
    def _region_write(self, payload: bytes) -> bytes:
        offset, region, count = self._access(payload)
        data = payload[REGION_ACCESS.size :]
        if len(data) != count:
            raise Refused(f"{len(data)} bytes of data instead of {count}")
        if count:
            self.card.write(region, offset, count, int.from_bytes(data, "little"))
        self.signals.accessed()
        if region == CONFIG and self.lasting is not None:
            self.lasting.keep()  # seldom, and a card that forgot it stands still
        return payload[: REGION_ACCESS.size]

    def _access(self, payload: bytes) -> tuple[int, int, int]:
        offset, region, count = REGION_ACCESS.unpack_from(payload)
        size = self.sizes[_index(region, NUM_REGIONS, "region")]
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
        if self.lasting is not None:
            self.lasting.keeping.window(address, fds[0] if fds else None)
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
        if self.lasting is not None:
            for window in gone:
                self.lasting.keeping.window(window.address, None)
        return payload

    def _ask(self, command: int, payload: bytes) -> bytes:
        """Ask the machine, and see to it that what came meanwhile is served."""
        try:
            return self.channel.ask(command, payload)
        except (EOFError, OSError, ProtocolError) as error:
            self._broken = error  # the card hears of a fault; our owner hears of this
            self.loop.defer(self._go_on)
            raise NoReply(f"the connection is lost: {error!r}") from None
        finally:
            if self.channel.waiting:
                self.loop.defer(self._go_on)

    def _serve_aside(self) -> None:
        """The machine waits for us, and we for it: serve what came first."""
        while self.channel.set_aside and (message := self.channel.receive()) is not None:
            self.dispatch(message)

    # The end

    def close(self) -> None:
        """Unplug the card from this machine, and close all that came from it."""
        card = self.card
        card.dma.memory = type(self.memory.memory)()
        card.dma.remote = None
        card.interrupts.machine = Nobody()
        if self.lasting is not None:
            self.lasting.leave()
        self.signals.close()
        self.memory.close()
        self.channel.close()
        if self.lasting is not None:
            self.lasting.close()


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
