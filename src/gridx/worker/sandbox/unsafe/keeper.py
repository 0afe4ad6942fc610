"""The parent of one unsandboxed job: starts it, tells how it ended, and leaves none of its processes.

A program of its own for each attempt, standard library only: `keeper.py PARENT ORDER REPORT` reads
what to run from the descriptor ORDER and writes how it ended to REPORT. Whatever descends from it and
loses its parent becomes its child, so that daemons are found too. TERM is passed on to all of them;
USR1, which the kernel sends when the worker dies, kills them. A job may kill its keeper: it is not
kept from anything.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

KILL_ALL = signal.SIGUSR1
_HEEDED = {signal.SIGCHLD, signal.SIGTERM, KILL_ALL}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38


def main(parent: int, order: int, report: int) -> None:
    """Run the job to its end and leave nothing of it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
    libc = ctypes.CDLL(None)
    for option, value in (
        (_PR_SET_CHILD_SUBREAPER, 1),
        (_PR_SET_NO_NEW_PRIVS, 1),
        (_PR_SET_PDEATHSIG, KILL_ALL),
    ):
        libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)
    if os.getppid() != parent:
        return
    with open(order, encoding="utf-8", errors="surrogatepass") as file:
        asked = json.load(file)
    os.set_inheritable(report, False)
    job = os.fork()
    if job == 0:
        _become(asked)
    status = _until_ended(job)
    _end_the_rest()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = os.waitstatus_to_exitcode(status)
    ended = [code if code >= 0 else 128 - code, used.ru_utime + used.ru_stime, used.ru_maxrss]
    os.write(report, json.dumps(ended).encode())


def _become(asked: dict[str, Any]) -> None:
    try:
        for name, most in asked["limits"].items():
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
        words = [_encoded(word) for word in asked["command"]]
        os.execve(words[0], words, {_encoded(n): _encoded(v) for n, v in asked["env"].items()})
    except OSError as failure:
        os.write(2, f"{failure}\n".encode())
    finally:
        os._exit(127)


def _until_ended(job: int) -> int:
    while True:
        number = signal.sigwait(_HEEDED)
        if number != signal.SIGCHLD:
            _send(signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == job:
                return ended[1]


def _end_the_rest() -> None:
    while True:
        _send(signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _send(number: signal.Signals) -> None:
    for each in _descendants(os.getpid()):
        try:
            os.kill(each, number)
        except (ProcessLookupError, PermissionError):
            continue


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_bytes()
            except OSError:
                continue
            parents[int(folder.name)] = int(stat.rpartition(b")")[2].split()[1])
    found = {root}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
