# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the 82574L has beside the 8254x (``e1000_spec``), or has in another way, as its drivers know
it: Intel's 82574 data sheet, chapters 6 (NVM map), 7 (descriptors, interrupts, checksums, RSS, time
stamps) and 10 (registers).
"""

from __future__ import annotations

from struct import Struct

DEVICE_ID = 0x10D3

# --- registers (section 10.2)

EERD = 0x0014
FEXTNVM = 0x0028
ITR = 0x00C4
EIAC = 0x00DC
IAM = 0x00E0
IVAR = 0x00E4
EITR = 0x00E8
"""The first of five, one for each vector."""
EXTCNF_CTRL = 0x0F00
EXTCNF_SIZE = 0x0F08
PBS = 0x1008
EEMNGCTL = 0x1010
EEWR = 0x102C
PSRCTL = 0x2170
TARC = 0x3840
QUEUE_STRIDE = 0x100
"""How far a register of the second queue is behind the first queue's."""
RFCTL = 0x5008
MRQC = 0x5818
GCR = 0x5B00
FUNCTAG = 0x5B08
SWSM = 0x5B50
FWSM = 0x5B54
RETA = 0x5C00
RSSRK = 0x5C80
TSYNCTXCTL = 0xB614
TSYNCRXCTL = 0xB620
SYSTIML = 0xB600
SYSTIMH = 0xB604
TIMINCA = 0xB608
TIMADJL = 0xB60C
TIMADJH = 0xB610
TXSTMPL = 0xB618
TXSTMPH = 0xB61C
RXSTMPL = 0xB624
RXSTMPH = 0xB628
RXSATRL = 0xB62C
RXSATRH = 0xB630
RXMTRL = 0xB634
RXUDP = 0xB638

VECTORS = 5
RETA_ENTRIES = 128
RSS_KEY_BYTES = 40

CTRL_MASTER_DISABLE = 1 << 2
STATUS_MASTER_ENABLED = 1 << 19
STATUS_PHY_RESET = 1 << 10

CTRL_EXT_EE_RST = 1 << 13
CTRL_EXT_EIAME = 1 << 24
CTRL_EXT_IAME = 1 << 27
CTRL_EXT_DRV_LOAD = 1 << 28
CTRL_EXT_PBA = 1 << 31

EERD_START = 1 << 0
EERD_DONE = 1 << 1
EERD_ADDRESS_SHIFT = 2
EEWR_START = 1 << 0
EEWR_DONE = 1 << 1
EECD_PRESENT = 1 << 8
EECD_AUTO_READ = 1 << 9
NVM_WORDS = 64
"""Those that the checksum is over."""

ICR_ACK = 1 << 17
ICR_RXQ0 = 1 << 20
ICR_RXQ1 = 1 << 21
ICR_TXQ0 = 1 << 22
ICR_TXQ1 = 1 << 23
ICR_OTHER = 1 << 24
ICR_ASSERTED = 1 << 31

IVAR_VALID = 1 << 3
IVAR_SHIFTS = {"rx0": 0, "rx1": 4, "tx0": 8, "tx1": 12, "other": 16}
IVAR_TX_EVERY_WB = 1 << 31

RCTL_LOOPBACK = 1 << 6
RCTL_SPLIT = 1 << 10
RFCTL_EXTENDED = 1 << 15
RXCSUM_IPPCSE = 1 << 12
RXCSUM_PCSD = 1 << 13

MRQC_RSS = 1
MRQC_TCP_IPV4 = 1 << 16
MRQC_IPV4 = 1 << 17
MRQC_TCP_IPV6 = 1 << 18
MRQC_IPV6_EX = 1 << 19
MRQC_IPV6 = 1 << 20

RSS_NONE, RSS_TCP_IPV4, RSS_IPV4, RSS_TCP_IPV6, RSS_IPV6_EX, RSS_IPV6 = range(6)

SWSM_SMBI = 1 << 0
SWSM_SWESMBI = 1 << 1
EXTCNF_SW_OWNS_MDIO = 1 << 5

SYNC_VALID = 1 << 0
SYNC_ENABLED = 1 << 4
SYNC_RX_L2_V2, SYNC_RX_L4_V1, SYNC_RX_BOTH_V2, SYNC_RX_ALL, SYNC_RX_EVENT = (
    kind << 1 for kind in (0, 1, 2, 4, 5)
)

SYSTIM_TICK_NS = 40
"""One clock of 25 MHz."""

# --- statistics that the 8254x lacks (section 10.2.9)

STATISTICS = {
    "IAC": 0x4100, "ICRXPTC": 0x4104, "ICRXATC": 0x4108, "ICTXPTC": 0x410C, "ICTXATC": 0x4110,
    "ICTXQEC": 0x4118, "ICTXQMTC": 0x411C, "ICRXDMTC": 0x4120, "ICRXOC": 0x4124,
}  # fmt: skip

# --- PHY: pages behind register 22 (section 9)

PHY_PAGE = 22

# --- descriptors (sections 7.1.4, 7.1.5 and 7.2.10)

RX_EXTENDED_READ = Struct("<QQ")
"""Buffer, reserved."""
RX_EXTENDED = Struct("<IIIHH")
"""MRQ, RSS hash (or IP identification and packet checksum), status and errors, length, VLAN."""
RX_SPLIT_READ = Struct("<QQQQ")
RX_SPLIT = Struct("<IIIHHH3HQ")
"""As the extended one, with the first buffer's length; header status; lengths 1 to 3."""
assert RX_EXTENDED_READ.size == RX_EXTENDED.size == 16
assert RX_SPLIT_READ.size == RX_SPLIT.size == 32

RX_UDPCS = 1 << 4
RX_TIME_STAMP = 1 << 8
RX_IP_ID_VALID = 1 << 9
RX_UDP_VALID = 1 << 10
RX_ACK = 1 << 15
RX_STATUS_BITS = 20
RX_ERRORS_SHIFT = 24
"""The top byte of the extended word is the legacy descriptor's error byte."""
RX_HEADER_LENGTH = 0x3FF
RX_HEADER_SPLIT = 1 << 15

TX_TIME_STAMP = 1 << 4
"""In the byte of a data descriptor that is status in the others."""
