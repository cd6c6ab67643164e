# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from pathlib import Path

import pytest

from vmwire.bench.machine import Bench
from vmwire.bench.pci import PciDevice
from vmwire.cli.bench import main
from vmwire.errors import ConfigError

DEVICE = ["-device", "e1000,addr=3"]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with Bench() as pc:
        script = pc.record()
        pc.plug("e1000", addr=3)
        PciDevice(pc, 3).enable()
        pc.readl(0xE300_0008)
    script.save(tmp_path / "it.txt")
    return tmp_path / "it.txt"


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_recording_plays_back_without_a_difference(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--replay", str(recording)]) == 0
    assert capsys.readouterr().out == ""


def test_what_went_another_way_is_printed_and_is_status_1(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording.write_text(recording.read_text().replace("0781", "0784"))
    assert main(["--replay", str(recording)]) == 1
    assert "readl 0xe3000008: expected" in capsys.readouterr().out


def test_commands_are_carried_out_as_they_are_piped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "outl 0xcf8 0x80001800  # the card\n\ninl 0xcfc\nquit\ninl 0xcfc\n")
    assert main(DEVICE) == 0
    assert capsys.readouterr().out.splitlines() == ["OK", "OK 0x100e8086"]


def test_what_a_command_leads_to_stands_before_its_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "irq_intercept_in ioapic\nset_irq_in ioapic unnamed-gpio-in 11 1\n")
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines() == ["OK", "IRQ raise 11", "OK"]


def test_a_piped_command_without_sense_is_told_and_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "frobnicate\nendianness\n")
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAIL unknown command 'frobnicate'",
        "OK little",
    ]


def test_help_names_each_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "help\nhelp inb outb\nhelp nothing\n")
    assert main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "clock_step [NS]" in lines
    assert lines[-3:] == ["inb PORT", "outb PORT VALUE", "FAIL unknown command 'nothing'"]


def test_a_script_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it: this is no text"):
        main(["--replay", str(tmp_path / "it")])


def test_what_was_done_can_be_kept_and_played_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.txt"
    pipe(monkeypatch, "inb 0x80\nclock_step 5\n")
    assert main([*DEVICE, "-m", "16M", "--record", str(kept)]) == 0
    assert "plug e1000,addr=03.0,id=nic0" in kept.read_text()
    assert main(["--replay", str(kept), "-m", "16M"]) == 0


@pytest.mark.parametrize(("words", "text"), [
    (["-frob"], "-frob: invalid option"),
    (["--replay"], "--replay: requires an argument"),
    (["--replay", "/nowhere/it"], "/nowhere/it: No such file"),
    (["-device", "rtl8139"], "not served"),
    (["-m", "lots"], "expects a size"),
    (["--seed", "x"], "no number"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "")
    with pytest.raises(ConfigError, match=text):
        main(words)
