# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What can be said with --capture, and what is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmwire.cli import capture_option
from vmwire.errors import ConfigError


def test_file_is_meant_from_here_wherever_the_worker_runs() -> None:
    assert capture_option.read("u=x=y.pcap") == ["u", os.path.abspath("x=y.pcap")]


@pytest.mark.parametrize("text", ["u", "u=", "=file", ""])
def test_half_an_option_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--capture .*expects ID=FILE"):
        capture_option.read(text)


@pytest.mark.parametrize("netdev", ["user,id=u", "none"])
def test_netdev_that_is_not_served_cannot_be_recorded(tmp_path: Path, netdev: str) -> None:
    path = tmp_path / "x.pcap"
    command = ["--capture", f"other={path}", "true", "-netdev", netdev]
    done = subprocess.run(
        [sys.executable, "-m", "vmwire", *command],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | {"VMWIRE": "off"},
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"vmwire: --capture other={path}: vmwire does not serve a netdev 'other'\n"
    )
    assert not path.exists()
