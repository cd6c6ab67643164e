# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters that a monitor put into a network in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.instance import Instance, eventually, stats_of
from tests.daemon.test_upgrade import control_of, vmwire_upgrade
from vmwire.daemon import control
from vmwire.monitor.table import CommandError


def ask(instance: Instance, command: str, **arguments: Any) -> Any:
    named = {key.replace("_", "-"): value for key, value in arguments.items()}
    return control.ask(control_of(instance), command, arguments=named)


def add_mirror(instance: Instance, path: Path) -> None:
    """A mirror that its peers reach at ``path``, behind a dump."""
    address = {"type": "unix", "data": {"path": str(path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": True}}
    ask(instance, "chardev-add", id="c", backend=backend)
    ask(instance, "object-add", qom_type="filter-mirror", id="m", netdev="u", outdev="c")
    dump = {"id": "d", "netdev": "u", "file": str(path.with_suffix(".pcap")), "position": "head"}
    ask(instance, "object-add", qom_type="filter-dump", **dump)
    ask(instance, "qom-set", path="/objects/d", property="status", value="off")


def reaches(path: Path, instance: Instance) -> bool:
    """Whether the mirror hears of a peer that calls."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        return bool(
            eventually(lambda: instance.stats()["filters"]["m"]["outdev"]["connected"], 10.0)
        )


def shown(instance: Instance) -> str:
    """What ``info network`` says."""
    line = {"command-line": "info network"}
    requests = [
        {"execute": "qmp_capabilities"},
        {"execute": "human-monitor-command", "arguments": line},
    ]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(control_of(instance))
        client.sendall(b"".join(json.dumps(each).encode() for each in requests))
        with client.makefile("rb") as stream:
            _, _, answer = stream.readline(), stream.readline(), stream.readline()
    return str(json.loads(answer)["return"])


def test_filters_are_there_again_after_an_upgrade_and_a_crash(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with Instance(runtime) as instance:
        add_mirror(instance, path)
        before, links = shown(instance), instance.stats()["links"]
        assert links == [["n0", "m", "d", "u"]] and reaches(path, instance)
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        assert (shown(instance), instance.stats()["links"]) == (before, links)
        assert reaches(path, instance)
        assert sorted(each.name for each in tmp_path.glob("m.*")) == ["m.pcap", "m.sock"]
        os.kill(instance.pid_of("worker"), signal.SIGKILL)
        assert stats_of(instance.path, restarts=1)["links"] == links
        assert shown(instance) == before.replace("m.pcap", "m.restart1.pcap")
        assert reaches(path, instance)
        assert (tmp_path / "m.pcap").stat().st_size == 24
        ask(instance, "object-del", id="m")
        ask(instance, "chardev-remove", id="c")
        assert not path.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "unix", "data": {"path": "m.sock"}}, "'path' expects a path from the root"),
        ({"type": "fd", "data": {"str": "5"}}, "'fd' can't be passed"),
    ],
)
def test_what_means_something_only_to_the_client_is_refused(
    runtime: str, data: dict[str, Any], message: str
) -> None:
    with Instance(runtime) as instance:
        with pytest.raises(CommandError, match=message):
            backend = {"type": "socket", "data": {"addr": data}}
            ask(instance, "chardev-add", id="c", backend=backend)
        with pytest.raises(CommandError, match="'file' expects a path from the root"):
            ask(instance, "object-add", qom_type="filter-dump", id="d", netdev="u", file="d.pcap")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def added(instance: Instance, rule: str) -> bool:
    """Whether a netdev with this rule could be added: the keeper may have the port for a moment."""
    try:
        ask(instance, "netdev_add", type="user", id="v", hostfwd=[{"str": rule}])
    except CommandError as error:
        assert "already in use" in str(error)
        return False
    return True


def test_what_was_removed_is_not_built_again_where_another_stands_now(
    runtime: str, tmp_path: Path
) -> None:
    user = {"hostfwd": [f"tcp:127.0.0.1:{free_port()}-:22"]}
    config = {
        "netdevs": [["user", {"id": "u", **user}]],
        "devices": [["null", {"id": "n0", "netdev": "u"}]],
        "captures": [["u", str(tmp_path / "u.pcap")]],
    }
    with Instance(runtime, config=config) as instance:
        ask(instance, "netdev_del", id="u")
        eventually(lambda: added(instance, user["hostfwd"][0]), 10.0)
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        os.kill(instance.pid_of("worker"), signal.SIGKILL)
        stats = stats_of(instance.path, restarts=1)
        assert (list(stats["netdevs"]), list(stats["devices"])) == (["v"], ["n0"])
        assert (stats["links"], stats["filters"]) == ([], {})
