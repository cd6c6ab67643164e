# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import dns
from vmwire.wire.protocols.errors import ParseError

QUERY = bytes.fromhex("abcd0100000100000000000001610262630000010001")


@pytest.fixture
def answer(frames: dict[str, bytes]) -> bytes:
    return frames["dns answer"][14 + 20 + 8 :]


def name_message(data: str) -> bytes:
    """A header, padding up to offset 16, and then the data."""
    return bytes(16) + bytes.fromhex(data.replace(" ", ""))


def test_recorded_answer_is_read(answer: bytes) -> None:
    header = dns.Header.parse(answer)
    assert header == dns.Header(0xABCD, 0x8180, 1, 1)
    assert header.is_response and header.rcode == dns.NOERROR
    assert header.emit() == answer[:12]
    assert dns.parse_question(memoryview(answer)) == dns.Question(
        "a.bc", dns.TYPE_A, dns.CLASS_IN, bytes.fromhex("01610262630000010001")
    )


def test_id_is_changed_and_nothing_else(answer: bytes) -> None:
    changed = dns.with_id(memoryview(answer), 0x1234)
    assert dns.peek_id(changed) == 0x1234
    assert changed[2:] == answer[2:]


def test_names_compare_without_case() -> None:
    lower = dns.parse_question(QUERY)
    upper = dns.parse_question(QUERY.replace(b"a", b"A").replace(b"bc", b"BC"))
    assert lower.matches(upper)
    assert upper.wire != lower.wire
    assert not lower.matches(dns.Question("a.bc", dns.TYPE_AAAA, 1, b""))


def test_servfail_bytes() -> None:
    assert dns.failure(QUERY, dns.SERVFAIL).hex() == "abcd8182000100000000000001610262630000010001"


def test_refused_keeps_opcode_and_drops_what_follows_the_question() -> None:
    query = bytes.fromhex("abcd28100001000000000001") + QUERY[12:] + b"extra"
    answer = dns.failure(query, dns.REFUSED)
    assert answer[:12].hex() == "abcda8950001000000000000"
    assert answer[12:] == QUERY[12:]


def test_failure_of_a_query_without_readable_question_is_a_bare_header() -> None:
    assert dns.failure(QUERY[:15], dns.FORMERR).hex() == "abcd81810000000000000000"


def test_truncated_answer_keeps_its_question_only(answer: bytes) -> None:
    assert dns.truncated(answer).hex() == "abcd83800001000000000000" + answer[12:22].hex()


def test_root_and_odd_bytes_in_names() -> None:
    assert dns.parse_name(name_message("00"), 16) == (".", 17)
    assert dns.parse_name(name_message("04 61 2e 5c 00 00"), 16) == ("a\\046\\092\\000", 22)


def test_compression_pointer_is_followed_backwards() -> None:
    message = name_message("026263 00 0161 c010")
    assert dns.parse_name(message, 20) == ("a.bc", 24)


@pytest.mark.parametrize(
    ("data", "at"),
    [
        pytest.param("c010", 16, id="to itself"),
        pytest.param("0161 c010", 16, id="loop over a label"),
        pytest.param("c012 c010", 18, id="two that point at each other"),
        pytest.param("c012 00", 16, id="forwards"),
        pytest.param("c000", 16, id="into the header"),
        pytest.param("c0", 16, id="half a pointer"),
        pytest.param("0561", 16, id="label past the end"),
        pytest.param("0161", 16, id="no root"),
        pytest.param("4061 00", 16, id="unknown label kind 01"),
        pytest.param("8061 00", 16, id="unknown label kind 10"),
        pytest.param("3f" + "61" * 63, 16, id="one label and no end"),
        pytest.param(("3f" + "61" * 63) * 4 + "00", 16, id="256 bytes and more"),
        pytest.param("", 16, id="nothing"),
    ],
)
def test_names_that_lie_are_refused(data: str, at: int) -> None:
    with pytest.raises(ParseError):
        dns.parse_name(name_message(data), at)


def test_longest_name_is_accepted() -> None:
    name, end = dns.parse_name(name_message(("3f" + "61" * 63) * 3 + "3d" + "62" * 61 + "00"), 16)
    assert (len(name), end) == (253, 16 + 255)


def test_question_that_is_missing_or_cut_is_refused() -> None:
    for message in (QUERY[:11], QUERY[:12], QUERY[:-1], QUERY[:4] + bytes(8) + QUERY[12:]):
        with pytest.raises(ParseError):
            dns.parse_question(message)


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        dns.failure(data, dns.SERVFAIL)
        dns.truncated(data)
        dns.parse_question(data)
    except ParseError:
        return


@given(st.lists(st.sampled_from([0, 1, 0xC0, 0x0C, 0x10, 0x3F, 0x61]), max_size=60))
def test_any_pointers_end(data: list[int]) -> None:
    try:
        dns.parse_name(bytes(12) + bytes(data), 12 + len(data) // 2)
    except ParseError:
        return
