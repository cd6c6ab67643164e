# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which flow a frame belongs to, for whoever spreads frames over several queues."""

from __future__ import annotations

from vmwire.wire.frame import Frame


def flow_of(frame: Frame) -> int:
    """Return a number that is the same for all frames of one flow."""
    head = frame.head(58)
    if head[12:14] == b"\x08\x00":
        return hash(head[26:38])  # addresses and ports of IPv4 without options
    return hash(head[22:58])  # those of IPv6
