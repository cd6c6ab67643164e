# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The registers that Intel's 8254x and 82574 have alike: same place, same reset, same bits.

Names and offsets: "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual"
(Intel 317453), section 13, and the 82574 data sheet, section 10.
"""

from __future__ import annotations

from vmwire.nic.registers import Array, Bank, Register

WINDOW = 0x20000


class SharedRegisters(Bank, size=WINDOW):
    """Queue 0's rings, interrupts, statistics, filters."""

    # General
    CTRL_DUP = Register(0x0004, mask=0)
    EERD = Register(0x0014, mask=0)
    MDIC = Register(0x0020, mask=0)
    FCAL = Register(0x0028)
    FCAH = Register(0x002C, mask=0xFFFF)
    FCT = Register(0x0030, mask=0xFFFF)
    VET = Register(0x0038, reset=0x8100, mask=0xFFFF)
    FCTTV = Register(0x0170, mask=0xFFFF)
    TXCW = Register(0x0178, mask=0xC000FFFF)
    RXCW = Register(0x0180, mask=0)

    # Interrupts
    ICR = Register(0x00C0, mask=0)
    ITR = Register(0x00C4, mask=0xFFFF)
    ICS = Register(0x00C8, mask=0)
    IMS = Register(0x00D0, mask=0)
    IMC = Register(0x00D8, mask=0)

    # Receive
    RDBAL = Register(0x2800, mask=0xFFFFFFF0)
    RDBAH = Register(0x2804)
    RDLEN = Register(0x2808, mask=0x000FFF80)
    RDH = Register(0x2810, mask=0xFFFF)
    RDT = Register(0x2818, mask=0xFFFF)
    RDTR = Register(0x2820, mask=0xFFFF)
    RADV = Register(0x282C, mask=0xFFFF)
    RSRPD = Register(0x2C00, mask=0xFFF)

    # Transmit
    TCTL = Register(0x0400)
    TDBAL = Register(0x3800, mask=0xFFFFFFF0)
    TDBAH = Register(0x3804)
    TDLEN = Register(0x3808, mask=0x000FFF80)
    TDH = Register(0x3810, mask=0xFFFF)
    TDT = Register(0x3818, mask=0xFFFF)
    TIDV = Register(0x3820, mask=0xFFFF)
    TADV = Register(0x382C, mask=0xFFFF)

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
