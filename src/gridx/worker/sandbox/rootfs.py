"""The root a box shows to jobs, as arguments for `bwrap`.

Read-only, of this host's: `/usr` with the links into it, the interpreters' own folders, and the few
files of `/etc` that programs need. Never `/home`, `/root`, `/var`, `/run`, `/sys` or a folder of the
worker's.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from gridx.worker.sandbox.inside.wire import (
    EMPTY,
    FIRST_JOB_UID,
    JOB_UIDS,
    SHM,
    TMP,
    WAITING_NODE,
    WORK,
)
from gridx.worker.sandbox.languages import Interpreter

_LINKS_INTO_USR = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FILES_OF_ETC = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}

_NOBODY, _NOGROUP = "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n", "nogroup:x:65534:\n"
_USERS = range(FIRST_JOB_UID, FIRST_JOB_UID + JOB_UIDS)


def _passwd(uids: Iterable[int]) -> str:
    return "".join(f"job:x:{uid}:{uid}:job:{WORK}:/bin/sh\n" for uid in uids) + _NOBODY


def _group(gids: Iterable[int]) -> str:
    return "".join(f"job:x:{gid}:\n" for gid in gids) + _NOGROUP


HOSTS = "127.0.0.1 localhost job\n::1 localhost\n"
NSSWITCH = "passwd: files\ngroup: files\nhosts: files\n"

GENERATED = {
    "/etc/passwd": _passwd(_USERS),
    "/etc/group": _group(_USERS),
    "/etc/hosts": HOSTS,
    "/etc/nsswitch.conf": NSSWITCH,
    WAITING_NODE: (resources.files("gridx.worker.sandbox.inside") / "waiting_node.cjs").read_text(
        "utf-8"
    ),
}
"""Files written for the box; `bwrap` reads each from a descriptor."""

GENERATED_FOR_ONE = GENERATED | {"/etc/passwd": _passwd([0]), "/etc/group": _group([0])}
"""The same where one user is all there is, and the job is the first of its own kernel's."""


def arguments(
    interpreters: Iterable[Interpreter], generated: dict[str, int], program: str = ""
) -> list[str]:
    """What to tell `bwrap`; `generated` has an open descriptor for each file of `GENERATED`.

    `program` is one more that must be there, at its `place_of`, if any.
    """
    shown = sorted({bind for each in interpreters for bind in each.binds})
    if program != place_of(program):
        shown.append((program, place_of(program)))
    args = ["--ro-bind", "/usr", "/usr"]
    for folder in _folders_above(["/etc/passwd", *(inside for _, inside in shown)]):
        args += ["--perms", "0755", "--dir", folder]
    for path in _LINKS_INTO_USR:
        if Path(path).is_symlink():
            args += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            args += ["--ro-bind", path, path]
    for path in _FILES_OF_ETC:
        args += ["--ro-bind-try", path, path]
    for path, descriptor in generated.items():
        args += ["--perms", "0444", "--ro-bind-data", str(descriptor), path]
    args += ["--proc", "/proc", "--dir", "/dev"]
    for name in _DEVICES:
        args += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in _DEVICE_LINKS.items():
        args += ["--symlink", target, f"/dev/{name}"]
    for path in (WORK, TMP, SHM, EMPTY):
        args += ["--dir", path]
    for host_path, inside in shown:
        args += ["--ro-bind", host_path, inside]
    return [*args, "--remount-ro", "/"]


def place_of(program: str) -> str:
    """Where a program of this host's lies inside; of none, nowhere."""
    if not program or Path(program).is_relative_to("/usr"):
        return program
    return f"/opt/{Path(program).name}"


def search_path(interpreters: Iterable[Interpreter]) -> str:
    """`PATH` for jobs: the interpreters they run with come before the system's."""
    own = [str(Path(each.path).parent) for each in interpreters]
    system = ["/usr/local/bin", "/usr/bin", "/bin"]
    return ":".join(dict.fromkeys([each for each in own if each not in system] + system))


def _folders_above(paths: Iterable[str]) -> list[str]:
    """The folders that lead to `paths`, outermost first; bwrap would make them for root alone."""
    return sorted({str(folder) for path in paths for folder in list(Path(path).parents)[:-1]})
