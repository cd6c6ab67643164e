# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo shows, step by step: each step does one thing and says what came of it.

A step fails by an exception (what was asked did not happen) or by its result (it happened, but not
as it should). One that this machine gives no way to try is neither: ``worked`` is None then.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmwire.cli.demo import pcap
from vmwire.cli.demo.background import Background
from vmwire.cli.demo.bed import GUEST_PORT, Bed
from vmwire.cli.demo.helper import Helper, HelperError, module
from vmwire.cli.demo.screen import Screen, amount, duration, speed
from vmwire.cli.demo.stacks import ask_name_server
from vmwire.netdev.user.resolvers import ResolvConf
from vmwire.wire.protocols.errors import ParseError

LOOK_EVERY_S = 0.1
ANSWER_S = 12.0
PINGS = 5
HELLO = b"hello from the host\n"
TRUE_ANSWERS = ("NOERROR", "NXDOMAIN")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step: whether it worked, its figure for the table, and a sentence."""

    worked: bool | None
    figure: str
    text: str


@dataclass(slots=True)
class Run:
    """What the steps work with, and what they learn."""

    bed: Bed
    peer: Helper
    screen: Screen
    seconds: float
    name: str
    pcap: str
    ports: dict[str, int] = field(default_factory=dict)
    lease: dict[str, Any] = field(default_factory=dict)

    def ask(self, do: str, timeout_s: float = ANSWER_S, **arguments: Any) -> dict[str, Any]:
        """Have the guest do something."""
        return self.bed.ask(timeout_s, do, **arguments)


# --- the steps -----------------------------------------------------------------------------------


def lease(run: Run) -> Outcome:
    """Get an address by DHCP."""
    run.lease = found = run.ask("lease")
    text = (
        f"{found['address']}/{found['prefix']}, gateway {found['gateway']}, DNS {found['dns']} "
        f"({found['by']})"
    )
    return Outcome(True, f"{found['address']} after {duration(found['took'])}", text)


def ping(run: Run) -> Outcome:
    """Ping the gateway."""
    gateway = run.lease["gateway"]
    times = [each for each in run.ask("ping", address=gateway, count=PINGS)["times"] if each >= 0]
    text = f"{gateway} answered {len(times)} of {PINGS}"
    if not times:
        return Outcome(False, "no answer", text)
    best = duration(min(times))
    return Outcome(len(times) == PINGS, f"{best} at best", f"{text}, {best} at best")


def names(run: Run) -> Outcome:
    """Resolve a name. Any answer of the host's resolver that comes through will do."""
    server = run.lease["dns"]
    try:
        reply = run.ask("resolve", name=run.name, server=server)
    except HelperError as error:
        return _judged_by_host(run.name, f"{server} gave no answer ({error})")
    took = duration(reply["took"])
    if reply["addresses"]:
        text = f"{run.name} is {reply['addresses'][0]}, says {server}"
        return Outcome(True, took, text)
    if reply["code"] in TRUE_ANSWERS:
        text = f"{run.name} has no address, says this host's resolver through {server}"
        return Outcome(True, f"{took} (the answer: no such name)", text)
    return _judged_by_host(run.name, f"{server} answered {reply['code']}")


def _judged_by_host(name: str, what: str) -> Outcome:
    """Our relay had no answer: whether it could have had one, by asking the host's resolver."""
    resolver = ResolvConf(time.monotonic)()[0]
    try:
        code = ask_name_server(name, resolver.address, resolver.port).code
    except (OSError, ParseError):
        text = f"{what}: this host's own resolver ({resolver.address}) is silent too"
        return Outcome(None, "this host's resolver is silent", text)
    if code in TRUE_ANSWERS:
        text = f"{what}, but this host's resolver ({resolver.address}) answers {code}"
        return Outcome(False, "no answer", text)
    text = f"{what}, as this host's own resolver ({resolver.address}) does"
    return Outcome(None, f"this host's resolver says {code}", text)


def download(run: Run) -> Outcome:
    """Read from an HTTP server on the host's loopback, and look at every byte."""
    limit = f"&limit={run.bed.limit}" if run.bed.limit else ""
    got, moved = _transfer(
        run,
        "download",
        port=run.ports["http"],
        path=f"/pattern?seconds={run.seconds:g}{limit}",
    )
    intact = got["intact"] and got["bytes"] == moved["bytes"]
    return _moved("from the host's HTTP server", moved, intact)


def upload(run: Run) -> Outcome:
    """Send to a sink on the host's loopback, which looks at every byte."""
    got, moved = _transfer(run, "upload", port=run.ports["sink"], seconds=run.seconds)
    intact = moved["intact"] and got["bytes"] == moved["bytes"]
    return _moved("to a sink on the host", moved, intact)


def _moved(where: str, moved: dict[str, Any], intact: bool) -> Outcome:
    fast = speed(moved["bytes"], moved["seconds"])
    verdict = "and intact" if intact else "but NOT as it was sent"
    text = f"{fast}: {amount(moved['bytes'])} {where}, {verdict}"
    return Outcome(intact, fast if intact else "damaged", text)


def _transfer(run: Run, name: str, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let the guest move data, and show how far it is; what the guest and the host say of it."""
    address = run.lease["gateway"]
    limit_s = run.seconds + ANSWER_S
    deadline = time.monotonic() + limit_s
    said: dict[str, Any] = {}
    with run.bed.bulk():
        work = Background(lambda: run.ask(name, limit_s, address=address, **arguments))
        while not said.get("done") and time.monotonic() < deadline:
            said = _heard(run, name) or said
            if not work.running():
                work.result()  # which says so if it failed
        got = work.result()
    if not said.get("done"):
        raise HelperError("the host's side of it came to no end")
    return got, said


def _heard(run: Run, name: str) -> dict[str, Any] | None:
    """What the host's side of a transfer says next, if it does; shown."""
    said = run.peer.hear(LOOK_EVERY_S)
    if said is None or said["kind"] != name:  # or late news of an earlier one
        return None
    run.screen.running(name, _progress(run, said))
    return said


def _progress(run: Run, moved: dict[str, Any]) -> str:
    size, seconds = moved["bytes"], moved["seconds"]
    part = max(seconds / run.seconds, size / run.bed.limit if run.bed.limit else 0.0)
    return f"{run.screen.bar(part)} {amount(size):>8}  {speed(size, seconds):>11}"


def forward(run: Run) -> Outcome:
    """Connect to the forwarded port of the host, and talk with the guest there."""
    run.ask("listen", port=GUEST_PORT)
    work = Background(lambda: run.ask("greet"))
    port = run.bed.forward_port
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
        connection.sendall(HELLO)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    took = duration(time.monotonic() - begin)
    heard = work.result()["heard"]
    worked = (heard, answer) == (HELLO.decode().strip(), b"hello from the guest\n")
    text = f"127.0.0.1:{port} on the host leads to {run.lease['address']}:{GUEST_PORT}, and back"
    if not worked:
        text = f"the guest heard {heard!r} and the host {answer!r}"
    return Outcome(worked, f"{took} for both greetings" if worked else "wrong data", text)


def record(run: Run) -> Outcome:
    """Look at the pcap file, which is complete when the network has gone."""
    run.bed.close()
    found = pcap.summary(run.pcap)
    text = f"{run.pcap}: {found.frames:,} frames, {amount(found.size)} (long ones are cut)"
    worked = {"ARP", "DHCP", "TCP"} <= found.protocols
    return Outcome(worked, f"{found.frames:,} frames", text)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its short name, what it shows, and the function."""

    name: str
    what: str
    act: Callable[[Run], Outcome]
    needs_lease: bool = True


STEPS = (
    Step("DHCP", "address by DHCP", lease, needs_lease=False),
    Step("ping", "ping of the gateway", ping),
    Step("DNS", "name resolution", names),
    Step("download", "download, checked", download),
    Step("upload", "upload, checked", upload),
    Step("hostfwd", "connection from outside", forward),
    Step("pcap", "traffic recorded", record, needs_lease=False),
)


def take(step: Step, run: Run) -> Outcome:
    """Do one step, and show it."""
    run.screen.running(step.name, "...")
    if step.needs_lease and not run.lease:
        outcome = Outcome(None, "not tried", "not tried without an address")
    else:
        try:
            outcome = step.act(run)
        except (HelperError, OSError) as error:
            outcome = Outcome(False, "failed", str(error))
    run.screen.done(step.name, outcome.worked, outcome.text)
    return outcome


def start_peer() -> tuple[Helper, dict[str, int]]:
    """The host's side of the transfers, and its ports."""
    peer = Helper(module("peer"))
    try:
        return peer, peer.answer(ANSWER_S)
    except BaseException:
        peer.close()
        raise
