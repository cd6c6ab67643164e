# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The folders are the architecture: imports point down, and pure cores touch no host.

The layers, top first. A module may import from its own layer's folder and from layers below;
folders on one level don't know each other. ``errors`` and ``options`` serve everybody above the
wire. Imports inside of functions count too: being late makes a dependency cheap, not invisible.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from vmwire import registry

SOURCE = Path(__file__).parent.parent / "src" / "vmwire"

LEVELS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"daemon"},
    {"monitor"},
    {"configuration"},
    {"network"},
    {"filter_objects"},
    {"graph"},
    {"registry", "catalogue"},
    {"attach", "filters"},
    {"bench"},
    {"nic", "netdev"},
    {"bus"},
    {"options"},
    {"wire"},
    {"engine"},
    {"errors"},
    {"__init__"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}

HOST_MODULES = {
    "asyncio", "ctypes", "fcntl", "mmap", "multiprocessing", "os", "select", "selectors", "signal",
    "socket", "subprocess", "time",
}  # fmt: skip
"""Not ``threading``: an uncontended lock is a ring's memory barrier."""
PURE = (
    "bus/pci", "bus/virtio", "nic", "wire", "netdev/null.py", "netdev/hubport.py",
    "netdev/user/dhcp.py", "netdev/user/arp.py", "netdev/user/fragments.py", "options",
)  # fmt: skip


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    """``cli/wrap/x.py`` -> ``cli.wrap.x``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def layer(name: str) -> str:
    return name.split(".")[0]


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module)
    return found


def inner_imports(path: Path) -> set[str]:
    """What a file imports of ours, without the leading ``vmwire.``."""
    ours = {name.removeprefix("vmwire.") for name in imports(path) if name.startswith("vmwire.")}
    return {name for name in ours if layer(name) in LEVEL}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = layer(name_of(path))
    assert own in LEVEL, f"{own} has no place in the layers"
    for name in inner_imports(path):
        other = layer(name)
        below = LEVEL[other] > LEVEL[own]
        assert other == own or below, f"{name_of(path)} imports {name}, which is not below it"


@pytest.mark.parametrize("part", PURE)
def test_pure_cores_touch_no_host(part: str) -> None:
    place = SOURCE / part
    for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
        used = {name.split(".")[0] for name in imports(path)} & HOST_MODULES
        assert not used, f"{name_of(path)} imports {used}"


def test_protocols_know_only_each_other() -> None:
    for path in sorted((SOURCE / "wire" / "protocols").glob("*.py")):
        for name in inner_imports(path):
            assert name.startswith("wire.protocols"), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_carry_the_licence_header(path: Path) -> None:
    assert path.read_text().startswith(
        "# SPDX-FileCopyrightText: The vmwire authors\n# SPDX-License-Identifier: Apache-2.0\n"
    )


@pytest.mark.parametrize(
    ("types", "name"),
    [(types, name) for types in (registry.NETDEVS, registry.DEVICES) for name in types],
)
def test_registered_types_exist_and_declare_their_options(types: object, name: str) -> None:
    box_type = registry.load(types, name)  # type: ignore[arg-type]
    assert box_type is not None
    assert hasattr(box_type, "OPTIONS")
    classes = [box_type] if isinstance(box_type, type) else box_type.CLASSES  # type: ignore[attr-defined]
    for each in classes:
        for verb in ("open", "close", "stats"):
            assert callable(getattr(each, verb))
