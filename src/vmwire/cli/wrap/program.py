# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which QEMU a program word stands for, found by looking, never by running.

The word may name QEMU itself, or a wrapper script (``kvm``, ``qemu-kvm``, the user's own). A
script is not run to find out: it may take locks, make taps, or start helpers. It is *read*, and
relied on only if its text leaves no doubt: a shell script in which one command, the last one, hands
``"$@"`` on to a QEMU, with nothing before that which could change the arguments or choose another
program. What such a command writes in front of ``"$@"`` are *fixed* options: they count in every
decision and can't be changed. Everything else that scripts can do (prepare disks, export
variables) is of no interest here, because the script still runs as its author wrote it.

A QEMU is told by what it can do: an executable that holds the name of the QMP command which the
probe is going to ask for.
"""

from __future__ import annotations

import mmap
import os
import re
import shlex
from dataclasses import dataclass, field

ELF = b"\x7fELF"
QMP_COMMAND = b"query-qmp-schema"
SCRIPT_MAX = 64 * 1024
WRAPPER_DEPTH = 4

SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh"))

# Words that may change "$@", or bring in text that isn't read here.
_UNREADABLE = re.compile(r"\b(shift|eval|source|function)\b|\bset\s+--|^\s*\.\s|\(\)|<<", re.M)
_HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?(.*)\n(?:.*\n)*?\s*\1\n")
_CONTINUED = re.compile(r"\\\n\s*")
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+|readonly\s+|local\s+)?([A-Za-z_]\w*)=(.*)$")
_SET = re.compile(r"""(?:^|(?<=[\s;&|(]))([A-Za-z_]\w*)(\+?)=("[^"]*"|'[^']*'|[^\s;&|)]*)""", re.M)
_SET_OTHERWISE = re.compile(r"\b(?:for|read|getopts\s+\S+|unset|printf\s+-v)\s+(?:-\w+\s+)*(\w+)")
_NOT_KNOWN = "$?"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ALL_ARGUMENTS = ('"$@"', '"${@}"')
_LOOP_OVER_ARGUMENTS = re.compile(r"^\s*for\s+\w+\s+in\s+\"\$@\"\s*;?\s*(do)?\s*$")


@dataclass(slots=True, frozen=True)
class Program:
    """A QEMU binary, and how to call it.

    ``command`` are the words that start it, without QEMU's options (more than one behind a loader
    or ``env``); ``fixed`` are the options that a wrapper adds.
    """

    binary: str
    command: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


class UnknownProgramError(Exception):
    """The program can't be relied on to be a QEMU; the message says why."""


def find(word: str, search: str | None = None) -> Program:
    """The QEMU behind ``word``, which is a path or a name to be found in ``search`` (PATH)."""
    return _find(word, search, WRAPPER_DEPTH)


def _find(word: str, search: str | None, depth: int) -> Program:
    path = which(word, search)
    if path is None:
        raise UnknownProgramError(f"{word}: not found")
    with open(path, "rb") as file:
        head = file.read(SCRIPT_MAX)
    if head.startswith(ELF):
        if not is_qemu(path):
            raise UnknownProgramError(
                f"{word} is not a QEMU; vmwire goes right in front of QEMU's name"
            )
        return Program(os.path.realpath(path), (path,))
    if depth == 0:
        raise UnknownProgramError(f"{word}: too many scripts behind each other")
    return _read_script(word, head, search, depth)


def which(word: str, search: str | None = None) -> str | None:
    """Where a program is, as exec looks for it (`shutil` would import five compressors)."""
    if "/" in word:
        return word if _is_program(word) else None
    folders = (os.environ.get("PATH", os.defpath) if search is None else search).split(os.pathsep)
    paths = (os.path.join(folder or ".", word) for folder in folders)
    return next((path for path in paths if _is_program(path)), None)


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def is_qemu(path: str) -> bool:
    """Whether an executable holds QEMU's monitor (20 MB are searched in a few milliseconds)."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return image[:4] == ELF and image.find(QMP_COMMAND) >= 0


def _read_script(word: str, head: bytes, search: str | None, depth: int) -> Program:
    text = _HERE_DOCUMENT.sub(r"\2\n", head.decode("utf-8", "surrogateescape"))
    text = _CONTINUED.sub(" ", text)
    if len(head) == SCRIPT_MAX or not _is_shell(text):
        raise UnknownProgramError(f"{word} is a program of a kind that vmwire can't read")
    hand_over = _last_command(word, text)
    try:
        words = shlex.split(hand_over.removesuffix(";"), comments=True)
    except ValueError:
        raise UnknownProgramError(f"{word}: its last command can't be read") from None
    if words[:1] == ["exec"]:
        words = words[1:]
    if words[-1:] != ["$@"] or "$@" in words[:-1]:
        raise UnknownProgramError(f'{word}: its last command does not end in "$@"')
    values = _assignments(text)
    if "PATH" in values:
        raise UnknownProgramError(f"{word}: where it looks for programs can't be known")
    return _behind([_expand(each, values, word) for each in words[:-1]], word, search, depth)


def _is_shell(text: str) -> bool:
    first = text.split("\n", 1)[0]
    if not first.startswith("#!"):
        return False
    words = first[2:].split()
    if words and os.path.basename(words[0]) == "env":
        words = words[1:]
    return bool(words) and os.path.basename(words[0]) in SHELLS


def _last_command(word: str, text: str) -> str:
    """The one line that hands the arguments over, if the script is plain enough to be sure."""
    lines = [line for line in text.split("\n")[1:] if line.strip() and line.strip()[0] != "#"]
    if _UNREADABLE.search("\n".join(lines)):
        raise UnknownProgramError(f"{word}: a script that vmwire can't read with certainty")
    mentions = [
        line
        for line in lines
        if re.search(r"\$\{?[@*1-9]", line) and not _LOOP_OVER_ARGUMENTS.match(line)
    ]
    if len(mentions) != 1 or mentions[0] is not lines[-1]:
        raise UnknownProgramError(
            f'{word}: a script that does more with its arguments than pass on "$@"'
        )
    line = mentions[0].strip()
    if not any(every in line for every in _ALL_ARGUMENTS) or re.search(r"[|&<>`(]", line):
        raise UnknownProgramError(
            f'{word}: a script that does more with its arguments than pass on "$@"'
        )
    return line


def _assignments(text: str) -> dict[str, list[str]]:
    """Everything that may be put into each variable, anywhere in the script."""
    values: dict[str, list[str]] = {}
    for match in _SET.finditer(text):
        added, value = match[2], match[3].strip("\"'")
        values.setdefault(match[1], []).append(_NOT_KNOWN if added else value)
    for match in _SET_OTHERWISE.finditer(text):
        values.setdefault(match[1], []).append(_NOT_KNOWN)
    return values


def _expand(text: str, values: dict[str, list[str]], word: str) -> str:
    """Put in variables that the script sets to plain text.

    Of several assignments (a script that looks for a binary here and there) those count that name
    an existing file; more than one of them is a doubt.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        literal = values.get(name, [])
        plain = [each for each in literal if "$" not in each and "`" not in each]
        aliases = [each for each in literal if each not in plain]
        for alias in aliases:
            if not _VARIABLE.fullmatch(alias):
                raise UnknownProgramError(f"{word}: ${name} can't be known")
            plain.append(_expand(alias, values, word))
        if len(plain) > 1:
            plain = [each for each in plain if os.path.isfile(each)]
        if len(plain) != 1 or not plain[0] or any(char in plain[0] for char in " \t*?[~"):
            raise UnknownProgramError(f"{word}: ${name} can't be known")
        return plain[0]

    if "`" in text or "$(" in text:
        raise UnknownProgramError(f"{word}: its last command can't be read")
    expanded = _VARIABLE.sub(value, text)
    if "$" in expanded:
        raise UnknownProgramError(f"{word}: its last command can't be read")
    return expanded


def _behind(words: list[str], word: str, search: str | None, depth: int) -> Program:
    """The program in the words of a hand-over: after ``env NAME=value`` and a loader."""
    environment: dict[str, str] = {}
    at = 0
    while at < len(words) and (
        os.path.basename(words[at]) == "env" or _ASSIGNMENT.match(words[at])
    ):
        if match := _ASSIGNMENT.match(words[at]):
            environment[match[1]] = match[2]
        at += 1
    if at == len(words):
        raise UnknownProgramError(f"{word}: its last command names no program")
    if os.path.basename(words[at]).startswith("ld-linux"):
        return _behind_loader(words, at, environment, word)
    if "/" in words[at] and not os.path.isabs(words[at]):
        raise UnknownProgramError(f"{word}: which {words[at]} it starts can't be known")
    inner = _find(words[at], search, depth - 1)
    return Program(
        inner.binary,
        inner.command,
        (*inner.fixed, *words[at + 1 :]),
        {**environment, **inner.environment},
    )


def _behind_loader(words: list[str], at: int, environment: dict[str, str], word: str) -> Program:
    """``ld-linux.so --library-path DIRS .../qemu-system-x86_64``: a QEMU with its own libraries."""
    for end in range(at + 1, len(words)):
        if "/" in words[end] and os.path.isfile(words[end]) and is_qemu(words[end]):
            return Program(
                os.path.realpath(words[end]),
                tuple(words[at : end + 1]),
                tuple(words[end + 1 :]),
                environment,
            )
    raise UnknownProgramError(f"{word}: no QEMU behind the loader that it starts")
