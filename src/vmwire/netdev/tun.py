# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's taps: making one, taking one over, and saying what it may leave undone.

Linux, Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h. A descriptor is one
*queue* of an interface. With a *header*, each read and write is a frame behind virtio's ten-byte
net header, so that unfinished checksums and superframes pass both ways; without one, frames are
plain.
"""

from __future__ import annotations

import errno
import os
from array import array
from fcntl import ioctl
from struct import Struct

from vmwire.wire.frame import HEADER, Gso
from vmwire.wire.port import Accepts

TUN_DEVICE = "/dev/net/tun"

TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETSNDBUF = 0x400454D4
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETVNETLE = 0x400454DC
TUNSETCARRIER = 0x400454E2

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40
TUN_F_USO = TUN_F_USO4 | TUN_F_USO6

IFREQ = Struct("16sH22x")
assert IFREQ.size == 40
LONGEST_NAME = 15
"""Bytes in an interface's name (IFNAMSIZ, without the closing zero)."""


def open_tap(name: str, *, header: bool = True, multi_queue: bool = False) -> tuple[int, str]:
    """Make or join a tap interface in this thread's network namespace.

    Return (descriptor, the interface's name). ``name`` may hold ``%d``, and is cut to 15 bytes. An
    interface that was made by this lives as long as its descriptors and their copies.
    """
    fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TAP | IFF_NO_PI
    flags |= IFF_VNET_HDR if header else 0
    flags |= IFF_MULTI_QUEUE if multi_queue else 0
    try:
        request = IFREQ.pack(name.encode()[:LONGEST_NAME], flags)
        given: bytes = IFREQ.unpack(ioctl(fd, TUNSETIFF, request))[0]
        if header:
            _set_header(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd, given.rstrip(b"\0").decode()


def adopt(fd: int) -> tuple[str, bool]:
    """Prepare a tap's descriptor that somebody else opened; return its name, and whether there is
    a header.

    Raises ``OSError``: EBADF or ENOTTY if it isn't a tap's, EINVAL if it is one of another kind.
    """
    name, flags = interface(fd)
    if not flags & IFF_TAP or not flags & IFF_NO_PI:
        raise OSError(errno.EINVAL, "it carries packets, not frames")
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    header = bool(flags & IFF_VNET_HDR)
    if header:
        _set_header(fd)
    return name, header


def interface(fd: int) -> tuple[str, int]:
    """The interface's name and flags. Raises ``OSError``: EBADFD when it was deleted."""
    name, flags = IFREQ.unpack(ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))
    return name.rstrip(b"\0").decode(), flags


def _set_header(fd: int) -> None:
    set_header_size(fd, HEADER.size)
    ioctl(fd, TUNSETVNETLE, array("i", [1]))


def set_header_size(fd: int, size: int) -> None:
    """Say how long the net header is: 10 bytes, or 12 with a count of buffers at its end."""
    ioctl(fd, TUNSETVNETHDRSZ, array("i", [size]))


def set_attached(fd: int, attached: bool) -> None:
    """Have the kernel steer frames to this queue of several, or not."""
    ioctl(fd, TUNSETQUEUE, IFREQ.pack(b"", IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE))


def set_carrier(fd: int, up: bool) -> None:
    """Let whoever is behind the interface see the cable (Linux 5.0)."""
    ioctl(fd, TUNSETCARRIER, array("i", [up]))


def set_send_buffer(fd: int, size: int) -> None:
    """Bound the bytes that were written and not yet taken by the host's network."""
    ioctl(fd, TUNSETSNDBUF, array("i", [size]))


def offload_flags(accepts: Accepts) -> int:
    """What the kernel may leave undone for a reader who takes ``accepts``."""
    if not accepts.checksum:
        return 0
    flags = TUN_F_CSUM
    if accepts.gso & Gso.TCPV4:
        flags |= TUN_F_TSO4
    if accepts.gso & Gso.TCPV6:
        flags |= TUN_F_TSO6
    if accepts.gso & Gso.ECN and flags & (TUN_F_TSO4 | TUN_F_TSO6):
        flags |= TUN_F_TSO_ECN
    if accepts.gso & Gso.UDP_L4:
        flags |= TUN_F_USO
    return flags


def set_offload(fd: int, flags: int) -> int:
    """Tell the kernel; return the flags that it took (before Linux 6.2 there is no USO)."""
    try:
        ioctl(fd, TUNSETOFFLOAD, flags)
    except OSError as error:
        if error.errno != errno.EINVAL or not flags & TUN_F_USO:
            raise
        flags &= ~TUN_F_USO
        ioctl(fd, TUNSETOFFLOAD, flags)
    return flags
