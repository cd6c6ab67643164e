# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Virtio over PCI (virtio 1.2, section 4.1; legacy interface: 4.1.4.10 and virtio 0.9.5, 2.2.2).

A card shows one of three faces: *legacy* (ports in BAR 0), *modern* (structures in BAR 4 that
vendor capabilities point to), or both at once, which is called transitional. MSI-X lies in BAR 1.

==========  ======  =====================================================
BAR 4 from  length  what
==========  ======  =====================================================
0x0000      0x1000  common configuration
0x1000      0x1000  ISR: reading clears it and lowers the pin
0x2000      0x1000  device configuration
0x3000      0x1000  notifications, four bytes for each queue
==========  ======  =====================================================

With a page for each queue the notifications take 4 MiB. Ports for notifications, where they are
asked for, are BAR 2.

Without MSI-X the pin is up while the ISR isn't 0. With it each queue, and the configuration, has a
vector or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vmwire.bus.pci.capabilities import BarWindow, Capability, MsiX, Opaque
from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import Bar, Description
from vmwire.bus.virtio.device import (
    ISR_CONFIG,
    ISR_QUEUE,
    NO_VECTOR,
    Function,
)
from vmwire.bus.virtio.registers import VirtioRegisters

VENDOR = 0x1AF4
MODERN_DEVICE = 0x1040
"""A modern card's device id is this and the virtio device's number."""
TRANSITIONAL_NET = 0x1000
MODERN_SUBSYSTEM = 0x1100
CLASS_ETHERNET = 0x020000

LEGACY_BAR, MSIX_BAR, PORTS_BAR, MODERN_BAR = 0, 1, 2, 4
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
STRUCTURE = 0x1000
PAGE = 0x1000
MOST_QUEUES = 1024
"""As many notification places there are."""

LEGACY_HEADER = 20
LEGACY_VECTORS = 4
"""Bytes of vectors behind the header while MSI-X is in use."""

_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG = 1, 2, 3, 4
_FIRST_CAPABILITY = 0x40


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """How a card shows itself. ``vectors``: entries of the MSI-X table; 0: none."""

    legacy: bool = True
    modern: bool = True
    vectors: int = 0
    page_per_vq: bool = False
    notify_ports: bool = False

    def __post_init__(self) -> None:
        if not (self.legacy or self.modern):
            raise ValueError("a card without any interface")

    @property
    def notify_step(self) -> int:
        """Bytes from one queue's place for notifications to the next one's."""
        return PAGE if self.page_per_vq else 4


def describe(face: Face, config_size: int, *, rom_size: int = 0) -> Description:
    """Return what a network card of this face has in its configuration space."""
    return Description(
        vendor=VENDOR,
        device=TRANSITIONAL_NET if face.legacy else MODERN_DEVICE + 1,
        revision=0 if face.legacy else 1,
        class_code=CLASS_ETHERNET,
        subsystem_vendor=VENDOR,
        subsystem=1 if face.legacy else MODERN_SUBSYSTEM,
        interrupt_pin=1,
        bars=tuple(_bars(face, config_size)),
        rom_size=rom_size,
        capabilities=tuple(_capabilities(face)),
    )


def _bars(face: Face, config_size: int) -> list[Bar]:
    bars = []
    if face.legacy:
        header = LEGACY_HEADER + (LEGACY_VECTORS if face.vectors else 0)
        bars.append(Bar(LEGACY_BAR, "io", _power(header + config_size)))
    if face.vectors:
        bars.append(Bar(MSIX_BAR, "memory", _msix(face.vectors, 0)[1]))
    if face.modern and face.notify_ports:
        bars.append(Bar(PORTS_BAR, "io", 4))
    if face.modern:
        size = _power(NOTIFY + MOST_QUEUES * face.notify_step)
        bars.append(Bar(MODERN_BAR, "memory", size, wide=True, prefetchable=True))
    return bars


def _msix(vectors: int, offset: int) -> tuple[MsiX, int]:
    """The MSI-X capability at ``offset``, and its BAR's size."""
    pending = max(16 * vectors, 0x800)
    msix = MsiX(
        offset=offset, vectors=vectors, table_bar=MSIX_BAR, pending_bar=MSIX_BAR,
        pending_offset=pending,
    )  # fmt: skip
    return msix, _power(max(pending + msix.pending_size, PAGE))


def _capabilities(face: Face) -> list[Capability]:
    """The list as cards of this kind are known to have it: the last one that was made is first."""
    found: list[Capability] = []
    offset = _FIRST_CAPABILITY
    if face.modern:
        notify_size = MOST_QUEUES * face.notify_step
        for capability in (
            _structure(offset, _COMMON_CFG, COMMON, STRUCTURE),
            _structure(offset + 16, _ISR_CFG, ISR, STRUCTURE),
            _structure(offset + 32, _DEVICE_CFG, DEVICE, STRUCTURE),
            _structure(offset + 48, _NOTIFY_CFG, NOTIFY, notify_size, step=face.notify_step),
        ):
            found.insert(0, capability)
        offset += 68
        if face.notify_ports:
            found.insert(0, _structure(offset, _NOTIFY_CFG, 0, 4, bar=PORTS_BAR, step=0))
            offset += 20
        found.insert(0, BarWindow(offset=offset))
        offset += 20
    if face.vectors:
        found.insert(0, _msix(face.vectors, offset)[0])
    return found


def _structure(
    offset: int, kind: int, start: int, length: int, *, bar: int = MODERN_BAR,
    step: int | None = None,
) -> Opaque:  # fmt: skip
    """A capability that says where in a BAR a structure is."""
    more = b"" if step is None else step.to_bytes(4, "little")
    size = bytes((16 + len(more), kind, bar, 0, 0, 0))
    place = start.to_bytes(4, "little") + length.to_bytes(4, "little")
    return Opaque(offset=offset, id=0x09, body=size + place + more)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


class VirtioPci(VirtioRegisters):
    """A virtio device's registers on a PCI card: what a ``Chip`` shows of itself.

    Subclasses (or owners) bring the port and the rest of a chip.
    """

    def __init__(self, slot: Slot, function: Function, face: Face) -> None:
        super().__init__(slot, function)
        self.device.transport = self
        self._face = face
        self._notify_shift = face.notify_step.bit_length() - 1

    @property
    def revision(self) -> int:
        """Changes with all of the state that the guest's memory can't tell."""
        return self.device.revision

    # Accesses

    def load(self, region: int, offset: int, size: int) -> int:
        """Read registers."""
        if region == LEGACY_BAR:
            return self._load_legacy(offset, size)
        if region != MODERN_BAR or offset >= NOTIFY:
            return 0
        if offset >= DEVICE:
            return self._load_config(offset - DEVICE, size)
        if offset >= ISR:
            return self._take_isr() if offset == ISR else 0
        return _load_fields(_COMMON_MAP, self, offset, size)

    def store(self, region: int, offset: int, size: int, value: int) -> None:
        """Write registers."""
        if region == MODERN_BAR:
            if offset >= NOTIFY:
                self.device.kick(offset - NOTIFY >> self._notify_shift)
            elif offset >= DEVICE:
                self._store_config(offset - DEVICE, size, value)
            elif offset < ISR:
                _store_fields(_COMMON_MAP, self, offset, size, value)
        elif region == LEGACY_BAR:
            self._store_legacy(offset, size, value)
        elif region == PORTS_BAR:
            self.device.kick(value & 0xFFFF)

    # The legacy interface

    def _load_legacy(self, offset: int, size: int) -> int:
        vectors = self._line.msix_enabled
        start = LEGACY_HEADER + (LEGACY_VECTORS if vectors else 0)
        if offset >= start:
            return self._load_config(offset - start, size)
        return _load_fields(_LEGACY_MAP, self, offset, size)

    def _store_legacy(self, offset: int, size: int, value: int) -> None:
        start = LEGACY_HEADER + (LEGACY_VECTORS if self._line.msix_enabled else 0)
        if offset >= start:
            self._store_config(offset - start, size, value)
        else:
            _store_fields(_LEGACY_MAP, self, offset, size, value)

    # Interrupts

    def queue_interrupt(self, vector: int) -> None:
        """Wake the driver for a queue."""
        self._interrupt(ISR_QUEUE, vector)

    def config_interrupt(self, vector: int) -> None:
        """Wake the driver for the configuration."""
        self._interrupt(ISR_QUEUE | ISR_CONFIG, vector)

    def _interrupt(self, cause: int, vector: int) -> None:
        if self._line.msix_enabled:
            if vector != NO_VECTOR:
                self._line.notify(vector)
        elif cause & ~self.device.isr:
            self.device.isr |= cause
            self._line.set_level(True)

    def _take_isr(self) -> int:
        found, self.device.isr = self.device.isr, 0
        if found:
            self._line.set_level(False)
        return found

    def _vector(self, vector: int) -> int:
        """A vector that a driver chooses; one that isn't there reads back as none."""
        return vector if vector < self._face.vectors else NO_VECTOR

    # The whole

    def reset(self) -> None:
        """Power on, or the bus's reset."""
        self._feature_select = self._driver_feature_select = self._queue_select = 0
        self.device.reset()
        self._line.set_level(False)

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""
        selected = [self._feature_select, self._driver_feature_select, self._queue_select]
        return self.device.save() | {"selected": selected}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""
        selected = state.get("selected")
        if not isinstance(selected, list | tuple) or len(selected) != 3:
            raise ValueError("no state of a virtio card")
        self.device.restore(state)
        self._feature_select, self._driver_feature_select, self._queue_select = selected
        self._line.set_level(bool(self.device.isr) and not self._line.msix_enabled)

    # Registers: what reads and writes mean

    def _get_driver_feature(self) -> int:
        if self._driver_feature_select > 1:
            return 0
        return self.device.features >> 32 * self._driver_feature_select & 0xFFFFFFFF

    def _set_feature_select(self, value: int) -> None:
        self._feature_select = value

    def _set_driver_feature_select(self, value: int) -> None:
        self._driver_feature_select = value

    def _set_config_vector(self, value: int) -> None:
        self.device.revision += 1
        self.device.config_vector = self._vector(value)

    def _set_queue_select(self, value: int) -> None:
        self._queue_select = value

    def _set_queue_vector(self, value: int) -> None:
        ring = self._ring
        if ring is not None:
            self.device.revision += 1
            ring.vector = self._vector(value)

    def _set_queue_enable(self, value: int) -> None:
        ring = self._ring
        if ring is not None and value == 1 and not ring.enabled:
            self.device.enable(ring)

    def _get_legacy_page(self) -> int:
        ring = self._ring
        return 0 if ring is None or not ring.enabled else ring.descriptors >> 12 & 0xFFFFFFFF

    def _set_legacy_page(self, value: int) -> None:
        """A legacy ring's page is its address and its switch."""
        ring = self._ring
        if ring is None:
            return
        if ring.enabled:
            self.device.disable(ring)
        if value:
            ring.place_legacy(value << 12)
            self.device.enable(ring)

    def _legacy_kick(self, value: int) -> None:
        self.device.kick(value, legacy=True)


# --- registers as tables --------------------------------------------------------------------------

Getter = Callable[[VirtioPci], int]
Setter = Callable[[VirtioPci, int], None]


@dataclass(frozen=True, slots=True)
class _Field:
    """One register; without ``write`` it can't be written."""

    name: str
    offset: int
    size: int
    read: Getter
    write: Setter | None = None


def _zero(card: VirtioPci) -> int:
    return 0


def _half(offset: int, name: str, part: str, shift: int) -> _Field:
    """Half of a ring part's address."""
    return _Field(
        name,
        offset,
        4,
        lambda card: card._ring_number(part) >> shift & 0xFFFFFFFF,
        lambda card, value: card._set_ring_address(part, shift, value),
    )


def _number(name: str) -> Getter:
    return lambda card: card._ring_number(name)


_V = VirtioPci
COMMON_FIELDS = (
    _Field("device_feature_select", 0x00, 4, lambda c: c._feature_select, _V._set_feature_select),
    _Field("device_feature", 0x04, 4, lambda c: c._offered_half(False)),
    _Field(
        "driver_feature_select", 0x08, 4,
        lambda c: c._driver_feature_select, _V._set_driver_feature_select,
    ),
    _Field("driver_feature", 0x0C, 4, _V._get_driver_feature, _V._choose_half),
    _Field("config_msix_vector", 0x10, 2, lambda c: c.device.config_vector, _V._set_config_vector),
    _Field("num_queues", 0x12, 2, lambda c: len(c.device.rings)),
    _Field("device_status", 0x14, 1, lambda c: c.device.status, _V._set_status),
    _Field("config_generation", 0x15, 1, lambda c: c.device.generation),
    _Field("queue_select", 0x16, 2, lambda c: c._queue_select, _V._set_queue_select),
    _Field("queue_size", 0x18, 2, _number("size"), _V._set_ring_size),
    _Field(
        "queue_msix_vector", 0x1A, 2,
        lambda c: NO_VECTOR if c._ring is None else c._ring.vector, _V._set_queue_vector,
    ),
    _Field("queue_enable", 0x1C, 2, _number("enabled"), _V._set_queue_enable),
    _Field("queue_notify_off", 0x1E, 2, lambda c: c._queue_select),
    _half(0x20, "queue_desc_lo", "descriptors", 0),
    _half(0x24, "queue_desc_hi", "descriptors", 32),
    _half(0x28, "queue_driver_lo", "available", 0),
    _half(0x2C, "queue_driver_hi", "available", 32),
    _half(0x30, "queue_device_lo", "used", 0),
    _half(0x34, "queue_device_hi", "used", 32),
    _Field("queue_notif_config_data", 0x38, 2, _zero),
    _Field("queue_reset", 0x3A, 2, _zero, _V._reset_ring),
)  # fmt: skip
"""The common configuration structure (section 4.1.4.3)."""

LEGACY_FIELDS = (
    _Field("device_features", 0x00, 4, lambda c: c.device.offered(True)),
    _Field(
        "driver_features", 0x04, 4, lambda c: c.device.features & 0xFFFFFFFF,
        lambda c, value: c.device.choose_features(value, True),
    ),
    _Field("queue_address", 0x08, 4, _V._get_legacy_page, _V._set_legacy_page),
    _Field("queue_size", 0x0C, 2, _number("most")),
    _Field("queue_select", 0x0E, 2, lambda c: c._queue_select, _V._set_queue_select),
    _Field("queue_notify", 0x10, 2, _zero, _V._legacy_kick),
    _Field(
        "device_status", 0x12, 1, lambda c: c.device.status,
        lambda c, value: c._set_status(value, True),
    ),
    _Field("isr_status", 0x13, 1, _V._take_isr),
    _Field("config_msix_vector", 0x14, 2, lambda c: c.device.config_vector, _V._set_config_vector),
    _Field(
        "queue_msix_vector", 0x16, 2,
        lambda c: NO_VECTOR if c._ring is None else c._ring.vector, _V._set_queue_vector,
    ),
)  # fmt: skip
"""The legacy header, with the vectors that are there while MSI-X is in use."""


def _map(fields: tuple[_Field, ...]) -> list[_Field]:
    """Which field each byte belongs to."""
    found: list[_Field] = []
    for field in fields:
        if field.offset != len(found):
            raise TypeError(f"{field.name} isn't at {field.offset:#x}")
        found += [field] * field.size
    return found


_COMMON_MAP = _map(COMMON_FIELDS)
_LEGACY_MAP = _map(LEGACY_FIELDS)


def _load_fields(fields: list[_Field], card: VirtioPci, offset: int, size: int) -> int:
    """Read one register, or as much of several as the access covers."""
    value = done = 0
    while done < size and offset + done < len(fields):
        field = fields[offset + done]
        inside = offset + done - field.offset
        value |= field.read(card) >> 8 * inside << 8 * done
        done += field.size - inside
    return value & (1 << 8 * size) - 1


def _store_fields(
    fields: list[_Field], card: VirtioPci, offset: int, size: int, value: int
) -> None:
    """Write one register; several, if the access covers them; or a part of one."""
    done = 0
    while done < size and offset + done < len(fields):
        field = fields[offset + done]
        inside = offset + done - field.offset
        count = min(field.size - inside, size - done)
        part = value >> 8 * done & (1 << 8 * count) - 1
        if count != field.size and field.write is not None:
            mask = (1 << 8 * count) - 1 << 8 * inside
            part = field.read(card) & ~mask | part << 8 * inside
        if field.write is not None:
            field.write(card, part)
        done += count
