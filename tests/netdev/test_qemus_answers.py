# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Each option line of the socket family that QEMU was asked for: we answer as it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.sockets import Bed

from vmwire.errors import ConfigError
from vmwire.options.table import NotServedError

FACTS = Path(__file__).parent.parent / "data" / "qemu_socket_netdevs.json"
CASES: list[dict[str, Any]] = json.loads(FACTS.read_text())["cases"]

OTHERWISE = {
    # QEMU starts with these, and the netdev never works: it is a mistake that is better told
    "connect=127.0.0.1:70000": "port number '70000' is invalid",
    "server=on,addr.type=unix,addr.path=/nonexistent/x": "can't bind unix=/nonexistent/x",
    "server=on,addr.type=inet,addr.host=192.0.2.200": "can't bind ip=192.0.2.200 to socket",
    "addr.port=abc": "address resolution failed for 127.0.0.1:abc",
    "addr.type=fd,addr.str=99": "can't get socket option SO_TYPE",
    # the same mistake in other words
    "local.type=fd,local.str=99": "can't get socket option SO_TYPE",
    "remote.type=fd,remote.str=3": "dgram requires local= parameter",
    # older QEMUs have had this one, and so have we
    "reconnect=1": None,
    # not served
    "type=vsock": "=vsock is not served by vmwire yet",
}


def expected(netdevs: list[str], says: str | None) -> str | None:
    for part, otherwise in OTHERWISE.items():
        if part in netdevs[-1]:
            return otherwise
    return says


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case["netdevs"]))
def test_option_lines_are_answered_as_qemu_answers_them(
    sockets: Bed, tmp_path: Path, case: dict[str, Any]
) -> None:
    says = expected(case["netdevs"], case.get("says"))
    error = None
    for text in case["netdevs"]:
        try:
            sockets.add(text.replace("DIR", str(tmp_path)))
        except ConfigError as raised:
            error = raised
    if says is None:
        assert error is None
    else:
        assert error is not None
        assert says in error.message
        assert isinstance(error, NotServedError) is ("vsock" in says)
