# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Honest frames with any bytes changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.netdev.user.guest import Bench
from tests.netdev.user.hostile.frames import fix_sum, honest_frames, offer, prove_alive

from vmwire.wire.frame import F_DATA_VALID, F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Offload


@pytest.fixture(scope="module")
def fuzzed(server: socket.socket) -> Iterator[Bench]:
    """One network for all examples: what one leaves behind, the next ones meet."""
    bench = Bench()
    yield bench
    prove_alive(bench, server)
    bench.close()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_frames_harm_nothing(
    fuzzed: Bench, server: socket.socket, data: st.DataObject
) -> None:
    """Any bytes changed in honest frames, sums made right again or not, in any pieces."""
    frames = honest_frames(server.getsockname()[1])
    frame = bytearray(frames[data.draw(st.sampled_from(sorted(frames)))])
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    del frame[data.draw(st.integers(14, 14 + len(frame))) :]
    if data.draw(st.booleans()) and len(frame) >= 34:
        fix_sum(frame)
    flags = data.draw(st.sampled_from([0, F_NEEDS_CSUM, F_DATA_VALID, 255]))
    gso = data.draw(st.sampled_from([0, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, 77]))
    number = st.integers(0, 65535)
    offload = Offload(flags, gso, *(data.draw(number) for _ in range(4)))
    cut = data.draw(st.integers(0, len(frame)))
    offer(fuzzed, bytes(frame), offload, cut)
    fuzzed.settle(2)
    fuzzed.frames.clear()
    fuzzed.offloads.clear()
