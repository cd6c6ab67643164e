# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of many PCI network cards, as far as their configuration space is concerned.

They show that the bus can declare each of them; what a product declares is with its chip.
"""

from __future__ import annotations

from dataclasses import replace

from vmwire.bus.pci.capabilities import (
    AlternativeRouting,
    Capability,
    ErrorReporting,
    ExtendedCapability,
    Msi,
    MsiX,
    Opaque,
    PciExpress,
    PowerManagement,
    SerialNumber,
)
from vmwire.bus.pci.config import Bar, Description

ETHERNET = 0x020000
K = 1024
MAC_HIGH, MAC_LOW = 0x525400, 0x123456
VIRTIO_SUBSYSTEM = 0x1AF4, 0x1100
ROM = 256 * K


def io(index: int, size: int) -> Bar:
    return Bar(index, "io", size)


def memory(index: int, size: int, *, wide: bool = False, prefetchable: bool = False) -> Bar:
    return Bar(index, "memory", size, wide, prefetchable)


def card(
    vendor: int,
    device: int,
    revision: int,
    *bars: Bar,
    subsystem: tuple[int, int] = VIRTIO_SUBSYSTEM,
    capabilities: tuple[Capability, ...] = (),
    rom_size: int = ROM,
    class_code: int = ETHERNET,
    pin: int = 1,
) -> Description:
    return Description(
        vendor=vendor,
        device=device,
        revision=revision,
        class_code=class_code,
        subsystem_vendor=subsystem[0],
        subsystem=subsystem[1],
        interrupt_pin=pin,
        bars=bars,
        rom_size=rom_size,
        capabilities=capabilities,
    )


def e1000(device: int) -> Description:
    return card(0x8086, device, 3, memory(0, 128 * K), io(1, 64))


def i8255x(
    device: int, revision: int, *, power: bool, subsystem: tuple[int, int] = VIRTIO_SUBSYSTEM
) -> Description:
    asleep = PowerManagement(offset=0xDC, capabilities=0x7E21, control_mask=0)
    plain = card(
        0x8086,
        device,
        revision,
        memory(0, 4 * K, prefetchable=True),
        io(1, 64),
        memory(2, 128 * K),
        rom_size=128 * K,
        capabilities=(asleep,) if power else (),
        subsystem=subsystem,
    )
    return replace(plain, status=0x0280, latency=0x20, min_grant=8, max_latency=0x18)


def e1000e(place: str) -> Description:
    capabilities: tuple[Capability, ...] = (
        PowerManagement(offset=0xC8, capabilities=0x22),
        Msi(offset=0xD0),
        PciExpress(offset=0xE0, version=1, in_root=place == "q35"),
        MsiX(offset=0xA0, vectors=5, table_bar=3, pending_bar=3, pending_offset=0x2000),
    )
    if place != "pc":
        number = MAC_LOW | 0xFFFF << 24 | MAC_HIGH << 40
        capabilities += (ErrorReporting(offset=0x100), SerialNumber(offset=0x140, number=number))
    return card(
        0x8086,
        0x10D3,
        0,
        memory(0, 128 * K),
        memory(1, 128 * K),
        io(2, 32),
        memory(3, 16 * K),
        subsystem=(0x8086, 0),
        capabilities=capabilities,
    )


def igb(place: str) -> Description:
    """Without SR-IOV, which is the last of its extended capabilities."""
    extended: tuple[ExtendedCapability, ...] = (
        ErrorReporting(offset=0x100, version=1),
        AlternativeRouting(offset=0x150),
    )
    return card(
        0x8086,
        0x10C9,
        1,
        memory(0, 128 * K),
        memory(1, 128 * K),
        io(2, 32),
        memory(3, 16 * K, wide=True),
        capabilities=(
            PowerManagement(offset=0x40, capabilities=0x22),
            Msi(offset=0x50, maskable=True),
            MsiX(offset=0x70, vectors=10, table_bar=3, pending_bar=3, pending_offset=0x2000),
            PciExpress(
                offset=0xA0,
                in_root=place == "q35",
                device=0x10008020,
                device2=0x300000,
                control2_mask=0x8000,
            ),
            *(extended if place != "pc" else ()),
        ),
        rom_size=0,
    )


def vmxnet3(place: str) -> Description:
    capabilities: tuple[Capability, ...] = (
        MsiX(offset=0x9C, vectors=25, table_bar=2, pending_bar=2, pending_offset=0x1000),
        Msi(offset=0x84),
    )
    if place != "pc":
        express = PciExpress(offset=0x48, in_root=place == "q35", device2=0x300000)
        number = 0xFF005452_563412FE
        capabilities = (express, *capabilities, SerialNumber(offset=0x100, number=number))
    return card(
        0x15AD,
        0x07B0,
        1,
        memory(0, 4 * K),
        memory(1, 4 * K),
        memory(2, 8 * K),
        subsystem=(0x15AD, 0x07B0),
        capabilities=capabilities,
    )


def virtio_capabilities(start: int) -> tuple[Capability, ...]:
    """Where virtio's structures are (virtio 1.2, section 4.1.4), last one first."""

    def structure(offset: int, kind: int, place: int, extra: bytes = b"") -> Opaque:
        where = (4, 0, 0, 0, *place.to_bytes(4, "little"), 0, 0x10, 0, 0)
        return Opaque(offset=offset, id=9, body=bytes((16 + len(extra), kind, *where)) + extra)

    window = b"\0\0" + b"\xff\0\0\0" + b"\xff" * 12
    return (
        Opaque(offset=start + 0x44, id=9, body=b"\x14\x05" + bytes(16), mask=window),
        structure(start + 0x30, 2, 0x3000, b"\4\0\0\0"),
        structure(start + 0x20, 4, 0x2000),
        structure(start + 0x10, 3, 0x1000),
        structure(start, 1, 0),
    )


def virtio(place: str, *, modern: bool, legacy: bool) -> Description:
    express = place == "q35rp"
    start = 0x84 if express else 0x40
    capabilities: tuple[Capability, ...] = (
        MsiX(offset=start + 0x58, vectors=4, table_bar=1, pending_bar=1, pending_offset=0x800),
        *virtio_capabilities(start),
    )
    if express:
        capabilities += (
            PowerManagement(offset=0x7C, capabilities=3),
            PciExpress(offset=0x40, device=0x10008020, device2=0x300000),
        )
    bars = (memory(1, 4 * K), memory(4, 16 * K, wide=True, prefetchable=True))
    return card(
        0x1AF4,
        0x1041 if modern else 0x1000,
        1 if modern else 0,
        *((io(0, 32), *bars) if legacy else bars),
        subsystem=(0x1AF4, 0x1100) if modern else (0x1AF4, 1),
        capabilities=capabilities,
    )


def any_virtio(place: str) -> Description:
    modern = place == "q35rp"
    return virtio(place, modern=modern, legacy=not modern)


def rocker(place: str) -> Description:
    capability = MsiX(offset=0x40, vectors=4, table_bar=1, pending_bar=1, pending_offset=0x1000)
    return card(
        0x1B36,
        0x0006,
        1,
        memory(0, 8 * K),
        memory(1, 8 * K),
        class_code=0x028000,
        pin=0,
        rom_size=0,
        capabilities=(capability,),
    )


PCNET = replace(
    card(0x1022, 0x2000, 0x10, io(0, 32), memory(1, 32), subsystem=(0, 0)),
    status=0x0280,
    min_grant=6,
    max_latency=0xFF,
)
RTL8139 = replace(card(0x10EC, 0x8139, 0x20, io(0, 256), memory(1, 256)), capability_pointer=0xDC)

CONVENTIONAL = {
    "e1000": e1000(0x100E),
    "e1000-82544gc": e1000(0x100C),
    "e1000-82545em": e1000(0x100F),
    "i82550": i8255x(0x1209, 0x0E, power=True),
    "i82551": i8255x(0x1209, 0x0F, power=True),
    "i82557a": i8255x(0x1229, 0x01, power=False),
    "i82557b": i8255x(0x1229, 0x02, power=False),
    "i82557c": i8255x(0x1229, 0x03, power=False),
    "i82558a": i8255x(0x1229, 0x04, power=True),
    "i82558b": i8255x(0x1229, 0x05, power=True),
    "i82559a": i8255x(0x1229, 0x06, power=True),
    "i82559b": i8255x(0x1229, 0x07, power=True),
    "i82559c": i8255x(0x1229, 0x0C, power=True, subsystem=(0x8086, 0x0040)),
    "i82559er": i8255x(0x1209, 0x09, power=True),
    "i82562": i8255x(0x1209, 0x0E, power=True),
    "i82801": i8255x(0x2449, 0x03, power=True),
    "ne2k_pci": card(0x10EC, 0x8029, 0, io(0, 256)),
    "pcnet": PCNET,
    "rtl8139": RTL8139,
    "tulip": card(
        0x1011, 0x0019, 0, io(0, 128), memory(1, 128), subsystem=(0x103C, 0x104F), rom_size=0
    ),
}


def describe(name: str, place: str) -> Description:
    """Return a card's description on a ``pc``, on a ``q35``'s root bus or behind a root port."""
    match name:
        case "e1000e":
            return e1000e(place)
        case "igb":
            return igb(place)
        case "vmxnet3":
            return vmxnet3(place)
        case "virtio-net-pci":
            return any_virtio(place)
        case "virtio-net-pci-non-transitional":
            return virtio(place, modern=True, legacy=False)
        case "virtio-net-pci-transitional":
            return virtio(place, modern=False, legacy=True)
        case "rocker":
            return rocker(place)
        case _:
            return CONVENTIONAL[name]
