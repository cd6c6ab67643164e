# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The registers of the 82574L, and their bits.

Names, offsets and bits: Intel 82574 GbE Controller Family data sheet (317694), section 10.2. Values
after reset are those of the card that we stand in for; what its driver's register test looks at
has the bits that the test expects. Registers that only hold bits here (wake-up and manageability
filters, PCI Express tuning, flash, LEDs) have no handler.

``ALIASES`` are the places that older drivers know registers by (section 10.2.1).
"""

from __future__ import annotations

from collections.abc import Mapping

from vmwire.nic.e1000.registers import CTRL_EXT_EE_RST, CTRL_RST, RCTL_WRITABLE
from vmwire.nic.e1000.shared_registers import WINDOW, SharedRegisters
from vmwire.nic.registers import Array, Register

QUEUES = 2
VECTORS = 5

CTRL_MASTER_DISABLE = 1 << 2
STATUS_PHYRA = 1 << 10
EEMNGCTL_CFG_DONE = 1 << 18
STATUS_MASTER_ENABLED = 1 << 19

CTRL_EXT_EIAME = 1 << 24
CTRL_EXT_IAME = 1 << 27
CTRL_EXT_PBA_CLR = 1 << 31

# ICR and its kin, beside what the 8254x has
ACK = 1 << 17
MNG = 1 << 18
RXQ = (1 << 20, 1 << 21)
TXQ = (1 << 22, 1 << 23)
OTHER = 1 << 24
ASSERTED = 1 << 31
WRITABLE_CAUSES = 0x01F7FFFF

IVAR_VALID = 1 << 3

RCTL_SPLIT = 1 << 10
TARC_ENABLE = 1 << 10

RXCSUM_IPPCSE = 1 << 12
RXCSUM_PCSD = 1 << 13

RFCTL_IPV6_DIS = 1 << 10
RFCTL_IPV6XSUM_DIS = 1 << 11
RFCTL_ACKDIS = 1 << 12
RFCTL_ACKD_DIS = 1 << 13
RFCTL_IPFRSP_DIS = 1 << 14
RFCTL_EXSTEN = 1 << 15
RFCTL_IPV6_EX_DIS = 1 << 16

MRQC_ENABLE_MASK = 3
MRQC_RSS = 1
MRQC_TCP_IPV4 = 1 << 16
MRQC_IPV4 = 1 << 17
MRQC_TCP_IPV6 = 1 << 18
MRQC_IPV6_EX = 1 << 19
MRQC_IPV6 = 1 << 20

TSYNC_VALID = 1 << 0
TSYNC_ENABLED = 1 << 4
TSYNC_RX_WRITABLE = 0x3E

SWSM_SMBI = 1 << 0


class Registers(SharedRegisters, size=WINDOW):
    """The memory window, 128 KiB."""

    # General
    CTRL = Register(0x0000, reset=0x00140241, mask=0x7FFFFFFF & ~CTRL_RST)
    STATUS = Register(0x0008, reset=0x00080283, mask=0)
    EECD = Register(0x0010, reset=0x00000300, mask=0)
    EERD = Register(0x0014, reset=0x00000002, mask=0)
    CTRL_EXT = Register(0x0018, mask=0xFFFFFFFF & ~CTRL_EXT_EE_RST)
    FLA = Register(0x001C)
    LEDCTL = Register(0x0E00, reset=0x00068302)
    EXTCNF_CTRL = Register(0x0F00, reset=0x00000008)
    EXTCNF_SIZE = Register(0x0F08)
    PHY_CTRL = Register(0x0F10, reset=0x0000030D)
    PBA = Register(0x1000, reset=0x00140014)
    PBS = Register(0x1008, reset=0x00000028, mask=0x3F)
    EEMNGCTL = Register(0x1010, reset=0x80000000)
    FLASHT = Register(0x1028, reset=0x00000002, mask=0xFFFF)
    EEWR = Register(0x102C, reset=0x00000002, mask=0)
    FLSWCTL = Register(0x1030, reset=0xC0000000)
    FLSWDATA = Register(0x1034)
    FLSWCNT = Register(0x1038)
    FLOP = Register(0x103C)
    FLOL = Register(0x1050, reset=0x00000001)

    # Interrupts
    EIAC = Register(0x00DC)
    IAM = Register(0x00E0)
    IVAR = Register(0x00E4)
    EITR = Array(0x00E8, VECTORS, mask=0xFFFF)

    # Receive
    RCTL = Register(0x0100, mask=RCTL_WRITABLE | 0x78000C00)
    FCRTL = Register(0x2160, mask=0x8000FFF8)
    FCRTH = Register(0x2168, mask=0x0000FFF8)
    PSRCTL = Register(0x2170, reset=0x00040402)
    RDFH = Register(0x2410, mask=0x1FFF)
    RDFT = Register(0x2418, mask=0x1FFF)
    RDFHS = Register(0x2420, mask=0x1FFF)
    RDFTS = Register(0x2428, mask=0x1FFF)
    RDFPC = Register(0x2430, mask=0x1FFF)
    RXDCTL = Register(0x2828, reset=0x00010000)
    RDBAL1 = Register(0x2900, mask=0xFFFFFFF0)
    RDBAH1 = Register(0x2904)
    RDLEN1 = Register(0x2908, mask=0x000FFF80)
    RDH1 = Register(0x2910, mask=0xFFFF)
    RDT1 = Register(0x2918, mask=0xFFFF)
    RXDCTL1 = Register(0x2928, reset=0x00010000)
    RAID = Register(0x2C08, mask=0xFFFF)
    RXCSUM = Register(0x5000, reset=0x00000300)
    RFCTL = Register(0x5008)
    MAVTV = Array(0x5010, 4)
    MRQC = Register(0x5818)
    RETA = Array(0x5C00, 32)
    RSSRK = Array(0x5C80, 10)

    # Transmit
    TCTL_EXT = Register(0x0404)
    TIPG = Register(0x0410, reset=0x00602008, mask=0x3FFFFFFF)
    AIT = Register(0x0458, mask=0xFFFF)
    TDFH = Register(0x3410, reset=0x00000600, mask=0x1FFF)
    TDFT = Register(0x3418, reset=0x00000600, mask=0x1FFF)
    TDFHS = Register(0x3420, reset=0x00000600, mask=0x1FFF)
    TDFTS = Register(0x3428, reset=0x00000600, mask=0x1FFF)
    TDFPC = Register(0x3430, mask=0x1FFF)
    TXDCTL = Register(0x3828)
    TARC0 = Register(0x3840, reset=0x00000403, mask=0x780007FF)
    TDBAL1 = Register(0x3900, mask=0xFFFFFFF0)
    TDBAH1 = Register(0x3904)
    TDLEN1 = Register(0x3908, mask=0x000FFF80)
    TDH1 = Register(0x3910, mask=0xFFFF)
    TDT1 = Register(0x3918, mask=0xFFFF)
    TXDCTL1 = Register(0x3928)
    TARC1 = Register(0x3940, reset=0x00000403, mask=0x780007FF)

    # Statistics of interrupts
    IAC = Register(0x4100, mask=0, clear_on_read=True)
    ICRXPTC = Register(0x4104, mask=0, clear_on_read=True)
    ICRXATC = Register(0x4108, mask=0, clear_on_read=True)
    ICTXPTC = Register(0x410C, mask=0, clear_on_read=True)
    ICTXATC = Register(0x4110, mask=0, clear_on_read=True)
    ICTXQEC = Register(0x4118, mask=0, clear_on_read=True)
    ICTXQMTC = Register(0x411C, mask=0, clear_on_read=True)
    ICRXDMTC = Register(0x4120, mask=0, clear_on_read=True)
    ICRXOC = Register(0x4124, mask=0, clear_on_read=True)

    # Power management and manageability
    WUC = Register(0x5800)
    WUFC = Register(0x5808)
    WUS = Register(0x5810)
    MANC = Register(0x5820, reset=0x10000000)
    MFVAL = Register(0x5824)
    MFUTP = Array(0x5828, 2, step=8)
    IPAV = Register(0x5838)
    IP4AT = Array(0x5840, 7)
    MANC2H = Register(0x5860)
    IP6AT = Array(0x5880, 4)
    MDEF = Array(0x5890, 8)
    WUPL = Register(0x5900, mask=0)
    WUPM = Array(0x5A00, 32)
    FFLT = Array(0x5F00, 4, step=8)
    FTFT = Array(0x9400, 128, step=8)
    FFMT = Array(0x9000, 128, step=8)
    FFVT = Array(0x9800, 128, step=8)

    # PCI Express, semaphores
    GCR = Register(0x5B00, reset=0x06800200, mask=0xFFFFFFFF & ~0x06800000)
    FUNCTAG = Register(0x5B08)
    GSCL = Array(0x5B10, 4)
    GSCN = Array(0x5B20, 4)
    FACTPS = Register(0x5B30, reset=0x20000004)
    SWSM = Register(0x5B50, mask=0xF)
    FWSM = Register(0x5B54, mask=0)
    GCR2 = Register(0x5B64)
    PBACLR = Register(0x5B68, mask=0x1F)

    # Time stamps
    SYSTIML = Register(0xB600)
    SYSTIMH = Register(0xB604)
    TIMINCA = Register(0xB608)
    TIMADJL = Register(0xB60C)
    TIMADJH = Register(0xB610)
    TSYNCTXCTL = Register(0xB614, mask=TSYNC_ENABLED)
    TXSTMPL = Register(0xB618, mask=0)
    TXSTMPH = Register(0xB61C, mask=0)
    TSYNCRXCTL = Register(0xB620, mask=TSYNC_RX_WRITABLE)
    RXSTMPL = Register(0xB624, mask=0)
    RXSTMPH = Register(0xB628, mask=0)
    RXSATRL = Register(0xB62C, mask=0)
    RXSATRH = Register(0xB630, mask=0)
    RXMTRL = Register(0xB634, reset=0x000088F7)
    RXUDP = Register(0xB638, reset=0x00000319)


_RUNS = (
    (0x0040, Registers.RAL.offset, 0x80),
    (0x0108, Registers.RDTR.offset, 4),
    (0x0110, Registers.RDBAL.offset, 12),
    (0x0120, Registers.RDH.offset, 4),
    (0x0128, Registers.RDT.offset, 4),
    (0x0160, Registers.FCRTH.offset, 4),
    (0x0168, Registers.FCRTL.offset, 4),
    (0x0420, Registers.TDBAL.offset, 12),
    (0x0430, Registers.TDH.offset, 4),
    (0x0438, Registers.TDT.offset, 4),
    (0x0440, Registers.TIDV.offset, 4),
    (0x0600, Registers.VFTA.offset, 0x200),
    (0x8000, Registers.RDFH.offset, 4),
    (0x8008, Registers.RDFT.offset, 4),
    (0x8010, Registers.TDFH.offset, 4),
    (0x8018, Registers.TDFT.offset, 4),
)
ALIASES: Mapping[int, int] = {
    start + at: target + at for start, target, size in _RUNS for at in range(0, size, 4)
}
Registers.add_aliases(ALIASES)
