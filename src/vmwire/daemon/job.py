# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What keeper and worker were started for: plain data, and the descriptors that go with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vmwire.errors import ConfigError


@dataclass(slots=True)
class Job:
    """Plain data, so that a worker can hand it to a new keeper."""

    config: dict[str, Any]
    run_dir: str
    sockets: list[str] = field(default_factory=list)
    """Every socket path of the instance, to be removed at its end."""
    log_level: str = "info"
    foreground: bool = False
    """The keeper is the command that the user typed: nobody may step into its place."""
    restarts: int = 0
    """How many workers there were before this one."""
    upgrades: int = 0
    """How often the network was handed over to a new worker."""
    edits: list[Any] = field(default_factory=list)
    """What was changed in the network since it was built (`vmwire.monitor.journal`)."""
    builder: str = "vmwire.daemon.worker:build_network"
    """Who makes the network of the config: a `vmwire.daemon.worker.Builder`."""

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Job:
        """The job that `to_data` gave, here or in another version of this program."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


@dataclass(slots=True)
class Handles:
    """The descriptors of an instance. ``None``: it has no VM that it could outlive."""

    log: int
    lock: int
    lifeline: int | None = None
    vm: int | None = None

    def fds(self) -> list[int]:
        return [fd for fd in (self.log, self.lock, self.lifeline, self.vm) if fd is not None]

    def named(self) -> dict[str, int]:
        """By field name, without those that aren't there."""
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: fd for name, fd in pairs if fd is not None}


def failure_data(error: ConfigError | OSError) -> dict[str, Any]:
    """An error that a person must hear of, as it travels to the process that they talk to."""
    if isinstance(error, ConfigError):
        return {"kind": "config", "message": error.message, "option": error.option}
    return {
        "kind": "os",
        "errno": error.errno,
        "message": error.strerror or str(error),
        "path": error.filename if isinstance(error.filename, str) else None,
    }


def failure_error(data: dict[str, Any]) -> ConfigError | OSError:
    """The error back from `failure_data`."""
    if data["kind"] == "config":
        return ConfigError(data["message"], data["option"])
    return OSError(data["errno"] or 0, data["message"], data["path"])
