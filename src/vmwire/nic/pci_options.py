# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The properties of PCI cards that are served register by register: what all of them have, and the
Intel e1000 family's own.

Such a card has two halves, and so have its properties:

* *The slot's* (`SlotOptions`): bus, address, boot order, the expansion ROM. The slot belongs to the
  virtual machine, in which a `vfio-user-pci` device stands for the card: these properties are
  checked here by QEMU's rules and handed on to that device (`slot_properties`).
* *The card's* (`PciNicOptions` and what is derived from it): address on the wire, netdev, and
  whatever its chip knows. They stay here.

Nothing else is taken: a property of QEMU's that vmwire can't honour is an error, not a promise.
Defaults are QEMU's; where two versions of QEMU differ, there are the properties of both. Two that
QEMU lists can't be set at all, there as here: ``busnr``, which tells, and ``sriov-pf``, which these
cards are no part of.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from vmwire.options.table import option, record, table_of
from vmwire.options.values import (
    BOOL,
    IDENTIFIER,
    INT32,
    SIZE,
    STRING,
    UINT32,
    ParsedType,
    check_socket_path,
    format_mac,
    parse_mac,
    said,
)

NO_ROM_SIZE = 0xFFFFFFFF  # QEMU's "as large as the file"
BOUNCE_BUFFER_SIZE = 4096

_REFUSED = "Property '{device}.{key}' doesn't take value '{value}'"
_ADDRESS = re.compile(r"(?:0x)?([0-9a-f]{1,8})(?:\.(?:0x)?([0-9a-f]{1,8}))?", re.IGNORECASE)


def check_address(text: str) -> str:
    """A slot and perhaps a function, in hexadecimal: ``5``, ``1f.7``; ``-1`` is any. ValueError."""
    match = _ADDRESS.fullmatch(text)
    fits = match is not None and int(match[1], 16) < 32 and int(match[2] or "0", 16) < 8
    if not fits and text != "-1":
        raise ValueError("not a PCI address")
    return text


def _refuse(_text: str) -> str:
    raise ValueError("nobody can set it")


_MAC = ParsedType(result=bytes, parse=said(parse_mac, _REFUSED), written=format_mac)
_ADDR = ParsedType(result=str, parse=said(check_address, _REFUSED))
_BUSNR = ParsedType(
    name="busnr", result=str, parse=said(_refuse, "Property '{device}.{key}' is not writable")
)
_SRIOV = ParsedType(
    result=str, parse=said(_refuse, "user cannot create SR-IOV VF with this device type")
)


@dataclass(slots=True, kw_only=True)
class SlotOptions:
    """What the machine's side of any PCI card has."""

    acpi_index: int = option(UINT32, key="acpi-index", default=0)
    addr: str | None = option(
        _ADDR, help="slot and, if it isn't 0, function, both in hexadecimal: 6 or 06.0"
    )
    bootindex: int | None = option(INT32)
    bus: str | None = option(STRING, hidden=True)
    busnr: str | None = option(_BUSNR)
    failover_pair_id: str | None = option(STRING)
    multifunction: bool = option(BOOL, default=False)
    rombar: int = option(INT32, default=-1)
    romfile: str | None = option(STRING)
    romsize: int = option(UINT32, default=NO_ROM_SIZE)
    sriov_pf: str | None = option(_SRIOV, key="sriov-pf")
    x_max_bounce_buffer_size: int = option(
        SIZE, key="x-max-bounce-buffer-size", default=BOUNCE_BUFFER_SIZE
    )
    x_pcie_ari_nextfn_1: bool = option(BOOL, key="x-pcie-ari-nextfn-1", default=False)
    x_pcie_err_unc_mask: bool = option(BOOL, key="x-pcie-err-unc-mask", default=True)
    x_pcie_ext_tag: bool = option(BOOL, key="x-pcie-ext-tag", default=True)
    x_pcie_lnksta_dllla: bool = option(BOOL, key="x-pcie-lnksta-dllla", default=True)


@dataclass(slots=True, kw_only=True)
class PciNicOptions(SlotOptions):
    """What any PCI network card has.

    >>> card = E1000Options(id="n0", netdev="u", addr="5", bootindex=1)
    >>> card.driver, slot_properties(card)
    ('e1000', {'addr': '5', 'bootindex': 1})
    """

    ROM_FILE: ClassVar[str]
    """The expansion ROM that QEMU gives to such a card."""
    SHOWN: ClassVar[tuple[str, ...]] = ()
    """Properties of the slot's that show in what the card serves of its configuration space."""
    ROM_DEVICE: ClassVar[int | None] = None
    """The device id that QEMU writes into that ROM, where it isn't the ROM's own."""

    id: str | None = option(IDENTIFIER, hidden=True)
    netdev: str | None = option(STRING, help="id of the netdev that the card is joined to")
    mac: bytes | None = option(_MAC, help="address of the card, like 52:54:00:12:34:56")
    x_pcie_extcap_init: bool = option(
        BOOL,
        key="x-pcie-extcap-init",
        default=True,
        help="on/off, whether an empty list begins the extended space of a card that has nothing"
        " there: there is no such card here",
    )
    socket: str | None = option(
        STRING, ours=True, help="path of the vfio-user socket, instead of one in a private folder"
    )

    def __post_init__(self) -> None:
        check_socket_path(self.socket)

    @property
    def driver(self) -> str:
        """QEMU's name of the card."""
        return table_of(type(self)).name


@dataclass(slots=True, kw_only=True)
class E1000FamilyOptions(PciNicOptions):
    """What QEMU's three cards of the family have."""

    ROM_FILE: ClassVar[str] = "efi-e1000.rom"

    autonegotiation: bool = option(
        BOOL, default=True, help="on/off, whether the link takes its time to come up"
    )
    extra_mac_registers: bool = option(
        BOOL, default=True, help="on/off, whether there are the registers beside the usual ones"
    )
    init_vet: bool = option(
        BOOL, key="init-vet", default=True, help="on/off, whether VET is 8100h after a reset"
    )
    migrate_tso_props: bool = option(
        BOOL, default=True, help="on/off, whether a saved state holds a context for TSO"
    )
    mitigation: bool = option(
        BOOL, default=True, help="on/off, whether interrupts are moderated as the registers ask"
    )


FAMILY: dict[str, Any] = {"bus": "PCI", "description": "Intel Gigabit Ethernet"}


@record("device", "e1000", aliases=("e1000-82540em",), **FAMILY)
@dataclass(slots=True, kw_only=True)
class E1000Options(E1000FamilyOptions):
    """82540EM."""


@record("device", "e1000-82544gc", **FAMILY)
@dataclass(slots=True, kw_only=True)
class E1000Gc82544Options(E1000FamilyOptions):
    """82544GC, copper."""

    ROM_DEVICE: ClassVar[int | None] = 0x100C


@record("device", "e1000-82545em", **FAMILY)
@dataclass(slots=True, kw_only=True)
class E1000Em82545Options(E1000FamilyOptions):
    """82545EM, copper."""

    ROM_DEVICE: ClassVar[int | None] = 0x100F


SLOT_FIELDS = frozenset(field.name for field in dataclasses.fields(SlotOptions))


def slot_keys(record_type: type[Any]) -> list[str]:
    """The properties, as QEMU spells them, that belong to the slot."""
    entries = table_of(record_type).entries
    return [key for key, entry in entries.items() if entry.field in SLOT_FIELDS]


def slot_properties(card: Any) -> dict[str, Any]:
    """What the device that stands for the card in QEMU is told, as JSON values."""
    entries = table_of(type(card)).entries
    values = {key: getattr(card, entries[key].field) for key in slot_keys(type(card))}
    return {key: value for key, value in values.items() if value != entries[key].default}
