"""Becomes a process to which the kernel says that it has no `openat2`, and runs a command.

Run as `python older_kernel.py COMMAND...`: kernels before 5.6 and some containers' filters answer so.
"""

import errno
import os
import sys

from gridx.worker.sandbox.inside import filter as calls
from gridx.worker.sandbox.inside import kernel


def main(command: list[str]) -> None:
    refuse = [calls._answer(calls._ERRNO | errno.ENOSYS)]
    program = [
        calls._load(calls._NUMBER_AT),
        *calls._when(calls._equal(kernel._OPENAT2), refuse),
        calls._answer(calls._ALLOW),
    ]
    kernel._check(kernel._prctl(kernel._PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    kernel.install_filter(b"".join(program))
    assert kernel._libc.syscall(kernel._OPENAT2, -1, b".", None, 0) == -1
    assert kernel.ctypes.get_errno() == errno.ENOSYS
    os.execve(command[0], command, dict(os.environ))


if __name__ == "__main__":
    main(sys.argv[1:])
