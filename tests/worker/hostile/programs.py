"""What a hostile program is, and the few words in which most of them are written."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits

REFUSED = b"refused\n"
SMALL = Limits(timeout_s=20.0, memory_mb=100, disk_mb=20, processes=24, output_bytes=100_000)
PATIENT = replace(SMALL, timeout_s=40.0)
"""For what makes so many calls that a kernel in user space takes its time."""

PRELUDE = """
import ctypes, errno, os, platform, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == 'x86_64'

def refused(what, *args):
    try:
        result = what(*args)
    except OSError:
        print('refused')
    else:
        print('HARM', result)

def call(x86, arm, *args):
    number = x86 if X86 else arm
    if number is None:
        raise OSError
    ctypes.set_errno(0)
    if libc.syscall(number, *args) < 0:
        number = ctypes.get_errno()
        if number not in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise ValueError(errno.errorcode[number])
        raise OSError(number, '')
    return 'it was allowed'

def read(path):
    with open(path, 'rb') as file:
        return file.read(100)

def seen(path):
    content = read(path)
    if not content:
        raise OSError('it is empty')
    return content

def write(path, data=b'1'):
    with open(path, 'r+b', buffering=0) as file:
        file.write(data)
"""


@dataclass(frozen=True)
class Expected:
    """What comes of a program in one backend, where that is not what comes of it in others."""

    ends: tuple[tuple[int | None, Reason | None], ...] = ((0, None),)
    says: bytes | None = REFUSED
    keeps: "tuple[Kept, ...] | None" = None


GUEST_ONLY = {"gvisor": Expected(says=None)}
"""It works, on the job's own kernel, where it harms nobody else."""

OTHER_ERROR = {"gvisor": Expected(ends=((1, Reason.EXIT_CODE),), says=b"")}
"""It fails there too, but with another error than those of a refusal."""


@dataclass(frozen=True)
class Kept:
    """What is kept of a program's outputs: content by path, in order; and what it is told."""

    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    detail: str = ""


@dataclass(frozen=True)
class Hostile:
    """A program with the exact end it must come to; `says` is all of its stdout, if that matters.

    `ends` holds every (exit code, reason) that may come of it: most have one, races have two.
    `uncounted` is the end on hosts without control groups, `elsewhere` that in the backends named
    there, where it differs. `keeps` holds what may be kept of its `outputs`, if it has such.
    """

    name: str
    code: str
    language: str = "python"
    ends: tuple[tuple[int | None, Reason | None], ...] = ((0, None),)
    says: bytes | None = REFUSED
    limits: Limits = SMALL
    uncounted: tuple[int | None, Reason | None] | None = None
    args: tuple[str, ...] = field(default=())
    elsewhere: Mapping[str, Expected] = field(default_factory=dict[str, Expected])
    outputs: tuple[str, ...] = ()
    keeps: tuple[Kept, ...] = (Kept(),)

    def on(self, backend: str) -> "Hostile":
        """The same with what is expected of it in `backend`."""
        expected = self.elsewhere.get(backend)
        if expected is None:
            return self
        keeps = self.keeps if expected.keeps is None else expected.keeps
        return replace(self, ends=expected.ends, says=expected.says, keeps=keeps)


def tries(name: str, attempt: str, elsewhere: Mapping[str, Expected] | None = None) -> Hostile:
    """A Python program whose one attempt must be refused."""
    code = f"{PRELUDE}\nrefused(lambda: {attempt})"
    return Hostile(name, code, elsewhere=elsewhere or {})


def shell(
    name: str,
    code: str,
    says: bytes | None = REFUSED,
    elsewhere: Mapping[str, Expected] | None = None,
) -> Hostile:
    return Hostile(name, code, "bash", says=says, elsewhere=elsewhere or {})


def limited(
    name: str,
    code: str,
    reason: Reason,
    *,
    exit_code: int | None = None,
    language: str = "python",
    limits: Limits = SMALL,
    uncounted: tuple[int | None, Reason | None] | None = None,
    elsewhere: Mapping[str, Expected] | None = None,
) -> Hostile:
    """A program that must be ended by, or fail at, one limit."""
    ends = ((exit_code, reason),)
    return Hostile(name, code, language, ends, None, limits, uncounted, elsewhere=elsewhere or {})
