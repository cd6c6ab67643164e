# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Probing, against a stand-in for QEMU that answers over QMP and counts its runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vmwire.cli.wrap import probe
from vmwire.cli.wrap.probe import ProbeError
from vmwire.cli.wrap.program import Program

STAND_IN = """\
import json, sys
here = {here!r}
open(here + "/runs", "a").write(" ".join(sys.argv[1:]) + "\\n")
answers = json.load(open(here + "/answers"))
print(json.dumps({{"QMP": {{}}}}))
for line in sys.stdin:
    command = json.loads(line)
    answer = answers.get(command["execute"], {{"return": {{}}}})
    print(json.dumps({{**answer, **({{"id": command["id"]}} if "id" in command else {{}})}}))
"""


def _schema(*reconnect: str) -> dict[str, Any]:
    names = ["addr", "telnet", "websocket", *reconnect]
    return {
        "return": [
            {"name": "1", "meta-type": "object", "members": [{"name": name} for name in names]},
            {"name": "2", "meta-type": "object", "members": [{"name": "reconnect-ms"}]},
            {"name": "query-x", "meta-type": "command"},
        ]
    }


ANSWERS: dict[str, Any] = {
    "query-qmp-schema": _schema("reconnect", "reconnect-ms"),
    "query-machines": {
        "return": [
            {"name": "pc-1", "alias": "pc", "is-default": True, "default-ram-id": "pc.ram"},
            {"name": "xenfv"},
            {
                "name": "pc-0",
                "compat-props": [
                    {"qom-type": "e1000", "property": "init-vet", "value": "off"},
                    {"qom-type": "pci-device", "property": "x-y", "value": "on"},
                    {"qom-type": "cfi.pflash01", "property": "secure", "value": "off"},
                ],
            },
        ]
    },
    "query-target": {"return": {"arch": "x86_64"}},
    "qom-list-types": {"return": [{"name": "memory-backend-memfd"}, {"name": "e1000"}]},
    "device-list-properties": {"return": [{"name": "addr"}, {"name": "socket"}]},
    "qom-get": {"return": 24},
    "netdev_add": {"error": {"class": "GenericError", "desc": "no chardev 'vmwire-absent'"}},
    "query-memory-size-summary": {"return": {"base-memory": 1 << 27}},
}


class Qemu:
    """The stand-in, with its answers and the arguments of its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.binary = folder / "qemu"
        self.binary.write_text(STAND_IN.format(here=str(folder)))
        self.answer()

    def answer(self, **changed: Any) -> None:
        answers = {**ANSWERS, **{key.replace("_", "-"): value for key, value in changed.items()}}
        (self.folder / "answers").write_text(json.dumps(answers))

    @property
    def runs(self) -> list[str]:
        path = self.folder / "runs"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def program(self) -> Program:
        fixed = ("-enable-kvm", "-L", "/firmware", "-name", "x")
        return Program(str(self.binary), (sys.executable, str(self.binary)), fixed)


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Qemu(tmp_path)


def test_answers_become_abilities(qemu: Qemu) -> None:
    found = probe.abilities(qemu.program)
    assert found.vhost_user and found.memfd and found.msix_without_kvm
    assert (found.reconnect, found.target, found.default_machine) == (
        "reconnect-ms",
        "x86_64",
        "pc-1",
    )
    assert found.vfio_user
    assert found.pci_drivers == ["e1000", "memory-backend-memfd"]  # as the stand-in has it
    assert found.defaults == {"pc-0": [["e1000", "init-vet", "off"], ["pci-device", "x-y", "on"]]}
    assert found.machines == {"pc": "pc.ram", "pc-1": "pc.ram", "xenfv": "", "pc-0": ""}


@pytest.mark.parametrize(("members", "name"), [(("reconnect",), "reconnect"), ((), "")])
def test_an_older_socket_chardev(qemu: Qemu, members: tuple[str, ...], name: str) -> None:
    qemu.answer(query_qmp_schema=_schema(*members))
    found = probe.abilities(qemu.program)
    assert found.reconnect == name
    assert not found.msix_without_kvm


def test_vhost_user_that_is_compiled_out(qemu: Qemu) -> None:
    answers = {**ANSWERS, "netdev_add": {"error": {"desc": "Parameter 'type' is unknown"}}}
    (qemu.folder / "answers").write_text(json.dumps(answers))
    assert not probe.abilities(qemu.program).vhost_user


def test_a_probe_has_no_machine_and_none_of_a_wrappers_options(qemu: Qemu) -> None:
    probe.abilities(qemu.program)
    (run,) = qemu.runs
    assert "-machine none" in run and "-nodefaults" in run and "-no-user-config" in run
    assert "-L /firmware" in run
    assert "-enable-kvm" not in run and "-name" not in run


def test_the_second_time_nothing_is_run(qemu: Qemu) -> None:
    first = probe.abilities(qemu.program)
    assert probe.abilities(qemu.program) == first
    assert len(qemu.runs) == 1


def test_a_changed_binary_is_asked_again(qemu: Qemu) -> None:
    probe.abilities(qemu.program)
    os.utime(qemu.binary, (1, 1))
    probe.abilities(qemu.program)
    assert len(qemu.runs) == 2


def test_the_ram_size_of_a_machine_is_asked_once(qemu: Qemu) -> None:
    found = probe.abilities(qemu.program)
    assert probe.default_ram_size(qemu.program, found, "pc") == 1 << 27
    again = probe.abilities(qemu.program)
    assert probe.default_ram_size(qemu.program, again, "pc") == 1 << 27
    assert len(qemu.runs) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1, "abilities": {}}', '{"key": 3}'])
def test_a_damaged_cache_is_asked_again(qemu: Qemu, text: str) -> None:
    probe.abilities(qemu.program)
    (kept,) = (qemu.folder / "cache/vmwire").iterdir()
    kept.write_text(text)
    assert probe.abilities(qemu.program).vhost_user
    assert len(qemu.runs) == 2


def test_without_a_place_to_keep_answers_it_works_all_the_same(
    qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    (qemu.folder / "cache").write_text("a file, not a folder")
    assert probe.abilities(qemu.program).vhost_user
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    assert probe.abilities(qemu.program).vhost_user


@pytest.mark.parametrize(
    "answer",
    [
        {"query_qmp_schema": {"error": {"desc": "no"}}},
        {"query_machines": {"return": [{}]}},
        {"query_target": {"return": 5}},
    ],
)
def test_answers_that_make_no_sense_are_no_abilities(qemu: Qemu, answer: dict[str, Any]) -> None:
    qemu.answer(**answer)
    with pytest.raises(ProbeError):
        probe.abilities(qemu.program)


def test_a_program_that_answers_nothing(qemu: Qemu) -> None:
    qemu.binary.write_text("")
    with pytest.raises(ProbeError, match="no answer"):
        probe.abilities(qemu.program)


def test_a_program_that_cannot_be_run(qemu: Qemu) -> None:
    with pytest.raises(ProbeError, match="can't be asked"):
        probe.abilities(Program(str(qemu.binary), ("/nowhere/qemu",)))


def test_a_program_that_hangs_is_given_up(qemu: Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu.binary.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(probe, "PATIENCE_S", 0.3)
    with pytest.raises(ProbeError, match="timed out"):
        probe.abilities(qemu.program)


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"class": "DeviceNotFound", "desc": "Device 'vfio-user-pci' not found"}},
        {"return": [{"name": "host"}]},
    ],
)
def test_a_qemu_without_vfio_user(qemu: Qemu, answer: dict[str, Any]) -> None:
    qemu.answer(device_list_properties=answer)
    assert not probe.abilities(qemu.program).vfio_user


def test_where_cards_are_is_asked_once_for_each_machine(qemu: Qemu) -> None:
    known = probe.abilities(qemu.program)
    words = ["-machine", "pc", "-device", "pci-testdev,id=a"]
    assert probe.places(qemu.program, known, words, ["a"]) == {"a": 24}
    again = probe.abilities(qemu.program)
    assert probe.places(qemu.program, again, words, ["a"]) == {"a": 24}
    assert sum("pci-testdev" in run for run in qemu.runs) == 1
    probe.places(qemu.program, again, [*words, "-nodefaults"], ["a"])
    assert len(qemu.runs) == 3


def test_only_so_many_machines_are_remembered(qemu: Qemu) -> None:
    known = probe.abilities(qemu.program)
    known.places = {str(number): {} for number in range(probe.PLACES_KEPT)}
    probe.places(qemu.program, known, ["new"], ["a"])
    assert len(known.places) == probe.PLACES_KEPT and "0" not in known.places


def test_a_place_that_is_no_number_is_an_error(qemu: Qemu) -> None:
    known = probe.abilities(qemu.program)
    qemu.answer(qom_get={"error": {"desc": "no such path"}})
    with pytest.raises(ProbeError):
        probe.places(qemu.program, known, ["-machine", "pc"], ["a"])
