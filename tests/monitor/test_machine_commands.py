# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.monitor.client import Client

MACHINE_KEYS = {
    "name", "alias", "is-default", "cpu-max", "hotpluggable-cpus", "numa-mem-supported",
    "deprecated", "acpi", "default-cpu-type", "default-ram-id",
}  # fmt: skip


def test_machine_is_stopped_and_goes_on(pc: Client) -> None:
    assert pc.get("query-status") == {"status": "running", "running": True}
    assert pc.ask("stop") == {"return": {}}
    assert pc.events() == [("STOP", None)]
    assert pc.get("query-status") == {"status": "paused", "running": False}
    assert pc.ask("cont") == {"return": {}}
    assert pc.events() == [("RESUME", None)]


def test_reset_and_end_are_told(pc: Client) -> None:
    assert pc.ask("system_reset") == {"return": {}}
    assert pc.events() == [("RESET", {"guest": False, "reason": "host-qmp-system-reset"})]
    assert pc.ask("quit") == {"return": {}}
    assert pc.events() == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]


def test_machines_are_two_with_no_more_than_the_promised_members(pc: Client) -> None:
    machines = pc.get("query-machines")
    assert [each["name"] for each in machines] == ["pc", "none"]
    assert [each["name"] for each in machines if each.get("is-default")] == ["pc"]
    assert all(each.keys() <= MACHINE_KEYS for each in machines)


def test_name_and_commands(pc: Client, client: Client) -> None:
    assert pc.get("query-name") == {"name": "vm"}
    assert client.get("query-name") == {}
    with_machine = {each["name"] for each in pc.get("query-commands")}
    without = {each["name"] for each in client.get("query-commands")}
    assert with_machine - without == {
        "query-status", "stop", "cont", "system_reset", "query-machines", "query-pci", "quit"
    }  # fmt: skip
    assert {"qmp_capabilities", "netdev_add", "human-monitor-command"} <= without
    for name in without - {"qmp_capabilities"}:
        assert "CommandNotFound" not in str(client.ask(name))
