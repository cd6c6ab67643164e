# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A default expansion ROM is made out to the card that gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.wrap.fakes import FakeHost, composed, reasons
from vmwire.cli.wrap import rom

NET = "-netdev user,id=u"


def image(device: int = 0x100E) -> bytes:
    """512 bytes with the data structure at 40h, summing up to zero."""
    body = bytearray(512)
    body[:3] = b"\x55\xaa\x01"
    body[0x18:0x1A] = (0x40).to_bytes(2, "little")
    body[0x40:0x48] = b"PCIR" + (0x8086).to_bytes(2, "little") + device.to_bytes(2, "little")
    body[6] = -sum(body) & 0xFF
    return bytes(body)


def test_id_changes_and_the_sum_stays() -> None:
    changed = rom.made_out_to(image(), 0x100F)
    assert changed[0x46:0x48] == b"\x0f\x10"
    assert sum(changed) & 0xFF == 0
    assert sum(a != b for a, b in zip(image(), changed, strict=True)) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x55",
        b"MZ" + bytes(100),
        image().replace(b"PCIR", b"RICP"),
        image()[:0x18] + b"\xff\xff" + image()[0x1A:],
        image()[:0x47],
    ],
)
def test_what_is_no_such_rom_stays_as_it_is(data: bytes) -> None:
    assert rom.made_out_to(data, 0x100F) == data


def test_first_folder_that_has_the_file_counts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.rom").write_text(name)
    folders = [str(tmp_path / name) for name in ("none", "a", "b")]
    assert rom.find("x.rom", folders) == b"a"
    assert rom.find("y.rom", folders) is None


@pytest.mark.parametrize(("name", "device"), [("e1000-82544gc", 0x100C), ("e1000-82545em", 0x100F)])
def test_card_that_the_rom_is_not_made_out_to_gets_a_copy(name: str, device: int) -> None:
    host = FakeHost(roms={"efi-e1000.rom": image()})
    found = composed(f"{NET} -device {name},netdev=u", host)
    assert found.files == {f"/run/{name}.rom": rom.made_out_to(image(), device)}
    assert f'"romfile":"/run/{name}.rom"' in " ".join(found.command)


@pytest.mark.parametrize("settings", [",romfile=/x.rom", ",romfile=", ",rombar=0"])
def test_rom_that_the_user_chooses_is_left(settings: str) -> None:
    host = FakeHost(roms={})
    found = composed(f"{NET} -device e1000-82545em,netdev=u{settings}", host)
    assert not found.files and "data folders" not in host.asked


def test_rom_that_is_not_there_keeps_the_card_with_qemu() -> None:
    (reason,) = reasons(f"{NET} -device e1000-82545em,netdev=u", FakeHost(roms={}))
    assert reason is not None and "efi-e1000.rom" in reason
