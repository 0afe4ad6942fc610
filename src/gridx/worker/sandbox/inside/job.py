"""The job's own process, from its fork to the moment it becomes the program.

It waits, stripped of every right, until its program comes; nothing of the worker's or the
template's is open in it by then.
"""

import json
import os
import resource
import socket

from gridx.worker.sandbox.inside import filter as calls
from gridx.worker.sandbox.inside import kernel
from gridx.worker.sandbox.inside.wire import (
    EMPTY,
    FAILED,
    MESSAGE_BYTES_MAX,
    READY,
    WORK,
    Start,
)

_MASKED_FILES = (
    "cmdline",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "modules",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
)
_MASKED_FOLDERS = ("acpi", "asound", "bus", "driver", "fs", "irq", "scsi", "tty")
_READ_ONLY_FOLDERS = ("sys",)
_OPEN_FILES = 4096
_LOCKED_BYTES = 64 << 10
_QUEUED_BYTES = 819_200


def main(supervisor: socket.socket, uid: int, groups: tuple[int, ...]) -> None:
    """Give everything up, wait for the start, become the program; never returns."""
    try:
        program = _prepare(supervisor, uid, groups)
        message, descriptors, _, _ = socket.recv_fds(supervisor, MESSAGE_BYTES_MAX, 4)
        if not message:
            os._exit(0)
        _become(supervisor, Start.parse(message), descriptors, program)
    except Exception as failure:  # noqa: BLE001 - the worker is told, whatever it was
        supervisor.send(FAILED + repr(failure).encode()[: MESSAGE_BYTES_MAX // 2])
    finally:
        os._exit(1)


def _prepare(supervisor: socket.socket, uid: int, groups: tuple[int, ...]) -> bytes:
    os.setsid()
    for each in groups:
        os.write(each, b"0")
    kernel.unshare(kernel.NEWCGROUP)
    _mount_proc()
    os.chdir(WORK)
    nothing = os.open("/dev/null", os.O_RDWR)
    for target in range(3):
        os.dup2(nothing, target)
    kernel.close_all_but(0, 1, 2, supervisor.fileno())
    kernel.drop_privileges(uid, dumpable=True)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, _LOCKED_BYTES),
        (resource.RLIMIT_MSGQUEUE, _QUEUED_BYTES),
    ):
        resource.setrlimit(kind, (most, most))
    program = calls.compile_filter(os.uname().machine)
    supervisor.send(READY)
    return program


def _mount_proc() -> None:
    """A /proc that shows this world's processes, without what tells of the machine or steers it."""
    hidden = kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC
    kernel.mount("proc", "/proc", "proc", hidden)
    for name in _MASKED_FILES:
        if os.path.exists(f"/proc/{name}"):
            kernel.mount("/dev/null", f"/proc/{name}", None, kernel.BIND)
    for name in _MASKED_FOLDERS:
        if os.path.isdir(f"/proc/{name}"):
            kernel.mount(EMPTY, f"/proc/{name}", None, kernel.BIND)
    for name in _READ_ONLY_FOLDERS:
        kernel.mount(f"/proc/{name}", f"/proc/{name}", None, kernel.BIND)
        flags = kernel.BIND | kernel.REMOUNT | kernel.READ_ONLY | hidden
        kernel.mount(None, f"/proc/{name}", None, flags)


def _become(
    supervisor: socket.socket, start: Start, descriptors: list[int], program: bytes
) -> None:
    payload, *streams = descriptors
    with open(payload, "rb") as source:
        asked = json.load(source)
    with open(start.file, "wb") as code:
        code.write(_encoded(asked["code"]))
    arguments = [_encoded(each) for each in (*start.argv, f"{WORK}/{start.file}", *asked["args"])]
    environment = {_encoded(name): _encoded(value) for name, value in asked["env"].items()}
    if start.processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (start.processes, start.processes))
    for target, each in enumerate(streams):
        os.dup2(each, target)
    kernel.close_all_but(0, 1, 2, supervisor.fileno())
    kernel.install_filter(program)
    os.execve(arguments[0], arguments, environment)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
