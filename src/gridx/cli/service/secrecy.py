"""Takes secrets out of what other programs can read of this process.

A process of the same user may read /proc/PID/environ and /proc/PID/cmdline, and a child inherits its
parent's environment. Both files show the memory the kernel laid out at the start, which is the
process's own to overwrite. Until that is done (some milliseconds after the start) they can be read.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

VARIABLES = ("GRIDX_TOKEN", "GRIDX_PASSWORD", "GRIDX_ADMIN_PASSWORD", "GRIDX_STORAGE__URL")
_FLAGS = ("--token", "--password")
_ARG_START, _ENV_START = 45, 47  # proc(5) counts from 1, and two fields stand before these


def hide() -> None:
    """Forget the variables that hold secrets, and blank them and the flags that carry one."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return  # not Linux
    arguments, environment = (
        (int(fields[at]), int(fields[at + 1])) for at in (_ARG_START, _ENV_START)
    )
    before = ""
    for at, text in _texts(*arguments):
        flag, equals, _ = text.partition("=")
        if before in _FLAGS:
            _blank(at, text, 0)
        elif flag in _FLAGS and equals:
            _blank(at, text, len(flag) + 1)
        before = text
    for at, text in _texts(*environment):
        if text.partition("=")[0] in VARIABLES:
            _blank(at, text, len(text.partition("=")[0]) + 1)


def _texts(start: int, end: int) -> Iterator[tuple[int, str]]:
    """The texts between two addresses, each with where it begins."""
    at = start
    for text in ctypes.string_at(start, end - start).split(b"\0") if 0 < start < end else ():
        yield at, text.decode("latin-1")
        at += len(text) + 1


def _blank(at: int, text: str, keep: int) -> None:
    ctypes.memset(at + keep, ord("x"), len(text) - keep)
