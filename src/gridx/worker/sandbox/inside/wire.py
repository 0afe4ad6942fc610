"""What the worker, the template and the supervisors say to each other.

All of it is written by the worker or by the code in this package, over SOCK_SEQPACKET sockets that
no job can reach; a job's own words travel only in the payload, which nobody but the job reads.
"""

import json
import struct
from dataclasses import asdict, dataclass

READY = b"ready"
TERMINATE = b"terminate"
KILL = b"kill"

SPAWN = struct.Struct("=I")
"""The slot of an attempt: no two that run at the same time share one."""

ENDED = struct.Struct("=i?ddQ")
"""The wait status, whether memory was exceeded (where the supervisor has to look), CPU seconds by
user and system, and the largest resident set in bytes."""

FAILED = b"failed:"
"""What a supervisor or a job that cannot be set up says, before the reason."""

MESSAGE_BYTES_MAX = 4096

WORK, TMP, SHM = "/work", "/tmp", "/dev/shm"
EMPTY = "/mnt"
"""An empty folder of the box, laid over what is hidden; a guest's world keeps its bundle there."""
FIRST_JOB_UID = 1000
JOB_UIDS = 1000
FIRST_GUEST_UID = FIRST_JOB_UID + JOB_UIDS
"""Of those that `runsc` runs as, one for each job."""
BOX_UIDS = FIRST_GUEST_UID + JOB_UIDS


@dataclass(frozen=True)
class Setup:
    """What a supervisor knows before its program comes.

    `mapped` says that many uids exist in the box, so that each slot has its own; `groups` are open
    `cgroup.procs` files to join; `filter` is the compiled system call filter; `runsc` is the program
    that gives the job a kernel of its own, empty where it has none.
    """

    slot: int
    mapped: bool
    groups: tuple[int, ...]
    filter: bytes
    runsc: str


@dataclass(frozen=True)
class Start:
    """What the worker sends, as JSON, with the descriptors: payload, stdin, stdout, stderr.

    The payload is a file of JSON: `code`, `args` and `env`. `file` is the name the code gets in the
    work folder, `argv` what comes before it on the command line; `processes` and `memory_bytes` are
    limits for hosts without control groups, 0 where those hold them; `overhead_bytes` is what a kernel
    of the job's own may take beside `memory_bytes`. `in_template` has Python code run in the waiting
    interpreter instead of a new one.
    """

    argv: list[str]
    file: str
    disk_bytes: int
    disk_files: int
    shm_bytes: int
    processes: int
    memory_bytes: int
    overhead_bytes: int
    in_template: bool

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def parse(message: bytes) -> "Start":
        return Start(**json.loads(message))
