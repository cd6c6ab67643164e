# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data" / "user_network_frames.json"


@pytest.fixture(scope="session")
def frames() -> dict[str, bytes]:
    """Frames that a real user-mode network sent, by name."""
    return {k: bytes.fromhex(v) for k, v in json.loads(DATA.read_text())["frames"].items()}
