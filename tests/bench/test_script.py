# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.tiny import TINY, Tiny

from vmwire.bench.commands import VERBS
from vmwire.bench.machine import Bench
from vmwire.bench.pci import PciDevice
from vmwire.bench.script import Script, ScriptError, replay
from vmwire.wire.frame import F_NEEDS_CSUM, Frame, Offload

BAR = 0xE400_0000


def machine() -> Bench:
    pc = Bench(1 << 20)
    pc.insert(TINY, Tiny, addr=4, name="tiny")
    return pc


def session(pc: Bench) -> None:
    """A bit of everything."""
    PciDevice(pc, 4).enable()
    pc.write(0x2000, b"frame")
    pc.memset(0x3000, 8, 0x55)
    pc.writel(BAR, 0x2000)
    pc.writel(BAR + 4, 5)
    pc.readl(BAR + 0x10)
    pc.read(0x3000, 4)
    pc.outw(0xC800, 1)
    pc.inb(0xC800)
    pc.writel(BAR + 0xC, 100)
    pc.clock_step(1000)
    pc.writel(BAR + 8, 0)
    tiny = pc.cards["tiny"]
    tiny.wire.send([Frame.of(b"abc", Offload(F_NEEDS_CSUM, 0, 0, 0, 0, 0)), Frame.of(b"def")])
    tiny.wire.set_link(False)
    tiny.wire.accept_superframes()
    tiny.wire.set_full(True)
    tiny.wire.set_full(False)
    pc.reload(tiny)
    pc.reset(tiny)
    pc.clock_step()
    pc.clock_set(5000)


def test_a_recorded_session_replays_without_a_difference(tmp_path: Path) -> None:
    with machine() as pc:
        script = pc.record()
        session(pc)
    script.save(tmp_path / "session.txt")
    loaded = Script.load(tmp_path / "session.txt")
    assert str(loaded) == str(script)
    with machine() as pc:
        assert replay(loaded, pc) == []
        assert pc.recorder is not None
        assert str(pc.recorder.script) == str(script)


def test_a_script_reads_as_qtest_spells_it() -> None:
    with machine() as pc:
        script = pc.record()
        pc.outl(0xCF8, 0x8000_2010)
        pc.inw(0xCFC)
        pc.writel(0x1000, 1)
        pc.readl(0x1000)
        pc.write(0x1000, b"\xab\xcd")
        pc.read(0x1000, 0x10)
        pc.memset(0x1000, 4, 0)
        pc.clock_step(1000)
    assert str(script).splitlines() == [
        "outl 0xcf8 0x80002010", "OK",
        "inw 0xcfc", "OK 0x0000",
        "writel 0x1000 0x1", "OK",
        "readl 0x1000", "OK 0x0000000000000001",
        "write 0x1000 0x2 0xabcd", "OK",
        "read 0x1000 0x10", "OK 0xabcd0000000000000000000000000000",
        "memset 0x1000 0x4 0x0", "OK",
        "clock_step 1000", "OK 1000",
    ]  # fmt: skip


def test_frames_and_interrupts_stand_below_what_caused_them() -> None:
    with machine() as pc:
        PciDevice(pc, 4).enable()
        script = pc.record()
        pc.write(0x2000, b"\x01\x02")
        pc.writel(BAR, 0x2000)
        pc.writel(BAR + 4, 2)
        pc.cards["tiny"].wire.send(b"\x0f")
        pc.writel(BAR + 8, 0)
    assert str(script).splitlines()[-9:] == [
        "writel 0xe4000004 0x2", "FRAME tiny 0102", "OK",
        "send tiny 0f", "IRQ raise tiny", "OK 1",
        "writel 0xe4000008 0x0", "IRQ lower tiny", "OK",
    ]  # fmt: skip


@pytest.mark.parametrize(("line", "instead"), [
    ("OK 0x0000000000000001", "OK 0x0000000000000002"),
    ("FRAME tiny 6672616d65", "FRAME tiny 66"),
    ("IRQ raise tiny", "IRQ lower tiny"),
    ("OK 1000", "OK 1001"),
])  # fmt: skip
def test_a_replay_tells_where_it_went_another_way(line: str, instead: str) -> None:
    with machine() as pc:
        script = pc.record()
        session(pc)
    text = str(script)
    assert line in text
    changed = Script.parse(text.replace(line, instead, 1))
    with machine() as pc:
        (difference,) = replay(changed, pc)
    assert instead in difference.expected
    assert line in difference.found
    assert f"line {difference.line}: {difference.command}" in str(difference)


def test_commands_without_an_answer_are_only_carried_out() -> None:
    script = Script.parse("# by hand\nwritel 0x1000 7   # a comment\n\nreadl 0x1000\n")
    with machine() as pc:
        assert replay(script, pc) == []
        assert pc.readl(0x1000) == 7


@pytest.mark.parametrize(("line", "answer"), [
    ("writeq 0x10 0x1122334455667788", "OK"),
    ("readq 0x10", "OK 0x0000000000000000"),
    ("b64write 0x10 3 YWJj", "OK"),
    ("b64read 0x0 2", "OK AAA="),
    ("memset 16 4 255", "OK"),
    ("inl 0xcf8", "OK 0x0000"),
    ("inb 0x300", "OK 0x00ff"),
    ("clock_step", "OK 0"),
    ("clock_set 77", "OK 77"),
    ("send tiny 0102 0304", "OK 2"),
    ("send tiny - -:01000000000000000000", "OK 2"),
    ("link tiny down", "OK"),
    ("room tiny no", "OK"),
    ("accept tiny all", "OK"),
    ("reset tiny", "OK"),
    ("reload tiny", "OK"),
])  # fmt: skip
def test_a_command_gives_qtests_answer(line: str, answer: str) -> None:
    with machine() as pc:
        assert pc.execute(line) == answer


def test_base64_is_the_same_bytes() -> None:
    with machine() as pc:
        pc.execute("b64write 0x10 3 YWJj")
        assert pc.execute("read 0x10 3") == "OK 0x616263"
        assert pc.execute("b64read 0x10 3") == "OK YWJj"


@pytest.mark.parametrize(("line", "words"), [
    ("outx 1 2", "unknown command 'outx'"),
    ("outl 0xcf8", "should be 'outl PORT VALUE'"),
    ("outl 0xcf8 1 2", "should be 'outl PORT VALUE'"),
    ("outl cf8 1", "'cf8' is no number"),
    ("inb -1", "'-1' is no number"),
    ("inb 0x10000", "beyond the 16-bit address space"),
    ("readl 0x10000000000000000", "beyond the 64-bit"),
    ("read 0x0 0", "a length of 0"),
    ("read 0x0 0x7fffffff", "a length of"),
    ("write 0x0 1 ab", "not hexadecimal bytes with 0x"),
    ("write 0x0 1 0xag", "not hexadecimal bytes"),
    ("b64write 0x0 1 YQ", "not base64"),
    ("memset 0 1 256", "no number of 1 bytes"),
    ("send nobody 00", "no card 'nobody'"),
    ("send tiny", "should be 'send NAME FRAME"),
    ("send tiny 0", "not hexadecimal"),
    ("send tiny 00:0102", "an offload has 10 bytes, not 2"),
    ("link tiny sideways", "neither 'up' nor 'down'"),
    ("room tiny maybe", "neither"),
    ("plug nonsense,id=x", "not a valid device model name"),
    ("clock_step 1 2", "should be 'clock_step [NS]'"),
])  # fmt: skip
def test_a_line_that_makes_no_sense_is_told(line: str, words: str) -> None:
    with machine() as pc:
        with pytest.raises(ScriptError) as error:
            pc.execute(line)
        assert words in str(error.value)
        with pytest.raises(ScriptError, match=r"^line 2: "):
            replay(Script.parse(f"# first\n{line}"), pc)


@pytest.mark.parametrize("text", ["OK 1", "IRQ raise x", "inb 1\nOK 1\nOK 1", "inb 1\nOK\nIRQ x"])
def test_an_answer_to_nothing_is_told(text: str) -> None:
    with pytest.raises(ScriptError, match="follows no command"):
        Script.parse(text)


def test_the_page_of_commands_is_complete() -> None:
    from vmwire.bench import script

    assert script.__doc__ is not None
    for name in VERBS:
        base = name if name in script.__doc__ else name[:-1]
        assert base in script.__doc__, name


def test_a_command_that_ends_the_card_is_in_the_script_already() -> None:
    with machine() as pc:
        script = pc.record()
        chip = pc.cards["tiny"].function.chip
        assert isinstance(chip, Tiny)
        chip.slot.defer(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            pc.inb(0x80)
        assert str(script) == "inb 0x80\n"


QTEST_LOG = """\
[I 1700000000.123456] OPENED
[R +0.001000] outl 0xcf8 0x80000000
[S +0.001100] OK
[R +0.001200] nonsense 1
[S +0.001300] FAIL Unknown command 'nonsense'
[R +0.002000] inl 0xcfc
[S +0.002100] OK 0x12378086
[I +0.003000] CLOSED
"""


def test_a_log_of_qtest_is_a_script() -> None:
    with machine() as pc:
        assert replay(Script.parse(QTEST_LOG), pc) == []
    with machine() as pc:
        [difference] = replay(Script.parse(QTEST_LOG.replace("1237", "1238")), pc)
        assert difference.command == "inl 0xcfc"


def test_a_failure_that_a_script_does_not_expect_is_told() -> None:
    with machine() as pc, pytest.raises(ScriptError, match="line 4"):
        replay(Script.parse(QTEST_LOG.replace("FAIL Unknown command 'nonsense'", "OK")), pc)
