# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum (RFC 1071, RFC 1624).

Sums are 16-bit numbers as they stand in the packet (big-endian). 2**16 is 1 modulo 0xffff, so
the one's complement sum of a buffer is the buffer read as one big number modulo 0xffff, which
costs one pass in C. Zero has two spellings there: a sum is 0 only if everything summed was
zero, otherwise a multiple of 0xffff is spelt 0xffff, as repeated end-around carries give it.
"""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


def fold(total: int) -> int:
    """Fold a non-negative sum of 16-bit words of any size into 16 bits."""
    return (total % 0xFFFF or 0xFFFF) if total else 0


def ones_complement_sum(data: Buffer, initial: int = 0) -> int:
    """The folded sum of `data` (padded to whole words with a zero byte) plus `initial`.

    Sums of pieces chain through `initial` as long as every piece but the last has even length.
    """
    number = int.from_bytes(data, "big")
    return fold((number << 8 if len(data) & 1 else number) + initial)


def internet_checksum(data: Buffer, initial: int = 0) -> int:
    """The value for the checksum field: 0 over data that holds its right checksum already."""
    return ones_complement_sum(data, initial) ^ 0xFFFF


def pseudo_header_sum(src: Buffer, dst: Buffer, proto: int, length: int) -> int:
    """The folded sum of a TCP or UDP pseudo header, for 4-byte or 16-byte addresses alike.

    RFC 9293 3.1, RFC 768, RFC 8200 8.1: the two versions' layouts differ, their sums do not.
    This is also what stands in the checksum field of a packet whose checksum is left to do.
    """
    addresses = int.from_bytes(src, "big") + int.from_bytes(dst, "big")
    return fold(addresses + proto + (length >> 16) + (length & 0xFFFF))


def transport_checksum(src: Buffer, dst: Buffer, proto: int, segment: Buffer) -> int:
    """The checksum of a TCP or UDP segment whose checksum field holds 0."""
    return internet_checksum(segment, pseudo_header_sum(src, dst, proto, len(segment)))


def update_checksum(checksum: int, old: int, new: int) -> int:
    """The checksum after one 16-bit word changed from `old` to `new` (RFC 1624, equation 3)."""
    return fold((checksum ^ 0xFFFF) + (old ^ 0xFFFF) + new) ^ 0xFFFF
