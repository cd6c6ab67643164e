# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What query-qmp-schema tells of commands and events."""

from __future__ import annotations

from typing import Any

import pytest

from tests.monitor.client import Client

Schema = dict[str, dict[str, Any]]


def schema_of(client: Client) -> Schema:
    listed = client.get("query-qmp-schema")
    found = {each["name"]: each for each in listed}
    assert len(found) == len(listed)
    return found


def members(schema: Schema, name: str) -> dict[str, tuple[str, bool]]:
    """Types of an object's members, and whether they must be there."""
    listed = schema[name]["members"]
    return {each["name"]: (each["type"], "default" not in each) for each in listed}


@pytest.mark.parametrize("which", ["client", "pc"])
def test_whatever_is_named_is_there(which: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(which)
    schema = schema_of(client)
    for each in schema.values():
        named = [each[key] for key in ("arg-type", "ret-type", "element-type") if key in each]
        if each["meta-type"] == "object":
            named += [member["type"] for member in (*each["members"], *each.get("variants", ()))]
        assert set(named) <= schema.keys()
    commands = {name for name, each in schema.items() if each["meta-type"] == "command"}
    assert commands == {each["name"] for each in client.get("query-commands")}


def test_arguments_and_results_have_their_types(client: Client) -> None:
    schema = schema_of(client)
    link = schema["set_link"]
    assert members(schema, link["arg-type"]) == {"name": ("str", True), "up": ("bool", True)}
    assert schema[link["ret-type"]] == {
        "name": link["ret-type"], "meta-type": "object", "members": [],
    }  # fmt: skip
    announce = members(schema, schema["announce-self"]["arg-type"])
    assert announce["interfaces"] == ("[str]", False)
    assert schema["[str]"]["element-type"] == "str"
    assert schema["human-monitor-command"]["ret-type"] == "str"


def test_options_are_told_by_type(client: Client) -> None:
    schema = schema_of(client)
    union = schema[schema["netdev_add"]["arg-type"]]
    assert union["tag"] == "type"
    cases = {each["case"]: each["type"] for each in union["variants"]}
    assert cases.keys() == set(schema[members(schema, union["name"])["type"][0]]["values"])
    user = members(schema, cases["user"])
    assert user["restrict"] == ("bool", False)
    element = schema[user["hostfwd"][0]]["element-type"]
    assert members(schema, element) == {"str": ("str", True)}
    address = schema[members(schema, cases["stream"])["addr"][0]]
    assert {each["case"] for each in address["variants"]} == {"inet", "unix", "fd"}


def test_events_of_a_machine_are_told_where_there_is_one(client: Client, pc: Client) -> None:
    def events(schema: Schema) -> set[str]:
        return {name for name, each in schema.items() if each["meta-type"] == "event"}

    assert events(schema_of(pc)) - events(schema_of(client)) == {"RESET", "RESUME", "STOP"}
