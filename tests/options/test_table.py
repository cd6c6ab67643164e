# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of options: one declaration gives parsing, defaults, help and text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.errors import ConfigError
from vmwire.options import table
from vmwire.options.table import NotServedError, Table, option, record, table_of
from vmwire.options.values import BOOL, IDENTIFIER, STRING, UINT16, ParsedType


def parse_pair(text: str) -> tuple[str, str]:
    left, found, right = text.partition("=")
    if not found:
        raise ValueError("no pair in {key}: {value}")
    return left, right


def write_pair(pair: tuple[str, str]) -> str:
    return "=".join(pair)


PAIR = ParsedType(result=tuple, parse=parse_pair, written=write_pair)


@dataclass(slots=True, kw_only=True)
class Sample:
    """A record of every sort of option."""

    id: str = option(IDENTIFIER, required=True, help="its name")
    loud: bool | None = option(BOOL)
    size_limit: int = option(UINT16, default=7, help="how much")
    pairs: list[tuple[str, str]] = option(PAIR, repeated=True)
    words: list[str] = option(STRING, repeated=True, help="some words")
    extra: str | None = option(STRING, ours=True)

    def __post_init__(self) -> None:
        if self.size_limit > 100 and self.loud:
            raise ConfigError("too loud for its size")


@pytest.fixture(name="sample", scope="module")
def _sample() -> Iterator[Table[Sample]]:
    record("netdev", "sample", later=("lights",))(Sample)
    yield table_of(Sample)
    del table._tables["netdev"]["sample"]


def test_defaults_hold_where_nothing_is_given(sample: Table[Sample]) -> None:
    assert sample.from_text("sample,id=x") == Sample(
        id="x", loud=None, size_limit=7, pairs=[], words=[], extra=None
    )


def test_repeated_options_keep_order_and_single_ones_take_the_last(sample: Table[Sample]) -> None:
    got = sample.from_text("sample,id=x,words=b,size-limit=1,words=a,pairs=k=v,size-limit=2")
    assert got.words == ["b", "a"]
    assert got.pairs == [("k", "v")]
    assert got.size_limit == 2


def test_of_several_ids_the_first_holds(sample: Table[Sample]) -> None:
    assert sample.from_text("sample,id=x,id=y").id == "x"


def test_flags_switch(sample: Table[Sample]) -> None:
    assert sample.from_text("sample,id=x,loud").loud is True
    assert sample.from_text("sample,id=x,noloud").loud is False


def test_json_and_text_and_keywords_make_the_same_record(sample: Table[Sample]) -> None:
    from_text = sample.from_text("sample,id=x,loud=on,size-limit=3,pairs=a=b,words=p,words=q")
    from_json = sample.from_text(
        '{"type":"sample","id":"x","loud":true,"size-limit":3,'
        '"pairs":[{"str":"a=b"}],"words":[{"str":"p"},{"str":"q"}]}'
    )
    from_kwargs = sample.from_kwargs(
        id="x", loud=True, size_limit=3, pairs=[("a", "b")], words=["p", "q"]
    )
    assert from_text == from_json == from_kwargs


def test_keywords_may_be_option_texts(sample: Table[Sample]) -> None:
    got = sample.from_kwargs(id="x", loud="off", size_limit="0x10", pairs="a=b", words=None)
    assert got == Sample(id="x", loud=False, size_limit=16, pairs=[("a", "b")])


@pytest.mark.parametrize(
    ("keywords", "fault"),
    [
        ({"id": "x", "loud": 1}, "Invalid parameter type for 'loud', expected: boolean"),
        ({"id": "x", "size_limit": True}, "Parameter 'size-limit' expects uint64"),
        ({"id": "x", "size_limit": 1 << 16}, "Parameter 'size-limit' expects uint16_t"),
        ({"id": "x", "pairs": [5]}, "Invalid parameter type for 'pairs', expected: string"),
        ({"id": "1x"}, "Parameter 'id' expects an identifier"),
        ({"loud": True}, "Parameter 'id' is missing"),
        ({"id": None}, "Parameter 'id' is missing"),
        ({"id": "x", "bogus": 1}, "Invalid parameter 'bogus'"),
        ({"id": "x", "loud": True, "size_limit": 101}, "too loud for its size"),
    ],
)
def test_wrong_keywords_are_one_clear_error(
    sample: Table[Sample], keywords: dict[str, object], fault: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sample.from_kwargs(**keywords)
    assert str(caught.value) == f"netdev sample: {fault}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sample,id=x,bogus=1,loud=maybe", "Parameter 'loud' expects 'on' or 'off'"),
        ("sample,id=x,bogus=1,pairs=5", "Invalid parameter 'bogus'"),
        ("sample,id=x,pairs=5", "no pair in pairs: 5"),
        ("sample,loud=maybe", "Parameter 'id' is missing"),
        ('{"type":"sample","id":"x","bogus":1}', "Parameter 'bogus' is unexpected"),
    ],
)
def test_faults_name_the_option_and_come_in_qemus_order(
    sample: Table[Sample], text: str, fault: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sample.from_text(text)
    assert str(caught.value) == f"-netdev {text}: {fault}"


def test_keys_of_later_are_told_from_misspelt_ones(sample: Table[Sample]) -> None:
    with pytest.raises(NotServedError):
        sample.from_text("sample,id=x,lights=on")
    with pytest.raises(NotServedError):
        sample.from_kwargs(id="x", lights=True)


def test_text_leaves_defaults_out_and_can_leave_our_own_out(sample: Table[Sample]) -> None:
    got = Sample(id="x", size_limit=9, pairs=[("a", "b,c"), ("d", "")], extra="e")
    assert sample.to_text(got) == "sample,id=x,size-limit=9,pairs=a=b,,c,pairs=d=,extra=e"
    assert str(sample.to_options(got, for_qemu=True)) == (
        "sample,id=x,size-limit=9,pairs=a=b,,c,pairs=d="
    )


@given(
    st.builds(
        Sample,
        id=st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,5}", fullmatch=True),
        loud=st.sampled_from([None, True, False]),
        size_limit=st.integers(0, 100),
        pairs=st.lists(st.tuples(st.text(max_size=4).filter(lambda s: "=" not in s), st.text())),
        words=st.lists(st.text()),
        extra=st.none() | st.text(),
    )
)
def test_every_record_comes_back_from_its_text(sample: Table[Sample], got: Sample) -> None:
    assert sample.from_text(sample.to_text(got)) == got


def test_help_has_a_line_for_each_option(sample: Table[Sample]) -> None:
    assert sample.help_text().splitlines() == [
        "sample options:",
        "  id=<str>               - its name",
        "  loud=<bool>            - on/off",
        "  size-limit=<uint16>    - how much (default: 7)",
        "  pairs=<str>",
        "  words=<str>            - some words",
        "  extra=<str>",
    ]


def test_a_name_can_be_declared_once(sample: Table[Sample]) -> None:
    with pytest.raises(ValueError):
        record("netdev", "sample")(Sample)


def test_a_key_cannot_be_served_now_and_later() -> None:
    with pytest.raises(ValueError):
        record("netdev", "other", later=("loud",))(Sample)


def test_a_class_without_a_table_is_not_found() -> None:
    with pytest.raises(KeyError):
        table_of(Unregistered)


@dataclass
class Unregistered:
    """Never declared."""
