"""The template: waits in the box and forks one supervisor for each attempt; it never sees a job.

It takes messages of `SPAWN` with what an attempt needs open, or with nothing to end what runs in that
slot, and ends when the worker's end of its own socket does; the kernel then ends all it started.
"""

import gc
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace

from gridx.worker.sandbox.inside import filter as calls
from gridx.worker.sandbox.inside import kernel, python, supervisor
from gridx.worker.sandbox.inside.wire import BOX_UIDS, READY, SPAWN, SPAWN_DESCRIPTORS, Setup

_MESSAGE_BYTES_MAX = 64
_DESCRIPTORS_MAX = 16


def main(
    descriptor: int, first_host_uid: int | None, runsc: str, modules_at_start: frozenset[str]
) -> None:
    """Serve `descriptor`; with `first_host_uid` (run by root) become that uid and those after."""
    worker = socket.socket(fileno=descriptor)
    if first_host_uid is not None:
        _leave_root(first_host_uid)
    kernel.empty_bounding_set()
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are nobody's to wait for
    # Whoever started the worker may have had it ignore these (`nohup`, `&`): jobs do not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    common = Setup(
        slot=0,
        mapped=first_host_uid is not None,
        groups=(),
        payload=-1,
        streams=(),
        filter=calls.compile_filter(os.uname().machine) if not runsc else b"",
        runsc=runsc,
    )
    kernel.set_dumpable(True)  # so that it may write to its own files in /proc
    _hide_uptime()
    kernel.set_dumpable(False)
    python.forget_template(modules_at_start)
    gc.collect()
    gc.freeze()
    worker.send(READY)
    supervisors: dict[int, int] = {}
    while True:
        message, descriptors, _, _ = socket.recv_fds(worker, _MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
        if not message:
            os._exit(0)
        (slot,) = SPAWN.unpack(message)
        if (before := supervisors.pop(slot, None)) is not None:
            if not descriptors:
                _end(before)
            os.close(before)
        if descriptors:
            pid = _spawn(worker, common, slot, descriptors)
            with suppress(ProcessLookupError):  # it died at once, which its socket tells
                supervisors[slot] = os.pidfd_open(pid)


def _end(supervisor: int) -> None:
    """Kill a supervisor, and with it everything in its world."""
    try:
        signal.pidfd_send_signal(supervisor, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has just ended by itself


def _spawn(worker: socket.socket, common: Setup, slot: int, descriptors: list[int]) -> int:
    """Fork a supervisor; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            worker.close()
            attempt, payload, *streams = descriptors[:SPAWN_DESCRIPTORS]
            setup = replace(
                common,
                slot=slot,
                groups=tuple(descriptors[SPAWN_DESCRIPTORS:]),
                payload=payload,
                streams=tuple(streams),
            )
            supervisor.main(socket.socket(fileno=attempt), setup)
        finally:
            os._exit(1)
    for each in descriptors:
        os.close(each)
    return pid


def _hide_uptime() -> None:
    """Let the clocks of jobs that count from the machine's start count from the template's."""
    try:
        kernel.unshare(kernel.NEWTIME)
    except OSError:
        return  # a kernel without time namespaces: the uptime is no secret worth a job
    monotonic = -int(time.clock_gettime(time.CLOCK_MONOTONIC))
    boot = -int(time.clock_gettime(time.CLOCK_BOOTTIME))
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as offsets:
        offsets.write(f"monotonic {monotonic} 0\nboottime {boot} 0\n")


def _leave_root(first_host_uid: int) -> None:
    """Turn the host's root into an unprivileged user that is root only in its own namespaces.

    A fresh /proc comes first: below a user namespace a new one may be mounted only where one is
    seen whole, and bwrap covers parts of its own.
    """
    kernel.mount("proc", "/proc", "proc", kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC)
    kinds = kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET
    kernel.unshare_as(f"0 {first_host_uid} {BOX_UIDS}", kinds)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
