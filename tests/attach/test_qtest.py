# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.tiny import TINY, Tiny
from vmwire.attach.qtest import LONGEST_LINE, QtestSession
from vmwire.bench.machine import Bench
from vmwire.bench.pci import PciDevice

BAR = 0xE400_0000


class Peer:
    """A harness at the far end, and the log."""

    def __init__(self, pc: Bench) -> None:
        self.log: list[str] = []
        self.said = b""
        self.session = QtestSession(pc, self.log.append)
        self.session.opened(self._hear)

    def _hear(self, data: bytes) -> None:
        self.said += data

    def ask(self, line: str) -> list[str]:
        """Send a command; return what came back, the answer last."""
        self.said = b""
        self.session.feed(line.encode() + b"\n")
        while self.session.pending:
            self.session.step()
        return self.said.decode().splitlines()


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(1 << 20) as machine:
        machine.insert(TINY, Tiny, addr=4, name="tiny")
        PciDevice(machine, 4).enable()
        yield machine


@pytest.fixture
def peer(pc: Bench) -> Peer:
    return Peer(pc)


@pytest.mark.parametrize(("line", "answer"), [
    ("inb 0x1234", "OK 0x00ff"),
    ("inw 0x1234", "OK 0xffff"),
    ("inl 0x1234", "OK 0xffffffff"),
    ("outb 0x80 0x1ff", "OK"),
    ("writeb 0x1000 0x1ff", "OK"),
    ("writew 0x1000 2", "OK"),
    ("writel 0x1000 0x3", "OK"),
    ("writeq 0x1000 0x4", "OK"),
    ("readb 0x1000", "OK 0x0000000000000000"),
    ("readq 0x1000", "OK 0x0000000000000000"),
    ("read 0x1000 3", "OK 0x000000"),
    ("b64read 0x1000 3", "OK AAAA"),
    ("write 0x1000 2 0x0102", "OK"),
    ("b64write 0x1000 3 AQID", "OK"),
    ("memset 0x1000 16 0xaa", "OK"),
    ("memset 0x1000 0 0xaa", "OK"),
    ("endianness", "OK little"),
    ("clock_step 100", "OK 100"),
    ("clock_set 7", "OK 7"),
    ("irq_intercept_in ioapic", "OK"),
    ("irq_intercept_in /machine/i440fx/ioapic", "OK"),
    ("irq_intercept_out /machine/peripheral/tiny", "OK"),
    ("set_irq_in ioapic unnamed-gpio-in 3 1", "OK"),
])  # fmt: skip
def test_answers_have_qemus_form(peer: Peer, line: str, answer: str) -> None:
    assert peer.ask(line) == [answer]


@pytest.mark.parametrize(("line", "text"), [
    ("frob 1", "FAIL Unknown command 'frob'"),
    ("INB 1", "FAIL Unknown command 'INB'"),
    ("rtas a b", "FAIL Unknown command 'rtas'"),
    ("send tiny 00", "FAIL Unknown command 'send'"),
    ("", "FAIL Unknown command ''"),
    ("inb", "FAIL 'inb' should be 'inb PORT'"),
    ("inb 0x10000", "beyond the 16-bit address space"),
    ("inb five", "'five' is no number"),
    ("readl -4", "'-4' is no number"),
    ("write 0x0 1 0xzz", "not hexadecimal"),
    ("read 0 0x7fffffffff", "a length of"),
    ("irq_intercept_in nonsense", "FAIL Unknown device"),
    ("irq_intercept_in tiny", "FAIL No intercepts installed"),
    ("set_irq_in ioapic unnamed-gpio-in 24 1", "FAIL Unknown device"),
    ("clock_step 0", "FAIL could not advance time"),
    ("clock_step -5", "FAIL could not advance time"),
    ("clock_set -1", "'-1' is no number"),
    ("readl " + "9" * 5000, "beyond the 64-bit range"),
    ("readl 0x10000000000000000", "beyond the 64-bit range"),
    ("clock_step 0x" + "f" * 5000, "beyond the 64-bit range"),
    ("clock_set 0x" + "f" * 400, "beyond the 64-bit range"),
    ("b64write 0x1000 4 3q2+7w", "not base64"),
    ("b64write 0x1000 4 \xff\xff", "not base64"),
])  # fmt: skip
def test_what_makes_no_sense_fails_and_the_next_command_is_answered(
    peer: Peer, line: str, text: str
) -> None:
    [answer] = peer.ask(line)
    assert answer.startswith("FAIL ")
    assert text in answer
    assert peer.ask("inl 0xcf8")[0].startswith("OK")


def test_numbers_are_read_as_c_reads_them(peer: Peer) -> None:
    for line in ("writel 0x1000 0x20", "writel 4096 32", "writel 010000 040"):
        peer.ask("writel 0x1000 0")
        peer.ask(line)
        assert peer.ask("readl 0x1000") == ["OK 0x0000000000000020"], line


def test_data_that_is_short_is_filled_up_and_what_is_too_much_is_left_out(peer: Peer) -> None:
    peer.ask("memset 0x1000 8 0xff")
    peer.ask("write 0x1000 4 0x0102")
    peer.ask("write 0x1006 1 0x0304")
    assert peer.ask("read 0x1000 8") == ["OK 0x01020000ffff03ff"]


def test_a_line_may_come_in_pieces_and_several_at_once(peer: Peer) -> None:
    for piece in (b"endi", b"anness\ninb 0x1234\nclock", b"_step 5\n"):
        peer.session.feed(piece)
    while peer.session.pending:
        peer.session.step()
    assert peer.said == b"OK little\nOK 0x00ff\nOK 5\n"


def test_one_step_is_one_command(peer: Peer) -> None:
    peer.session.feed(b"endianness\nendianness\n")
    peer.session.step()
    assert (peer.said, peer.session.pending) == (b"OK little\n", True)


def test_a_line_without_end_is_not_kept(peer: Peer) -> None:
    for _ in range(LONGEST_LINE // (1 << 24) + 2):
        peer.session.feed(bytes(1 << 24))
    assert len(peer.session._part) <= LONGEST_LINE
    assert peer.ask("") == ["FAIL the line is too long"]
    assert peer.ask("endianness") == ["OK little"]


def test_intercepted_lines_are_told_before_the_answer(peer: Peer) -> None:
    peer.ask("outl 0xcf8 0x80000860")
    peer.ask("outl 0xcfc 0x0b0a0905")
    peer.ask("irq_intercept_in ioapic")
    assert peer.ask(f"writel {BAR + 8:#x} 1") == ["IRQ raise 11", "OK"]  # slot 4, pin A: PIRQ D
    assert peer.ask(f"writel {BAR + 8:#x} 0") == ["IRQ lower 11", "OK"]


def test_a_cards_own_pin_can_be_watched(peer: Peer) -> None:
    peer.ask("irq_intercept_out tiny")
    assert peer.ask(f"writel {BAR + 8:#x} 1") == ["IRQ raise 0", "OK"]
    assert peer.ask("irq_intercept_in ioapic")[0].startswith("FAIL")


def test_a_timer_interrupts_while_the_clock_is_stepped_on(peer: Peer) -> None:
    peer.ask("irq_intercept_out tiny")
    peer.ask(f"writel {BAR + 12:#x} 1000")
    assert peer.ask("clock_step 999") == ["OK 999"]
    assert peer.ask("clock_step") == ["IRQ raise 0", "OK 1000"]


def test_a_step_to_the_next_timer_ends_at_the_pcs_tick(peer: Peer) -> None:
    assert [peer.ask("clock_step") for _ in range(3)] == [
        ["OK 27462700"], ["OK 54925401"], ["OK 82388101"],
    ]  # fmt: skip


def test_a_clock_does_not_go_back(peer: Peer) -> None:
    assert [peer.ask(f"clock_set {ns}") for ns in (0, 7, 7, 5)] == [
        ["OK 0"], ["OK 7"], ["OK 7"], ["FAIL 7"],
    ]  # fmt: skip


def test_a_bare_machine_has_no_timer() -> None:
    with Bench(1 << 20, bare=True) as pc:
        peer = Peer(pc)
        assert peer.ask("clock_step")[0].startswith("FAIL")
        assert peer.ask("inb 0x60") == ["OK 0x00ff"]
        assert peer.ask("inl 0xcfc") == ["OK 0xffffffff"]


def test_what_was_said_and_answered_is_logged(peer: Peer) -> None:
    peer.ask("endianness")
    peer.session.closed()
    assert peer.log == ["I OPENED", "R endianness", "S OK little", "I CLOSED"]


def test_what_a_peer_asked_before_it_left_is_done(peer: Peer, pc: Bench) -> None:
    peer.session.feed(b"writel 0x1000 5\nwritel 0x1000")
    peer.session.closed()
    peer.session.step()
    assert (pc.readl(0x1000), peer.said, peer.session.pending) == (5, b"OK\n", False)


def test_bytes_that_are_no_text_are_an_unknown_command(peer: Peer) -> None:
    peer.session.feed(b"\xff\xfe\x00 1\n")
    peer.session.step()
    assert peer.said.startswith(b"FAIL Unknown command")
