# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire bench``: the bench machine at a prompt, or a recorded script played back.

    vmwire bench [-device e1000,id=nic0,addr=4] ...     a prompt; `help` lists the commands
    vmwire bench --replay FILE ...                      exit status 1 if anything went another way
      -m SIZE         RAM (default: 128M)
      --seed N        for what chips take for random (default: 0)
      --record FILE   write what was done as a script, at the end

The commands are those of `vmwire.bench.script`, which are qtest's and a few of our own. Whatever a
command leads to (interrupts, frames) is printed before its answer.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vmwire import catalogue
from vmwire.bench import commands
from vmwire.bench.machine import RAM_SIZE, Bench
from vmwire.bench.script import Script, ScriptError, replay
from vmwire.cli.machine import read_size
from vmwire.errors import ConfigError
from vmwire.options.table import naming, table_of

PROMPT = "bench> "
HISTORY = "~/.local/state/vmwire/bench_history"
HISTORY_LINES = 1000
LEAVING = ("exit", "quit")


@dataclass(slots=True)
class Asked:
    """The command line."""

    devices: list[str] = field(default_factory=list)
    ram_size: int = RAM_SIZE
    seed: int = 0
    replay: str | None = None
    record: str | None = None


def main(argv: list[str]) -> int:
    """Run the prompt or play a script; the exit status."""
    if any(word in ("-h", "-help", "--help") for word in argv):
        print((__doc__ or "").partition("\n\n")[2].strip())
        return 0
    asked = read(argv)
    with Bench(asked.ram_size, seed=asked.seed) as pc:
        pc.record()
        for text in asked.devices:
            plug(pc, text)
        status = play(pc, asked.replay) if asked.replay else prompt(pc)
        if asked.record is not None:
            assert pc.recorder is not None
            save(pc.recorder.script, asked.record)
    return status


def read(argv: list[str]) -> Asked:
    """Take the words apart. ConfigError names the option."""
    asked = Asked()
    words = iter(argv)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in ("device", "m", "record", "replay", "seed"):
            raise ConfigError("invalid option (vmwire bench --help shows what there is)", word)
        if not equals:
            value = next(words, "")
        if not value:
            raise ConfigError("requires an argument", word)
        if name == "device":
            asked.devices.append(value)
        elif name == "m":
            with naming(f"-m {value}"):
                asked.ram_size = read_size(value)
        elif name == "seed":
            if not value.isdecimal():
                raise ConfigError(f"'{value}' is no number", word)
            asked.seed = int(value)
        else:
            setattr(asked, name, value)
    return asked


def plug(pc: Bench, text: str) -> None:
    """Put a card in, with an id and an address if it has none."""
    with naming(f"-device {text}"):
        card = catalogue.parse("device", text)
        table = table_of(type(card))
        given = {entry.field: getattr(card, entry.field) for entry in table.entries.values()}
        addr = given.pop("addr", None)
        pc.plug(table.name, addr=addr, **{k: v for k, v in given.items() if v is not None})


# --- playing back -------------------------------------------------------------------------------


def play(pc: Bench, path: str) -> int:
    """Play a script and print where it went another way."""
    try:
        script = Script.load(path)
        differences = replay(script, pc)
    except OSError as error:
        raise ConfigError(str(error.strerror), path) from None
    except ScriptError as error:
        raise ConfigError(str(error), path) from None
    for difference in differences:
        print(difference)
    compared = sum(step.answer is not None for step in script.steps)
    print(
        f"{len(script.steps)} commands, {compared} of them compared, "
        f"{len(differences)} went another way",
        file=sys.stderr,
    )
    return 1 if differences else 0


def save(script: Script, path: str) -> None:
    """Write what was done."""
    try:
        script.save(path)
    except OSError as error:
        raise ConfigError(str(error.strerror), f"--record {path}") from None


# --- the prompt ---------------------------------------------------------------------------------


def prompt(pc: Bench) -> int:
    """Carry out what is typed, or piped in. 1 if a piped command made no sense."""
    if sys.stdin is None:
        raise ConfigError("standard input is closed: there is nowhere to read commands from")
    typed = sys.stdin.isatty()
    failed = False
    for line in typed_lines() if typed else piped_lines(sys.stdin):
        if line in LEAVING:
            break
        try:
            answers(pc, line)
        except ScriptError as error:
            failed = True
            print(f"FAIL {error}")
        print(end="", flush=True)
    return 1 if failed and not typed else 0


def answers(pc: Bench, line: str) -> None:
    """Print what a line leads to."""
    if line.split()[0] == "help":
        print(usage(line.split()[1:]))
        return
    assert pc.recorder is not None
    steps = pc.recorder.script.steps
    before = len(steps)
    answer = commands.execute(pc, line)
    for step in steps[before:]:
        for event in step.events:
            print(event)
    print(answer)


def usage(names: list[str]) -> str:
    """The commands and their arguments."""
    for name in names:
        if name not in commands.VERBS:
            raise ScriptError(f"unknown command '{name}'")
    return "\n".join(
        f"{name} {commands.VERBS[name][0]}".rstrip() for name in names or commands.VERBS
    )


def piped_lines(source: Iterable[str]) -> Iterator[str]:
    """The lines that say something."""
    for line in source:
        text = line.partition("#")[0].strip()
        if text:
            yield text


def typed_lines() -> Iterator[str]:
    """What is typed at the terminal, with history and completion."""
    import readline

    def complete(start: str, number: int) -> str | None:
        found = [name for name in [*commands.VERBS, "help", *LEAVING] if name.startswith(start)]
        return f"{found[number]} " if number < len(found) else None

    path = os.path.expanduser(HISTORY)
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield from piped_lines(iter(_ask, None))
    finally:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            readline.write_history_file(path)


def _ask() -> str | None:
    try:
        return input(PROMPT)
    except EOFError:
        print()
        return None
