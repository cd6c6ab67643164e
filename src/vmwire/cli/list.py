# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire list [--json]``: the networks that run on this machine, with their counters.

A user sees their own, root sees everybody's. Each instance is asked over its control socket; one
that doesn't answer is listed with what its folder says. What is left of dead ones is cleared away
on the occasion (one's own only).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

from vmwire.daemon import control, rundir
from vmwire.errors import ConfigError

ASK_TIMEOUT_S = 2.0


def main(argv: list[str]) -> int:
    """List; returns the exit status."""
    if any(word != "--json" for word in argv):
        wrong = next(word for word in argv if word != "--json")
        print(f"vmwire: list {wrong}: invalid option (there is --json)", file=sys.stderr)
        return 1
    try:
        found = instances()
    except (ConfigError, OSError) as error:
        print(f"vmwire: {error}", file=sys.stderr)
        return 1
    if argv:
        print(json.dumps(found, indent=2))
    elif found:
        print("\n\n".join(describe(each) for each in found))
    else:
        print("No network of vmwire is running.")
    return 0


# --- collecting ---------------------------------------------------------------------------------


def instances() -> list[dict[str, Any]]:
    """What runs, as plain data."""
    paths = rundir.running()
    if os.getuid() == 0:
        paths += rundir.running_of_others()
    return [instance(path) for path in paths]


def instance(path: str) -> dict[str, Any]:
    facts = rundir.read_facts(path)
    try:
        stats: dict[str, Any] = control.ask(
            os.path.join(path, rundir.CONTROL), "stats", ASK_TIMEOUT_S
        )
    except (OSError, control.CommandError) as error:
        stats = {"error": f"does not answer: {error}"}
    return {
        "instance": os.path.basename(path),
        "path": path,
        "uid": os.lstat(path).st_uid,
        **{key: facts.get(key) for key in ("mode", "pid", "command", "started", "log", "sockets")},
        "vm": [process(pid) for pid in _holders(facts.get("lifeline"))],
        "stats": stats,
    }


def process(pid: int) -> dict[str, Any]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").split(b"\0")
        return {"pid": pid, "command": [word.decode(errors="replace") for word in words]}
    return {"pid": pid, "command": []}


def _holders(lifeline: object) -> list[int]:
    """Who keeps the network alive: the processes that hold the lifeline's write end."""
    if not isinstance(lifeline, int):
        return []
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if _holds(pid, f"pipe:[{lifeline}]")]


def _holds(pid: int, link: str) -> bool:
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == link and _is_writing(pid, fd):
                return True
    return False


def _is_writing(pid: int, fd: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
        flags = next(line for line in file if line.startswith("flags:"))
    return int(flags.split()[1], 8) & os.O_ACCMODE == os.O_WRONLY


# --- showing ------------------------------------------------------------------------------------


def describe(found: dict[str, Any]) -> str:
    """One instance as a person reads it."""
    stats = found["stats"]
    lines = [_headline(found)]
    for each in found["vm"]:
        lines.append(f"  vm {each['pid']}: {_short(' '.join(each['command']))}")
    for path in found["sockets"] or []:
        lines.append(f"  socket {_printable(path)}")
    if "error" in stats:
        return "\n".join([*lines, f"  {_printable(stats['error'])}"])
    for title in ("devices", "netdevs", "filters", "hubs"):
        members = stats.get(title, {})
        lines += [_member(title[:-1], id, member) for id, member in members.items()]
    return "\n".join(lines)


def _headline(found: dict[str, Any]) -> str:
    stats = found["stats"]
    words = [f"{found['instance']}: {_printable(found['mode'])}"]
    if found["uid"] != os.getuid():
        words.append(f"of uid {found['uid']}")
    if isinstance(found["started"], int | float):
        words.append(f"for {_age(time.time() - found['started'])}")
    if stats.get("restarts"):
        words.append(f"worker restarted {stats['restarts']} times")
    if found["mode"] == "serve":
        words.append(f"pid {found['pid']}")
    return ", ".join(words)


def _member(kind: str, id: str, member: dict[str, Any]) -> str:
    """``netdev u (user): frames 12, bytes 4096``, nested counters by path, zeros left out."""
    type_name = member.get("type")
    named = f"{kind} {id} ({type_name})" if type_name else f"{kind} {id}"
    down = " no carrier" if member.get("carrier") is False else ""
    counters = [
        f"{key} {value}" for key, value in _flat(member) if key not in ("type", "carrier") and value
    ]
    return _printable(f"  {named}{down}" + (f": {', '.join(counters)}" if counters else ""))


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        pairs = [(f"{path} {key}".strip(), each) for key, each in value.items()]
        return [leaf for key, each in pairs for leaf in _flat(each, key)]
    if isinstance(value, list):
        return [(path, " ".join(str(each) for each in value))]
    return [(path, value)]


def _age(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


def _short(text: str, width: int = 100) -> str:
    text = _printable(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _printable(text: object) -> str:
    """What others chose must not steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))
