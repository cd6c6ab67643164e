# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import dhcp
from vmwire.wire.protocols.errors import ParseError

GUEST_MAC = bytes.fromhex("525400123456")


def header(
    op: int = dhcp.BOOTREQUEST, hlen: int = 6, sname: bytes = b"", file: bytes = b""
) -> bytes:
    fixed = bytes([op, 1, hlen, 0]) + bytes.fromhex("3903f326") + bytes(20)
    return fixed + GUEST_MAC + bytes(10) + sname.ljust(64, b"\0") + file.ljust(128, b"\0")


def message(options: str, **fields: bytes) -> bytes:
    return header(**fields) + dhcp.MAGIC + bytes.fromhex(options.replace(" ", ""))


@pytest.mark.parametrize("name", ["dhcp offer", "dhcp ack"])
def test_recorded_answers_both_ways(frames: dict[str, bytes], name: str) -> None:
    payload = frames[name][14 + 20 + 8 :]
    parsed = dhcp.Message.parse(memoryview(payload))
    assert parsed.op == dhcp.BOOTREPLY and parsed.xid == 0x3903F326
    assert parsed.type == (dhcp.OFFER if name == "dhcp offer" else dhcp.ACK)
    assert parsed.chaddr == GUEST_MAC
    assert parsed.yiaddr == bytes([10, 0, 2, 15])
    assert parsed.address(dhcp.OPTION_ROUTER) == bytes([10, 0, 2, 2])
    assert parsed.address(dhcp.OPTION_MESSAGE_TYPE) is None
    assert list(parsed.options) == [53, 54, 1, 3, 6, 51]
    assert parsed.emit(548) == payload


def test_message_without_magic_is_bootp() -> None:
    assert dhcp.Message.parse(header()).type is None
    assert dhcp.Message.parse(header() + bytes(64)).options == {}
    assert dhcp.Message.parse(header() + bytes.fromhex("deadbeef350101ff")).options == {}


def test_pad_and_end_are_not_options() -> None:
    parsed = dhcp.Message.parse(message("0000 350101 00 ff 3204 01020304"))
    assert parsed.options == {53: b"\x01"}


def test_missing_end_is_forgiven() -> None:
    assert dhcp.Message.parse(message("350103")).type == dhcp.REQUEST


@pytest.mark.parametrize(
    "options", ["350101 32", "350101 32ff 01020304", "3501", "350101 0c05 61626364"]
)
def test_option_past_the_end_is_refused(options: str) -> None:
    with pytest.raises(ParseError):
        dhcp.Message.parse(message(options))


def test_message_type_of_wrong_size_is_none() -> None:
    assert dhcp.Message.parse(message("3500 ff")).type is None
    assert dhcp.Message.parse(message("35020101 ff")).type is None


def test_repeated_option_is_one_value_in_pieces() -> None:
    assert dhcp.Message.parse(message("0c026162 350101 0c0163 ff")).options[12] == b"abc"


def test_long_value_is_written_in_pieces_and_read_back() -> None:
    value = bytes(range(256)) * 2
    sent = dhcp.Message(dhcp.BOOTREPLY, 1, GUEST_MAC, {dhcp.OPTION_DOMAIN_SEARCH: value})
    assert dhcp.emit_option(119, value)[:2] == bytes([119, 255])
    assert dhcp.Message.parse(sent.emit()).options == sent.options


def test_options_go_on_in_overloaded_fields() -> None:
    parsed = dhcp.Message.parse(
        message("340103 350101 ff", file=bytes.fromhex("0c0161ff"), sname=bytes.fromhex("0f0162ff"))
    )
    assert parsed.options[12] == b"a" and parsed.options[15] == b"b"
    assert (parsed.file, parsed.sname) == (b"", b"")


def test_fields_that_are_not_overloaded_are_names() -> None:
    parsed = dhcp.Message.parse(message("350101ff", file=b"pxe.0", sname=b"boot"))
    assert (parsed.file, parsed.sname) == (b"pxe.0", b"boot")


def test_hostile_option_in_an_overloaded_field_is_refused() -> None:
    with pytest.raises(ParseError):
        dhcp.Message.parse(message("340101 ff", file=b"\x0c\xff" * 64))


def test_short_message_and_long_hardware_address_are_refused() -> None:
    with pytest.raises(ParseError):
        dhcp.Message.parse(header()[:235])
    with pytest.raises(ParseError):
        dhcp.Message.parse(header(hlen=17))


def test_search_list_as_recorded() -> None:
    one = dhcp.emit_search_list(["a.example"])
    assert one.hex() == "0161076578616d706c6500"
    three = dhcp.emit_search_list(["a.example", "b.example", "corp.other.test"])
    assert three.hex() == "0161076578616d706c65000162c00204636f7270056f74686572047465737400"


def test_search_list_points_at_whole_names_and_parts() -> None:
    assert dhcp.emit_search_list(["x.y", "y", "x.y."]).hex() == "01780179 00 c002 c000".replace(
        " ", ""
    )


@pytest.mark.parametrize("domain", ["", ".", "a..b", "x" * 64, "é.example", ".".join(["abc"] * 70)])
def test_what_is_no_domain_name_is_a_value_error(domain: str) -> None:
    with pytest.raises(ValueError):
        dhcp.emit_search_list([domain])


@given(st.binary(max_size=300))
def test_any_options_parse_or_are_refused(area: bytes) -> None:
    try:
        parsed = dhcp.Message.parse(header() + dhcp.MAGIC + area)
    except ParseError:
        return
    assert dhcp.Message.parse(parsed.emit()).options == parsed.options or 52 in parsed.options


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        dhcp.Message.parse(data)
    except ParseError:
        return
