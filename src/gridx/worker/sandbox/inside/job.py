"""The job's own process, from its fork to the moment it becomes the program.

It waits, stripped of every right, until its program comes; nothing of the worker's or the
template's is open in it by then.
"""

import os
import resource
import signal
import socket
from collections.abc import Mapping
from typing import NoReturn

from gridx.worker.sandbox.inside import kernel, python
from gridx.worker.sandbox.inside.wire import (
    EMPTY,
    FAILED,
    MESSAGE_BYTES_MAX,
    READY,
    WAIT,
    WAITING_NODE,
    WORK,
    Payload,
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
_LINE_OF_NODE, _PAYLOAD_OF_NODE = 62, 63
"""Above all that Node opens for itself, so that its own descriptors have their usual numbers."""


def main(supervisor: socket.socket, uid: int, setup: Setup) -> None:
    """Give everything up, wait for the start, become the program; returns only without one."""
    try:
        payload = _prepare(supervisor, uid, setup)
        message = supervisor.recv(MESSAGE_BYTES_MAX)
        if message.startswith(WAIT):
            _wait_as_node(supervisor, payload, *message.removeprefix(WAIT).split(b"\0"))
        elif message:
            _become(supervisor, payload, Start.parse(message))
    except Exception as failure:  # noqa: BLE001 - the worker is told, whatever it was
        supervisor.send(FAILED + repr(failure).encode()[: MESSAGE_BYTES_MAX // 2])


def _prepare(supervisor: socket.socket, uid: int, setup: Setup) -> int:
    """Give everything up; returns the payload's descriptor."""
    os.setsid()
    for each in setup.groups:
        os.write(each, b"0")
    kernel.unshare(kernel.NEWCGROUP)
    _mount_proc()
    os.chdir(WORK)
    for target, each in enumerate(setup.streams):
        os.dup2(each, target)
    kernel.close_all_but(0, 1, 2, supervisor.fileno(), setup.payload)
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
    python.prepare()
    supervisor.send(READY)
    return setup.payload


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


def _wait_as_node(supervisor: socket.socket, payload: int, path: bytes, file: bytes) -> None:
    """Become a Node that waits for the program, and is held to nothing until that comes."""
    os.dup2(supervisor.fileno(), _LINE_OF_NODE)
    os.dup2(payload, _PAYLOAD_OF_NODE)
    kernel.close_all_but(0, 1, 2, _LINE_OF_NODE, _PAYLOAD_OF_NODE)
    environment = python.environment() | {b"NODE_OPTIONS": f"--require={WAITING_NODE}".encode()}
    _execute([path, f"{WORK}/".encode() + file], environment)


def _become(supervisor: socket.socket, payload: int, start: Start) -> None:
    asked = Payload.parse(os.pread(payload, os.fstat(payload).st_size, 0))
    path = f"{WORK}/{start.file}"
    with open(path, "wb") as file:
        file.write(asked.code)
    if start.in_template and (program := python.compiled(asked.code, path)) is not None:
        kernel.close_all_but(0, 1, 2)
        supervisor.detach()
        python.run(program, asked.args, asked.env)
    kernel.close_all_but(0, 1, 2, supervisor.fileno())
    _execute([os.fsencode(start.path), path.encode(), *asked.args], asked.env)


def _execute(command: list[bytes], environment: Mapping[bytes, bytes]) -> NoReturn:
    for each in _IGNORED_BY_PYTHON:
        signal.signal(each, signal.SIG_DFL)
    os.execve(command[0], command, environment)
