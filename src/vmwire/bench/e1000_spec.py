# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The 8254x as its drivers know it: offsets and bits from Intel's Software Developer's Manual
(317453), chapters 3 (descriptors), 5 (EEPROM) and 13 (registers).

Read anew for the driver's side, so that the chip is not tested against its own reading.
"""

from __future__ import annotations

from struct import Struct

# --- registers (table 13-2)

CTRL = 0x0000
STATUS = 0x0008
EECD = 0x0010
EERD = 0x0014
CTRL_EXT = 0x0018
MDIC = 0x0020
FCAL = 0x0028
FCAH = 0x002C
FCT = 0x0030
VET = 0x0038
ICR = 0x00C0
ITR = 0x00C4
ICS = 0x00C8
IMS = 0x00D0
IMC = 0x00D8
RCTL = 0x0100
FCTTV = 0x0170
TCTL = 0x0400
TIPG = 0x0410
LEDCTL = 0x0E00
PBA = 0x1000
FCRTL = 0x2160
FCRTH = 0x2168
RDBAL = 0x2800
RDBAH = 0x2804
RDLEN = 0x2808
RDH = 0x2810
RDT = 0x2818
RDTR = 0x2820
RXDCTL = 0x2828
RADV = 0x282C
RSRPD = 0x2C00
TDBAL = 0x3800
TDBAH = 0x3804
TDLEN = 0x3808
TDH = 0x3810
TDT = 0x3818
TIDV = 0x3820
TXDCTL = 0x3828
TADV = 0x382C
TSPMT = 0x3830
RXCSUM = 0x5000
MTA = 0x5200
RAL = 0x5400
RAH = 0x5404
VFTA = 0x5600
WUC = 0x5800
MANC = 0x5820

MTA_WORDS = VFTA_WORDS = 128

CTRL_FD = 1 << 0
CTRL_LRST = 1 << 3
CTRL_ASDE = 1 << 5
CTRL_SLU = 1 << 6
CTRL_RST = 1 << 26
CTRL_VME = 1 << 30
CTRL_PHY_RST = 1 << 31

STATUS_FD = 1 << 0
STATUS_LU = 1 << 1
STATUS_TXOFF = 1 << 4
STATUS_SPEED_1000 = 2 << 6

EECD_SK = 1 << 0
EECD_CS = 1 << 1
EECD_DI = 1 << 2
EECD_DO = 1 << 3
EECD_REQ = 1 << 6
EECD_GNT = 1 << 7

EERD_START = 1 << 0
EERD_DONE = 1 << 4

MDIC_WRITE = 1 << 26
MDIC_READ = 2 << 26
MDIC_READY = 1 << 28
MDIC_INTERRUPT = 1 << 29
MDIC_ERROR = 1 << 30

ICR_TXDW = 1 << 0
ICR_TXQE = 1 << 1
ICR_LSC = 1 << 2
ICR_RXSEQ = 1 << 3
ICR_RXDMT0 = 1 << 4
ICR_RXO = 1 << 6
ICR_RXT0 = 1 << 7
ICR_MDAC = 1 << 9
ICR_TXD_LOW = 1 << 15
ICR_SRPD = 1 << 16

RCTL_EN = 1 << 1
RCTL_SBP = 1 << 2
RCTL_UPE = 1 << 3
RCTL_MPE = 1 << 4
RCTL_LPE = 1 << 5
RCTL_LOOPBACK = 3 << 6
RCTL_RDMTS_SHIFT = 8
RCTL_MO_SHIFT = 12
RCTL_BAM = 1 << 15
RCTL_BSIZE_SHIFT = 16
RCTL_VFE = 1 << 18
RCTL_CFIEN = 1 << 19
RCTL_CFI = 1 << 20
RCTL_DPF = 1 << 22
RCTL_PMCF = 1 << 23
RCTL_BSEX = 1 << 25
RCTL_SECRC = 1 << 26

RCTL_SIZES = {
    256: 3 << RCTL_BSIZE_SHIFT,
    512: 2 << RCTL_BSIZE_SHIFT,
    1024: 1 << RCTL_BSIZE_SHIFT,
    2048: 0,
    4096: RCTL_BSEX | 3 << RCTL_BSIZE_SHIFT,
    8192: RCTL_BSEX | 2 << RCTL_BSIZE_SHIFT,
    16384: RCTL_BSEX | 1 << RCTL_BSIZE_SHIFT,
}

TCTL_EN = 1 << 1
TCTL_PSP = 1 << 3

RDTR_FLUSH = 1 << 31

RXCSUM_IP = 1 << 8
RXCSUM_TCP_UDP = 1 << 9

RAH_VALID = 1 << 31

# --- statistics (section 13.7)

STATISTICS = {
    "CRCERRS": 0x4000, "RXERRC": 0x400C, "MPC": 0x4010, "SCC": 0x4014, "COLC": 0x4028,
    "RLEC": 0x4040, "XONRXC": 0x4048, "XONTXC": 0x404C, "XOFFRXC": 0x4050, "XOFFTXC": 0x4054,
    "FCRUC": 0x4058, "PRC64": 0x405C, "PRC127": 0x4060, "PRC255": 0x4064, "PRC511": 0x4068,
    "PRC1023": 0x406C, "PRC1522": 0x4070, "GPRC": 0x4074, "BPRC": 0x4078, "MPRC": 0x407C,
    "GPTC": 0x4080, "RNBC": 0x40A0, "RUC": 0x40A4, "RFC": 0x40A8, "ROC": 0x40AC, "RJC": 0x40B0,
    "TPR": 0x40D0, "TPT": 0x40D4, "PTC64": 0x40D8, "PTC127": 0x40DC, "PTC255": 0x40E0,
    "PTC511": 0x40E4, "PTC1023": 0x40E8, "PTC1522": 0x40EC, "MPTC": 0x40F0, "BPTC": 0x40F4,
    "TSCTC": 0x40F8, "TSCTFC": 0x40FC,
}  # fmt: skip
WIDE_STATISTICS = {"GORC": 0x4088, "GOTC": 0x4090, "TOR": 0x40C0, "TOT": 0x40C8}
"""Two words, the low one first; reading the high one clears both."""

# --- PHY (section 8.10; IEEE 802.3, 22.2.4)

PHY_ADDRESS = 1
PHY_CONTROL = 0
PHY_STATUS = 1
PHY_ID1 = 2
PHY_ID2 = 3
PHY_ADVERTISE = 4
PHY_PARTNER = 5
PHY_1000T_CONTROL = 9
PHY_1000T_STATUS = 10

PHY_CONTROL_RESTART = 1 << 9
PHY_CONTROL_POWER_DOWN = 1 << 11
PHY_CONTROL_AUTONEG = 1 << 12
PHY_CONTROL_LOOPBACK = 1 << 14
PHY_CONTROL_RESET = 1 << 15
PHY_STATUS_LINK = 1 << 2
PHY_STATUS_AUTONEG_DONE = 1 << 5

# --- descriptors (sections 3.2.3 and 3.3)

DESCRIPTOR_SIZE = 16

RX_DESCRIPTOR = Struct("<QHHBBH")  # address, length, checksum, status, errors, special
RX_DD = 1 << 0
RX_EOP = 1 << 1
RX_IXSM = 1 << 2
RX_VP = 1 << 3
RX_TCPCS = 1 << 5
RX_IPCS = 1 << 6
RX_PIF = 1 << 7
RXE_CE = 1 << 0
RXE_TCPE = 1 << 5
RXE_IPE = 1 << 6
RXE_RXE = 1 << 7

TX_LEGACY = Struct("<QHBBBBH")  # address, length, CSO, CMD, STA, CSS, special
TX_CONTEXT = Struct("<BBHBBHIBBH")
"""IPCSS, IPCSO, IPCSE, TUCSS, TUCSO, TUCSE, PAYLEN | DTYP | TUCMD, STA, HDRLEN, MSS."""
TX_DATA = Struct("<QIBBH")  # address, DTALEN | DTYP | DCMD, STA, POPTS, special
for _layout in (RX_DESCRIPTOR, TX_LEGACY, TX_CONTEXT, TX_DATA):
    assert _layout.size == DESCRIPTOR_SIZE

TX_EOP = 1 << 0
TX_IFCS = 1 << 1
TX_IC = 1 << 2
"""Insert a checksum (legacy); the same bit asks for segmentation in data descriptors."""
TX_TSE = 1 << 2
TX_RS = 1 << 3
TX_DEXT = 1 << 5
TX_VLE = 1 << 6
TX_IDE = 1 << 7
TX_DATA_TYPE = 1 << 20
TX_DD = 1 << 0

TUCMD_TCP = 1 << 0
TUCMD_IP = 1 << 1
TUCMD_TSE = 1 << 2

POPTS_IXSM = 1 << 0
POPTS_TXSM = 1 << 1
