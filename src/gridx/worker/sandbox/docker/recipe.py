"""What a container for one attempt is made of, in the words of the Docker Engine API.

Everything a job could use is bounded here, before its program is known: two containers of one shape
are interchangeable, which is what lets them wait. The keeper, a shell, is process 1; it takes the
program's files from its input, then holds the container open, waits for orphans and passes TERM on.
It ends, and all with it, when its input does: with the worker, `kill -9` included.
"""

from dataclasses import dataclass

from gridx.worker.sandbox.base import Limits
from gridx.worker.sandbox.cgroups.groups import CPU_PERIOD_US, Allowance
from gridx.worker.sandbox.docker.images import Image
from gridx.worker.sandbox.inside import job as rules
from gridx.worker.sandbox.inside.wire import SHM, TMP, WORK

LABEL_WORKER, LABEL_PLACE = "io.gridx.worker", "io.gridx.place"
KEEPER_PROCESSES = 2
_MB = 1 << 20
_KEEPER_BYTES = 8 * _MB
_PROGRAM_BYTES_MAX = 2 * _MB  # beside the job's own files: its code in one, its input in the other
_FILES_PER_MB, _FILES_MIN = 128, 4096
_STARTING_PROCESSES = 32  # the engine's own, while it starts a program in the container
_FIRST_UID, _UIDS = 50_000, 8_000  # above people's, and within what a rootless engine maps
LANGUAGES = {
    "python": ("python3", "main.py"),
    "javascript": ("node", "main.js"),
    "bash": ("bash", "main.sh"),
}
"""The interpreter of each language, found on the image's path, and the name of its code."""

KEEPER = """
echo ready
while read -r size path && [ -n "$path" ]; do head -c "$size" > "$path"; echo taken; done
exec 3<&0 </dev/null >/dev/null 2>&1
trap 'kill -TERM -1; kill -CONT -1' TERM
while :; do
  (trap '' TERM; exec cat <&3) &
  holder=$!
  wait $holder
  code=$?
  while [ $code -gt 128 ] && kill -0 $holder; do wait $holder; code=$?; done
  [ $code -eq 0 ] && exit 0
done
"""
LAUNCHER = """
exec 3<"$0"
[ "$0" = /dev/null ] || rm -f "$0"
echo here
read -r _
exec "$@" <&3 3<&-
"""
"""Waits until its limits are set, then becomes the program; `$0` is the file with its input."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What tells one waiting container from another."""

    image: Image
    memory_mb: int
    disk_mb: int
    processes: int
    cpus: float


def shape_of(image: Image, limits: Limits) -> Shape:
    return Shape(image, limits.memory_mb, limits.disk_mb, limits.processes, limits.cpus)


def allowance(shape: Shape) -> Allowance:
    """What its job may take."""
    memory, disk = shape.memory_mb * _MB, shape.disk_mb * _MB
    return Allowance(memory, disk, shape.processes, shape.cpus)


def container(shape: Shape, slot: int, *, labels: dict[str, str], runtime: str | None,
              profile: str | None) -> dict[str, object]:  # fmt: skip
    """The body of `POST /containers/create`; no two containers at a time have one `slot`."""
    uid = _FIRST_UID + slot % _UIDS
    return {
        "Image": shape.image.id,
        "Entrypoint": ["/bin/sh", "-c", KEEPER],
        "Cmd": [],
        "User": f"{uid}:{uid}",
        "WorkingDir": WORK,
        "Hostname": "job",
        "NetworkDisabled": True,
        "StopSignal": "SIGKILL",  # the end of the engine or the machine waits for no job
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": labels,
        "HostConfig": _host(shape, uid, profile) | ({"Runtime": runtime} if runtime else {}),
    }


def _host(shape: Shape, uid: int, profile: str | None) -> dict[str, object]:
    bounds = allowance(shape)
    hard = bounds.memory_bytes + bounds.disk_bytes + _KEEPER_BYTES
    security = ["no-new-privileges", *([f"seccomp={profile}"] if profile else [])]
    hidden = [f"/proc/{each}" for each in (*rules.MASKED_FILES, *rules.MASKED_FOLDERS)]
    return {
        "AutoRemove": True,
        "CapDrop": ["ALL"],
        "CgroupnsMode": "private",
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": bounds.cpu_quota_us or -1,
        "CpuShares": bounds.cpu_shares,
        "IpcMode": "none",  # private, and /dev/shm is one of ours
        "LogConfig": {"Type": "none", "Config": {}},
        "MaskedPaths": [*hidden, "/sys"],
        "Memory": hard,
        "MemorySwap": hard,
        "NetworkMode": "none",
        "PidsLimit": shape.processes + KEEPER_PROCESSES + _STARTING_PROCESSES,
        "Privileged": False,
        "ReadonlyPaths": [f"/proc/{each}" for each in rules.READ_ONLY_FOLDERS],
        "ReadonlyRootfs": True,
        "SecurityOpt": security,
        "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"},
        "Tmpfs": {
            WORK: _tmpfs(shape, shape.disk_mb, f"mode=0755,uid={uid},gid={uid}"),
            TMP: _tmpfs(shape, shape.disk_mb, "mode=1777"),
            SHM: _tmpfs(shape, shape.memory_mb, "mode=1777"),
        },
        "Ulimits": [
            {"Name": name, "Soft": most, "Hard": most}
            for name, most in (
                ("core", 0),
                ("nofile", rules.OPEN_FILES),
                ("memlock", rules.LOCKED_BYTES),
                ("msgqueue", rules.QUEUED_BYTES),
            )
        ],
    }


def processes_max(shape: Shape) -> int:
    """The bound on processes once the program is about to begin."""
    return shape.processes + KEEPER_PROCESSES


def code_file(language: str) -> str:
    """Where a program's code lies."""
    return f"{WORK}/{LANGUAGES[language][1]}"


def command(
    language: str, args: tuple[str, ...], env: dict[str, str], stdin_file: str
) -> list[str]:
    """The words that start a program; the job's own are words of their own to the end."""
    variables = [f"{name}={value}" for name, value in env.items()]
    program = ["env", "-i", *variables, LANGUAGES[language][0], code_file(language), *args]
    return ["/bin/sh", "-c", LAUNCHER, stdin_file, *program]


def environment(image: Image, own: dict[str, str]) -> dict[str, str]:
    """Everything a program finds in its environment: the image's, the grid's, and its own."""
    given = {"HOME": WORK, "LANG": "C.UTF-8", "TMPDIR": TMP, "USER": "job"}
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return path | dict(image.environment) | given | own


def _tmpfs(shape: Shape, size_mb: int, more: str) -> str:
    files = max(_FILES_MIN, shape.disk_mb * _FILES_PER_MB)
    size = size_mb * _MB + _PROGRAM_BYTES_MAX
    return f"rw,exec,nosuid,nodev,size={size},nr_inodes={files},{more}"
