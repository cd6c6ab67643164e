# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The properties of the 82574L, beside those of all PCI network cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vmwire.nic.pci_options import FAMILY, PciNicOptions
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, UINT16, IntType

UINT8 = IntType("uint8", bits=8, signed=False)

_TABLE = {**FAMILY, "description": "Intel 82574L GbE Controller"}


@record("device", "e1000e", **_TABLE)
@dataclass(slots=True, kw_only=True)
class E1000EOptions(PciNicOptions):
    """82574L.

    >>> E1000EOptions(id="n0", netdev="u").driver
    'e1000e'
    """

    ROM_FILE: ClassVar[str] = "efi-e1000e.rom"
    SHOWN: ClassVar[tuple[str, ...]] = ("x-pcie-err-unc-mask", "x-pcie-ext-tag")

    disable_vnet_hdr: int = option(
        UINT8,
        default=0,
        help="1: nothing unfinished passes between card and netdev, no superframes, no open sums",
    )
    init_vet: bool = option(
        BOOL, key="init-vet", default=True, help="on/off, whether VET is 8100h after a reset"
    )
    migrate_timadj: bool = option(
        BOOL, key="migrate-timadj", default=True, help="on/off, whether a saved state holds TIMADJ"
    )
    subsys: int = option(UINT16, default=0, help="id of the subsystem")
    subsys_ven: int = option(UINT16, default=0x8086, help="vendor of the subsystem")
