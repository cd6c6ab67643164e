# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's parts: what steps say of what they find, what is written, what is read."""

from __future__ import annotations

import io
import struct
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from vmwire.cli.demo import pcap, steps
from vmwire.cli.demo.background import Background
from vmwire.cli.demo.helper import Helper, HelperError
from vmwire.cli.demo.screen import WIDTH, Screen, amount, duration, speed
from vmwire.cli.demo.stacks import lease_from_names
from vmwire.cli.demo.steps import STEPS, Outcome, Run
from vmwire.wire.capture import FILE_HEADER, MAGIC_NANOSECONDS, RECORD

LEASE = {"address": "10.0.2.15", "gateway": "10.0.2.2", "dns": "10.0.2.3"}


class Guest:
    """A guest that gives prepared answers."""

    netdev = "-netdev user,id=demo"
    guest = "none"
    forward_port = 1
    limit = None

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def ask(self, timeout_s: float, do: str, **arguments: Any) -> dict[str, Any]:
        answer = self.answers[do]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer

    def bulk(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


class Peer(Helper):
    """A host's side that says prepared things."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.said = list(said)

    def hear(self, timeout_s: float) -> dict[str, Any] | None:
        return self.said.pop(0) if self.said else None


def run_with(peer: Helper | None = None, **answers: Any) -> Run:
    screen = Screen(io.StringIO())
    run = Run(Guest(**answers), peer or Peer(), screen, 0.01, "example.org", "x.pcap")
    run.lease = dict(LEASE)
    run.ports = {"http": 1, "sink": 2}
    return run


def step(name: str) -> steps.Step:
    return next(each for each in STEPS if each.name == name)


def outcome(name: str, run: Run) -> Outcome:
    return steps.take(step(name), run)


# Steps


def test_lost_ping_is_a_failure_that_shows_how_many_came() -> None:
    found = outcome("ping", run_with(ping={"times": [0.001, -1.0, 0.002, 0.003, 0.004]}))
    assert (found.worked, found.text) == (False, "10.0.2.2 answered 4 of 5, 1 ms at best")
    assert outcome("ping", run_with(ping={"times": [-1.0] * 5})).worked is False


@pytest.mark.parametrize(
    ("code", "addresses"), [("NOERROR", ["192.0.2.1"]), ("NOERROR", []), ("NXDOMAIN", [])]
)
def test_any_true_answer_shows_that_names_are_relayed(code: str, addresses: list[str]) -> None:
    answer = {"code": code, "addresses": addresses, "took": 0.01}
    assert outcome("DNS", run_with(resolve=answer)).worked is True


@pytest.mark.parametrize(
    ("host", "worked"), [(OSError("silent"), None), ("SERVFAIL", None), ("NOERROR", False)]
)
@pytest.mark.parametrize(
    "answer", [{"code": "SERVFAIL", "addresses": [], "took": 1.0}, HelperError("timed out")]
)
def test_missing_answer_is_judged_by_what_the_host_itself_gets(
    monkeypatch: pytest.MonkeyPatch, host: Any, worked: bool | None, answer: Any
) -> None:
    def ask(name: str, server: str, port: int) -> Any:
        if isinstance(host, Exception):
            raise host
        return type("Reply", (), {"code": host})

    monkeypatch.setattr(steps, "ask_name_server", ask)
    assert outcome("DNS", run_with(resolve=answer)).worked is worked


def moved(kind: str, size: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "bytes": size, "seconds": 1.0, **more}


def test_download_is_right_when_both_sides_agree() -> None:
    done = moved("download", 1_000_000, done=True, intact=True)
    guest = {"bytes": 1_000_000, "intact": True}
    found = outcome("download", run_with(Peer(moved("download", 10), done), download=guest))
    assert (found.worked, found.figure) == (True, "8 Mbit/s")


@pytest.mark.parametrize(
    "guest", [{"bytes": 999_999, "intact": True}, {"bytes": 1_000_000, "intact": False}]
)
def test_download_that_was_damaged_or_cut_is_a_failure(guest: dict[str, Any]) -> None:
    done = moved("download", 1_000_000, done=True, intact=True)
    assert outcome("download", run_with(Peer(done), download=guest)).worked is False


def test_upload_that_the_host_finds_damaged_is_a_failure() -> None:
    done = moved("upload", 1_000_000, done=True, intact=False)
    assert outcome("upload", run_with(Peer(done), upload={"bytes": 1_000_000})).worked is False


def test_late_news_of_the_download_is_not_the_uploads() -> None:
    late = moved("download", 5, done=True, intact=True)
    done = moved("upload", 8, done=True, intact=True)
    found = outcome("upload", run_with(Peer(late, done), upload={"bytes": 8}))
    assert found.worked is True


def test_guest_that_fails_ends_its_step_at_once_with_its_reason() -> None:
    found = outcome("download", run_with(download=HelperError("the wire broke")))
    assert (found.worked, found.text) == (False, "the wire broke")


def test_without_an_address_the_rest_is_not_tried() -> None:
    run = run_with(lease=HelperError("nobody answers"))
    run.lease = {}
    found = {each.name: outcome(each.name, run).worked for each in STEPS if each.name != "pcap"}
    assert found.pop("DHCP") is False
    assert set(found.values()) == {None}


def test_what_fails_in_the_background_is_raised_in_front() -> None:
    work = Background(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        work.result()
    assert not work.running()


def test_lease_is_read_from_what_udhcpc_tells() -> None:
    told = {
        "ip": "10.0.2.15",
        "mask": "24",
        "router": "10.0.2.2 10.0.2.9",
        "dns": "",
        "mtu": "9000",
    }
    found = lease_from_names(told)
    assert found is not None
    assert (found.gateway, found.dns, found.mtu) == ("10.0.2.2", None, 9000)
    assert lease_from_names({"mask": "24"}) is None


# The screen


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_elsewhere_than_in_a_terminal_a_step_is_one_plain_line() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.running("DHCP", "...")
    screen.done("DHCP", True, "an address")
    assert out.getvalue() == "  ok DHCP      an address\n"


def test_terminal_shows_the_running_step_and_takes_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    screen = Screen(out)
    screen.running("DHCP", "...")
    assert out.getvalue().startswith("\r\x1b[K")
    screen.done("DHCP", False, "nothing")
    assert out.getvalue().endswith("\r\x1b[K  \x1b[31m✗\x1b[0m DHCP      nothing\n")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    Screen(out).done("DHCP", True, "an address")
    assert out.getvalue() == "  ✓ DHCP      an address\n"


def test_long_text_goes_on_under_its_beginning() -> None:
    out = io.StringIO()
    Screen(out).done("DHCP", True, "word " * 40)
    first, *others = out.getvalue().splitlines()
    assert max(map(len, [first, *others])) <= WIDTH
    assert all(line.startswith(" " * 15 + "word") for line in others)


def test_table_lines_up() -> None:
    out = io.StringIO()
    Screen(out).table(("what", "works", "how well"), [("a", True, "1"), ("longer", False, "2")])
    assert out.getvalue().splitlines() == [
        "  what    works  how well",
        "  ------  -----  ------------------------------",
        "  a       yes    1",
        "  longer  NO     2",
    ]


def test_numbers_have_three_digits_and_a_unit() -> None:
    assert [amount(each) for each in (0, 999, 45_600, 2_310_000_000)] == [
        "0 bytes", "999 bytes", "45.6 kB", "2.31 GB",
    ]  # fmt: skip
    assert [speed(each, 1.0) for each in (1, 12_500_000, 1_250_000_000)] == [
        "8 bit/s", "100 Mbit/s", "10 Gbit/s",
    ]  # fmt: skip
    assert speed(1, 0.0)
    assert [duration(each) for each in (0.00014, 0.25, 7.94)] == ["0.14 ms", "250 ms", "7.9 s"]


# The pcap file

ARP = bytes(12) + bytes.fromhex("0806") + bytes(46)
TCP = bytes(12) + bytes.fromhex("0800") + bytes(9) + b"\6" + bytes(1000)
DHCP = bytes(12) + bytes.fromhex("0800") + bytes(9) + b"\x11" + bytes(10) + b"\0\x44\0\x43"
DHCP += bytes(500)


def written(path: Path, *frames: bytes) -> str:
    parts = [FILE_HEADER.pack(MAGIC_NANOSECONDS, 2, 4, 0, 0, 262144, 1)]
    for number, frame in enumerate(frames):
        parts += [RECORD.pack(number, 0, len(frame), len(frame)), frame]
    path.write_bytes(b"".join(parts))
    return str(path)


def test_frames_of_a_file_are_told_apart(tmp_path: Path) -> None:
    found = pcap.summary(written(tmp_path / "f", ARP, TCP, DHCP, TCP))
    assert (found.frames, found.protocols) == (4, {"ARP", "TCP", "DHCP"})


def test_only_long_tcp_is_cut(tmp_path: Path) -> None:
    path = written(tmp_path / "f", ARP, TCP, DHCP, TCP[:100], TCP)
    pcap.shorten(path, 128)
    data = Path(path).read_bytes()
    at, records = FILE_HEADER.size, []
    while at < len(data):
        _, _, kept, length = RECORD.unpack_from(data, at)
        records.append((data[at + RECORD.size : at + RECORD.size + kept], length))
        at += RECORD.size + kept
    assert records == [
        (ARP, 60), (TCP[:128], len(TCP)), (DHCP, len(DHCP)), (TCP[:100], 100),
        (TCP[:128], len(TCP)),
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"text", struct.pack("<I", 0xA1B2C3D4) + bytes(20)])
def test_another_file_is_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    with pytest.raises(OSError, match="not a pcap file"):
        pcap.shorten(str(path), 128)
    with pytest.raises(OSError, match="not a pcap file"):
        pcap.summary(str(path))
    assert path.read_bytes() == data
