"""The kernel's calls that Python's `os` does not carry, and the numbers they take.

Each raises `OSError` with what was tried. Standard library only: this runs inside the box.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct

NEWTIME, NEWNS, NEWCGROUP, NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
NEWIPC, NEWUSER, NEWPID, NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
_MNT_DETACH = 2
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 2, 4, 8
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 24, 36
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CLOSE_RANGE, _LAST_DESCRIPTOR = 436, (1 << 31) - 1  # the call's number on every processor
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_OPENAT2 = 437  # on every processor, too
_NO_OTHER_MOUNT, _NO_MAGIC_LINKS, _NO_LINKS, _BENEATH = 1, 2, 4, 8

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(*arguments: int) -> int:
    padded = (*arguments, 0, 0, 0, 0)[:5]
    return int(_libc.prctl(*[ctypes.c_ulong(each) for each in padded]))


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def unshare_as(ids: str, kinds: int = 0) -> None:
    """Enter a new user namespace, and with it those of `kinds`, in which users and groups are `ids`.

    Somebody who stayed outside has to write that, with the rights that this process had there.
    """
    wait, tell = os.pipe()
    own = os.getpid()
    helper = os.fork()
    if helper == 0:
        try:
            os.read(wait, 1)
            for kind in ("uid", "gid"):
                with open(f"/proc/{own}/{kind}_map", "w", encoding="ascii") as mapping:
                    mapping.write(ids)
            os._exit(0)
        finally:
            os._exit(1)
    unshare(kinds | NEWUSER)
    os.write(tell, b".")
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("the worker may not map user ids")
    os.close(wait)
    os.close(tell)


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace of `kind` that `descriptor` stands for."""
    _check(_libc.setns(descriptor, kind), f"setns {kind:#x}")


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    """Mount `source` of file system `kind` at `target`."""
    texts = [None if each is None else each.encode() for each in (source, target, kind, data)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    """Take away what is mounted at `target`, with all below it."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")


def sethostname(name: str) -> None:
    """Name this UTS namespace's host."""
    _check(_libc.sethostname(name.encode(), len(name)), "sethostname")


def loopback_up() -> None:
    """Raise the loopback interface of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def close_all_but(*keep: int) -> None:
    """Close every descriptor of this process other than `keep`."""
    first = 0
    for each in (*sorted(keep), _LAST_DESCRIPTOR + 1):
        if first < each and _libc.syscall(_CLOSE_RANGE, first, each - 1, 0) < 0:
            os.closerange(first, min(each, 1 << 16))  # a kernel before 5.9
        first = each + 1


def open_beneath(folder: int, name: str) -> int:
    """A handle (`O_PATH`) on what is called `name`, one part of a path, in `folder`.

    It reads, starts and follows nothing: a link's handle is the link. A mount raises `EXDEV`; not
    on kernels before 5.6, which do not have the call.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    resolve = _NO_OTHER_MOUNT | _NO_MAGIC_LINKS | _NO_LINKS | _BENEATH
    how = struct.pack("=QQQ", flags, 0, resolve)
    opened = _libc.syscall(_OPENAT2, folder, os.fsencode(name), how, ctypes.c_size_t(len(how)))
    if opened < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
        return os.open(name, flags, dir_fd=folder)
    return _check(opened, "open")


def die_with_parent(signal_number: int) -> None:
    """Have `signal_number` sent to this process when the one that forked it ends."""
    _check(_prctl(_PR_SET_PDEATHSIG, signal_number), "die with parent")


def dies_with_parent() -> int:
    """The signal that `die_with_parent` asked for, 0 without one; a new user has none."""
    number = ctypes.c_int()
    _check(_prctl(_PR_GET_PDEATHSIG, ctypes.addressof(number)), "die with parent")
    return number.value


def adopt_orphans() -> None:
    """Become the parent of what this process's children leave behind."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1), "adopt orphans")


def set_dumpable(dumpable: bool) -> None:
    """Whether others of this uid may look into this process."""
    _check(_prctl(_PR_SET_DUMPABLE, int(dumpable)), "set dumpable")


def empty_bounding_set() -> None:
    """Give up, for good and for all children, ever gaining a capability by running a file."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        if _prctl(_PR_CAPBSET_DROP, capability) < 0:
            return


def drop_privileges(uid: int, *, dumpable: bool, keep: int = 0) -> None:
    """Become `uid` without capabilities (but those in the mask `keep`) or a way to gain any."""
    if keep:
        _check(_prctl(_PR_SET_KEEPCAPS, 1), "keep capabilities")
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, struct.pack("6I", keep, keep, 0, 0, 0, 0)), "capset")
    forbid_new_privileges()
    set_dumpable(dumpable)


def forbid_new_privileges() -> None:
    """Give up, for good and for all children, gaining rights by running a file."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def install_filter(program: bytes) -> None:
    """Put a compiled seccomp filter on this process and all that it starts, for good."""
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _FilterProgram(len(program) // 8, ctypes.addressof(buffer))
    result = _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))
    _check(result, "install the system call filter")
