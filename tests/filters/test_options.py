# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from tests.filters.rig import Rig

from vmwire.errors import ConfigError
from vmwire.filters.options import BufferOptions, DumpOptions, RedirectorOptions
from vmwire.options.table import table_of

DUMP = {"id": "f0", "netdev": "u0", "file": "d.pcap"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filter-dump,id=f0", "Parameter 'netdev' is missing"),
        ("filter-dump,id=f0,file=d.pcap", "Parameter 'netdev' is missing"),
        ("filter-dump,id=f0,netdev=u0", "Parameter 'file' is missing"),
        (
            "filter-dump,id=f0,netdev=u0,file=d,maxlen=0",
            "Property 'filter-dump.maxlen' doesn't take value '0'",
        ),
        (
            "filter-dump,id=f0,netdev=u0,file=d,queue=bogus",
            "Parameter 'queue' does not accept value 'bogus'",
        ),
        (
            "filter-dump,id=f0,netdev=u0,file=d,position=bogus",
            "Parameter 'position' expects 'head', 'tail' or 'id=<id>'",
        ),
        (
            "filter-dump,id=f0,netdev=u0,file=d,status=bogus",
            "Invalid value for netfilter status, should be 'on' or 'off'",
        ),
    ],
)
def test_a_dump_is_refused_in_qemus_words(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        table_of(DumpOptions).from_text(text)
    assert error.value.message == message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "Parameter 'interval' is missing"),
        (",interval=0", "Property 'filter-buffer.interval' requires a positive value"),
    ],
)
def test_a_buffer_wants_an_interval(more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table_of(BufferOptions).from_text(f"filter-buffer,id=f0,netdev=u0{more}")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "filter redirector needs 'indev' or 'outdev' at least one property set"),
        (",indev=c,outdev=c", "'indev' and 'outdev' could not be same for filter redirector"),
    ],
)
def test_a_redirector_wants_one_chardev_or_two(more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table_of(RedirectorOptions).from_text(f"filter-redirector,id=f0,netdev=u0{more}")


def test_defaults_are_qemus() -> None:
    options = table_of(DumpOptions).from_kwargs(**DUMP)
    assert (options.queue, options.status, options.position, options.insert, options.maxlen) == (
        "all", "on", "tail", "behind", 65536,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("about", "row"),
    [
        ({}, "abX"),
        ({"position": "tail"}, "abX"),
        ({"position": "head"}, "Xab"),
        ({"position": "id=a"}, "aXb"),
        ({"position": "id=b", "insert": "before"}, "aXb"),
        ({"position": "id=a", "insert": "before"}, "Xab"),
        ({"position": "id=b", "insert": "behind"}, "abX"),
    ],
)
def test_a_filter_goes_where_its_position_says(rig: Rig, about: dict[str, str], row: str) -> None:
    for name in "ab":
        rig.add("filter-buffer", id=name, interval=1000)
    rig.add("filter-buffer", id="X", interval=1000, **about)
    assert "".join(each.id for each in rig.member.filters) == row


def test_the_head_is_nearest_to_the_netdev(rig: Rig) -> None:
    """What the netdev sends is held by the head first, and what it receives by the tail."""
    tail = rig.add("filter-buffer", id="tail", interval=1000)
    head = rig.add("filter-buffer", id="head", interval=1000, position="head")
    assert rig.netdev.port.peer is head.right
    assert rig.guest.port.peer is tail.left


@pytest.mark.parametrize(
    ("type", "options", "message"),
    [
        ("filter-buffer", {"interval": 1, "position": "id=no"}, "filter 'no' not found"),
        ("filter-buffer", {"interval": 1, "id": "a"}, "Duplicate ID 'a' for object"),
        ("filter-buffer", {"interval": 1, "netdev": "m"}, "'netdev' expects a network backend id"),
        ("filter-mirror", {"outdev": "nosuch"}, "Device 'nosuch' not found"),
        ("filter-mirror", {"outdev": "used"}, "chardev 'used' is already in use"),
        ("filter-dump", {"file": "/nonexistent/d"}, "Could not open '/nonexistent/d': No such"),
    ],
)
def test_what_can_not_be_had_leaves_the_wire_as_it_was(
    rig: Rig, type: str, options: dict[str, object], message: str
) -> None:
    rig.chardev("used")
    rig.add("filter-mirror", id="a", outdev="used")
    before = rig.guest.port.peer
    with pytest.raises(ConfigError, match=message):
        rig.add(type, **options)
    assert (list(rig.filters), rig.guest.port.peer) == (["a"], before)


@pytest.mark.parametrize(
    ("type", "message"),
    [
        ("filter-rewriter", "object 'filter-rewriter' is of use only where two QEMUs run one"),
        ("filter-replay", "object 'filter-replay' is of use only in QEMU, .* indev= takes them"),
        ("filter-dumb", "Parameter 'qom-type' does not accept value 'filter-dumb'"),
    ],
)
def test_a_type_that_is_not_served_is_told_from_a_misspelt_one(
    rig: Rig, type: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rig.objects.add_filter(type, {"id": "f", "netdev": "n"})


def test_a_status_is_on_or_off(rig: Rig) -> None:
    rig.add("filter-buffer", id="a", interval=1000)
    with pytest.raises(ConfigError, match="should be 'on' or 'off'"):
        rig.objects.change("a", "status", "bogus")
    with pytest.raises(ConfigError, match="object 'b' not found"):
        rig.objects.change("b", "status", "on")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of host= and port=, path= or fd= is required"),
        ({"path": "/a", "host": "h", "port": "1"}, "one of host= and port="),
        ({"host": "h"}, "Parameter 'port' is missing"),
        ({"path": "/a", "server": True, "wait": True}, "'wait=on' is not served"),
        ({"path": "/a", "server": True, "reconnect": 1}, "incompatible with socket in server mode"),
        ({"path": "/a", "telnet": True}, "telnet"),
        ({"path": "/a", "id": "used"}, "Duplicate ID 'used' for chardev"),
    ],
)
def test_a_chardev_says_what_it_is(rig: Rig, options: dict[str, object], message: str) -> None:
    rig.chardev("used")
    with pytest.raises(ConfigError, match=message):
        rig.objects.add_chardev("socket", {"id": "c", **options})
