# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network of options, built again after a monitor has removed some of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmwire.cli.served import build
from vmwire.engine.host import NoStore
from vmwire.errors import ConfigError


def config(folder: Path, *removed: list[str]) -> dict[str, Any]:
    texts = {
        "chardevs": [f"socket,id=c,path={folder}/c,server=on"],
        "netdevs": ["user,id=u", "hubport,id=h,hubid=1,netdev=u", "hubport,id=i,hubid=1"],
        "devices": [f"virtio-net-pci,id=n,netdev=i,socket={folder}/n"],
        "filters": [
            "filter-mirror,id=m,netdev=u,outdev=c",
            f"filter-dump,id=d,netdev=i,file={folder}/d",
        ],
    }
    listed = {name: [[text, text] for text in each] for name, each in texts.items()}
    return {**listed, "captures": [["u", f"{folder}/u"]], "removed": [*removed]}


@pytest.mark.parametrize(
    ("removed", "links", "filters"),
    [
        ([], [["h", "capture0", "m", "u"], ["n", "d", "i"]], ["m", "d", "capture0"]),
        (["netdev", "u"], [["n", "d", "i"]], ["d"]),
        (["netdev", "i"], [["h", "capture0", "m", "u"]], ["m", "capture0"]),
        (["device", "n"], [["h", "capture0", "m", "u"]], ["m", "d", "capture0"]),
        (["filter", "m"], [["h", "capture0", "u"], ["n", "d", "i"]], ["d", "capture0"]),
    ],
)
def test_what_is_gone_is_left_out_with_what_went_with_it(
    tmp_path: Path, removed: list[str], links: list[list[str]], filters: list[str]
) -> None:
    network = build(config(tmp_path, *([removed] if removed else [])), NoStore(), 0)
    assert (network.links, [*network.filters]) == (links, filters)
    network.close()


def test_a_chardev_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    network = build(config(tmp_path, ["filter", "m"], ["chardev", "c"]), NoStore(), 0)
    assert not network.objects.chardevs
    network.close()
    with pytest.raises(ConfigError, match="Device 'c' not found"):
        build(config(tmp_path, ["chardev", "c"]), NoStore(), 0)
