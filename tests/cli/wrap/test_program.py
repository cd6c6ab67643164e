# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from vmwire.cli.wrap import program
from vmwire.cli.wrap.program import Program, UnknownProgramError


@pytest.fixture
def qemu(tmp_path: Path) -> Path:
    """A file that looks like a QEMU."""
    return _executable(tmp_path / "qemu-system-x86_64", b"\x7fELF..." + program.QMP_COMMAND)


def _executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def _script(tmp_path: Path, text: str, name: str = "wrapper") -> str:
    return str(_executable(tmp_path / name, text.encode()))


def _found(tmp_path: Path, text: str) -> Program:
    return program.find(_script(tmp_path, text), search=str(tmp_path))


def test_a_name_is_looked_up_as_a_shell_does(tmp_path: Path, qemu: Path) -> None:
    found = program.find("qemu-system-x86_64", search=str(tmp_path))
    assert found == Program(str(qemu), (str(qemu),))


def test_a_link_leads_to_its_binary(tmp_path: Path, qemu: Path) -> None:
    link = tmp_path / "kvm"
    link.symlink_to(qemu)
    assert program.find(str(link)) == Program(str(qemu), (str(link),))


def test_another_program_is_no_qemu(tmp_path: Path) -> None:
    with pytest.raises(UnknownProgramError, match="not a QEMU"):
        program.find(str(_executable(tmp_path / "taskset", b"\x7fELF and nothing else")))


def test_a_missing_program_is_unknown() -> None:
    with pytest.raises(UnknownProgramError, match="not found"):
        program.find("/nowhere/qemu")


PLAIN_SCRIPTS = {
    "exec": '#!/bin/sh\nexec {qemu} "$@"\n',
    "by name": '#!/bin/sh\nexec qemu-system-x86_64 "$@"\n',
    "without exec": '#!/bin/bash\n{qemu} "$@"\n',
    "env": '#!/usr/bin/env bash\nexec env -- {qemu} "$@"\n'.replace(" --", ""),
    "comments and preparations": "#!/bin/sh -e\n# a wrapper\nset -e\nmkdir -p /tmp/x\nulimit -c 0\n"
    'export SDL_VIDEODRIVER=dummy\necho "starting $0" >&2\n\nexec {qemu} "$@"\n',
    "a variable": '#!/bin/sh\nQEMU={qemu}\nexec "$QEMU" "$@"\n',
    "the first of several that exists": "#!/bin/sh\nexe=/nowhere/xen\nexe={qemu}\n"
    'for opt in "$@"; do\n  case "$opt" in -xen-*) exe=/nowhere/xen ;; esac\ndone\n'
    'exec "$exe" "$@"\n',
    "a here document": '#!/bin/sh\ncat <<EOF >&2\nuse $@ with shift\nEOF\nexec {qemu} "$@"\n',
}


@pytest.mark.parametrize("text", PLAIN_SCRIPTS.values(), ids=PLAIN_SCRIPTS.keys())
def test_a_plain_script_is_read(tmp_path: Path, qemu: Path, text: str) -> None:
    found = _found(tmp_path, text.format(qemu=qemu))
    assert found.binary == str(qemu)
    assert found.fixed == ()


def test_options_in_front_of_the_users_are_fixed(tmp_path: Path, qemu: Path) -> None:
    text = f"#!/bin/sh\nexec {qemu} \\\n  -enable-kvm -name 'my vm' \\\n  \"$@\"\n"
    assert _found(tmp_path, text).fixed == ("-enable-kvm", "-name", "my vm")


def test_scripts_behind_scripts_add_up(tmp_path: Path, qemu: Path) -> None:
    inner = _script(tmp_path, f'#!/bin/sh\nexec {qemu} -S "$@"\n', "inner")
    assert _found(tmp_path, f'#!/bin/sh\nexec {inner} -usb "$@"\n').fixed == ("-S", "-usb")


def test_a_script_behind_itself_ends(tmp_path: Path) -> None:
    with pytest.raises(UnknownProgramError, match="too many"):
        _found(tmp_path, f'#!/bin/sh\nexec {tmp_path}/wrapper "$@"\n')


def test_a_loader_with_its_own_libraries(tmp_path: Path, qemu: Path) -> None:
    loader = _executable(tmp_path / "ld-linux-x86-64.so.2", b"\x7fELF")
    found = _found(
        tmp_path, f'#!/bin/sh\nexec env A=b {loader} --library-path /lib {qemu} -L /x "$@"\n'
    )
    assert found.command == (str(loader), "--library-path", "/lib", str(qemu))
    assert found.fixed == ("-L", "/x")
    assert found.environment == {"A": "b"}


DOUBTFUL_SCRIPTS = {
    "python": "#!/usr/bin/python3\nimport os\n",
    "no first line": 'exec {qemu} "$@"\n',
    "shifted arguments": '#!/bin/sh\nmode=$1\nshift\nexec {qemu} "$@"\n',
    "other arguments": '#!/bin/sh\nset -- -m 1 "$@"\nexec {qemu} "$@"\n',
    "arguments behind": '#!/bin/sh\nexec {qemu} "$@" -S\n',
    "unquoted": "#!/bin/sh\nexec {qemu} $@\n",
    "star": '#!/bin/sh\nexec {qemu} "$*"\n',
    "unknown variable": '#!/bin/sh\nexec {qemu} $OPTIONS "$@"\n',
    "computed variable": '#!/bin/sh\nQ=$(command -v qemu)\nexec $Q "$@"\n',
    "several words in a variable": '#!/bin/sh\nO="-m 1"\nexec {qemu} $O "$@"\n',
    "a choice": '#!/bin/sh\nif true; then\nexec {qemu} -S "$@"\nelse\nexec {qemu} "$@"\nfi\n',
    "not last": '#!/bin/sh\n{qemu} "$@"\necho done\n',
    "in the background": '#!/bin/sh\n{qemu} "$@" &\n',
    "a pipe": '#!/bin/sh\n{qemu} "$@" | tee log\n',
    "a function": '#!/bin/sh\nrun() {{ {qemu} "$@"; }}\nrun "$@"\n',
    "sourced": '#!/bin/sh\n. /etc/default/qemu\nexec {qemu} "$@"\n',
    "own PATH": '#!/bin/sh\nPATH=/opt/bin:$PATH\nexec qemu-system-x86_64 "$@"\n',
    "a variable changed in passing": '#!/bin/sh\nQ={qemu}\n[ -n "$X" ] && Q=/bin/sh\nexec $Q '
    '"$@"\n',
    "a variable read": '#!/bin/sh\nQ={qemu}\nread -r Q\nexec $Q "$@"\n',
    "a variable added to": '#!/bin/sh\nQ={qemu}\nQ+=" -S"\nexec $Q "$@"\n',
    "a variable of a loop": '#!/bin/sh\nfor Q in a b; do :; done\nexec $Q "$@"\n',
    "relative": '#!/bin/sh\ncd /opt\nexec ./qemu "$@"\n',
    "no arguments": "#!/bin/sh\nexec {qemu} -S\n",
    "unfinished quote": '#!/bin/sh\nexec {qemu} \' "$@"\n',
}


@pytest.mark.parametrize("text", DOUBTFUL_SCRIPTS.values(), ids=DOUBTFUL_SCRIPTS.keys())
def test_a_script_that_leaves_doubts_is_not_relied_on(
    tmp_path: Path, qemu: Path, text: str
) -> None:
    with pytest.raises(UnknownProgramError):
        _found(tmp_path, text.format(qemu=qemu))
