# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A machine without a CPU as a process: the bench, a network, and who drives them from outside.

Theory of operation. One thread turns the network's loop. Harnesses' commands are only collected
there; between two turns one of them is carried out, after the loop has been turned until no netdev
has any more input (at most ``MOST_TURNS`` times). So a frame that a harness put on the wire before
its command is in the card when the command is carried out, and whatever the command leads to has
happened when its answer is sent. Monitors' commands are answered within the loop's turn.

The machine's clock stands still unless a command moves it; the network's is the host's.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from vmwire.attach.bench import BenchCards
from vmwire.attach.chardev import Chardev, Reader, Stream
from vmwire.attach.qtest import QtestSession
from vmwire.bench.cards import Nic
from vmwire.bench.machine import Bench
from vmwire.errors import ConfigError
from vmwire.monitor.machine import OnEvent, PciFunctionView
from vmwire.network import Network

MOST_TURNS = 64
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PERIPHERAL = "/machine/peripheral/"


def _nobody(name: str, data: Mapping[str, Any]) -> None:
    """Hears the events of a machine without a monitor."""


class Headless:
    """The machine that this process is; `vmwire.monitor.machine.Machine` says what each does."""

    def __init__(self, pc: Bench, name: str) -> None:
        self.pc = pc
        self.name = name
        self.cards = BenchCards(pc)
        self.network = Network(cards=self.cards)
        self.on_event: OnEvent = _nobody
        self.sessions: list[QtestSession] = []
        self.streams: list[Stream] = []
        self._running = True
        self.ending = False
        pc.on_eject = self._eject
        pc.on_guest_reset = self._reset_by_guest

    def __enter__(self) -> Headless:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_stream(self, chardev: Chardev, reader: Reader) -> None:
        """Have somebody serve whoever is at a chardev's other end, from ``run`` on."""
        self.streams.append(Stream(chardev, self.network.loop, reader))

    # For the monitor

    @property
    def running(self) -> bool:
        """Whether cards take frames from the wire."""
        return self._running

    def stop(self) -> None:
        """Pause."""
        self._set_running(False, "STOP")

    def cont(self) -> None:
        """Go on."""
        self._set_running(True, "RESUME")

    def _set_running(self, running: bool, event: str) -> None:
        if running == self._running:
            return
        self._running = running
        self.cards.set_running(running)
        self.on_event(event, {})

    def pci_functions(self) -> list[PciFunctionView]:
        """What is on bus 0."""
        return self.pc.pci_functions()

    def reset(self) -> None:
        """Reset the machine and all cards."""
        self.on_event("RESET", {"guest": False, "reason": "host-qmp-system-reset"})
        self.pc.reset_all()

    def _reset_by_guest(self) -> None:
        self.on_event("RESET", {"guest": True, "reason": "guest-reset"})
        self.pc.reset_all()

    def unplug(self, id: str) -> None:
        """Ask the guest to let a card go."""
        nic = self.pc.cards.get(id)
        if nic is None:
            raise ConfigError(f"Device '{id}' not found")
        if not self.pc.ask_out(nic):
            raise ConfigError(f"Device {id} is already in the process of unplug")

    def _eject(self, nic: Nic) -> None:
        """The guest lets a card go."""
        self.network.remove(nic.name, kind="device")
        self.on_event("DEVICE_DELETED", {"device": nic.name, "path": PERIPHERAL + nic.name})

    def quit(self) -> None:
        """End soon."""
        self.on_event("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.ending = True

    # Running

    def run(self) -> None:
        """Serve until a harness has left, a monitor says so, or SIGTERM comes."""
        self._end_by_signals()
        self.open()
        while not self.ending:
            self.turn(None)
        for stream in self.streams:
            stream.flush()
        for number in ENDINGS:  # it ends already: a second word must not make that a failure
            signal.signal(number, signal.SIG_IGN)

    def open(self) -> None:
        """Reach whoever drives the machine; it runs from now on."""
        for stream in self.streams:
            stream.open()
        self.pc.hot = True

    def turn(self, timeout_s: float | None) -> None:
        """Carry out one command, or wait for something to happen."""
        loop = self.network.loop
        stuffed = [stream.reader for stream in self.streams if stream.stuffed]
        waiting = [each for each in self.sessions if each.pending and each not in stuffed]
        if waiting:
            self._drain()
            waiting[0].step()
            for stream in self.streams:
                stream.go_on()
        elif self.streams and all(stream.over for stream in self.streams):
            self.ending = True
        elif not loop.turn(0):
            loop.idle()
            loop.turn(timeout_s)
        self.pc.settle()

    def _drain(self) -> None:
        """Let the network run until nothing more comes in."""
        for _ in range(MOST_TURNS):
            if not self.network.loop.turn(0):
                break
        self.pc.settle()

    def _end_by_signals(self) -> None:
        def end(number: int, frame: object) -> None:
            self.ending = True
            for stream in self.streams:
                stream.hurry()
            self.network.loop.post(_wake)

        for number in ENDINGS:
            signal.signal(number, end)

    def close(self) -> None:
        """Give everything back."""
        for stream in self.streams:
            stream.close()
        self.network.close()
        self.pc.close()


def _wake() -> None:
    """What a signal has the loop do: end its turn."""
