"""One attempt's supervisor: builds its world, starts reaper and job, ends both, says how it ended.

It never reads a word of the job's: the payload is a descriptor that it hands on. When the worker's
end of its socket closes it ends the attempt; when it dies itself, the reaper is killed with it and
the kernel ends every process of that world.
"""

import os
import resource
import select
import signal
import socket
from collections.abc import Callable

from gridx.worker.sandbox.inside import guest, job, kernel
from gridx.worker.sandbox.inside.wire import (
    ENDED,
    FAILED,
    FIRST_JOB_UID,
    JOB_UIDS,
    KILL,
    MESSAGE_BYTES_MAX,
    PING,
    PONG,
    READY,
    SHM,
    TERMINATE,
    TMP,
    WAIT,
    WORK,
    Setup,
    Start,
)

_LOOK_MS = 20
_NO_RUNNING = kernel.NO_SUID | kernel.NO_DEV
_WAITING_TMPFS = "mode=0755,size=1m,nr_inodes=64"


def main(worker: socket.socket, setup: Setup) -> None:
    """Run one attempt from its first namespace to its last process."""
    try:
        _attempt(worker, setup)
    except Exception as failure:  # noqa: BLE001 - the worker is told, whatever it was
        worker.send(FAILED + repr(failure).encode()[: MESSAGE_BYTES_MAX // 2])
    os._exit(0)


def _attempt(worker: socket.socket, setup: Setup) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    uid = FIRST_JOB_UID + setup.slot % JOB_UIDS if setup.mapped else os.getuid()
    # Made before the world is, so that the job's network does not list it.
    own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    disk = _make_world(uid, setup.mapped)
    reaper = os.fork()
    if reaper == 0:
        _be_child(lambda: _reap(uid))
    child = os.fork()
    if child == 0:
        _be_child(lambda: (guest if setup.runsc else job).main(theirs, uid, setup))
    theirs.close()
    for each in (*setup.groups, setup.payload, *setup.streams):
        os.close(each)
    answer = own.recv(MESSAGE_BYTES_MAX)
    if answer != READY:
        worker.send(answer or FAILED + b"the job's process died before it began")
        return
    socket.send_fds(worker, [READY], [disk])
    os.close(disk)
    _Watch(worker, own, child, reaper, setup).run()


def _be_child(body: Callable[[], None]) -> None:
    try:
        body()
    finally:
        os._exit(1)


def _make_world(uid: int, mapped: bool) -> int:
    """Unshare everything and mount what is the job's own; returns the root of its disk, open."""
    kinds = kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWPID | kernel.NEWNET
    if mapped:
        kernel.unshare(kinds)
    else:
        # Where all jobs are one user to the host, a user namespace each has them counted apart.
        gid = os.getgid()
        kernel.set_dumpable(True)  # so that it may write to its own files in /proc
        kernel.unshare(kinds | kernel.NEWUSER)
        _write_own("setgroups", "deny")
        _write_own("uid_map", f"{uid} {uid} 1")
        _write_own("gid_map", f"{gid} {gid} 1")
    kernel.sethostname("job")
    kernel.loopback_up()
    # One file system holds the work folder and /tmp, so that one bound and one look cover both.
    kernel.mount("disk", TMP, "tmpfs", _NO_RUNNING, _WAITING_TMPFS)
    for name, mode in (("work", 0o755), ("tmp", 0o1777)):
        os.mkdir(f"{TMP}/{name}")
        os.chmod(f"{TMP}/{name}", mode)
    os.chown(f"{TMP}/work", uid, uid)
    disk = os.open(TMP, os.O_RDONLY | os.O_DIRECTORY)
    kernel.mount(f"{TMP}/work", WORK, None, kernel.BIND)
    kernel.mount(f"{TMP}/tmp", TMP, None, kernel.BIND)
    kernel.mount("shm", SHM, "tmpfs", _NO_RUNNING, "mode=1777,size=1m,nr_inodes=64")
    return disk


def _write_own(file: str, text: str) -> None:
    with open(f"/proc/self/{file}", "w", encoding="ascii") as target:
        target.write(text)


def _reap(uid: int) -> None:
    """Be process 1 of the job's world: wait for orphans; pass TERM on to everybody."""
    kernel.close_all_but()
    kernel.drop_privileges(uid, dumpable=False)
    kernel.die_with_parent(signal.SIGKILL)  # a change of uid clears it, so it comes last
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while True:
        if signal.sigwait(awaited) == signal.SIGTERM:
            for each in (signal.SIGTERM, signal.SIGCONT):
                try:
                    os.kill(-1, each)
                except ProcessLookupError:
                    continue
        _wait_for_orphans()


def _wait_for_orphans() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


class _Watch:
    """Hands the start over, obeys the worker, and reports the end once nothing is left.

    A guest is a job with a kernel of its own: its keeper passes TERM on, others' reaper does.
    """

    def __init__(
        self, worker: socket.socket, to_job: socket.socket, child: int, reaper: int, setup: Setup
    ) -> None:
        self._worker = worker
        self._to_job = to_job
        self._child = child
        self._reaper = reaper
        self._mapped = setup.mapped
        self._counted = bool(setup.groups)
        self._is_guest = bool(setup.runsc)
        self._told = child if self._is_guest else reaper
        self._memory_file = ""
        self._memory_bytes = self._overhead_bytes = self._peak_bytes = 0
        self._exceeded = False
        self._failure = b""

    def run(self) -> None:
        ended = os.pidfd_open(self._child)
        poll = select.poll()
        for each in (self._worker, self._to_job, ended):
            poll.register(each, select.POLLIN)
        while True:
            ready = {each for each, _ in poll.poll(_LOOK_MS if self._memory_bytes else None)}
            if self._to_job.fileno() in ready:
                self._failure = self._to_job.recv(MESSAGE_BYTES_MAX)
                poll.unregister(self._to_job)
            if ended in ready:
                self._report()
                return
            if self._worker.fileno() in ready and not self._obey():
                self._end_all()
                return
            if self._memory_bytes:
                self._peak_bytes = max(self._peak_bytes, self._memory_taken())
            if self._peak_bytes > self._memory_bytes:
                self._exceeded = True
                os.kill(self._reaper, signal.SIGKILL)

    def _memory_taken(self) -> int:
        """What the job's processes hold together, with its shared memory: an estimate, in bytes.

        For hosts without control groups only; the kernel counts better.
        """
        own, mapped = _mapped()
        if self._is_guest:
            self._memory_file = self._memory_file or guest.memory_file()
            held = guest.memory_held(self._memory_file)
            return max(0, own - self._overhead_bytes) + held
        shared = os.statvfs(SHM)
        kept = (shared.f_blocks - shared.f_bfree) * shared.f_frsize
        return own + max(mapped, kept)

    def _report(self) -> None:
        os.kill(self._reaper, signal.SIGKILL)
        _, status = os.waitpid(self._child, 0)
        if not (self._counted and _is_empty()):
            os.waitpid(self._reaper, 0)  # after all others, whose time it adds to its own
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = max(usage.ru_maxrss * 1024, self._peak_bytes)
        ended = ENDED.pack(status, self._exceeded, usage.ru_utime, usage.ru_stime, peak)
        self._worker.send(self._failure or ended)

    def _obey(self) -> bool:
        """Do what the worker says; False when it is gone."""
        message = self._worker.recv(MESSAGE_BYTES_MAX)
        if message == TERMINATE:
            os.kill(self._told, signal.SIGTERM)
        elif message == KILL:
            os.kill(self._reaper, signal.SIGKILL)
        elif message == PING:
            self._worker.send(PONG)
        elif message.startswith(WAIT):
            self._to_job.send(message)
        elif message:
            start = Start.parse(message)
            self._memory_bytes = start.memory_bytes
            self._overhead_bytes = start.overhead_bytes
            _size(start)
            if start.processes and not self._is_guest:  # whose own kernel counts its processes
                self._bound_processes(start.processes)
            self._to_job.send(message)
        return bool(message)

    def _bound_processes(self, processes: int) -> None:
        """The kernel counts the reaper to the same user, and where all are one this process too."""
        most = processes + (1 if self._mapped else 2)
        resource.prlimit(self._child, resource.RLIMIT_NPROC, (most, most))

    def _end_all(self) -> None:
        os.kill(self._reaper, signal.SIGKILL)
        os.waitpid(self._child, 0)  # first: process 1 ends when no other is left, zombies included
        os.waitpid(self._reaper, 0)


def _is_empty() -> bool:
    """Whether no process of this world is left but its reaper."""
    return not any(each.isdigit() and each != "1" for each in os.listdir("/proc"))


def _mapped() -> tuple[int, int]:
    """Bytes that the processes of this world hold each for itself, and that they share."""
    own = shared = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/smaps_rollup", encoding="ascii") as file:
                    sizes = {line.split()[0]: line.split()[1] for line in file.readlines()[1:]}
            except OSError:
                continue  # it has just ended
            own += int(sizes["Pss_Anon:"])
            shared += int(sizes["Pss_Shmem:"])
    return own * 1024, shared * 1024


def _size(start: Start) -> None:
    """Give the mounts the sizes of this job; one page more than asked holds the folders."""
    disk = f"size={start.disk_bytes},nr_inodes={start.disk_files}"
    shm = f"size={start.shm_bytes},nr_inodes={start.disk_files}"
    flags = kernel.REMOUNT | _NO_RUNNING
    kernel.mount(None, WORK, None, flags, disk)
    kernel.mount(None, SHM, None, flags, shm)
