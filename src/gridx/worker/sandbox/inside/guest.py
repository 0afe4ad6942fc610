"""A job with a kernel of its own: its keeper, from its fork to the end of `runsc`.

Theory of operation. The keeper lays out an OCI bundle in a file system of this attempt's own, enters
a user namespace whose root is nobody to the host, and waits. When the program comes it runs `runsc`,
whose *sentry* is the kernel that the job sees and whose *gofer* opens files for it: those of the
box, read-only, and the job's disk. All of them are processes of this world: its limits, its control
group and its end hold them like any job. The keeper reads of the job's only what it must write into
the bundle, as JSON.
"""

import json
import os
import resource
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import NoReturn

from gridx.worker.sandbox.inside import kernel
from gridx.worker.sandbox.inside.wire import (
    EMPTY,
    FAILED,
    FIRST_GUEST_UID,
    FIRST_JOB_UID,
    MESSAGE_BYTES_MAX,
    READY,
    SHM,
    TMP,
    WORK,
    Payload,
    Setup,
    Start,
)

_ROOT, _STATE = f"{EMPTY}/root", f"{EMPTY}/state"
_LOG, _SENTRY = f"{EMPTY}/log", f"{EMPTY}/pid"
_BUNDLE_TMPFS = "mode=0755,size=32m,nr_inodes=256"
_NAME = "job"
_OWN = (EMPTY, "/dev", "/proc", WORK, TMP)
_FLAGS = (
    "--rootless",
    "--network=none",
    "--overlay2=none",
    "--ignore-cgroups",
    "--file-access-mounts=exclusive",
    f"--root={_STATE}",
    f"--log={_LOG}",
    "--log-format=json",
)
_OPEN_FILES = 4096
_LINGER_S = 1.0
_LOCKED_BYTES = 64 << 10
_NO_GOFER = "what serves files to the job was killed"


def main(supervisor: socket.socket, uid: int, setup: Setup) -> None:
    """Make ready, wait for the start, run the job to its end; returns only without one."""
    try:
        user = _prepare(supervisor, uid, setup)
        if message := supervisor.recv(MESSAGE_BYTES_MAX):
            _start(Start.parse(message), setup.payload, user)
            _Keeper(supervisor, setup.runsc).run(setup.streams)
    except Exception as failure:  # noqa: BLE001 - the worker is told, whatever it was
        supervisor.send(FAILED + repr(failure).encode()[: MESSAGE_BYTES_MAX // 2])


def memory_file() -> str:
    """Where the sentry keeps the job's memory, once it does; empty before."""
    folder = f"/proc/{_called('runsc-sandbox')}/fd"
    try:
        for each in os.listdir(folder):
            if os.readlink(f"{folder}/{each}").startswith("/memfd:runsc-memory"):
                return f"{folder}/{each}"
    except OSError:
        pass
    return ""


def memory_held(file: str) -> int:
    """How many bytes the sentry's memory file takes; none of a sentry that is not there."""
    try:
        return os.stat(file).st_blocks * 512
    except OSError:
        return 0


def _prepare(supervisor: socket.socket, uid: int, setup: Setup) -> int:
    """Everything that needs no program; returns who the job is to its own kernel."""
    os.setsid()
    for each in setup.groups:
        os.write(each, b"0")
    kernel.unshare(kernel.NEWCGROUP)
    kernel.mount("proc", "/proc", "proc", kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC)
    # Where there are many users in the box, `runsc` is another than the job; else both are one.
    keeper = FIRST_GUEST_UID + uid - FIRST_JOB_UID if setup.mapped else uid
    _lay_out(keeper)
    nothing = os.open("/dev/null", os.O_RDWR)
    for target in range(3):
        os.dup2(nothing, target)
    kernel.close_all_but(0, 1, 2, supervisor.fileno(), setup.payload, *setup.streams)
    os.chdir("/")
    kernel.set_dumpable(True)  # so that its maps of users can be written
    if setup.mapped:
        kernel.unshare_as(f"0 {keeper} 1\n{uid} {uid} 1")
        os.setgroups([])
    else:
        kernel.unshare_as(f"0 {uid} 1")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.forbid_new_privileges()
    kernel.adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    supervisor.send(READY)
    return uid if setup.mapped else 0


def _lay_out(owner: int) -> None:
    """Make the bundle's folders; the job's root is the box's, without what its own kernel makes."""
    kernel.mount("bundle", EMPTY, "tmpfs", 0, _BUNDLE_TMPFS)
    for each in (_ROOT, _STATE):
        os.mkdir(each)
    for each in (EMPTY, _STATE):
        os.chown(each, owner, owner)
    for name in os.listdir("/"):
        source, target = f"/{name}", f"{_ROOT}/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
            continue
        os.mkdir(target)
        if source not in _OWN:
            kernel.mount(source, target, None, kernel.BIND | kernel.RECURSIVE)


def _start(start: Start, payload: int, user: int) -> None:
    """Write the program and the bundle."""
    asked = Payload.parse(os.pread(payload, os.fstat(payload).st_size, 0))
    os.close(payload)
    path = f"{WORK}/{start.file}"
    with open(path, "wb") as file:
        file.write(asked.code)
    os.chown(path, user, user)
    command = [start.path, path, *map(_text, asked.args)]
    environment = {_text(name): _text(value) for name, value in asked.env.items()}
    with open(f"{EMPTY}/config.json", "w", encoding="utf-8") as file:
        json.dump(_bundle(start, command, environment, user), file)


def _text(words: bytes) -> str:
    return words.decode("utf-8", "surrogatepass")


def _bundle(
    start: Start, command: list[str], environment: dict[str, str], user: int
) -> dict[str, object]:
    """What OCI calls a bundle's configuration: an unprivileged process, a read-only root."""
    bounds = {
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": _LOCKED_BYTES,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_NPROC": start.processes,
    }
    return {
        "ociVersion": "1.0.2",
        "hostname": "job",
        "root": {"path": _ROOT, "readonly": True},
        "process": {
            "user": {"uid": user, "gid": user},
            "args": command,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": WORK,
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [
                {"type": kind, "hard": most, "soft": most} for kind, most in bounds.items()
            ],
        },
        "mounts": [
            {"type": "proc", "source": "proc", "destination": "/proc"},
            _mount("bind", WORK, WORK),
            _mount("bind", TMP, TMP),
            _mount("tmpfs", "shm", SHM, f"size={start.shm_bytes}", "mode=1777"),
        ],
    }


def _mount(kind: str, source: str, target: str, *options: str) -> dict[str, object]:
    flags = ["rw", "nosuid", "nodev", *options]
    return {"type": kind, "source": source, "destination": target, "options": flags}


class _Keeper:
    """Starts the job, passes TERM on to all its processes, ends as it did.

    `runsc run` leaves two orphans, which the keeper adopts: the sentry, which ends as the job did,
    and the gofer, which ends once the sentry has.
    """

    def __init__(self, supervisor: socket.socket, runsc: str) -> None:
        self._supervisor = supervisor
        self._runsc = runsc
        self._starting = self._sentry = self._gofer = 0
        self._telling: dict[int, str] = {}

    def run(self, streams: Sequence[int]) -> NoReturn:
        """Run the job on `streams`."""
        words = ("run", "--detach", "--bundle", EMPTY, "--pid-file", _SENTRY, _NAME)
        self._starting = self._spawn(words, streams)
        for each in streams:
            os.close(each)
        while True:
            if signal.sigwait({signal.SIGCHLD, signal.SIGTERM}) == signal.SIGTERM:
                self._tell("TERM")
            for pid, status in _ended_ones():
                self._see_end(pid, os.waitstatus_to_exitcode(status))

    def _see_end(self, pid: int, exit_code: int) -> None:
        if pid in self._telling:
            told = self._telling.pop(pid)
            if exit_code != 0:  # the job is not up yet
                self._tell(told)
            elif told == "TERM":  # which one that stopped itself takes only when it goes on
                self._tell("CONT")
        elif pid == self._starting:
            if exit_code != 0:
                self._fail(_logged() or "runsc was killed")
            with open(_SENTRY, encoding="ascii") as file:
                self._sentry = int(file.read())
            self._gofer = _called("runsc-gofer")
        elif pid == self._sentry:
            if exit_code < 0:
                self._fail("the kernel that gVisor gave the job was killed")
            self._wait_for_the_rest()
            os._exit(exit_code)
        elif pid == self._gofer and exit_code != 0:
            self._fail(_NO_GOFER)

    def _wait_for_the_rest(self) -> None:
        """Let what the sentry left end, so that the time it took is counted.

        A sentry without its gofer kills the job and ends as if that had been the job's own end.
        """
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0] or signal.sigtimedwait(
                {signal.SIGCHLD}, _LINGER_S
            ):
                pid, status = ended
                if pid == self._gofer and os.WIFSIGNALED(status):
                    self._fail(_NO_GOFER)
        except ChildProcessError:
            return

    def _tell(self, told: str) -> None:
        self._telling[self._spawn(("kill", "--all", _NAME, told))] = told

    def _fail(self, why: str) -> NoReturn:
        self._supervisor.send(FAILED + why.encode()[: MESSAGE_BYTES_MAX // 2])
        os._exit(1)

    def _spawn(self, words: Sequence[str], streams: Sequence[int] = ()) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, each, target) for target, each in enumerate(streams)]
        command = [self._runsc, *_FLAGS, *words]
        return os.posix_spawn(self._runsc, command, {}, file_actions=actions, setsigmask=())


def _ended_ones() -> Iterator[tuple[int, int]]:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
    except ChildProcessError:
        return


def _called(name: str) -> int:
    """The process of this world that is called `name`; 0 without one."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                if file.read().split("\0")[0] == name:
                    return int(pid)
        except OSError:
            continue  # it has just ended
    return 0


def _logged() -> str:
    """What `runsc` says of its own failure; it logs nothing else."""
    with open(_LOG, encoding="utf-8") as file:
        log = file.read()
    return str(json.JSONDecoder().raw_decode(log)[0]["msg"]) if log else ""
