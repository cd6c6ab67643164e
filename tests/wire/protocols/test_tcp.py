# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import ipv4, tcp
from vmwire.wire.protocols.errors import ParseError

GUEST, GATEWAY = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
# The SYN of a Linux guest: MSS 1460, SACK permitted, timestamps, window scale 7.
LINUX_SYN = bytes.fromhex(
    "a3f20050 12345678 00000000 a002 faf0 0000 0000"
    "020405b4 0402 080a 00001234 00000000 01 030307".replace(" ", "")
)


@pytest.fixture
def reset(frames: dict[str, bytes]) -> bytes:
    packet = frames["reset"][14:]
    return bytes(ipv4.Header.parse(packet).payload(packet))


def test_recorded_reset_both_ways(reset: bytes) -> None:
    segment = tcp.Segment.parse(memoryview(reset))
    assert segment == tcp.Segment(9, 4000, 0, 1001, tcp.RST | tcp.ACK, 65535)
    assert segment.emit(GATEWAY, GUEST) == reset
    assert tcp.checksum_ok(reset, GATEWAY, GUEST)
    assert not tcp.checksum_ok(reset, GATEWAY, GATEWAY)


def test_recorded_syn_in_a_quote_is_read(frames: dict[str, bytes]) -> None:
    quote = frames["net unreachable"][14 + 20 + 8 :]
    segment = tcp.Segment.parse(quote[20:])
    assert (segment.seq, segment.flags) == (1000, tcp.SYN)
    assert tcp.Options.parse(segment.options) == tcp.Options(mss=1460)


def test_linux_syn_both_ways() -> None:
    segment = tcp.Segment.parse(LINUX_SYN)
    assert (segment.src_port, segment.dst_port, segment.seq) == (0xA3F2, 80, 0x12345678)
    assert (segment.flags, segment.window, segment.payload) == (tcp.SYN, 0xFAF0, b"")
    options = tcp.Options.parse(segment.options)
    assert options == tcp.Options(1460, 7, True, (0x1234, 0))
    emitted = segment.emit(GUEST, GATEWAY)
    assert tcp.checksum_ok(emitted, GUEST, GATEWAY)
    assert emitted[:16] + bytes(2) + emitted[18:] == LINUX_SYN


@given(
    st.none() | st.integers(0, 0xFFFF),
    st.none() | st.integers(0, 14),
    st.booleans(),
    st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)
def test_options_are_read_as_written(
    mss: int | None, scale: int | None, sack: bool, stamps: tuple[int, int] | None
) -> None:
    options = tcp.Options(mss, scale, sack, stamps)
    emitted = options.emit()
    assert tcp.Options.parse(emitted) == options
    assert len(emitted) % 4 == 0 and len(emitted) <= tcp.MAXIMUM_OPTIONS_LENGTH


def test_option_bytes_are_those_of_the_rfcs() -> None:
    assert tcp.Options(mss=1460, window_scale=7).emit().hex() == "020405b401030307"
    assert tcp.Options(sack_permitted=True).emit().hex() == "01010402"
    assert tcp.Options(timestamps=(1, 2)).emit().hex() == "0101080a0000000100000002"


def test_window_scale_above_14_counts_as_14() -> None:
    assert tcp.Options.parse(bytes.fromhex("0303ff00")).window_scale == 14


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        pytest.param("020405b4 0200 03030700", tcp.Options(1460), id="length 0"),
        pytest.param("020405b4 0201 03030700", tcp.Options(1460), id="length 1"),
        pytest.param("020405b4 030a07", tcp.Options(1460), id="length past the end"),
        pytest.param("020405b4 03", tcp.Options(1460), id="kind without length"),
        pytest.param("00 020405b4 000000", tcp.Options(), id="after the end marker"),
        pytest.param("0203b4 03030700", tcp.Options(window_scale=7), id="MSS of wrong size"),
        pytest.param("fe04abcd 020405b4", tcp.Options(1460), id="unknown kind"),
        pytest.param("0101010101", tcp.Options(), id="NOPs only"),
    ],
)
def test_odd_options(data: str, wanted: tcp.Options) -> None:
    assert tcp.Options.parse(bytes.fromhex(data.replace(" ", ""))) == wanted


def test_sequence_length_counts_syn_and_fin() -> None:
    assert tcp.Segment(1, 2, 0, 0, tcp.SYN | tcp.FIN, 0, b"abc").sequence_length == 5
    assert tcp.Segment(1, 2, 0, 0, tcp.ACK | tcp.PSH, 0, b"abc").sequence_length == 3


@pytest.mark.parametrize("offset", [0x00, 0x40, 0x60, 0xF0])
def test_data_offset_that_lies_is_refused(reset: bytes, offset: int) -> None:
    with pytest.raises(ParseError):
        tcp.Segment.parse(reset[:12] + bytes([offset]) + reset[13:])


def test_short_header_is_refused(reset: bytes) -> None:
    with pytest.raises(ParseError):
        tcp.Segment.parse(reset[:19])


def test_sequence_numbers_wrap() -> None:
    assert tcp.seq_add(0xFFFFFFFE, 4) == 2
    assert tcp.seq_diff(2, 0xFFFFFFFE) == 4
    assert tcp.seq_diff(0xFFFFFFFE, 2) == -4
    assert tcp.seq_diff(7, 7) == 0


@given(st.binary(max_size=80), st.integers(0, 15))
def test_any_bytes_parse_or_are_refused(data: bytes, words: int) -> None:
    if len(data) > 12:
        data = data[:12] + bytes([words << 4 | data[12] & 0x0F]) + data[13:]
    try:
        segment = tcp.Segment.parse(data)
    except ParseError:
        return
    tcp.Options.parse(segment.options)
    emitted = segment.emit(GUEST, GATEWAY)
    assert emitted[:16] + emitted[18:] == data[:16] + data[18:]
