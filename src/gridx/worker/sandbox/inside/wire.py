"""What the worker, the template and the supervisors say to each other.

All of it is written by the worker or by the code in this package, over SOCK_SEQPACKET sockets that
no job can reach; a job's own words travel only in the payload, which nobody but the job reads.
Packed numbers, not JSON: reading JSON touches so much of a forked interpreter's memory that it
costs a third of a millisecond.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

READY = b"ready"
TERMINATE = b"terminate"
KILL = b"kill"
PING = b"ping"
PONG = b"pong"
"""What a supervisor answers to `PING`: it is there, and not stuck."""

SPAWN = struct.Struct("=I")
"""The slot of an attempt: no two that run at the same time share one. Its descriptors: the
attempt's socket, payload, stdin, stdout, stderr, and the control groups to join; without any it ends
what runs in the slot, whatever its supervisor does."""

SPAWN_DESCRIPTORS = 5
"""How many of these there are before the control groups."""

ENDED = struct.Struct("=i?ddQ")
"""The wait status, whether memory was exceeded (where the supervisor has to look), CPU seconds by
user and system, and the largest resident set in bytes."""

FAILED = b"failed:"
"""What a supervisor or a job that cannot be set up says, before the reason."""

WAIT = b"wait:"
"""Before the path of a Node that is to wait in the world for its program, a NUL and the name of the
file that will hold that."""

MESSAGE_BYTES_MAX = 4096

WORK, TMP, SHM = "/work", "/tmp", "/dev/shm"
EMPTY = "/mnt"
"""An empty folder of the box, laid over what is hidden; a guest's world keeps its bundle there."""
WAITING_NODE = "/etc/gridx-waiting-node.cjs"
"""Where the box shows `waiting_node.cjs`."""
FIRST_JOB_UID = 1000
JOB_UIDS = 1000
FIRST_GUEST_UID = FIRST_JOB_UID + JOB_UIDS
"""Of those that `runsc` runs as, one for each job."""
BOX_UIDS = FIRST_GUEST_UID + JOB_UIDS


@dataclass(frozen=True)
class Setup:
    """What a supervisor knows before its program comes.

    `mapped` says that many uids exist in the box, so that each slot has its own; `groups` are open
    `cgroup.procs` files to join; `payload` and `streams` (stdin, stdout, stderr) are open files of
    the job's; `filter` is the compiled system call filter; `runsc` is the program that gives the job
    a kernel of its own, empty where it has none.
    """

    slot: int
    mapped: bool
    groups: tuple[int, ...]
    payload: int
    streams: tuple[int, ...]
    filter: bytes
    runsc: str


_SIZES = struct.Struct("=?QQQQQQ")


@dataclass(frozen=True)
class Start:
    """What the worker sends once the payload is written: the program may run.

    `path` is the interpreter, `file` the name the code gets in the work folder; `processes` and
    `memory_bytes` are limits for hosts without control groups, 0 where those hold them;
    `overhead_bytes` is what a kernel of the job's own may take beside `memory_bytes`. `in_template`
    has Python code run in the waiting interpreter instead of a new one.
    """

    path: str
    file: str
    disk_bytes: int
    disk_files: int
    shm_bytes: int
    processes: int
    memory_bytes: int
    overhead_bytes: int
    in_template: bool

    def to_bytes(self) -> bytes:
        sizes = _SIZES.pack(
            self.in_template,
            self.disk_bytes,
            self.disk_files,
            self.shm_bytes,
            self.processes,
            self.memory_bytes,
            self.overhead_bytes,
        )
        return sizes + f"{self.path}\0{self.file}".encode()

    @staticmethod
    def parse(message: bytes) -> "Start":
        in_template, disk, files, shm, processes, memory, overhead = _SIZES.unpack_from(message)
        path, file = message[_SIZES.size :].decode().split("\0")
        return Start(path, file, disk, files, shm, processes, memory, overhead, in_template)


_COUNTS = struct.Struct("<II")


@dataclass(frozen=True)
class Payload:
    """The job's own words: its program, arguments and environment.

    As a file: how many arguments and variables there are, the length of each text (of a variable
    its name's and its value's), the texts, and the code to the end. `waiting_node.cjs` reads it too.
    """

    code: bytes
    args: Sequence[bytes]
    env: Mapping[bytes, bytes]

    def to_bytes(self) -> bytes:
        texts = [*self.args, *(text for pair in self.env.items() for text in pair)]
        lengths = struct.pack(f"<{len(texts)}I", *map(len, texts))
        return b"".join((_COUNTS.pack(len(self.args), len(self.env)), lengths, *texts, self.code))

    @staticmethod
    def parse(content: bytes) -> "Payload":
        arguments, variables = _COUNTS.unpack_from(content)
        lengths = struct.unpack_from(f"<{arguments + 2 * variables}I", content, _COUNTS.size)
        at = _COUNTS.size + 4 * len(lengths)
        texts: list[bytes] = []
        for each in lengths:
            texts.append(content[at : at + each])
            at += each
        env = dict(zip(texts[arguments::2], texts[arguments + 1 :: 2], strict=True))
        return Payload(content[at:], texts[:arguments], env)
