# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The registers of the 8254x family, and their bits.

Names, offsets and bits: "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
Manual" (Intel 317453), section 13. Values after reset are those of the cards that we stand in for.
Registers that only hold bits here (wake-up filters, diagnostics, LEDs) have no handler.
"""

from __future__ import annotations

from vmwire.nic.e1000.shared_registers import WINDOW, SharedRegisters
from vmwire.nic.registers import Array, Register

# CTRL
CTRL_FD = 1 << 0
CTRL_SLU = 1 << 6
CTRL_FRCSPD = 1 << 11
CTRL_FRCDPX = 1 << 12
CTRL_RST = 1 << 26
CTRL_RFCE = 1 << 27
CTRL_VME = 1 << 30
CTRL_PHY_RST = 1 << 31
CTRL_SPEED_SHIFT = 8

# STATUS
STATUS_FD = 1 << 0
STATUS_LU = 1 << 1
STATUS_SPEED_SHIFT = 6
STATUS_ASDV_SHIFT = 8

CTRL_EXT_EE_RST = 1 << 13

# ICR, ICS, IMS, IMC
TXDW = 1 << 0
TXQE = 1 << 1
LSC = 1 << 2
RXSEQ = 1 << 3
RXDMT0 = 1 << 4
RXO = 1 << 6
RXT0 = 1 << 7
MDAC = 1 << 9
TXD_LOW = 1 << 15
SRPD = 1 << 16

# RCTL
RCTL_EN = 1 << 1
RCTL_SBP = 1 << 2
RCTL_UPE = 1 << 3
RCTL_MPE = 1 << 4
RCTL_LPE = 1 << 5
RCTL_LBM = 3 << 6
RCTL_BAM = 1 << 15
RCTL_VFE = 1 << 18
RCTL_CFIEN = 1 << 19
RCTL_CFI = 1 << 20
RCTL_DPF = 1 << 22
RCTL_PMCF = 1 << 23
RCTL_BSEX = 1 << 25
RCTL_SECRC = 1 << 26
RCTL_WRITABLE = 0x06DFB3FE

TCTL_EN = 1 << 1
TCTL_PSP = 1 << 3
RDTR_FPD = 1 << 31

RXCSUM_IPOFL = 1 << 8
RXCSUM_TUOFL = 1 << 9
RXCSUM_IPV6OFL = 1 << 10

RAH_AV = 1 << 31


class Registers(SharedRegisters, size=WINDOW):
    """The memory window, 128 KiB."""

    # General
    CTRL = Register(0x0000, reset=0x00140240, mask=0x7FFFFFFF & ~CTRL_RST)
    STATUS = Register(0x0008, reset=0x80080783, mask=0)
    EECD = Register(0x0010, reset=0x00000188, mask=0)
    CTRL_EXT = Register(0x0018, mask=0xFFFFFFFF & ~CTRL_EXT_EE_RST)
    FLA = Register(0x001C)
    LEDCTL = Register(0x0E00, reset=0x00000602)
    PBA = Register(0x1000, reset=0x00100030)

    # Interrupts

    # Receive
    RCTL = Register(0x0100, mask=RCTL_WRITABLE)
    FCRTL = Register(0x2160, mask=0x8000FFF8)
    FCRTH = Register(0x2168, mask=0x8000FFF8)
    RDFH = Register(0x2410, mask=0x1FFF)
    RDFT = Register(0x2418, mask=0x1FFF)
    RDFHS = Register(0x2420, mask=0x1FFF)
    RDFTS = Register(0x2428, mask=0x1FFF)
    RDFPC = Register(0x2430, mask=0x1FFF)
    RXDCTL = Register(0x2828)
    RXCSUM = Register(0x5000, mask=0x7FF)

    # Transmit
    TCTL_EXT = Register(0x0404)
    TIPG = Register(0x0410, mask=0x3FFFFFFF)
    TBT = Register(0x0448)
    AIFS = Register(0x0458, mask=0xFFFF)
    TXDMAC = Register(0x3000)
    TDFH = Register(0x3410, mask=0x1FFF)
    TDFT = Register(0x3418, mask=0x1FFF)
    TDFHS = Register(0x3420, mask=0x1FFF)
    TDFTS = Register(0x3428, mask=0x1FFF)
    TDFPC = Register(0x3430, mask=0x1FFF)
    TXDCTL = Register(0x3828)
    TSPMT = Register(0x3830)

    # Power management and manageability
    WUC = Register(0x5800)
    WUFC = Register(0x5808)
    WUS = Register(0x5810, mask=0)
    MANC = Register(0x5820, reset=0x00222300)
    IPAV = Register(0x5838)
    IP4AT = Array(0x5840, 4, step=8)
    IP6AT = Array(0x5880, 4)
    WUPL = Register(0x5900, mask=0)
    WUPM = Array(0x5A00, 32)
    FFLT = Array(0x5F00, 4, step=8)
    FFMT = Array(0x9000, 128, step=8)
    FFVT = Array(0x9800, 128, step=8)


_DIAGNOSTIC = "RDFH RDFT RDFHS RDFTS RDFPC TDFH TDFT TDFHS TDFTS TDFPC AIFS"
_POWER = "WUC WUS MANC IPAV IP4AT IP6AT WUPL WUPM FFLT FFMT FFVT"
_COUNTERS = (
    "RNBC XONRXC XONTXC XOFFRXC XOFFTXC FCRUC RUC RFC ROC RJC SEC CEXTERR RLEC"
    " ALGNERRC SYMERRS RXERRC SCC ECOL MCC LATECOL COLC DC TNCRS"
    " MGTPRC MGTPDC MGTPTC TSCTC TSCTFC"
)
EXTRA = frozenset(f"{_DIAGNOSTIC} {_POWER} {_COUNTERS}".split())
"""What the property ``extra_mac_registers=off`` takes away: these then read as zero."""
