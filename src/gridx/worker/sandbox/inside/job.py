"""The job's own process, from its fork to the moment it becomes the program.

It waits, stripped of every right, until its program comes; nothing of the worker's or the
template's is open in it by then.
"""

import json
import os
import resource
import signal
import socket

from gridx.worker.sandbox.inside import kernel, python
from gridx.worker.sandbox.inside.wire import (
    EMPTY,
    FAILED,
    MESSAGE_BYTES_MAX,
    READY,
    WORK,
    Setup,
    Start,
)

MASKED_FILES = (
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
MASKED_FOLDERS = ("acpi", "asound", "bus", "driver", "fs", "irq", "scsi", "tty")
READ_ONLY_FOLDERS = ("sys",)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # which other programs would inherit
OPEN_FILES = 4096
LOCKED_BYTES = 64 << 10
QUEUED_BYTES = 819_200


def main(supervisor: socket.socket, uid: int, setup: Setup) -> None:
    """Give everything up, wait for the start, become the program; returns only without one."""
    try:
        _prepare(supervisor, uid, setup)
        message, descriptors, _, _ = socket.recv_fds(supervisor, MESSAGE_BYTES_MAX, 4)
        if message:
            _become(supervisor, Start.parse(message), descriptors, setup)
    except Exception as failure:  # noqa: BLE001 - the worker is told, whatever it was
        supervisor.send(FAILED + repr(failure).encode()[: MESSAGE_BYTES_MAX // 2])


def _prepare(supervisor: socket.socket, uid: int, setup: Setup) -> None:
    os.setsid()
    for each in setup.groups:
        os.write(each, b"0")
    kernel.unshare(kernel.NEWCGROUP)
    _mount_proc()
    os.chdir(WORK)
    nothing = os.open("/dev/null", os.O_RDWR)
    for target in range(3):
        os.dup2(nothing, target)
    kernel.close_all_but(0, 1, 2, supervisor.fileno())
    if not setup.mapped:
        kernel.empty_bounding_set()  # a new user namespace begins with a full one
    kernel.drop_privileges(uid, dumpable=True)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, LOCKED_BYTES),
        (resource.RLIMIT_MSGQUEUE, QUEUED_BYTES),
    ):
        resource.setrlimit(kind, (most, most))
    kernel.install_filter(setup.filter)
    supervisor.send(READY)


def _mount_proc() -> None:
    """A /proc that shows this world's processes, without what tells of the machine or steers it."""
    hidden = kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC
    kernel.mount("proc", "/proc", "proc", hidden)
    for name in MASKED_FILES:
        if os.path.exists(f"/proc/{name}"):
            kernel.mount("/dev/null", f"/proc/{name}", None, kernel.BIND)
    for name in MASKED_FOLDERS:
        if os.path.isdir(f"/proc/{name}"):
            kernel.mount(EMPTY, f"/proc/{name}", None, kernel.BIND)
    for name in READ_ONLY_FOLDERS:
        kernel.mount(f"/proc/{name}", f"/proc/{name}", None, kernel.BIND)
        flags = kernel.BIND | kernel.REMOUNT | kernel.READ_ONLY | hidden
        kernel.mount(None, f"/proc/{name}", None, flags)


def _become(supervisor: socket.socket, start: Start, descriptors: list[int], setup: Setup) -> None:
    payload, *streams = descriptors
    with open(payload, "rb") as source:
        asked = json.load(source)
    path = f"{WORK}/{start.file}"
    with open(path, "wb") as file:
        file.write(_encoded(asked["code"]))
    arguments = [_encoded(each) for each in asked["args"]]
    environment = {_encoded(name): _encoded(value) for name, value in asked["env"].items()}
    if start.processes:
        most = start.processes + _processes_beside_the_job(setup)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    for target, each in enumerate(streams):
        os.dup2(each, target)
    program = python.compiled(path) if start.in_template else None
    if program is not None:
        kernel.close_all_but(0, 1, 2)
        supervisor.detach()
        python.run(program, path, arguments, environment)
    kernel.close_all_but(0, 1, 2, supervisor.fileno())
    for each in _IGNORED_BY_PYTHON:
        signal.signal(each, signal.SIG_DFL)
    command = [*(_encoded(each) for each in (*start.argv, path)), *arguments]
    os.execve(command[0], command, environment)


def _processes_beside_the_job(setup: Setup) -> int:
    """Those that the kernel counts to the same user: the reaper, and the supervisor if it is."""
    return 1 if setup.mapped else 2


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
