# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The registers of the 8254x family, and their bits.

Names, offsets and bits: "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
Manual" (Intel 317453), section 13. Values after reset are those of the cards that we stand in for.
Registers that only hold bits here (wake-up filters, diagnostics, LEDs) have no handler.
"""

from __future__ import annotations

from vmwire.nic.registers import Array, Bank, Register

WINDOW = 0x20000

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


class Registers(Bank, size=WINDOW):
    """The memory window, 128 KiB."""

    # General
    CTRL = Register(0x0000, reset=0x00140240, mask=0x7FFFFFFF & ~CTRL_RST)
    CTRL_DUP = Register(0x0004, mask=0)
    STATUS = Register(0x0008, reset=0x80080783, mask=0)
    EECD = Register(0x0010, reset=0x00000188, mask=0)
    EERD = Register(0x0014, mask=0)
    CTRL_EXT = Register(0x0018, mask=0xFFFFFFFF & ~CTRL_EXT_EE_RST)
    FLA = Register(0x001C)
    MDIC = Register(0x0020, mask=0)
    FCAL = Register(0x0028)
    FCAH = Register(0x002C, mask=0xFFFF)
    FCT = Register(0x0030, mask=0xFFFF)
    VET = Register(0x0038, reset=0x8100, mask=0xFFFF)
    FCTTV = Register(0x0170, mask=0xFFFF)
    TXCW = Register(0x0178, mask=0xC000FFFF)
    RXCW = Register(0x0180, mask=0)
    LEDCTL = Register(0x0E00, reset=0x00000602)
    PBA = Register(0x1000, reset=0x00100030)

    # Interrupts
    ICR = Register(0x00C0, mask=0)
    ITR = Register(0x00C4, mask=0xFFFF)
    ICS = Register(0x00C8, mask=0)
    IMS = Register(0x00D0, mask=0)
    IMC = Register(0x00D8, mask=0)

    # Receive
    RCTL = Register(0x0100, mask=RCTL_WRITABLE)
    FCRTL = Register(0x2160, mask=0x8000FFF8)
    FCRTH = Register(0x2168, mask=0x8000FFF8)
    RDFH = Register(0x2410, mask=0x1FFF)
    RDFT = Register(0x2418, mask=0x1FFF)
    RDFHS = Register(0x2420, mask=0x1FFF)
    RDFTS = Register(0x2428, mask=0x1FFF)
    RDFPC = Register(0x2430, mask=0x1FFF)
    RDBAL = Register(0x2800, mask=0xFFFFFFF0)
    RDBAH = Register(0x2804)
    RDLEN = Register(0x2808, mask=0x000FFF80)
    RDH = Register(0x2810, mask=0xFFFF)
    RDT = Register(0x2818, mask=0xFFFF)
    RDTR = Register(0x2820, mask=0xFFFF)
    RXDCTL = Register(0x2828)
    RADV = Register(0x282C, mask=0xFFFF)
    RSRPD = Register(0x2C00, mask=0xFFF)
    RXCSUM = Register(0x5000, mask=0x7FF)

    # Transmit
    TCTL = Register(0x0400)
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
    TDBAL = Register(0x3800, mask=0xFFFFFFF0)
    TDBAH = Register(0x3804)
    TDLEN = Register(0x3808, mask=0x000FFF80)
    TDH = Register(0x3810, mask=0xFFFF)
    TDT = Register(0x3818, mask=0xFFFF)
    TIDV = Register(0x3820, mask=0xFFFF)
    TXDCTL = Register(0x3828)
    TADV = Register(0x382C, mask=0xFFFF)
    TSPMT = Register(0x3830)

    # Statistics: all of them end at all ones and are cleared by reading (13.7)
    CRCERRS = Register(0x4000, mask=0, clear_on_read=True)
    ALGNERRC = Register(0x4004, mask=0, clear_on_read=True)
    SYMERRS = Register(0x4008, mask=0, clear_on_read=True)
    RXERRC = Register(0x400C, mask=0, clear_on_read=True)
    MPC = Register(0x4010, mask=0, clear_on_read=True)
    SCC = Register(0x4014, mask=0, clear_on_read=True)
    ECOL = Register(0x4018, mask=0, clear_on_read=True)
    MCC = Register(0x401C, mask=0, clear_on_read=True)
    LATECOL = Register(0x4020, mask=0, clear_on_read=True)
    COLC = Register(0x4028, mask=0, clear_on_read=True)
    DC = Register(0x4030, mask=0, clear_on_read=True)
    TNCRS = Register(0x4034, mask=0, clear_on_read=True)
    SEC = Register(0x4038, mask=0, clear_on_read=True)
    CEXTERR = Register(0x403C, mask=0, clear_on_read=True)
    RLEC = Register(0x4040, mask=0, clear_on_read=True)
    XONRXC = Register(0x4048, mask=0, clear_on_read=True)
    XONTXC = Register(0x404C, mask=0, clear_on_read=True)
    XOFFRXC = Register(0x4050, mask=0, clear_on_read=True)
    XOFFTXC = Register(0x4054, mask=0, clear_on_read=True)
    FCRUC = Register(0x4058, mask=0, clear_on_read=True)
    PRC64 = Register(0x405C, mask=0, clear_on_read=True)
    PRC127 = Register(0x4060, mask=0, clear_on_read=True)
    PRC255 = Register(0x4064, mask=0, clear_on_read=True)
    PRC511 = Register(0x4068, mask=0, clear_on_read=True)
    PRC1023 = Register(0x406C, mask=0, clear_on_read=True)
    PRC1522 = Register(0x4070, mask=0, clear_on_read=True)
    GPRC = Register(0x4074, mask=0, clear_on_read=True)
    BPRC = Register(0x4078, mask=0, clear_on_read=True)
    MPRC = Register(0x407C, mask=0, clear_on_read=True)
    GPTC = Register(0x4080, mask=0, clear_on_read=True)
    GORCL = Register(0x4088, mask=0)
    GORCH = Register(0x408C, mask=0)
    GOTCL = Register(0x4090, mask=0)
    GOTCH = Register(0x4094, mask=0)
    RNBC = Register(0x40A0, mask=0, clear_on_read=True)
    RUC = Register(0x40A4, mask=0, clear_on_read=True)
    RFC = Register(0x40A8, mask=0, clear_on_read=True)
    ROC = Register(0x40AC, mask=0, clear_on_read=True)
    RJC = Register(0x40B0, mask=0, clear_on_read=True)
    MGTPRC = Register(0x40B4, mask=0, clear_on_read=True)
    MGTPDC = Register(0x40B8, mask=0, clear_on_read=True)
    MGTPTC = Register(0x40BC, mask=0, clear_on_read=True)
    TORL = Register(0x40C0, mask=0)
    TORH = Register(0x40C4, mask=0)
    TOTL = Register(0x40C8, mask=0)
    TOTH = Register(0x40CC, mask=0)
    TPR = Register(0x40D0, mask=0, clear_on_read=True)
    TPT = Register(0x40D4, mask=0, clear_on_read=True)
    PTC64 = Register(0x40D8, mask=0, clear_on_read=True)
    PTC127 = Register(0x40DC, mask=0, clear_on_read=True)
    PTC255 = Register(0x40E0, mask=0, clear_on_read=True)
    PTC511 = Register(0x40E4, mask=0, clear_on_read=True)
    PTC1023 = Register(0x40E8, mask=0, clear_on_read=True)
    PTC1522 = Register(0x40EC, mask=0, clear_on_read=True)
    MPTC = Register(0x40F0, mask=0, clear_on_read=True)
    BPTC = Register(0x40F4, mask=0, clear_on_read=True)
    TSCTC = Register(0x40F8, mask=0, clear_on_read=True)
    TSCTFC = Register(0x40FC, mask=0, clear_on_read=True)

    # Receive addresses and filters
    MTA = Array(0x5200, 128)
    RAL = Array(0x5400, 16, step=8)
    RAH = Array(0x5404, 16, step=8, mask=0x8003FFFF)
    VFTA = Array(0x5600, 128)

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
