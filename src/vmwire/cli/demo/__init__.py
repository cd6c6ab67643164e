# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire demo [--vm] [OPTION...]``: the main job, shown in about ten seconds.

A guest gets an address by DHCP, pings its gateway, resolves a name, downloads from the host and
uploads to it, and is reached through a forwarded port, all over vmwire's user-mode network and
without root. What passed is left in a pcap file. The exit status is 0 if all of it worked.

    --guest namespace     the guest is a network namespace with the real Linux TCP, without a VM
    --guest python        the guest is a driver in Python on the other side of the card's rings
                          (default: a namespace where one can be had, else this)
    --vm                  the guest is a real VM: QEMU with vmwire in front of its command
    --pcap FILE           record there (default: vmwire-demo.pcap here, or in a temporary folder)
    --seconds N           how long each transfer takes (default: 2)
    --name NAME           the name to be resolved (default: www.debian.org)

and with --vm:

    --qemu PROGRAM        the QEMU (default: qemu-system-x86_64)
    --kernel FILE         the guest's kernel (default: the newest of /boot)
    --modules DIR         its modules (default: those that belong to the kernel)
    --busybox FILE        the guest's programs (default: the one that is installed)
    --accel NAME          kvm or tcg (default: kvm where it can be had)
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import FrameType

from vmwire import __version__
from vmwire.bench import dns_client
from vmwire.cli.demo.bed import Bed, open_local_bed
from vmwire.cli.demo.screen import Screen, duration
from vmwire.cli.demo.steps import STEPS, Outcome, Run, start_peer, take
from vmwire.errors import ConfigError

NEXT = "Next: vmwire in front of your own QEMU command. vmwire --help says more."
DEFAULT_PCAP = "vmwire-demo.pcap"
DEFAULT_NAME = "www.debian.org"
DEFAULT_SECONDS = 2.0
MAX_SECONDS = 600.0
VALUE_OPTIONS = ("guest", "pcap", "seconds", "name")
VM_OPTIONS = ("qemu", "kernel", "modules", "busybox", "accel")
GUESTS = ("namespace", "python")


@dataclass(slots=True)
class Arguments:
    """The command line."""

    vm: bool = False
    given: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is to be resolved."""
        return self.given.get("name", DEFAULT_NAME)

    @property
    def seconds(self) -> float:
        """How long a transfer takes."""
        text = self.given.get("seconds")
        try:
            seconds = DEFAULT_SECONDS if text is None else float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_SECONDS:
            raise ConfigError(f"expects a number up to {MAX_SECONDS:g}", f"--seconds {text}")
        return seconds


def main(argv: list[str]) -> int:
    """Show it; returns the exit status."""
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    screen = Screen(sys.stdout)
    try:
        return show(read(argv), screen)
    except BrokenPipeError:
        raise  # nobody reads what is written: the command ends, and says nothing of it
    except (ConfigError, OSError) as error:
        screen.clear()
        print(f"vmwire: {error}", file=sys.stderr)
        return 1
    finally:
        screen.clear()


def _end(number: int, frame: FrameType | None) -> None:
    """Let a signal end the demo as Ctrl-C does, with everything taken away."""
    raise SystemExit(128 + number)


def read(argv: list[str]) -> Arguments:
    """Take the words apart."""
    arguments = Arguments()
    words = iter(argv)
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        if word == "--vm":
            arguments.vm = True
            continue
        if not word.startswith("--") or name not in VALUE_OPTIONS + VM_OPTIONS:
            raise ConfigError("invalid option (vmwire demo --help shows what there is)", word)
        value = value if has_value else next(words, "")
        if not value:
            raise ConfigError("requires an argument", word)
        arguments.given[name] = value
    _check(arguments)
    return arguments


def _check(arguments: Arguments) -> None:
    given = arguments.given
    guest = given.get("guest")
    if guest is not None and guest not in GUESTS:
        raise ConfigError(f"expects one of {', '.join(GUESTS)}", f"--guest {guest}")
    if arguments.vm and guest is not None:
        raise ConfigError("can't be used together with --vm", "--guest")
    try:
        dns_client.query(arguments.name, 0)
    except ValueError:
        raise ConfigError("is not a domain name", f"--name {arguments.name}") from None
    for name in VM_OPTIONS:
        if name in given and not arguments.vm:
            raise ConfigError("is for --vm", f"--{name}")


def show(arguments: Arguments, screen: Screen) -> int:
    """Make a network with a guest, take the steps, and say what worked."""
    begin = time.monotonic()
    seconds = arguments.seconds
    pcap = _pcap_path(arguments.given.get("pcap"))
    screen.title(f"vmwire {__version__}: a guest, and its network as a process of its own")
    with ExitStack() as resources:
        screen.running("starting", "...")
        peer, ports = start_peer()
        resources.callback(peer.close)
        bed, remark = _open_bed(arguments, pcap, screen)
        resources.callback(bed.close)
        screen.clear()
        _introduce(screen, bed, remark)
        run = Run(bed, peer, screen, seconds, arguments.name, pcap, ports)
        outcomes = [take(step, run) for step in STEPS]
    return _conclude(screen, outcomes, time.monotonic() - begin)


def _open_bed(arguments: Arguments, pcap: str, screen: Screen) -> tuple[Bed, str]:
    if arguments.vm:
        from vmwire.cli.demo.vm import open_vm_bed

        return open_vm_bed(arguments.given, pcap, lambda text: screen.running("starting", text))
    return open_local_bed(arguments.given.get("guest"), pcap)


def _introduce(screen: Screen, bed: Bed, remark: str) -> None:
    screen.fact("guest", bed.guest)
    if remark:
        screen.fact("", f"({remark})")
    screen.fact("network", bed.netdev)
    screen.line()


def _conclude(screen: Screen, outcomes: list[Outcome], seconds: float) -> int:
    """The table, a last sentence, and the exit status."""
    rows = [
        (step.what, outcome.worked, outcome.figure)
        for step, outcome in zip(STEPS, outcomes, strict=True)
    ]
    screen.line()
    screen.table(("what", "works", "how well"), rows)
    failed = [what for what, worked, _ in rows if worked is False]
    untried = [what for what, worked, _ in rows if worked is None]
    screen.line()
    screen.line(f"{_sentence(failed, untried)} ({duration(seconds)})")
    if not failed:
        screen.line(NEXT)
    return 1 if failed else 0


def _sentence(failed: list[str], untried: list[str]) -> str:
    if failed:
        return f"Did not work: {', '.join(failed)}."
    if untried:
        return f"All of it worked, except what could not be tried here: {', '.join(untried)}."
    return "All of it worked."


def _pcap_path(given: str | None) -> str:
    """Where to record: in this folder if we may write there."""
    if given is not None:
        return given
    if _writable(DEFAULT_PCAP):
        return DEFAULT_PCAP
    return os.path.join(tempfile.mkdtemp(prefix="vmwire-demo-"), DEFAULT_PCAP)


def _writable(path: str) -> bool:
    return os.access(path if os.path.lexists(path) else os.path.dirname(path) or ".", os.W_OK)
