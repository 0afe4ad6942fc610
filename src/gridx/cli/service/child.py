"""The worker that `gridx up` and `gridx demo` start: a child process that ends with its parent.

`python -m gridx.cli.service.child PARENT LOG_LEVEL LOG_FORMAT` reads one line of JSON, its order, from
standard input (a token must not stand on a command line or in the environment), runs the worker, and
writes one line of JSON when it is accepted. The kernel kills it when its parent dies, however that dies.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

from gridx.telemetry import LogFormat, LogLevel, configure_logging
from gridx.worker.apart import process
from gridx.worker.options import WorkerOptions
from gridx.worker.sandbox.backends import Choice

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Wait for the order, then be a worker."""
    parent, level, form = sys.argv[1:]
    if not _ends_with(int(parent)):
        return 1
    configure_logging(cast("LogLevel", level), cast("LogFormat", form))
    warden = process.separate(Choice())
    line = sys.stdin.readline()
    if not line:
        return 0
    order = json.loads(line)
    options = WorkerOptions(
        urls=(order["url"],),
        token=order["token"],
        user_id=order["user_id"],
        state_dir=Path(order["state_dir"]),
        name=order["name"],
        slots=order["slots"],
        ca=Path(order["ca"]).absolute() if order["ca"] else None,
        interactive=False,
    )
    return process.run(options, warden, accepted=_report)


def _ends_with(parent: int) -> bool:
    """Have the kernel end this process with its parent; False when that is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _report(worker_id: str) -> None:
    sys.stdout.write(json.dumps({"worker_id": worker_id}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
