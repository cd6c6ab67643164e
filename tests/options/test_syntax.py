# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The option syntax, read and written back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.errors import ConfigError
from vmwire.options import syntax
from vmwire.options.syntax import Form, Item, JsonOptions, OptionList, parse, parse_list


def pairs(text: str, implied: str | None = "type") -> list[tuple[str, str]]:
    return [(item.key, item.value) for item in parse_list(text, implied)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user,id=u", [("type", "user"), ("id", "u")]),
        ("type=user,id=u", [("type", "user"), ("id", "u")]),
        ("id=u,user", [("id", "u"), ("user", "on")]),
        ("user,restrict", [("type", "user"), ("restrict", "on")]),
        ("user,norestrict", [("type", "user"), ("restrict", "off")]),
        ("user,hostname=a,,b,id=u", [("type", "user"), ("hostname", "a,b"), ("id", "u")]),
        ("a,,b,id=u", [("type", "a,b"), ("id", "u")]),
        ("user,a,,b", [("type", "user"), ("a", "on"), ("", "on"), ("b", "on")]),
        ("user,id=a=b", [("type", "user"), ("id", "a=b")]),
        ("user,id=,net=", [("type", "user"), ("id", ""), ("net", "")]),
        ("user,=1", [("type", "user"), ("", "1")]),
        ("user,", [("type", "user")]),
        ("user,id=x,,,", [("type", "user"), ("id", "x,")]),
        ("", []),
    ],
)
def test_items_are_read_as_qemu_reads_them(text: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(text) == expected
    assert str(parse_list(text, "type")) == text


def test_first_word_is_a_flag_when_no_key_is_implied() -> None:
    assert pairs("nowait", None) == [("wait", "off")]


@given(st.text(alphabet="ab,=no.", max_size=30), st.sampled_from([None, "type"]))
def test_every_text_comes_back_unchanged(text: str, implied: str | None) -> None:
    assert str(parse_list(text, implied)) == text


KEYS = st.text(alphabet="abcdefg-._", min_size=1, max_size=5)


@given(st.lists(st.tuples(KEYS, st.text(max_size=10)), max_size=6), st.text(min_size=1))
def test_written_items_are_read_back(given_pairs: list[tuple[str, str]], first: str) -> None:
    options = OptionList([Item.implied("type", first)])
    for key, value in given_pairs:
        options.add(key, value)
    assert pairs(str(options)) == [("type", first), *given_pairs]


@given(st.lists(st.tuples(KEYS, st.text(max_size=10)), min_size=1), st.data())
def test_setting_one_key_leaves_the_others_text(
    given_pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    options = OptionList([Item.keyed(key, value) for key, value in given_pairs])
    chosen = data.draw(st.sampled_from([key for key, _ in given_pairs]))
    others = [item.text for item in options if item.key != chosen]
    options.set(chosen, "new,value")
    assert options.get_all(chosen) == ["new,value"]
    assert [item.text for item in options if item.key != chosen] == others


def test_repeated_keys_are_all_kept_in_order() -> None:
    options = parse_list("user,hostfwd=1,id=u,hostfwd=2", "type")
    assert options.get_all("hostfwd") == ["1", "2"]
    assert options.get("hostfwd") == "2"
    assert options.first("hostfwd") == "1"
    assert options.keys() == ["type", "hostfwd", "id"]


def test_set_replaces_in_place_and_remove_takes_all() -> None:
    options = parse_list("user,net=a,id=u,net=b,x=1,", "type")
    options.set("net", "c")
    assert str(options) == "user,net=c,id=u,x=1,"
    options.remove("net")
    options.add("y", "2")
    assert str(options) == "user,id=u,x=1,y=2"


def test_flag_moved_to_the_front_is_written_with_its_key() -> None:
    options = parse_list("user,norestrict,id=u", "type")
    options.remove("type")
    assert str(options) == "restrict=off,id=u"
    assert pairs(str(options)) == [("restrict", "off"), ("id", "u")]


def test_implied_value_with_equals_sign_gets_its_key_written() -> None:
    options = parse_list("user,id=u", "type")
    options.set("type", "a=b")
    assert str(options) == "type=a=b,id=u"


@pytest.mark.parametrize("key", ["", "a,b", "a=b"])
def test_key_that_cannot_be_written_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        Item.keyed(key, "x")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("help", True),
        ("?", True),
        ("virtio-net-pci,help", True),
        ("virtio-net-pci,?", True),
        ("virtio-net-pci,id=help", False),
        ("virtio-net-pci,nohelp", False),
    ],
)
def test_help_is_a_bare_word(text: str, wanted: bool) -> None:
    assert parse_list(text, "driver").wants_help is wanted


def test_forms_are_told_apart() -> None:
    assert [item.form for item in parse_list("a,b=c,d", "x")] == [
        Form.IMPLIED,
        Form.KEYED,
        Form.FLAG,
    ]


def test_json_text_comes_back_unchanged_until_a_change() -> None:
    text = '{ "type": "user",  "id":"u", "hostfwd":[{"str":"tcp::1-:2"}] }'
    options = parse(text, "type")
    assert isinstance(options, JsonOptions)
    assert str(options) == text
    assert options.get("hostfwd") == [{"str": "tcp::1-:2"}]
    options.remove("nothing")
    assert str(options) == text
    options.set("type", "vhost-user")
    options.remove("hostfwd")
    assert str(options) == '{"type":"vhost-user","id":"u"}'


def test_json_starts_with_the_brace_itself() -> None:
    assert isinstance(parse(' {"type":"user"}', "type"), OptionList)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"driver":"e1000",bad', "1:19: JSON parse error, expecting key"),
        ('{"type":"user","id":"x"', "1:24: JSON parse error, premature end of input"),
        ('{"a":"', "1:6: JSON parse error, premature end of input"),
        ('{"a":1}x', "1:8: JSON parse error, extra data"),
        ('{"a":1,"a":2}', "JSON parse error, duplicate key"),
        ('{"a":NaN}', "JSON parse error, invalid keyword 'NaN'"),
    ],
)
def test_json_fault_is_one_line_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.message == fault


@pytest.mark.parametrize("text", ["{" + '"a":{' * 5000, '{"a":' + "1" * 5000 + "}"])
def test_json_of_absurd_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_json_strings_may_have_single_quotes() -> None:
    options = parse("{'type': 'user', 'id': 'it\\'s \"u\"'}")
    assert (options.get("type"), options.get("id")) == ("user", 'it\'s "u"')


def test_dotted_keys_nest() -> None:
    options = parse_list("stream,addr.type=inet,addr.host=h,x.0.str=a,x.1.str=b", "type")
    assert syntax.nest(options) == {
        "type": "stream",
        "addr": {"type": "inet", "host": "h"},
        "x": [{"str": "a"}, {"str": "b"}],
    }


@pytest.mark.parametrize("text", ["a=1,a.b=2", "a.b=2,a=1", "a.0=x,a.2=y"])
def test_dotted_keys_that_contradict_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        syntax.nest(parse_list(text))
