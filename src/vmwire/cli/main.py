# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The vmwire command: which mode is meant, and nothing else.

    vmwire [options] PROGRAM ...     prefix mode: QEMU (or a script that starts it) with our network
    vmwire -netdev ... -device ...   serve mode, and help for these options
    vmwire shell|demo|list|upgrade   the other modes

Prefix mode is on the way of every VM's start, and often only to step aside (``-version``, libvirt's
probing). So each mode is imported when it is known to be meant, and this module imports next to
nothing.

Under the name of a link, ``vmwire-qemu-system-x86_64``, it stands in for that binary.
"""

from __future__ import annotations

import os
import sys

from vmwire.errors import ConfigError

TYPE_CHECKING = False  # typing itself would cost some milliseconds
if TYPE_CHECKING:
    from typing import Any

LINK_PREFIX = "vmwire-"
MODES = ("bench", "connect", "shell", "demo", "list", "upgrade")
MACHINE_OPTIONS = frozenset(
    ("M", "accel", "audio", "display", "machine", "mon", "nodefaults", "qmp", "qtest")
)
"""Options that only QEMU has otherwise: vmwire is to be a machine in its place."""
USAGE_STATUS = 2
READER_LEFT_STATUS = 141
"""What a shell reports of a program that SIGPIPE ended."""

# vmwire's own options in front of a program. The last two are shared with serve mode.
_REPEATED = ("--capture", "--keep", "--take")
_FLAGS = {"--explain": "explain", "--resume": "resume"}
_VALUES = {
    "--capture": "capture",
    "--keep": "keep",
    "--take": "take",
    "--log": "log_file",
    "--log-level": "log_level",
    "--socket-dir": "socket_dir",
}

# Words with which QEMU answers and ends, and those with which it has no network by itself.
_QUESTIONS = frozenset(("-h", "-help", "--help", "-version", "--version", "help", "?"))
_NODEFAULTS = frozenset(("-nodefaults", "--nodefaults"))

USAGE = """\
usage: vmwire [OPTION...] PROGRAM [ARGUMENT...]   QEMU, or a script that starts it
       vmwire -netdev TYPE,id=ID[,...] -device TYPE,netdev=ID[,...] [OPTION...]
       vmwire connect TYPE[,...] TYPE[,...]      two back ends with each other
       vmwire shell [-netdev TYPE,...] [-- COMMAND...]
       vmwire demo [--vm]
       vmwire list
       vmwire bench [--replay FILE]              a PC without a CPU, at a prompt
       vmwire -qtest unix:PATH [-machine pc|none] [-netdev ...] [-device ...]   QEMU's qtest
       vmwire upgrade [NAME|--all]

In front of a QEMU command, vmwire serves the command's networks:
  --explain         say what is taken, what stays with QEMU and why, and the exact command
  --keep ID         leave the netdev or card ID to QEMU (may be given several times)
  --take ID         serve the netdev or card ID although QEMU's way is as fast (the same)
  --resume          the state of -loadvm or -incoming was saved with vmwire's network
  --capture ID=FILE record what passes at the netdev ID, as pcap (may be given several times)
  --log FILE        write the log there (default: in the private run directory)
  --log-level LEVEL error, warning, info (default) or debug
  --socket-dir DIR  put the sockets there (default: in the private run directory)
VMWIRE=off in the environment leaves everything to QEMU. As a link called
vmwire-qemu-system-x86_64 it stands in for that program; VMWIRE_QEMU may name the real one.

Without a program, vmwire runs a network alone and prints how VMs join it:
  -netdev help, -device help, -device TYPE,help    what there is
  --pidfile FILE    write the pid there; and --capture, --log, --log-level, --socket-dir as above

  -h, --help        this text
  --version         the version
"""


class UsageError(Exception):
    """vmwire's own words are wrong; the message says how."""


def main(arguments: list[str] | None = None) -> int:
    """Run vmwire and return its exit status. ``arguments`` start with the program's name."""
    words = sys.argv if arguments is None else arguments
    _fill_standard_streams()
    try:
        status = _dispatch(words)
        print(end="", flush=True)  # there may be no standard output
    except UsageError as error:
        print(f"vmwire: {error}\nTry 'vmwire --help'.", file=sys.stderr)
        return USAGE_STATUS
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return READER_LEFT_STATUS
    except KeyboardInterrupt:
        return _end_by_sigint()
    except (ConfigError, OSError) as error:
        print(f"vmwire: {error}", file=sys.stderr)
        return 1
    return status


def _fill_standard_streams() -> None:
    """Where one is closed, let nothing else get its number. What is executed finds it closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _end_by_sigint() -> int:
    """End as a program does that Ctrl-C ended, so that a shell's loop around it ends too."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130


def _dispatch(words: list[str]) -> int:
    name = os.path.basename(words[0]) if words else ""
    if name.startswith(LINK_PREFIX):
        return _stand_in(name.removeprefix(LINK_PREFIX), words)
    rest = words[1:]
    settings, used = _own_options(rest)
    if used == len(rest):
        raise UsageError("what is to be run?")
    first = rest[used]
    if not first.startswith("-"):
        if first in MODES and used == 0:
            return _mode(first, rest[1:])
        return _prefix(settings, rest[used:])
    if first in ("-h", "-help", "--help"):
        print(USAGE, end="")
        return 0
    if first in ("-version", "--version"):
        from vmwire import __version__

        print(f"vmwire {__version__}")
        return 0
    return _mode("machine" if _is_machine(rest) else "serve", rest)


def _is_machine(words: list[str]) -> bool:
    """Whether the options are those of a machine, not of a network alone."""
    return any(word.lstrip("-") in MACHINE_OPTIONS for word in words if word.startswith("-"))


def _mode(name: str, arguments: list[str]) -> int:
    from importlib import import_module

    status = import_module(f"vmwire.cli.{name}").main(arguments)
    return int(status)


def _own_options(words: list[str]) -> tuple[dict[str, Any], int]:
    """vmwire's options at the start of ``words``, and how many words they are."""
    settings: dict[str, Any] = {}
    at = 0
    while at < len(words):
        option, equals, value = words[at].partition("=")
        if words[at] in _FLAGS:
            settings[_FLAGS[words[at]]] = True
            at += 1
            continue
        if option not in _VALUES:
            break
        if not equals:
            at += 1
            if at == len(words):
                raise UsageError(f"{option} wants a value")
            value = words[at]
        at += 1
        name = _VALUES[option]
        settings[name] = [*settings.get(name, []), value] if option in _REPEATED else value
    return settings, at


def _prefix(settings: dict[str, Any], command: list[str]) -> int:
    if settings.keys().isdisjoint(("capture", "explain", "keep", "take")) and _steps_aside(command):
        from vmwire.cli.wrap.execute import execute

        execute(command)
    from vmwire.cli.wrap.launch import Settings
    from vmwire.cli.wrap.launch import main as launch

    return launch(Settings(**settings), command)


def _steps_aside(command: list[str]) -> bool:
    """Whether it is plain without any import that nothing is to be taken.

    A QEMU of which nothing is said of networks has one all the same.
    """
    if os.environ.get("VMWIRE") == "off" or not _QUESTIONS.isdisjoint(command[1:]):
        return True
    said = [
        command[index + 1]
        for index, word in enumerate(command[:-1])
        if word in ("-net", "--net", "-netdev", "--netdev", "-nic", "--nic")
    ]
    if not said:
        return not _NODEFAULTS.isdisjoint(command[1:])
    return all(value == "none" for value in said)


def _stand_in(name: str, words: list[str]) -> int:
    """Called as ``vmwire-NAME``: run NAME's command line."""
    from vmwire.cli.wrap.standin import real_program

    return _prefix({}, [real_program(name, words[0]), *words[1:]])
