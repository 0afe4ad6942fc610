"""Gives root up for good: one unprivileged user, no groups, no capability, no way to gain any.

One right is kept where it must be, and said so: the interpreter, its packages or a file that the owner
named may lie where only root may read (a home folder, often). Then the process may read files as root
may (`CAP_DAC_READ_SEARCH`), and still write and start nothing.
"""

import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from gridx.worker.sandbox.box import first_host_uid
from gridx.worker.sandbox.inside import kernel

_CHOWN, _DAC_READ_SEARCH, _SETGID, _SETUID = 0, 2, 6, 7


def other_user() -> int | None:
    """Who this process could become instead of root; None if it is not root or cannot.

    One just below the uids of jobs, which are far above those that others have by default.
    """
    if os.geteuid() != 0:
        return None
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    held = next(int(words[1], 16) for words in lines if words[:1] == ["CapEff:"])
    if not all(held >> each & 1 for each in (_CHOWN, _SETGID, _SETUID)):
        return None
    user = first_host_uid() - 1
    return user if _is_mapped(user) else None


def read_by_root_only(paths: Iterable[Path], user: int) -> list[Path]:
    """Those of `paths` that `user` could not read."""
    with _ending_with_parent():
        os.setgroups([])
        os.setegid(user)
        os.seteuid(user)
        try:
            return [each for each in paths if not _may_read(each)]
        finally:
            os.seteuid(0)
            os.setegid(0)


def loaded() -> set[Path]:
    """The files that this process was loaded from, beside which lies what it will yet load."""
    files = (getattr(each, "__file__", None) for each in tuple(sys.modules.values()))
    return {Path(each) for each in files if isinstance(each, str)}


def give_up_root(user: int, *, keep_reading: bool) -> None:
    """Become `user`; with `keep_reading` one who may read what root may."""
    with _ending_with_parent():
        os.setgroups([])
        kernel.empty_bounding_set()
        kernel.drop_privileges(user, dumpable=False, keep=keep_reading << _DAC_READ_SEARCH)


@contextmanager
def _ending_with_parent() -> Generator[None]:
    """If the process was to end with its parent, it still is after it became another user."""
    number, parent = kernel.dies_with_parent(), os.getppid()
    yield
    if number:
        kernel.die_with_parent(number)
        if os.getppid() != parent:
            sys.exit(1)


def _is_mapped(user: int) -> bool:
    """Whether this user namespace has the user and the group."""
    return all(
        any(
            int(first) <= user < int(first) + int(count)
            for first, _, count in map(str.split, Path(file).read_text().splitlines())
        )
        for file in ("/proc/self/uid_map", "/proc/self/gid_map")
    )


def _may_read(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        return True  # not there, or not to be read by anybody
    return True
