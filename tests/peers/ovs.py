# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch with DPDK, with all that is its own in one folder: no service, no huge pages.

``--legacy-mem`` keeps it from asking DPDK for ``--in-memory``, which doesn't go with ``--no-huge``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.peers.dpdk import end, file_prefix

PROGRAM = Path("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
DPDK = "--no-huge --legacy-mem -m 2048 --no-pci --no-telemetry"


class Switch:
    """One bridge, ``br0``, of the data path in user space."""

    def __init__(self, folder: Path) -> None:
        if not PROGRAM.exists():
            pytest.skip("needs Open vSwitch with DPDK (Debian: openvswitch-switch-dpdk)")
        self.folder = folder
        places = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        self._environment = {**os.environ, **dict.fromkeys(places, str(folder))}
        self._files = contextlib.ExitStack()
        self._running: list[subprocess.Popen[bytes]] = []
        self._listening: list[Path] = []
        self._database = f"unix:{folder}/db.sock"

    def __enter__(self) -> Switch:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        database = str(self.folder / "conf.db")
        ovsdb_tool = shutil.which("ovsdb-tool") or "/usr/bin/ovsdb-tool"
        subprocess.run([ovsdb_tool, "create", database, SCHEMA], check=True)
        self._start(
            "/usr/sbin/ovsdb-server", database, f"--remote=p{self._database}",
            f"--unixctl={self.folder}/db.ctl",
        )  # fmt: skip
        self._wait_for(self.folder / "db.sock")
        extra = f"{DPDK} --file-prefix={self._files.enter_context(file_prefix())}"
        self._say("--no-wait", "init")
        self._say(
            "--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true",
            f'other_config:dpdk-extra="{extra}"', "other_config:dpdk-lcore-mask=0x1",
            "other_config:pmd-cpu-mask=0x1",
        )  # fmt: skip
        self._start_switch()
        self._say("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")

    def __exit__(self, *_: object) -> None:
        while self._running:
            end(self._running.pop())
        self._files.close()

    def add_port(self, name: str, type: str, options: str = "") -> None:
        """Add a port of the bridge."""
        if type == "dpdkvhostuser":
            self._listening.append(self.folder / name)
        given = [f"options:{options}"] if options else []
        self._say(
            "add-port", "br0", name, "--", "set", "Interface", name, f"type={type}", *given
        )  # fmt: skip

    def restart(self) -> None:
        """Kill the switch (not its database), and start it again.

        A socket that it listened at is in its own way then, so that goes first.
        """
        switch = self._running.pop()
        switch.send_signal(signal.SIGKILL)
        switch.wait()
        for port in self._listening:
            port.unlink(missing_ok=True)
        self._start_switch()

    def _start_switch(self) -> None:
        self._start(str(PROGRAM), self._database, f"--unixctl={self.folder}/vs.ctl")

    def _start(self, *command: str) -> None:
        log = self.folder / f"{Path(command[0]).name}.log"
        with open(log, "ab") as output:
            self._running.append(
                subprocess.Popen(
                    [*command, "--no-chdir"], env=self._environment, stdout=output, stderr=output
                )
            )

    def _say(self, *words: str) -> None:
        command = ["ovs-vsctl", f"--db={self._database}", "--timeout=60", *words]
        subprocess.run(command, env=self._environment, check=True)

    @staticmethod
    def _wait_for(path: Path) -> None:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, path
            time.sleep(0.02)
