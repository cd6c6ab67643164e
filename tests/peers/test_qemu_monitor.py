# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The same QMP conversation with QEMU's machine without accelerator and with ours.

What must be equal is compared as it is; of what differs by nature (descriptions, types that only
QEMU has, the built-in parts of its PC) the shape is.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.guest.provision import qemu_newest
from vmwire import catalogue
from vmwire.catalogue import MODULES

pytestmark = pytest.mark.peer

WORDS = [
    *("-machine", "pc", "-accel", "qtest", "-nodefaults", "-display", "none"),
    *("-netdev", "user,id=u0", "-netdev", "user,id=u1", "-netdev", "hubport,id=h0,hubid=3"),
    *("-device", "e1000,id=n0,netdev=u0,addr=4", "-device", "virtio-net-pci,id=v0,addr=5"),
]
PATIENCE_S = 30


class Peer:
    """One of the two, past its greeting."""

    def __init__(self, command: list[str], path: Path) -> None:
        words = [*WORDS, "-qmp", f"unix:{path},server=on,wait=off"]
        self.process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL)
        self._socket = self._connect(str(path))
        self._stream = self._socket.makefile("rb")
        self.greeting = self._read()
        self.events: list[tuple[str, Any]] = []

    def _connect(self, path: str) -> socket.socket:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(PATIENCE_S)
            with contextlib.suppress(OSError):
                client.connect(path)
                return client
            client.close()
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.02)

    def _read(self) -> dict[str, Any]:
        line = self._stream.readline()
        assert line.endswith(b"\r\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def say(self, text: bytes, answers: int = 1) -> list[dict[str, Any]]:
        """The next answers after some bytes; events go into ``events``."""
        self._socket.sendall(text)
        found: list[dict[str, Any]] = []
        self.events.clear()
        while len(found) < answers:
            message = self._read()
            if "event" in message:
                assert message["timestamp"].keys() == {"seconds", "microseconds"}
                self.events.append((message["event"], message.get("data")))
            else:
                found.append(message)
        return found

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        request = {"execute": command, "arguments": dict(arguments or {})}
        return self.say(json.dumps(request).encode())[0]

    def hmp(self, line: str) -> dict[str, Any]:
        return self.ask("human-monitor-command", {"command-line": line})

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[tuple[Peer, Peer]]:
    """QEMU's and ours."""
    ours = [sys.executable, "-m", "vmwire"]
    with contextlib.ExitStack() as stack:
        made = []
        for command, name in (([qemu_newest()], "qemu"), (ours, "ours")):
            peer = Peer(command, folder / f"{name}.sock")
            stack.callback(peer.close)
            made.append(peer)
        yield made[0], made[1]


def negotiated(peers: tuple[Peer, Peer]) -> tuple[Peer, Peer]:
    for peer in peers:
        assert peer.ask("qmp_capabilities") == {"return": {}}
    return peers


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[tuple[Peer, Peer]]:
    """Both, before the negotiation."""
    with started(tmp_path) as both:
        yield both


@pytest.fixture
def ready(peers: tuple[Peer, Peer]) -> tuple[Peer, Peer]:
    """Both, past it."""
    return negotiated(peers)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer]]:
    """Both, for tests that change nothing."""
    with started(tmp_path_factory.mktemp("asked")) as both:
        yield negotiated(both)


def test_greetings_have_the_same_shape(asked: tuple[Peer, Peer]) -> None:
    theirs, ours = (peer.greeting["QMP"] for peer in asked)
    assert ours.keys() == theirs.keys()
    assert ours["version"].keys() == theirs["version"].keys()
    assert ours["version"]["qemu"].keys() == theirs["version"]["qemu"].keys()


INPUT = [
    b'{"execute":"query-status"}',
    b'{"execute":"qmp_capabilities","arguments":{"bogus":1}}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":5}}',
    b'{"exec-oob":"query-status","id":1}',
    b'{"execute":"qmp_capabilities","id":[1,{"a":null}]}',
    b'{"execute":"qmp_capabilities"}',
    b"[1]",
    b'"a"\n',
    b"{}",
    b'{"id":7}',
    b'{"execute":1,"id":2}',
    b'{"execute":"stop","arguments":3}',
    b'{"execute":"query-status","arguments":{"x":1}}',
    b'{"execute":"query-status","foo":3,"id":9}',
    b'{"execute":"query-status","execute":"query-name"}',
    b"{'execute':'query-status','id':'a\\'b'}",
    b"not \n",
    b"\xff\n",
    b"}\n",
    b'{"execute":"query-status",}\n',
    b'{"execute" "query-status"}\n',
    b'{"execute":"query-status","id":[1 2]}\n',
    b'{"execute":"query-status","id":[1}}\n',
    b'{"execute":"query-status","id":tru e}\n',
    b'{"execute":"query-status","id":"\\ud83d"}\n',
    b'{"execute":"query-status","id":"\\x"}\n',
    b'{"execute":"query-status","id":"\xc3("}\n',
    b'{"execute":"query-status","id":18446744073709551615}\n',
    b'{"execute":"query-status","id":"\\u00e9\\u0000\\ud83d\\ude00\xc3\xa9"}\n',
    b'{"execute":"query-status","id":' + b"[" * 2000 + b"]" * 2000 + b"}\n",
    b'{"execute":"query-status"}\n',
]


def test_input_is_read_and_refused_alike(peers: tuple[Peer, Peer]) -> None:
    for text in INPUT:
        theirs, ours = (peer.say(text) for peer in peers)
        if b"oob" not in text:
            assert ours == theirs, text


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("query-status", {}),
    ("stop", {}),
    ("stop", {}),
    ("query-status", {}),
    ("cont", {}),
    ("query-name", {}),
    ("nosuch", {}),
    ("qom-list-types", {"implements": 5}),
    ("qom-list-types", {"implements": "nosuch"}),
    ("device-list-properties", {}),
    ("device-list-properties", {"typename": "nosuch"}),
    ("device-list-properties", {"typename": "pci-device"}),
    ("device-list-properties", {"typename": "machine"}),
    ("set_link", {"name": "u0", "up": False}),
    ("set_link", {"name": "n0", "up": True, "x": 1}),
    ("set_link", {"name": "nosuch", "up": False}),
    ("set_link", {"name": "n0"}),
    ("set_link", {"name": "n0", "up": "off"}),
    ("netdev_add", {}),
    ("netdev_add", {"type": "user"}),
    ("netdev_add", {"id": "x"}),
    ("netdev_add", {"type": 4, "id": "x"}),
    ("netdev_add", {"type": "nosuch", "id": "x"}),
    ("netdev_add", {"type": "nic", "id": "x"}),
    ("netdev_add", {"type": "user", "id": "u0"}),
    ("netdev_add", {"type": "user", "id": "x y"}),
    ("netdev_add", {"type": "user", "id": 4}),
    ("netdev_add", {"type": "user", "id": "k", "bogus": 1}),
    ("netdev_add", {"type": "user", "id": "k", "restrict": "on"}),
    ("netdev_add", {"type": "user", "id": "k", "hostfwd": "x"}),
    ("netdev_add", {"type": "user", "id": "k", "hostfwd": [{"str": "bad"}]}),
    ("netdev_add", {"type": "hubport", "id": "k", "hubid": "0"}),
    ("netdev_add", {"type": "hubport", "id": "k", "hubid": 0, "netdev": "zz"}),
    ("netdev_add", {"type": "hubport", "id": "k", "hubid": 7}),
    ("netdev_add", {"type": "user", "id": "q", "net": "10.9.0.0/24", "restrict": True}),
    ("netdev_del", {"id": "k"}),
    ("netdev_del", {"id": "n0"}),
    ("netdev_del", {}),
    ("device_add", {}),
    ("device_add", {"driver": 5}),
    ("device_add", {"driver": "nosuch", "id": "n0"}),
    ("device_add", {"driver": "pci-device"}),
    ("device_add", {"driver": "e1000", "id": "n0", "bogus": 5}),
    ("device_add", {"driver": "e1000", "id": "1bad"}),
    ("device_add", {"driver": "e1000", "id": "b", "bogus": 5}),
    ("device_add", {"driver": "e1000", "id": "b", "bus": "pci.9"}),
    ("device_add", {"driver": "e1000", "id": "b", "netdev": "zz"}),
    ("device_add", {"driver": "e1000", "id": "b", "netdev": "u0"}),
    ("device_add", {"driver": "e1000", "id": "b", "netdev": 7}),
    ("device_add", {"driver": "e1000", "id": "b", "mac": "zz"}),
    ("device_add", {"driver": "e1000", "id": "b", "addr": "99"}),
    ("device_add", {"driver": "e1000", "id": "b", "addr": "4"}),
    ("device_add", {"driver": "e1000", "id": "b", "rombar": "x"}),
    ("device_add", {"driver": "e1000", "id": "b", "rombar": 99999999999}),
    ("device_add", {"driver": "e1000", "id": "b", "multifunction": "on"}),
    ("device_add", {"driver": "e1000", "id": "ok", "addr": "6", "bus": "pci.0", "netdev": "q"}),
    ("device_add", {"driver": "e1000", "addr": "7"}),
    ("announce-self", {"initial": 50, "max": 100, "rounds": 1}),
    ("announce-self", {"initial": "x", "max": 100, "rounds": 1, "step": 1}),
    ("announce-self", {"initial": 5, "max": 9, "rounds": 1, "step": 1, "interfaces": 5}),
    ("announce-self", {"initial": 5, "max": 9, "rounds": 1, "step": 1, "interfaces": [5]}),
    ("announce-self", {"initial": 5, "max": 9, "rounds": 1, "step": 1, "id": "a"}),
    ("query-rx-filter", {"name": "n0"}),
    ("query-rx-filter", {"name": "u0"}),
    ("query-rx-filter", {"name": "nosuch"}),
    ("query-rx-filter", {"name": 5}),
    ("human-monitor-command", {}),
    ("human-monitor-command", {"command-line": 7}),
    ("human-monitor-command", {"command-line": ""}),
    ("human-monitor-command", {"command-line": "nosuch"}),
    ("human-monitor-command", {"command-line": "info nosuch"}),
    ("human-monitor-command", {"command-line": "info network x"}),
    ("human-monitor-command", {"command-line": "help info pci"}),
    ("device_del", {}),
    ("device_del", {"id": 4}),
    ("device_del", {"id": "nosuch"}),
]


def test_requests_are_answered_alike(ready: tuple[Peer, Peer]) -> None:
    for command, arguments in REQUESTS:
        theirs, ours = (peer.ask(command, arguments) for peer in ready)
        assert ours == theirs, (command, arguments)
        assert ready[1].events == ready[0].events, (command, arguments)


def dump(**options: Any) -> tuple[str, dict[str, Any]]:
    values = {"qom-type": "filter-dump", "id": "d", "netdev": "u0", "file": "/dev/null"}
    return "object-add", {**values, **{key.replace("_", "-"): v for key, v in options.items()}}


def buffer(id: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return "object-add", {"qom-type": "filter-buffer", "id": id, "netdev": "u0", **options}


def socket_chardev(id: str, address: Any, **options: Any) -> tuple[str, dict[str, Any]]:
    backend = {"type": "socket", "data": {"addr": address, **options}}
    return "chardev-add", {"id": id, "backend": backend}


def changes(*pairs: tuple[str, Any], path: str = "/objects/d") -> list[tuple[str, dict[str, Any]]]:
    """Each property set, and what it is then."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, value in pairs:
        found.append(("qom-set", {"path": path, "property": name, "value": value}))
        found.append(("qom-get", {"path": path, "property": name}))
    return found


def hmp(*lines: str) -> list[tuple[str, dict[str, Any]]]:
    return [("human-monitor-command", {"command-line": line}) for line in lines]


SERVER = {"server": True, "wait": False}
NAME = {"type": "unix", "data": {"path": "vmwire", "abstract": True, "tight": True}}
FILTER_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("object-add", {}),
    ("object-add", {"id": "x"}),
    ("object-add", {"qom-type": "filter-dump"}),
    ("object-add", {"qom-type": 5, "id": "x"}),
    ("object-add", {"qom-type": "nosuch", "id": "x"}),
    ("object-add", {"qom-type": "e1000", "id": "x"}),
    ("object-add", {"qom-type": "filter-dump", "id": "d"}),
    ("object-add", {"qom-type": "filter-dump", "id": "d", "netdev": "zz"}),
    dump(id="x y"),
    dump(id=5),
    dump(netdev="zz"),
    dump(netdev="n0"),
    dump(file="/nonexistent/d"),
    dump(maxlen=0),
    dump(maxlen="5"),
    dump(maxlen=-1),
    dump(maxlen=99999999999),
    dump(bogus=1),
    dump(queue="x"),
    dump(queue=4),
    dump(status="x"),
    dump(status=True),
    dump(position="x"),
    dump(position="id=zz"),
    dump(position="id="),
    dump(insert="x"),
    dump(),
    dump(),
    buffer("d", interval=1),
    buffer("x", interval=0),
    buffer("x"),
    buffer("u0", interval=1000, status="off"),
    buffer("b", interval=1000, position="id=d", insert="before", queue="rx"),
    *hmp("info network"),
    ("qom-list", {}),
    ("qom-list", {"path": 5}),
    ("qom-list", {"path": ""}),
    ("qom-list", {"path": "/objects/nosuch"}),
    ("qom-list", {"path": "nosuch"}),
    ("qom-list", {"path": "/objects/d"}),
    ("qom-list", {"path": "b"}),
    *(
        ("qom-get", {"path": path, "property": name})
        for path in ("/objects/d", "b", "d", "objects/b")
        for name in (
            *("type", "netdev", "queue", "status", "position", "insert"),
            *("file", "maxlen", "interval", "bogus"),
        )
    ),
    ("qom-get", {"path": "/objects/d"}),
    ("qom-get", {"path": "zz", "property": "status"}),
    ("qom-get", {"path": "", "property": "status"}),
    ("qom-get", {"path": "n0", "property": "type"}),
    ("qom-get", {"path": "/machine/peripheral/n0", "property": "mac"}),
    *changes(("status", "off"), ("status", "off"), ("status", "x"), ("status", True)),
    *changes(("queue", "tx"), ("queue", "x"), ("queue", 5), ("maxlen", 3), ("maxlen", 0)),
    *changes(("maxlen", "x"), ("bogus", 1), ("type", "x"), ("file", 5)),
    *changes(("interval", 5), ("interval", 0), ("status", "off"), path="b"),
    ("qom-set", {"path": "/objects/d", "property": "status"}),
    ("qom-set", {"path": "/objects/d", "value": 1}),
    ("qom-set", {"path": "/objects/zz", "property": "status", "value": "off"}),
    ("qom-set", {"property": "status", "value": "off"}),
    *hmp("info network", "object_del", "object_del zz", "object_del d x", "object_del d"),
    *hmp("object_add", "object_add filter-dump", "object_add filter-dump,id=d"),
    *hmp("object_add filter-dump,id=d,netdev=u0,file=/dev/null,status=x"),
    *hmp("object_add filter-dump,id=d,netdev=zz,file=/dev/null"),
    *hmp("object_add nosuch,id=d", "object_add filter-dump,id=d,netdev=u0,file=/dev/null"),
    *hmp("object_add filter-dump,id=d,netdev=u0,file=/dev/null", "qom-list"),
    *hmp("qom-list /objects/zz", "qom-get /objects/d status", "qom-get d maxlen", "qom-get d"),
    *hmp("qom-get d bogus", "qom-set d status off", "qom-set d status zz", "qom-get d status"),
    *hmp("qom-set d maxlen 5", "qom-set -j d maxlen 7", "qom-get d maxlen"),
    *hmp(*(f"help {name}" for name in ("object_add", "object_del", "qom-get", "qom-list"))),
    *hmp("help qom-set", "help chardev-add", "help chardev-remove"),
    ("object-del", {}),
    ("object-del", {"id": 5}),
    ("object-del", {"id": "zz"}),
    ("object-del", {"id": "/objects/d"}),
    ("object-del", {"id": "d"}),
    ("chardev-add", {}),
    ("chardev-add", {"id": "c"}),
    ("chardev-add", {"id": "c", "backend": {}}),
    ("chardev-add", {"id": "c", "backend": {"type": "nosuch", "data": {}}}),
    ("chardev-add", {"id": "c", "backend": {"type": "socket"}}),
    ("chardev-add", {"id": "c", "backend": {"type": "socket", "data": {}}}),
    socket_chardev("c", {}),
    socket_chardev("c", {"type": "inet", "data": {}}),
    socket_chardev("c", {"type": "inet", "data": {"host": "127.0.0.1"}}),
    socket_chardev("c", {"type": "inet", "data": {"host": "127.0.0.1", "port": 1}}),
    socket_chardev("c", {"type": "unix", "data": {}}),
    socket_chardev("c", {"type": "inet", "host": "127.0.0.1", "port": "1"}),
    socket_chardev("c", {"type": "xx", "data": {}}),
    socket_chardev("c", NAME, bogus=1),
    ("object-add", {"qom-type": "filter-mirror", "id": "m", "netdev": "u0"}),
    ("object-add", {"qom-type": "filter-mirror", "id": "m", "netdev": "u0", "outdev": "c"}),
    ("object-add", {"qom-type": "filter-redirector", "id": "r", "netdev": "u0"}),
    (
        "object-add",
        {"qom-type": "filter-redirector", "id": "r", "netdev": "u0", "indev": "a", "outdev": "a"},
    ),
    ("object-add", {"qom-type": "filter-redirector", "id": "r", "netdev": "u0", "indev": "a"}),
    ("object-add", {"qom-type": "filter-redirector", "id": "r", "netdev": "u0", "outdev": "a"}),
    ("chardev-remove", {}),
    ("chardev-remove", {"id": 3}),
    ("chardev-remove", {"id": "zz"}),
    *hmp("chardev-add", "chardev-remove", "chardev-remove zz"),
]


def test_filters_are_added_changed_and_removed_alike(ready: tuple[Peer, Peer]) -> None:
    for command, arguments in FILTER_REQUESTS:
        theirs, ours = (peer.ask(command, arguments) for peer in ready)
        if command == "qom-list" and isinstance(theirs.get("return"), list):
            theirs, ours = (by_name(each["return"]) for each in (theirs, ours))
        assert ours == theirs, (command, arguments)


def test_filters_go_through_chardevs_alike(ready: tuple[Peer, Peer]) -> None:
    mirror = {"qom-type": "filter-mirror", "netdev": "u0", "outdev": "c"}
    redirector = {"qom-type": "filter-redirector", "id": "r", "netdev": "u0", "indev": "c"}
    for number, peer in enumerate(ready):
        data = {**NAME["data"], "path": f"vmwire-{peer.process.pid}-{number}"}
        address = {"type": "unix", "data": data}
        assert peer.ask(*socket_chardev("c", address, **SERVER)) == {"return": {}}
    for command, arguments in (
        socket_chardev("c", NAME, **SERVER),
        ("object-add", {**mirror, "id": "m"}),
        ("object-add", {**mirror, "id": "m2"}),
        ("qom-list", {"path": "/objects/m"}),
        ("qom-get", {"path": "m", "property": "vnet_hdr_support"}),
        ("chardev-remove", {"id": "c"}),
        ("object-del", {"id": "m"}),
        ("object-add", redirector),
        ("qom-list", {"path": "/objects/r"}),
        ("qom-get", {"path": "r", "property": "outdev"}),
        *hmp("info network"),
        ("netdev_del", {"id": "u0"}),
        ("object-del", {"id": "r"}),
        ("chardev-remove", {"id": "c"}),
        ("chardev-remove", {"id": "c"}),
    ):
        theirs, ours = (peer.ask(command, arguments) for peer in ready)
        if command == "qom-list":
            theirs, ours = (by_name(each["return"]) for each in (theirs, ours))
        assert ours == theirs, (command, arguments)


def test_network_and_bus_are_shown_alike(ready: tuple[Peer, Peer]) -> None:
    for peer in ready:
        peer.ask("device_add", {"driver": "e1000", "netdev": "u1", "addr": "6"})
        peer.ask("netdev_add", {"type": "user", "id": "late", "restrict": True})
    for line in ("info network", "info pci"):
        theirs, ours = (peer.hmp(line)["return"].split("\r\n") for peer in ready)
        assert ours == theirs
    theirs, ours = (peer.ask("query-pci") for peer in ready)
    assert ours == theirs


def test_rx_filter_is_shown_alike(asked: tuple[Peer, Peer]) -> None:
    for arguments in ({}, {"name": "v0"}):
        theirs, ours = (peer.ask("query-rx-filter", arguments)["return"] for peer in asked)
        for filter in theirs:  # where it says the opposite of what it means
            filter["broadcast-allowed"] = not filter["broadcast-allowed"]
        assert ours == theirs


def test_card_is_unplugged_alike(ready: tuple[Peer, Peer]) -> None:
    told = []
    for peer in ready:
        assert peer.ask("device_del", {"id": "n0"}) == {"return": {}}
        assert peer.ask("device_del", {"id": "v0"}) == {"return": {}}
        assert peer.events == []
        again = peer.ask("device_del", {"id": "n0"})["error"]
        peer.ask("system_reset")
        events = list(peer.events)
        while len(events) < 4:  # some stand behind the answer
            peer.ask("query-status")
            events += peer.events
        names = peer.hmp("info network")["return"]
        told.append((again, events, names))
    assert told[0] == told[1]


OF_OLDER = {"autonegotiation", "extra_mac_registers", "mitigation", "x-pcie-extcap-init"}
"""Properties that QEMU had up to 9."""


def by_name(listed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in listed}


@pytest.mark.parametrize("card", ["e1000", "e1000-82544gc", "virtio-net-pci"])
def test_properties_are_typed_alike(asked: tuple[Peer, Peer], card: str) -> None:
    theirs, ours = (
        by_name(peer.ask("device-list-properties", {"typename": card})["return"]) for peer in asked
    )
    for name in ours.keys() - OF_OLDER:
        expected = {**theirs[name], "description": None}
        assert {**ours[name], "description": None} == expected


def test_types_of_cards_have_the_same_place(asked: tuple[Peer, Peer]) -> None:
    for what in ("device", "pci-device", "conventional-pci-device", "pci-express-device"):
        for abstract in (False, True):
            arguments = {"implements": what, "abstract": abstract}
            theirs, ours = (
                by_name(peer.ask("qom-list-types", arguments)["return"]) for peer in asked
            )
            assert {name: theirs.get(name) for name in ours} == ours


def test_machines_have_no_other_members(asked: tuple[Peer, Peer]) -> None:
    theirs, ours = (peer.ask("query-machines")["return"] for peer in asked)
    allowed = {key for each in theirs for key in each}
    assert all(each.keys() <= allowed for each in ours)


Named = dict[str, dict[str, Any]]


def our_options() -> set[str]:
    """Options that QEMU hasn't got."""
    entries = [table.entries for kind in MODULES for table in catalogue.tables(kind)]
    ours = {key for each in entries for key, entry in each.items() if entry.option.ours}
    return ours | {"reconnect", "file"}  # which older ones had


def check_fits(ours: Named, theirs: Named, mine: str, yours: str, path: str) -> None:
    """Whatever ours tells of a type, theirs tells too; members that theirs must have, ours has."""
    a, b = ours[mine], theirs[yours]
    if mine == "any" or (mine == "str" and b["meta-type"] == "enum"):
        return  # we say less of it
    assert a["meta-type"] == b["meta-type"], path
    if a["meta-type"] == "builtin":
        assert a["json-type"] == b["json-type"], path
    elif a["meta-type"] == "enum":
        assert set(a["values"]) <= set(b["values"]), path
    elif a["meta-type"] == "array":
        check_fits(ours, theirs, a["element-type"], b["element-type"], f"{path}[]")
    else:
        _check_members(ours, theirs, a, b, path)


def _check_members(ours: Named, theirs: Named, a: Any, b: Any, path: str) -> None:
    mine, yours = by_name(a["members"]), by_name(b["members"])
    for name, member in mine.items():
        if name not in yours and name in our_options():
            continue
        assert name in yours, f"{path}.{name}"
        check_fits(ours, theirs, member["type"], yours[name]["type"], f"{path}.{name}")
    missing = {name for name, each in yours.items() if "default" not in each} - mine.keys()
    assert not missing, (path, missing)
    assert a.get("tag") == b.get("tag"), path
    cases = {each["case"]: each["type"] for each in b.get("variants", ())}
    for each in a.get("variants", ()):
        if each["case"] in cases:
            check_fits(ours, theirs, each["type"], cases[each["case"]], f"{path}={each['case']}")


def test_schema_fits_qemus(asked: tuple[Peer, Peer]) -> None:
    theirs, ours = (by_name(peer.ask("query-qmp-schema")["return"]) for peer in asked)
    for name, each in ours.items():
        if each["meta-type"] in ("command", "event"):
            for key in {"arg-type", "ret-type"} & each.keys():
                check_fits(ours, theirs, each[key], theirs[name][key], f"{name}:{key}")


def test_end_is_told_alike(ready: tuple[Peer, Peer]) -> None:
    for peer in ready:
        assert peer.ask("quit") == {"return": {}}
        assert peer.process.wait(PATIENCE_S) == 0
    assert (
        ready[0].events
        == ready[1].events
        == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]
    )
